"""What every engine promises, on every engine."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from adapters.errors import InvalidSpec
from adapters.preprocess import normalize
from adapters.proof import check_logits, golden_batch
from service.engines.base import EngineBatch, EngineSegment, Slot
from service.engines.folded import fold, fold_adapter
from service.errors import EngineFull, UnknownSlot
from tests import makers

ENGINES = ("torch", "compiled", "onnx")
NAME = "test_resnet"


@pytest.fixture(params=ENGINES)
def kind(request):
    """A kind of engine. Code is made for none of them: tests/service/test_engine_compiled.py."""
    with torch.compiler.set_stance("force_eager"):
        yield request.param


@pytest.fixture
def make_engine(kind):
    """Makes an engine on a small backbone."""

    def make(name=NAME, *, capacity_bytes=2**22, dtype="float32"):
        if kind == "onnx" and dtype == "bfloat16":
            pytest.skip("not run: ONNX Runtime has no bfloat16 convolutions")
        return makers.engine(kind, name, capacity_bytes=capacity_bytes, dtype=dtype)

    return make


def adapter(classes=4, seed=0):
    """A folded adapter of the small backbone."""
    return fold_adapter(makers.checkpoint(NAME, classes, seed))


def pixels(count):
    """Images of the small backbone's size."""
    size = makers.backbone(NAME).spec.preprocessing
    return makers.pixels(count, size.height, size.width)


def one_segment(slot, images):
    """A batch for one adapter."""
    return EngineBatch(images, None, (EngineSegment(slot, 0, len(images)),))


def expected(classes, seed, images):
    """What the slow way answers."""
    return makers.checkpoint(NAME, classes, seed).model(makers.backbone(NAME)).predict(images)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", makers.SMALL_BACKBONES.values())
def test_the_golden_proof_holds(make_engine, name, dtype):
    """What training recorded comes out of the engine, within the dtype's tolerance."""
    checkpoint = makers.checkpoint(name)
    proof = checkpoint.manifest.proof
    engine = make_engine(name, capacity_bytes=2**25, dtype=dtype)
    images = golden_batch(proof, engine.spec.preprocessing)
    slot = engine.load(fold_adapter(checkpoint))
    (logits,) = engine.run(one_segment(slot, images))
    check_logits(proof, checkpoint.golden_logits, logits, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_says_what_it_is(make_engine, kind, dtype):
    """Name, dtype and backbone, which a proof is remembered by."""
    engine = make_engine(dtype=dtype)
    assert (engine.name, engine.dtype, engine.device) == (kind, dtype, makers.DEVICE)
    assert engine.spec == makers.backbone(NAME).spec


def test_answers_are_float32_on_the_host(make_engine):
    """One tensor for each segment, in the batch's order, whatever the engine computes in."""
    engine = make_engine(dtype="bfloat16")
    first, second = engine.load(adapter(4)), engine.load(adapter(7))
    parts = EngineSegment(second, 0, 2), EngineSegment(first, 2, 3), EngineSegment(second, 3, 4)
    answers = engine.run(EngineBatch(pixels(4), None, parts))
    assert [(a.dtype, a.device.type, tuple(a.shape)) for a in answers] == [
        (torch.float32, "cpu", shape) for shape in ((2, 7), (1, 4), (1, 7))
    ]


def test_the_budget_adds_up(make_engine):
    """Loading takes what `adapter_bytes` says, and unloading gives it back."""
    engine = make_engine()
    small, large = adapter(4), adapter(7)
    slots = [engine.load(small), engine.load(large)]
    assert engine.used_bytes == engine.adapter_bytes(small) + engine.adapter_bytes(large)
    assert engine.used_bytes <= engine.capacity_bytes == 2**22
    for slot in slots:
        engine.unload(slot)
    assert engine.used_bytes == 0


def test_a_full_engine_refuses_and_keeps_what_it_has(make_engine):
    """EngineFull changes nothing; room that is given back is used again."""
    size = make_engine().adapter_bytes(adapter())
    engine = make_engine(capacity_bytes=2 * size)
    slots = [engine.load(adapter(seed=seed)) for seed in (0, 1)]
    with pytest.raises(EngineFull):
        engine.load(adapter(seed=2))
    assert engine.used_bytes == 2 * size
    engine.unload(slots[0])
    third = engine.load(adapter(seed=2))
    images = pixels(2)
    for slot, seed in ((slots[1], 1), (third, 2)):
        (logits,) = engine.run(one_segment(slot, images))
        torch.testing.assert_close(logits, expected(4, seed, images), rtol=1e-4, atol=1e-4)


def test_a_head_that_does_not_fit_takes_no_prompts(make_engine):
    """A load is all or nothing."""
    fits = adapter(4)
    engine = make_engine(capacity_bytes=make_engine().adapter_bytes(fits))
    with pytest.raises(EngineFull):
        engine.load(adapter(5))
    assert engine.used_bytes == 0
    engine.load(fits)


def test_a_slot_ends_with_its_unload(make_engine):
    """A handle is never given out again, so a late user cannot get another task's answers."""
    engine = make_engine()
    slot = engine.load(adapter())
    engine.unload(slot)
    assert engine.load(adapter()) != slot
    with pytest.raises(UnknownSlot):
        engine.run(one_segment(slot, pixels(1)))
    with pytest.raises(UnknownSlot):
        engine.unload(slot)
    with pytest.raises(UnknownSlot):
        engine.unload(Slot(12345))


@pytest.mark.parametrize("sites", ["stages", "none"])
def test_an_adapter_of_another_architecture_is_refused(make_engine, sites):
    """Nothing is loaded that does not fit: neither its prompts nor its head."""
    engine = make_engine("test_efficientnet")
    model = makers.model("test_vit", sites=sites)
    with pytest.raises(InvalidSpec):
        engine.load(fold(model.adapter, model.backbone.spec, key="0" * 64))
    assert engine.used_bytes == 0


def test_parallel_loads_get_slots_of_their_own(make_engine):
    """Eight loaders at once: every adapter answers as itself."""
    engine = make_engine()
    adapters = [adapter(4 + seed, seed) for seed in range(4)] * 2
    with ThreadPoolExecutor(8) as pool:
        slots = list(pool.map(engine.load, adapters))
    images = pixels(1)
    for number, slot in enumerate(slots):
        (logits,) = engine.run(one_segment(slot, images))
        wanted = expected(4 + number % 4, number % 4, images)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


def test_the_callers_backbone_stays_as_it_is(make_engine):
    """An engine casts a copy."""
    make_engine(dtype="bfloat16")
    assert makers.backbone(NAME).fingerprint_now() == makers.backbone(NAME).spec.fingerprint


def test_warming_up_needs_no_adapter(make_engine):
    """It runs the backbone alone, and leaves the budget alone."""
    engine = make_engine()
    engine.warm_up([1, 2])
    assert engine.used_bytes == 0


def test_images_of_another_size_are_refused(make_engine):
    """The engine resizes nothing."""
    engine = make_engine()
    slot = engine.load(adapter())
    with pytest.raises(ValueError, match="evaluation transform"):
        engine.run(one_segment(slot, makers.pixels(1, 32, 32)))


@pytest.mark.parametrize("uint8_images", [0, 2])
def test_normalised_images_are_the_same_images(make_engine, uint8_images):
    """Alone, beside uint8 ones, and shared by tasks: each row gets the slow way's logits."""
    engine = make_engine()
    images = pixels(4)
    more = normalize(images[uint8_images:], engine.spec.preprocessing)
    slots = engine.load(adapter(4)), engine.load(adapter(7, seed=1))
    parts = EngineSegment(slots[1], 0, 2), EngineSegment(slots[0], 2, 6)
    rows = torch.tensor([3, 0, 0, 1, 2, 3])
    first, second = engine.run(EngineBatch(images[:uint8_images], rows, parts, more))
    torch.testing.assert_close(first, expected(7, 1, images)[[3, 0]])
    torch.testing.assert_close(second, expected(4, 0, images))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (torch.zeros(1, 3, 32, 32), "evaluation transform"),
        (torch.zeros(1, 3, 160, 160, dtype=torch.float64), "float32"),
        (torch.zeros(1, 160, 160, 3), "float32"),
    ],
)
def test_normalised_images_of_another_shape_are_refused(make_engine, more, says):
    """Nothing is scaled, cast or transposed on the way."""
    engine = make_engine()
    slot = engine.load(adapter())
    with pytest.raises(ValueError, match=says):
        engine.run(EngineBatch(pixels(1), None, (EngineSegment(slot, 0, 2),), more))


@pytest.mark.parametrize(
    ("bounds", "rows"),
    [
        ((), None),
        (((0, 2),), None),
        (((0, 4),), None),
        (((1, 3),), None),
        (((0, 1), (2, 3)), None),
        (((0, 0), (0, 3)), None),
        (((2, 3), (0, 2)), None),
        (((0, 3),), [0, 1, 2, 0]),
    ],
)
def test_segments_cover_the_rows(bounds, rows):
    """A batch with a gap, an overlap or an empty segment cannot be made."""
    segments = tuple(EngineSegment(Slot(0), start, stop) for start, stop in bounds)
    with pytest.raises(ValueError, match="do not cover"):
        EngineBatch(pixels(3), None if rows is None else torch.tensor(rows), segments)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8)]
)
def test_images_are_uint8_pixels(images):
    """Normalised floats, or one image without a batch, are a caller's mistake."""
    with pytest.raises(ValueError, match="uint8"):
        EngineBatch(images, None, (EngineSegment(Slot(0), 0, 1),))
