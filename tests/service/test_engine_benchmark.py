"""The command `protuning bench engine`: what it measures, and how it reports it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from adapters.checkpoint import write
from benchmarks.engine import mixed_batch
from protuning.cli import app
from service.engines.base import Slot
from tests import makers


def test_every_image_is_another_tasks():
    """Tasks take turns over the images, and those of one task lie together."""
    images = torch.zeros(5, 8, 8, 3, dtype=torch.uint8)
    many = mixed_batch(images, [Slot(number) for number in range(7)], start=4)
    assert [s.slot.number for s in many.segments] == [0, 1, 4, 5, 6]
    few = mixed_batch(images, [Slot(number) for number in range(2)], start=0)
    assert [(s.slot.number, s.rows) for s in few.segments] == [(0, 3), (1, 2)]


def test_the_command_prints_the_ratio():
    """JSON with both speeds and their ratio."""
    arguments = ["bench", "engine", "--backbone", "test_resnet", "--tasks", "3", "--batch", "2"]
    done = CliRunner().invoke(app, [*arguments, "--rounds", "1", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert {"bare_images_per_s", "mixed_images_per_s", "ratio"} <= result.keys()
    assert abs(result["ratio"] - result["mixed_images_per_s"] / result["bare_images_per_s"]) < 1e-9


def test_people_get_a_sentence():
    """Without --json there is a line to read."""
    done = CliRunner().invoke(
        app, ["bench", "engine", "--backbone", "test_resnet", "--rounds", "1"]
    )
    assert "of the bare backbone" in done.output


def _figures(*arguments):
    done = CliRunner().invoke(app, ["bench", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_an_engine_is_watched_while_adapters_come_and_go():
    """Every other batch a resident is replaced."""
    figures = _figures(
        "steady", "--backbone", "test_resnet", "--engine", "torch", "--batches", 20, "--tasks", 4
    )
    assert (figures["batches"], figures["loads"]) == (20, 10)


def test_answers_are_compared_on_real_images(tmp_path):
    """In float32 the engine agrees with the model; both classes have the same pictures."""
    path = tmp_path / "adapter.safetensors"
    write(path, makers.checkpoint("test_resnet", classes=2))
    for name in makers.labels(2):
        folder = tmp_path / "data" / "test" / name
        folder.mkdir(parents=True)
        for seed in range(2):
            makers.picture(seed=seed).save(folder / f"{seed}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.backbone.load_backbone", lambda *_: makers.backbone("test_resnet"))
        figures = _figures(
            "precision", path, tmp_path / "data", "--engine", "torch", "--dtype", "float32"
        )
    assert (figures["images"], figures["agreement"]) == (4, 1.0)
    assert figures["engine_top1"] == figures["oracle_top1"] == 0.5
