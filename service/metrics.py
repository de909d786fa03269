"""Everything that the service measures, declared once: names, labels, buckets."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from service.ranking import Ranking
from service.types import TaskKey

Phase = Literal["decode", "load", "queue", "compute"]
Tier = Literal["device", "host", "disk"]

OTHER = "other"
# How often the tasks with a label of their own are chosen anew, in requests, and from how many.
_RANKING_PERIOD = 10_000
_RANKED_PER_LABEL = 20
_TEXTS = {
    "requests": "Predictions that ended.",
    "phase_seconds": "What predictions spent in each phase.",
    "http_requests": "HTTP requests that ended.",
    "http_seconds": "How long HTTP requests took.",
    "canary_requests": "Predictions of tasks that have a canary, by version.",
    "canary_seconds": "How long successful predictions of tasks that have a canary took.",
    "batch_images": "Images of a batch.",
    "batch_tasks": "Different tasks of a batch.",
    "queue_images": "Images that wait for a batch now.",
    "resident_tasks": "Adapter versions that a tier holds now.",
    "resident_bytes": "What the adapters in a tier take now.",
    "loads": "Loads of an adapter into the engine, by the tier where it was found.",
    "load_seconds": "How long successful loads into the engine took.",
    "evictions": "Adapters driven out of a tier to make room.",
    "thrash": "Adapters back in a tier soon after their eviction: it is too small.",
    "rejected": "Requests to predict refused for lack of room or time, or as too much.",
    "limited": "Predictions refused for a limit of their tenant's own.",
    "limits_in_memory": "Rates counted by this server alone, since Redis was gone.",
    "proof_failures": "Adapters whose golden proof did not hold here.",
    "device_memory_bytes": "Memory of the GPU, or of the host and this process.",
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# A canary is there for a while, and few tasks have one.
COMPARED_TASKS = 50
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What parts of the service report. This class keeps none of it."""

    def request(self, task: TaskKey | None, outcome: str) -> None:
        """A prediction has ended: "ok", or the name of its error; no task where none was found."""

    def compared(self, task: TaskKey, version: int, outcome: str, seconds: float) -> None:
        """A prediction of a task that has a canary has ended, after `seconds`."""

    def phase(self, phase: Phase, seconds: float) -> None:
        """So long a prediction was in one phase of its way."""

    def http(self, method: str, route: str | None, status: int | None, seconds: float) -> None:
        """An HTTP request has ended: its route's template, None where no route was found.

        There is no status where the client left before it.
        """

    def batch(self, images: int, tasks: int) -> None:
        """A batch has run."""

    def queue(self, images: int) -> None:
        """So many images wait now."""

    def resident(self, tier: Tier, tasks: int, size: int) -> None:
        """A tier holds so many adapter versions, of `size` bytes together."""

    def load(self, tier: Tier, outcome: str, seconds: float) -> None:
        """A load from `tier` into the engine has ended: "ok", or the name of its error."""

    def evicted(self, tier: Tier) -> None:
        """A tier has dropped an adapter to make room."""

    def thrash(self, tier: Tier) -> None:
        """A tier takes an adapter back that it evicted a little while ago."""

    def rejected(self, reason: str) -> None:
        """A request to predict was refused, for lack of room or time or for being too much."""

    def limited(self, tenant: str) -> None:
        """A prediction was refused because its tenant is over a limit of its own."""

    def limits_in_memory(self) -> None:
        """A rate was counted by this server alone, because Redis could not be asked."""

    def proof_failed(self) -> None:
        """An adapter's golden proof did not hold here."""


class NullMetrics(Metrics):
    """Keeps nothing: for tests, and where nobody scrapes."""


class PrometheusMetrics(Metrics):
    """Keeps everything for a Prometheus scrape.

    Args:
        task_labels: How many tasks get a label of their own: those that are asked for most. All
            others are counted as "other", so that a scrape stays small. A task that loses its
            label begins at 0 when it gets one again, as after a restart. As many tenants get one
            of those that run into their limits.
        device_memory: Bytes by kind ("used", "total"), asked for at each scrape.
    """

    def __init__(
        self,
        *,
        task_labels: int = 200,
        device_memory: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        bounds = {"period": _RANKING_PERIOD, "tracked": _RANKED_PER_LABEL * task_labels}
        self._labelled: Ranking[TaskKey] = Ranking(task_labels, **bounds)
        self._limited_tenants: Ranking[str] = Ranking(task_labels, **bounds)
        self._requests = self._counter("requests", "task", "outcome")
        self._phases = self._histogram("phase_seconds", _SECONDS, "phase")
        self._http = self._counter("http_requests", "method", "route", "status")
        self._http_seconds = self._histogram("http_seconds", _SECONDS, "route")
        self._comparisons = _Latest(COMPARED_TASKS)
        self._compared = self._counter("canary_requests", "task", "version", "outcome")
        self._compared_seconds = self._histogram("canary_seconds", _SECONDS, "task", "version")
        self._batch_images = self._histogram("batch_images", _COUNTS)
        self._batch_tasks = self._histogram("batch_tasks", _COUNTS)
        self._queue_images = self._gauge("queue_images")
        self._tasks = self._gauge("resident_tasks", "tier")
        self._bytes = self._gauge("resident_bytes", "tier")
        self._loads = self._counter("loads", "tier", "outcome")
        self._load_seconds = self._histogram("load_seconds", _SECONDS, "tier")
        self._evictions = self._counter("evictions", "tier")
        self._thrash = self._counter("thrash", "tier")
        self._rejected = self._counter("rejected", "reason")
        self._limited = self._counter("limited", "tenant")
        self._limits_in_memory = self._counter("limits_in_memory")
        self._proof_failures = self._counter("proof_failures")
        self._device_memory = device_memory
        self._memory = self._gauge("device_memory_bytes", "kind")

    def render(self) -> tuple[bytes, str]:
        """The text of a scrape and its content type."""
        for kind, size in (self._device_memory or dict)().items():
            self._memory.labels(kind).set(size)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def request(self, task: TaskKey | None, outcome: str) -> None:
        """See `Metrics`."""
        self._requests.labels(self._task_label(task), outcome).inc()

    def compared(self, task: TaskKey, version: int, outcome: str, seconds: float) -> None:
        """See `Metrics`."""
        name, number = _name(task), str(version)
        for lost in self._comparisons.use(name):
            self._compared.remove_by_labels({"task": lost})
            self._compared_seconds.remove_by_labels({"task": lost})
        self._compared.labels(name, number, outcome).inc()
        if outcome == "ok":
            self._compared_seconds.labels(name, number).observe(seconds)

    def phase(self, phase: Phase, seconds: float) -> None:
        """See `Metrics`."""
        self._phases.labels(phase).observe(seconds)

    def http(self, method: str, route: str | None, status: int | None, seconds: float) -> None:
        """See `Metrics`."""
        route = route or "none"
        known_method = method if method in _METHODS else OTHER
        self._http.labels(known_method, route, str(status or "none")).inc()
        self._http_seconds.labels(route).observe(seconds)

    def batch(self, images: int, tasks: int) -> None:
        """See `Metrics`."""
        self._batch_images.observe(images)
        self._batch_tasks.observe(tasks)

    def queue(self, images: int) -> None:
        """See `Metrics`."""
        self._queue_images.set(images)

    def resident(self, tier: Tier, tasks: int, size: int) -> None:
        """See `Metrics`."""
        self._tasks.labels(tier).set(tasks)
        self._bytes.labels(tier).set(size)

    def load(self, tier: Tier, outcome: str, seconds: float) -> None:
        """See `Metrics`."""
        self._loads.labels(tier, outcome).inc()
        if outcome == "ok":
            self._load_seconds.labels(tier).observe(seconds)

    def evicted(self, tier: Tier) -> None:
        """See `Metrics`."""
        self._evictions.labels(tier).inc()

    def thrash(self, tier: Tier) -> None:
        """See `Metrics`."""
        self._thrash.labels(tier).inc()

    def rejected(self, reason: str) -> None:
        """See `Metrics`."""
        self._rejected.labels(reason).inc()

    def limited(self, tenant: str) -> None:
        """See `Metrics`."""
        for lost in self._limited_tenants.use(tenant):
            self._limited.remove_by_labels({"tenant": lost})
        is_labelled = tenant in self._limited_tenants
        self._limited.labels(tenant if is_labelled else OTHER).inc()

    def limits_in_memory(self) -> None:
        """See `Metrics`."""
        self._limits_in_memory.inc()

    def proof_failed(self) -> None:
        """See `Metrics`."""
        self._proof_failures.inc()

    def _task_label(self, task: TaskKey | None) -> str:
        if task is None:
            return OTHER
        for lost in self._labelled.use(task):
            self._requests.remove_by_labels({"task": _name(lost)})
        return _name(task) if task in self._labelled else OTHER

    def _counter(self, name: str, *labels: str) -> Counter:
        return Counter(f"protuning_{name}", _TEXTS[name], labels, registry=self._registry)

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(f"protuning_{name}", _TEXTS[name], labels, registry=self._registry)

    def _histogram(self, name: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(
            f"protuning_{name}",
            _TEXTS[name],
            labels,
            buckets=tuple(buckets),
            registry=self._registry,
        )


class _Latest:
    """The names that were used last, at most so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: OrderedDict[str, None] = OrderedDict()

    def use(self, name: str) -> list[str]:
        """Use a name; returns those that had to go for it."""
        self._names[name] = None
        self._names.move_to_end(name)
        return [self._names.popitem(last=False)[0] for _ in range(len(self._names) - self._most)]


def _name(task: TaskKey) -> str:
    # Neither part can hold a slash.
    return f"{task.tenant}/{task.task}"
