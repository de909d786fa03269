"""Mixed batches of every engine against one task at a time, the slow and obvious way."""

import threading
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engines import segments
from service.engines.base import EngineBatch, EngineSegment
from service.engines.folded import fold
from service.engines.torch_engine import TorchEngine
from service.errors import EngineFull
from tests import makers

CONFIGS = (
    {},
    {"sites": "none"},
    {"kernel_size": 3},
    {"blocks": 2},
    {"groups": 2, "activation": "gelu"},
    {"activation": "hardswish", "se_reduction": 2},
    {"beta": 0.25},
    {"class_token": "none", "activation": "silu"},
)
CLASSES = (2, 3, 10, 101, 1000)
IMAGES = 4
QUICK = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")
SLOW = sorted(set(makers.SMALL_BACKBONES.values()) - set(QUICK))


KINDS = ("torch", "compiled")


@pytest.fixture(autouse=True)
def _no_code():
    """The compiled engine without its compilation, which takes half a minute for each engine."""
    with torch.compiler.set_stance("force_eager"):
        yield


@cache
def task(name, number):
    """Task `number` of a backbone as the model of one task, and folded."""
    config = CONFIGS[number % len(CONFIGS)]
    model = makers.model(name, CLASSES[number % len(CLASSES)], number, **_fitting(name, config))
    return model, fold(model.adapter, model.backbone.spec, key=f"{number:064x}")


def _fitting(name, config):
    """The configuration, with fewer groups where a family's channels ask for it."""
    channels = [site.channels for site in makers.backbone(name).spec.sites]
    groups = config.get("groups", 4)
    return {**config, "groups": groups if all(c % groups == 0 for c in channels) else 1}


@cache
def images(name):
    """A few images that all tests of a backbone share."""
    size = makers.backbone(name).spec.preprocessing
    count = IMAGES if name in QUICK else 2
    return makers.pictures(count, size.height, size.width, seed=100)


@cache
def expected(name, number):
    """The logits of every image for one task, by the slow way."""
    return task(name, number)[0].predict(images(name))


@cache
def small_engine(kind, name, tasks):
    """An engine with room for so many tasks, about, and garbage in all of its memory."""
    size = sum(task(name, number)[1].nbytes() for number in range(tasks))
    engine = makers.engine(kind, name, capacity_bytes=size)
    engine._bank._buffer.fill_(torch.nan)
    return engine


def unload(engine, slot):
    """Unload and leave garbage behind: whoever reads what is free gets NaN."""
    for span in engine._residents[slot].spans:
        engine._bank._buffer[span.start : span.stop].fill_(torch.nan)
    engine.unload(slot)


class Residents:
    """Loads what a batch needs and drops others for it, the oldest first."""

    def __init__(self, kind, name, tasks):
        self.name, self.engine = name, small_engine(kind, name, tasks)
        for slot in list(self.engine._residents):
            unload(self.engine, slot)
        self.slots = {}

    def slot(self, number, needed):
        """The slot of a task, or None if the tasks that are needed leave no room."""
        while number not in self.slots:
            try:
                self.slots[number] = self.engine.load(task(self.name, number)[1])
            except EngineFull:
                others = [other for other in self.slots if other not in needed]
                if not others:
                    return None
                unload(self.engine, self.slots.pop(others[0]))
        return self.slots[number]


def batch_of(name, traffic, *, shared):
    """A batch of (slot, images of it) pairs."""
    parts, stop = [], 0
    for slot, numbers in traffic:
        start, stop = stop, stop + len(numbers)
        parts.append(EngineSegment(slot, start, stop))
    rows = torch.tensor([number for _, numbers in traffic for number in numbers])
    if shared:
        return EngineBatch(images(name), rows, tuple(parts))
    return EngineBatch(images(name)[rows], None, tuple(parts))


def assert_right(name, traffic, answers):
    """Every segment, (task, images of it), got the logits that the task's own model gives."""
    for (number, numbers), logits in zip(traffic, answers, strict=True):
        wanted = expected(name, number)[numbers]
        assert logits.shape == wanted.shape
        assert (logits - wanted).abs().max() <= 1e-4 * max(1, wanted.abs().max())


def segments_of(most_tasks, images=IMAGES):
    """Traffic shapes: which tasks, each with which images; a task may come twice."""
    numbers = st.lists(st.integers(0, images - 1), min_size=1, max_size=4)
    return st.lists(st.tuples(st.integers(0, most_tasks - 1), numbers), min_size=1, max_size=32)


def cut_to(traffic, most_images):
    """The segments from the first on that hold at most so many images."""
    kept, count = [], 0
    for number, numbers in traffic:
        count += len(numbers)
        if count <= most_images:
            kept.append((number, numbers))
    return kept


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_batch_is_right_whatever_the_traffic(kind, name, pytestconfig):
    """Any mix of tasks, sizes and configurations, while slots are freed, poisoned and reused."""
    full = pytestconfig.getoption("full")
    if name in SLOW and not full:
        pytest.skip("not run without --full: the next test has one batch of this family")
    traffic = st.tuples(segments_of(32, len(images(name))), st.booleans())

    @settings(max_examples=60 if full else 6, derandomize=True, deadline=None)
    @given(st.lists(traffic, min_size=1, max_size=2))
    def check(rounds):
        residents = Residents(kind, name, tasks=24)
        for traffic, shared in rounds:
            wanted = cut_to(traffic, most_images=32)
            needed = {number for number, _ in wanted}
            slots = {number: residents.slot(number, needed) for number in needed}
            runnable = [(number, images) for number, images in wanted if slots[number] is not None]
            batch = batch_of(name, [(slots[n], images) for n, images in runnable], shared=shared)
            assert_right(name, runnable, residents.engine.run(batch))

    check()


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_batch_is_right_on_every_family(kind, name):
    """Configurations side by side, one image for several tasks, and a reused slot."""
    residents = Residents(kind, name, tasks=len(CONFIGS))
    unload(residents.engine, residents.slot(number=0, needed=()))
    residents.slots.clear()
    traffic = [(1, [0]), (0, [1, 0]), (3, [0]), (4, [1])]
    slotted = [(residents.slot(number, range(8)), numbers) for number, numbers in traffic]
    batch = batch_of(name, slotted, shared=True)
    assert_right(name, traffic, residents.engine.run(batch))


@pytest.mark.parametrize("most", [0, 2**40], ids=["by segment", "by row"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_both_ways_of_prompting_are_right(name, most, monkeypatch):
    """Calling the convolutions per segment and gathering weights per row give the same."""
    monkeypatch.setattr(segments, "_MOST_GATHERED_VALUES", most)
    residents = Residents("torch", name, tasks=24)
    traffic = [(number, [number % IMAGES]) for number in range(12)]
    slotted = [(residents.slot(number, range(12)), numbers) for number, numbers in traffic]
    answers = residents.engine.run(batch_of(name, slotted, shared=False))
    assert_right(name, traffic, answers)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, derandomize=True, deadline=None)
@given(segments_of(8), st.booleans())
def test_answers_never_cross(kind, traffic, shared):
    """Each head says its task's number, whatever it is shown."""
    name, traffic = "test_resnet", cut_to(traffic, most_images=32)
    engine = makers.engine(kind, name, capacity_bytes=2**22)
    slots = []
    for number in range(8):
        model = makers.model(name, 2 + number, number, **CONFIGS[number])
        with torch.no_grad():
            model.adapter.head.weight.zero_()
            model.adapter.head.bias.fill_(number)
        slots.append(engine.load(fold(model.adapter, model.backbone.spec, key=f"{number:064x}")))
    batch = batch_of(name, [(slots[number], numbers) for number, numbers in traffic], shared=shared)
    for (number, numbers), logits in zip(traffic, engine.run(batch), strict=True):
        assert torch.equal(logits, torch.full((len(numbers), 2 + number), float(number)))


def test_a_shared_image_passes_once_before_the_prompts():
    """Eight tasks look at one image: the first stage sees one image, the next one eight."""
    engine = TorchEngine(makers.backbone("test_resnet"), capacity_bytes=2**22)
    slots = [engine.load(task("test_resnet", 0)[1]) for _ in range(8)]
    seen = []

    def watched(stage):
        def run(features):
            seen.append(len(features))
            return stage(features)

        return run

    engine._backbone.stages = tuple(watched(stage) for stage in engine._backbone.stages)
    engine.run(batch_of("test_resnet", [(slot, [0]) for slot in slots], shared=True))
    assert seen == [4, 8, 8, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_a_poison_adapter_hurts_only_itself(kind):
    """NaN in one task's prompts leaves every bit of its neighbours' answers alone."""
    name = "test_vit"
    engine = makers.engine(kind, name, capacity_bytes=2**23)
    slots = [engine.load(task(name, number)[1]) for number in (0, 8, 16)]
    batch = batch_of(name, [(slot, [0]) for slot in slots], shared=False)
    before = engine.run(batch)
    resident = engine._residents[slots[1]]
    engine._bank.prompts(resident.layout)[resident.slot].fill_(torch.nan)
    after = engine.run(batch)
    assert after[1].isnan().all()
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])


def test_loads_and_unloads_during_a_batch_change_no_answer():
    """Between any two stages other threads load and unload around the batch's own slots."""
    name = "test_resnet"
    engine = TorchEngine(makers.backbone(name), capacity_bytes=2**22)
    gap, *slots = [engine.load(task(name, number)[1]) for number in (0, 1, 8, 9)]
    batch = batch_of(name, [(slot, [0, 1]) for slot in slots], shared=False)
    quiet = engine.run(batch)
    unload(engine, gap)
    done = []

    def churn():
        for number in (16, 24, 2):
            unload(engine, engine.load(task(name, number)[1]))
        done.append(True)

    def disturbed(stage):
        def run(features):
            threads = [threading.Thread(target=churn) for _ in range(2)]
            for thread in threads:
                thread.start()
            result = stage(features)
            for thread in threads:
                thread.join()
            return result

        return run

    engine._backbone.stages = tuple(disturbed(stage) for stage in engine._backbone.stages)
    assert all(torch.equal(*pair) for pair in zip(quiet, engine.run(batch), strict=True))
    assert len(done) == 2 * len(engine._backbone.stages)


def test_compiled_stages_are_right(monkeypatch):
    """What torch.compile traces answers the same; making code of it would take a minute here."""
    torch.compiler.set_stance("default")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    name = "test_vit"
    engine = TorchEngine(makers.backbone(name), capacity_bytes=2**23, compile_stages=True)
    assert engine.name == "compiled"
    traffic = [(0, [0]), (1, [1, 2])]
    slotted = [(engine.load(task(name, number)[1]), numbers) for number, numbers in traffic]
    assert_right(name, traffic, engine.run(batch_of(name, slotted, shared=False)))
