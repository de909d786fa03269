"""The process line: questions, answers, errors and images between two processes, and their ends."""

import asyncio
import inspect
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest.mock import AsyncMock, create_autospec

import numpy as np
import pytest
from pydantic_core import from_json, to_json

from adapters import errors as adapter_errors
from service import errors as service_errors
from service.errors import (
    AdapterLoadFailed,
    EngineFailed,
    LineBroken,
    Overloaded,
    RequestCancelled,
    ShuttingDown,
    TaskNotFound,
)
from service.line.answering import Answering
from service.line.asking import LineMetrics, RemotePredictor
from service.line.frames import Frames
from service.line.slab import Slab
from service.line.wire import error_message, error_of
from service.metrics import Metrics
from service.predict import MAX_LABEL_BYTES, MAX_LABELS, Label
from service.types import Allowance
from tests.service import http_fakes

pytestmark = pytest.mark.anyio

IMAGES = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)


class _Line:
    """Both ends in one process: a remote predictor, and the fake one that it stands for."""

    def __init__(self, ours, theirs, places):
        self.predictor = http_fakes.FakePredictor()
        self.metrics = create_autospec(Metrics)
        self.slab, memory = Slab.create(places, http_fakes.SMALL)
        self.refreshed = asyncio.Event()
        self.frames = theirs
        self.remote = RemotePredictor(
            theirs, Slab(memory, places, http_fakes.SMALL), self.refreshed.set
        )
        self.answering = Answering(self.predictor, self.metrics, ours, self.slab)
        self.serving = asyncio.create_task(self.answering.serve())
        self.listening = asyncio.create_task(self.remote.listen())

    @property
    def taken(self):
        """How many images lie in the memory."""
        return self.remote._slab.taken

    def ask(self, **options):
        """One prediction under way."""
        return asyncio.create_task(
            self.remote.predict("default", "flowers", IMAGES, deadline=10.0**9, **options)
        )


@asynccontextmanager
async def _line(places=4):
    ours, theirs = socket.socketpair()
    line = _Line(await Frames.over(ours), await Frames.over(theirs), places)
    try:
        yield line
    finally:
        line.frames.close()
        await asyncio.gather(line.serving, line.listening, return_exceptions=True)


async def test_an_answer_is_the_one_that_the_engine_side_gives():
    """Images, options and the prediction arrive as they were sent, and the memory is free again."""
    async with _line() as line:
        got = await line.ask(version=7, top_k=3, priority=1, canary_key="a", decode_seconds=0.5)
        wanted = await line.predictor.predict(
            "default",
            "flowers",
            IMAGES,
            deadline=10.0**9,
            version=7,
            top_k=3,
            priority=1,
            canary_key="a",
            decode_seconds=0.5,
        )
        assert got == wanted
        remote, here = line.predictor.asked
        assert np.array_equal(remote.pop("images"), here.pop("images"))
        assert remote == here
        assert line.taken == 0


async def test_several_tasks_look_at_the_same_images():
    """The order of the answers is that of the tasks."""
    async with _line() as line:
        found = await line.remote.predict_many(
            "default", ["birds", "flowers"], IMAGES, deadline=10.0**9
        )
        assert [each.task for each in found] == ["birds", "flowers"]


@pytest.mark.parametrize(
    "error",
    [
        TaskNotFound("There is none. Register it."),
        Overloaded("Too much. Wait.", retry_after=2.5),
        AdapterLoadFailed("Broken. Register it again.", cause="CorruptBlob"),
        EngineFailed("It raised. Try again."),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_is_the_one_that_the_engine_side_raises(error):
    """Its class, its text and its fields; the memory is free again."""
    async with _line() as line:
        line.predictor.error = error
        with pytest.raises(type(error)) as raised:
            await line.ask()
        assert str(raised.value) == str(error)
        assert vars(raised.value) == vars(error)
        assert line.taken == 0


async def test_an_error_that_nobody_foresaw_ends_the_request_only():
    """It is told apart from ours, and the line goes on."""
    async with _line() as line:
        line.predictor.error = ZeroDivisionError("oops")
        with pytest.raises(LineBroken, match="oops"):
            await line.ask()
        line.predictor.error = None
        assert (await line.ask()).task == "flowers"


def _family(root):
    """The error and all below it, but for those of the client, which arise on its side only."""
    below = (each for child in root.__subclasses__() for each in _family(child))
    return [each for each in (root, *below) if each.__module__ != "service.calls"]


@pytest.mark.parametrize("root", [service_errors.ServiceError, adapter_errors.AdapterError])
async def test_every_error_of_ours_crosses_the_line(root):
    """Whatever is added to the trees comes out as what went in."""
    allowance = Allowance("images", quota=10, window=10, remaining=3, reset=4.5)
    extra = {"retry_after": 1.5, "cause": "CorruptBlob", "allowances": (allowance,)}
    for kind in _family(root):
        known = inspect.signature(kind.__init__).parameters
        error = kind("It happened.", **{name: extra[name] for name in extra if name in known})
        back = error_of(from_json(to_json(error_message(error))))
        assert type(back) is kind
        assert (str(back), vars(back)) == (str(error), vars(error))


async def test_whoever_leaves_is_cancelled_on_the_engine_side():
    """The question ends there, and only then is the memory of its images given to others."""
    async with _line() as line:
        line.predictor.gate = http_fakes.threading.Event()
        leaving = line.ask()
        await asyncio.to_thread(line.predictor.waiting.wait, 20)
        assert line.taken == 2
        leaving.cancel()
        await asyncio.wait([leaving])
        await asyncio.to_thread(line.predictor.cancelled.wait, 20)
        line.predictor.gate = None
        assert (await line.ask()).task == "flowers"
        assert line.taken == 0


async def test_a_dead_http_process_leaves_nothing():
    """Its end closes without a word: what it had asked for is cancelled."""
    async with _line() as line:
        line.predictor.gate = http_fakes.threading.Event()
        waiting = line.ask()
        await asyncio.to_thread(line.predictor.waiting.wait, 20)
        line.frames.close()
        await line.serving
        assert line.predictor.cancelled.is_set()
        with pytest.raises(ShuttingDown):
            await waiting


async def test_a_dead_engine_ends_all_who_wait():
    """They hear that another server may answer, and so does whoever comes later."""
    async with _line() as line:
        line.predictor.gate = http_fakes.threading.Event()
        waiting = line.ask()
        await asyncio.to_thread(line.predictor.waiting.wait, 20)
        line.serving.cancel()
        for asked in (waiting, line.ask()):
            with pytest.raises((ShuttingDown, RequestCancelled)):
                await asked
        await line.listening
        assert line.remote.is_lost
        with pytest.raises(ShuttingDown):
            await line.ask()


async def test_full_memory_is_overload():
    """No more images than there are places; when some are answered there is room again."""
    async with _line(places=3) as line:
        line.predictor.gate = http_fakes.threading.Event()
        first = line.ask()
        await asyncio.to_thread(line.predictor.waiting.wait, 20)
        with pytest.raises(Overloaded) as refused:
            await line.ask()
        assert refused.value.retry_after > 0
        line.predictor.gate.set()
        await first
        assert (await line.ask()).task == "flowers"


async def test_http_requests_and_refusals_are_counted_on_the_engine_side():
    """But for relayed ones, which have no route here and are counted where they are answered."""
    async with _line() as line:
        metrics = LineMetrics(line.frames)
        metrics.http("GET", None, 200, 0.5)
        metrics.http("POST", "/tasks/{task}/predict", 503, 0.25)
        metrics.rejected("Overloaded")
        await line.ask()
        line.metrics.http.assert_called_once_with("POST", "/tasks/{task}/predict", 503, 0.25)
        line.metrics.rejected.assert_called_once_with("Overloaded")


async def test_changed_keys_are_announced():
    """The HTTP process reads them at once, not at its next period."""
    async with _line() as line:
        line.answering.refresh()
        async with asyncio.timeout(20):
            await line.refreshed.wait()


async def test_the_largest_answer_crosses_the_line():
    """As many labels as there may be, with as much text, of characters that JSON makes longest."""
    text = '"' * (MAX_LABEL_BYTES // MAX_LABELS)
    row = tuple(Label(text, 9_999, 1 / 3 * 1e-7) for _ in range(MAX_LABELS // 64))
    async with _line() as line:
        small = await line.ask()
        largest = replace(small, labels=(row,) * 64)
        line.predictor.predict = AsyncMock(return_value=largest)
        assert await line.ask() == largest


async def test_an_answer_that_is_too_long_fails_its_own_request_only(monkeypatch):
    """It is not sent: the HTTP process hears of an error, and lives on."""
    async with _line() as line:
        small = await line.ask()
        long = replace(small, labels=((Label("x" * 3_000, 0, 1.0),),))
        line.predictor.predict = AsyncMock(side_effect=[long, small])
        monkeypatch.setattr("service.line.frames.MAX_BYTES", 2_000)
        with pytest.raises(LineBroken, match="at most 2,000"):
            await line.ask()
        assert await line.ask() == small
        assert line.taken == 0


@pytest.mark.parametrize(
    "message",
    [
        {"nothing": "known"},
        {"ask": {"id": 1}},
        {"ask": 3},
    ],
    ids=str,
)
async def test_nonsense_ends_the_line(message):
    """An HTTP process that a hostile image has taken over can end itself and nothing else."""
    async with _line() as line:
        line.frames.send(message)
        with pytest.raises(LineBroken):
            await line.serving


async def test_images_outside_of_the_memory_are_refused():
    """Neither end may make the other look beyond its places."""
    slab, _ = Slab.create(4, http_fakes.SMALL)
    for start, count in [(-1, 2), (3, 2), (0, 0), (0, 5), (2**62, 1)]:
        with pytest.raises(LineBroken):
            slab.look(start, count)


async def test_a_message_that_is_too_long_or_no_json_is_refused(monkeypatch):
    """The length is checked before a byte is taken."""
    monkeypatch.setattr("service.line.frames.MAX_BYTES", 10)
    for data in (b"\0\0\0\x0b", b"\0\0\0\x03{]}", b"\0\0\0\x02[]"):
        ours, theirs = socket.socketpair()
        frames = await Frames.over(ours)
        theirs.sendall(data)
        with pytest.raises(LineBroken):
            await frames.receive()
        frames.close()
        theirs.close()
