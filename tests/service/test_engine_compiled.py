"""The compiled engine with the code that it makes, and how it is built and chosen."""

import os
import stat

import pytest
import torch
from torch._inductor import codecache
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from service.engines import choice
from service.engines.base import EngineBatch, EngineSegment
from service.engines.choice import EngineOptions, open_engine
from service.engines.compiled_engine import compile_frozen
from service.engines.folded import fold_adapter
from service.engines.kernels import build
from service.errors import EngineUnavailable
from tests import makers

NAME = "test_vit"
CLASSES = (2, 3, 1000)


def options(**changed):
    """How a small engine is asked for."""
    given = {"kind": "auto", "dtype": "float32", "device": "cpu", "capacity_bytes": 2**23}
    return EngineOptions(**{**given, "batch_images": 2, "cache": makers.KERNELS, **changed})


def test_one_compilation_serves_every_batch():
    """Batches of any size, mix and sharing get the slow way's logits, with nothing compiled anew.

    Adapters come and go meanwhile, with other heads and other prompts.
    """
    engine = makers.engine("compiled", NAME, capacity_bytes=2**23)
    engine.warm_up([4])
    size = engine.spec.preprocessing
    images = makers.pixels(4, size.height, size.width)
    checkpoints = [makers.checkpoint(NAME, classes, seed) for seed, classes in enumerate(CLASSES)]
    models = [checkpoint.model(makers.backbone(NAME)) for checkpoint in checkpoints]
    for turn, rows in enumerate(([0], [1, 2], [3, 3, 0], [0, 1, 2, 3], [2, 0, 0, 1, 1, 3])):
        chosen = turn % 3, (turn + 1) % 3
        slots = [engine.load(fold_adapter(checkpoints[number])) for number in chosen]
        cut = len(rows) // 2
        bounds = [(0, cut), (cut, len(rows))] if cut else [(0, 1)]
        parts = tuple(EngineSegment(s, *b) for s, b in zip(slots, bounds, strict=False))
        with torch.compiler.set_stance("fail_on_recompile"):
            answers = engine.run(EngineBatch(images, torch.tensor(rows), parts))
        for number, (start, stop), logits in zip(chosen, bounds, answers, strict=False):
            wanted = models[number].predict(images[rows[start:stop]])
            assert (logits - wanted).abs().max() <= 1e-4 * max(1, wanted.abs().max())
        for slot in slots:
            engine.unload(slot)


@pytest.fixture
def eager():
    """No code is made."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("eager")
def test_the_fastest_that_works_is_chosen(monkeypatch):
    """Compiled bfloat16 where machine and backbone bear it, else float32, else the reference."""
    monkeypatch.setattr(choice, "_is_fast_at_bfloat16", lambda _device: True)
    first = open_engine(makers.backbone(NAME), options(dtype="auto"))
    assert (first.name, first.dtype) == ("compiled", "bfloat16")
    monkeypatch.setattr(choice, "MOST_BFLOAT16_ERROR", 0.0)
    exact = open_engine(makers.backbone(NAME), options(dtype="auto"))
    assert (exact.name, exact.dtype) == ("compiled", "float32")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    last = open_engine(makers.backbone(NAME), options(dtype="auto"))
    assert (last.name, last.dtype) == ("torch", "float32")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_that_is_asked_for_is_not_replaced(monkeypatch, dtype):
    """Where it cannot run, the message says what is lacking."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(EngineUnavailable, match="AVX"):
        open_engine(makers.backbone(NAME), options(kind="compiled", dtype=dtype))
    assert open_engine(makers.backbone(NAME), options(kind="torch")).name == "torch"


def test_code_for_a_gpu_is_kept_where_code_for_a_cpu_is(monkeypatch, tmp_path):
    """Where nobody else may write, and the next start finds it."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    monkeypatch.setattr(codecache, "_HEADER_DIR", codecache._HEADER_DIR)
    monkeypatch.setattr(codecache, "_HEADER_LOCK_DIR", codecache._HEADER_LOCK_DIR)
    monkeypatch.setattr(choice, "TorchEngine", lambda *_, **__: None)
    asked = options(device="cuda", cache=tmp_path)
    choice.compiled(makers.backbone(NAME), asked, "float32")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")
    places = [value for value in vars(codecache).values() if isinstance(value, str)]
    assert not [place for place in places if place.startswith(default_cache_dir())]


@pytest.mark.parametrize("name", ["cuda:999", "abacus"])
def test_a_device_that_is_not_there_is_named(name):
    """With the way out; what is there is taken as it is."""
    assert choice.find_device("cpu") == "cpu"
    with pytest.raises(EngineUnavailable, match=f"'{name}'.*--device cpu"):
        choice.find_device(name)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch, tmp_path):
    """The message names the package and the way around it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EngineUnavailable, match="Install g\\+\\+"):
        build.compiler()


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path):
    """Its own words are in the message, and the next start tries again."""
    fails = tmp_path / "c++"
    fails.write_text("#!/bin/sh\necho no space for this >&2\nexit 1\n")
    fails.chmod(0o700)
    cache = tmp_path / "cache"
    with pytest.raises(EngineUnavailable, match="no space for this"):
        build.build(str(fails), cache / "kernels.so")
    assert not list(cache.iterdir())
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@torch.no_grad()
def test_a_compiled_pass_has_its_weights_laid_out_once():
    """It keeps those that it was compiled with, so they are no inputs that each call reorders."""
    layer = torch.nn.Linear(64, 64).to(torch.bfloat16)
    rows = torch.randn(32, 64, dtype=torch.bfloat16)
    run = compile_frozen(layer)
    before = run(rows)
    layer.weight.zero_()
    assert torch.equal(run(rows), before)
