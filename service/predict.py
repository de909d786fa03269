"""The use case of the service: images in, labels out."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.manifest import AdapterRef
from service.admission import Admission
from service.batching.dispatcher import Answer, Dispatcher, Job
from service.cache.adapter_cache import AdapterCache, Lease
from service.errors import DeadlineExceeded, RateLimited, TaskNotFound, TooManyLabels
from service.metrics import Metrics
from service.quotas import Quotas
from service.routing import Router
from service.tracing import Tracer
from service.types import Allowance, TaskKey

Images = NDArray[np.uint8] | NDArray[np.float32]

# Of one answer: 64 images with 1,000 labels each stay below it.
MAX_LABELS = 2**16
# Of all their text: a label may have 1 KiB, and each image repeats it.
MAX_LABEL_BYTES = 2**23
# More labels than this are put together off the event loop.
MANY_LABELS = 2**11


@dataclass(frozen=True, slots=True)
class Label:
    """A class of a task, and the softmax probability of it for one image."""

    label: str
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went, in milliseconds, and the company that the images had."""

    decode_ms: float
    load_ms: float
    queue_ms: float
    compute_ms: float
    batch_images: int
    batch_tasks: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer of one task: for each image its likeliest labels, best first.

    `logits` are those of all classes, float32 [n, classes], where they were asked for.
    `allowances` say what is left of the tenant's own limits.
    """

    task: str
    version: int
    labels: tuple[tuple[Label, ...], ...]
    timing: Timing
    logits: NDArray[np.float32] | None = None
    allowances: tuple[Allowance, ...] = ()


@dataclass(frozen=True, slots=True)
class _Question:
    """What one task is asked."""

    task: TaskKey
    version: int | None
    images: Tensor
    deadline: float
    top_k: int
    label_bytes: int
    priority: int
    logits: bool
    canary_key: str | None
    decode_seconds: float


class Predictor:
    """Runs images through tasks.

    Args:
        router: From names to versions.
        cache: From versions to slots.
        dispatcher: From slots to logits.
        admission: How many predictions may be under way.
        quotas: What each tenant may ask for.
        metrics: Told of every prediction.
        tracer: Told of its phases.
    """

    def __init__(
        self,
        router: Router,
        cache: AdapterCache,
        dispatcher: Dispatcher,
        admission: Admission,
        quotas: Quotas,
        metrics: Metrics,
        tracer: Tracer,
    ) -> None:
        self._router = router
        self._cache = cache
        self._dispatcher = dispatcher
        self._admission = admission
        self._quotas = quotas
        self._metrics = metrics
        self._tracer = tracer

    async def predict(
        self,
        tenant: str,
        task: str,
        images: Images,
        *,
        deadline: float,
        version: int | None = None,
        top_k: int = 5,
        priority: int = 0,
        logits: bool = False,
        canary_key: str | None = None,
        decode_seconds: float = 0.0,
    ) -> Prediction:
        """Run images of the backbone's input size through one task.

        They are uint8 pixels [n, H, W, 3], or float32 [n, 3, H, W], finite and normalised as the
        backbone takes them. `deadline` is in the event loop's monotonic seconds. No `version`
        means the active one or its canary, as they are now: a switch while this runs changes
        nothing; `canary_key` decides between the two, always alike. `logits`
        asks for those of all classes as well; `decode_seconds` is what was spent on the images
        before they came here.

        Raises:
            TaskNotFound: there is no such task or version.
            BackboneConflict: it is not for the backbone that is served.
            AdapterLoadFailed: it could not be loaded or proved.
            EngineFailed: the engine raised while it ran these images.
            TooManyImages: the queue could never hold them, or the tenant's limit is less.
            TooManyLabels: images x tasks x `top_k` are over MAX_LABELS, or the text of the
                labels that were found is over MAX_LABEL_BYTES.
            RateLimited: the tenant is over a limit of its own.
            DeadlineExceeded: the deadline passed.
            RetryLater: the server is overloaded, or about to stop.
            StoreUnavailable: the index cannot be reached.
        """
        _require_few_labels(len(images), 1, top_k)
        self._report_decoding(decode_seconds)
        question = _Question(
            task=TaskKey(tenant, task),
            version=version,
            images=torch.from_numpy(images),
            deadline=deadline,
            top_k=top_k,
            label_bytes=MAX_LABEL_BYTES,
            priority=priority,
            logits=logits,
            canary_key=canary_key,
            decode_seconds=decode_seconds,
        )
        async with self._let_in([question]) as allowances:
            return await self._answer(question, allowances)

    async def predict_many(
        self,
        tenant: str,
        tasks: Sequence[str],
        images: Images,
        *,
        deadline: float,
        top_k: int = 5,
        priority: int = 0,
        canary_key: str | None = None,
        decode_seconds: float = 0.0,
    ) -> list[Prediction]:
        """Run the same images through the active versions of several tasks, in their order.

        They are let in together or not at all. Then each task goes its own way, so a cold one
        delays no other; those that are ready at the same time share the images. The first error
        is that of the whole request.

        Raises:
            ServiceError: see `predict`.
            StoreUnavailable: see `predict`.
        """
        _require_few_labels(len(images), len(tasks), top_k)
        self._report_decoding(decode_seconds)
        pixels = torch.from_numpy(images)
        questions = [
            _Question(
                task=TaskKey(tenant, task),
                version=None,
                images=pixels,
                deadline=deadline,
                top_k=top_k,
                label_bytes=MAX_LABEL_BYTES // len(tasks),
                priority=priority,
                logits=False,
                canary_key=canary_key,
                decode_seconds=decode_seconds,
            )
            for task in tasks
        ]
        async with self._let_in(questions) as allowances:
            answers = [asyncio.ensure_future(self._answer(each, allowances)) for each in questions]
            try:
                return await asyncio.gather(*answers)
            finally:
                for answer in answers:
                    answer.cancel()

    @asynccontextmanager
    async def _let_in(self, questions: list[_Question]) -> AsyncIterator[tuple[Allowance, ...]]:
        """Places for all of a request's questions, within the tenant's limits."""
        tenant, images = questions[0].task.tenant, sum(len(each.images) for each in questions)
        async with AsyncExitStack() as stack:
            try:
                for _ in questions:
                    stack.enter_context(self._admission.admit(tenant))
                admitted = self._quotas.admit(tenant, images, predictions=len(questions))
                async with _in_time(questions[0].deadline):
                    allowances = await stack.enter_async_context(admitted)
            except BaseException as error:
                for question in questions:
                    self._count(question.task, error)
                raise
            yield allowances

    async def _answer(self, question: _Question, allowances: tuple[Allowance, ...]) -> Prediction:
        with self._counted(question.task):
            async with _in_time(question.deadline) as timer:
                return await self._answer_in_time(question, allowances, timer)

    async def _answer_in_time(
        self, question: _Question, allowances: tuple[Allowance, ...], timer: asyncio.Timeout
    ) -> Prediction:
        task = question.task
        ref = await self._router.resolve(task, question.version, question.canary_key)
        with self._compared(task, ref.version, timer):
            return await self._run(ref, question, allowances)

    async def _run(
        self, ref: AdapterRef, question: _Question, allowances: tuple[Allowance, ...]
    ) -> Prediction:
        lease = await self._cache.acquire(ref)
        # From here on the lease is the dispatcher's to release.
        job = Job(
            question.task,
            lease.slot,
            question.images,
            lease.release,
            deadline=question.deadline,
            priority=question.priority,
            weight=self._quotas.limits(ref.tenant).share,
        )
        answer = await self._dispatcher.submit(job)
        self._report(question.task, lease, answer)
        if len(question.images) * question.top_k > MANY_LABELS:
            return await asyncio.to_thread(_prediction, ref, lease, answer, question, allowances)
        return _prediction(ref, lease, answer, question, allowances)

    def _report(self, task: TaskKey, lease: Lease, answer: Answer) -> None:
        queue, compute = answer.queue_seconds, answer.compute_seconds
        self._metrics.phase("load", lease.load_seconds)
        self._metrics.phase("queue", queue)
        self._metrics.phase("compute", compute)
        about = {"tenant": task.tenant, "task": task.task}
        waited = queue + compute
        self._tracer.phase(
            "load", lease.load_seconds, ago=waited, facts={**about, "tier": lease.tier}
        )
        self._tracer.phase("queue", queue, ago=compute, facts=about)
        company = {"batch_images": answer.batch_images, "batch_tasks": answer.batch_tasks}
        self._tracer.phase("compute", compute, facts={**about, **company})

    def _report_decoding(self, seconds: float) -> None:
        self._metrics.phase("decode", seconds)
        self._tracer.phase("decode", seconds)

    @contextmanager
    def _compared(self, task: TaskKey, version: int, timer: asyncio.Timeout) -> Iterator[None]:
        """While a task has a canary, count by version how requests end, and how soon.

        In here a deadline is a cancellation still; `timer` tells it from a client's.
        """
        if self._router.canary(task) is None:
            yield
            return
        started_at, outcome = time.monotonic(), "ok"
        try:
            yield
        except BaseException as error:
            late = isinstance(error, asyncio.CancelledError) and timer.expired()
            outcome = DeadlineExceeded.__name__ if late else _outcome(error)
            raise
        finally:
            seconds = time.monotonic() - started_at
            self._metrics.compared(task, version, outcome, seconds)

    @contextmanager
    def _counted(self, task: TaskKey) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._count(task, error)
            raise
        self._metrics.request(task, "ok")

    def _count(self, task: TaskKey, error: BaseException) -> None:
        if isinstance(error, RateLimited):
            self._metrics.limited(task.tenant)
        # Names that nobody has registered must not fill the scrape. For whoever is over a limit
        # nobody has looked.
        is_known = not isinstance(error, TaskNotFound | RateLimited)
        self._metrics.request(task if is_known else None, _outcome(error))


@asynccontextmanager
async def _in_time(deadline: float) -> AsyncIterator[asyncio.Timeout]:
    """Raise DeadlineExceeded where the time passes in which something is to be done."""
    try:
        async with asyncio.timeout_at(deadline) as timer:
            yield timer
    except TimeoutError as error:
        raise DeadlineExceeded(
            "The deadline passed before the answer was there. Allow more time, or try again later."
        ) from error


def _outcome(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "RequestCancelled"
    return type(error).__name__


def _require_few_labels(images: int, tasks: int, top_k: int) -> None:
    """Bound an answer before anything is done for it."""
    if images * tasks * top_k > MAX_LABELS:
        raise TooManyLabels(
            f"{images} images x {tasks} tasks x {top_k} labels are more than the {MAX_LABELS:,} "
            "labels that an answer may hold. Ask for fewer labels (top_k, or classification), or "
            "send fewer images or tasks in one request."
        )


def _require_short_text(labels: Iterable[str], most: int) -> None:
    if sum(len(label.encode()) for label in labels) > most:
        raise TooManyLabels(
            f"The labels found have more than {most:,} bytes of text, all that an answer may hold "
            "of a task. Ask for fewer labels (top_k, or classification), or send fewer images or "
            "tasks in one request."
        )


def _prediction(
    ref: AdapterRef,
    lease: Lease,
    answer: Answer,
    question: _Question,
    allowances: tuple[Allowance, ...],
) -> Prediction:
    top_k = min(question.top_k, len(lease.labels))
    scores, indices = answer.logits.softmax(-1).topk(top_k)
    rows = indices.tolist()
    _require_short_text((lease.labels[i] for row in rows for i in row), question.label_bytes)
    labels = tuple(
        tuple(Label(lease.labels[i], i, score) for i, score in zip(row, row_scores, strict=True))
        for row, row_scores in zip(rows, scores.tolist(), strict=True)
    )
    timing = Timing(
        decode_ms=1e3 * question.decode_seconds,
        load_ms=1e3 * lease.load_seconds,
        queue_ms=1e3 * answer.queue_seconds,
        compute_ms=1e3 * answer.compute_seconds,
        batch_images=answer.batch_images,
        batch_tasks=answer.batch_tasks,
    )
    logits = answer.logits.numpy() if question.logits else None
    return Prediction(ref.task, ref.version, labels, timing, logits, allowances)
