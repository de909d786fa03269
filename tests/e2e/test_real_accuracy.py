"""Real weights and images: each image's answer over HTTP is the one that evaluation counts."""

import json

import pytest
from typer.testing import CliRunner

from adapters.backbone import load_backbone
from adapters.checkpoint import read
from protuning.cli import app
from service.client import Client
from tests.server_processes import ServerProcess
from training.directory import ADAPTER, METRICS
from training.evaluate import evaluate_adapter, open_adapter_task

BACKBONES = ("mobilenetv2_100", "vit_tiny_patch16_224")
SETS = ("flowers12", "caltech28")
LEAN = ("mobilenetv2_100", "flowers12")
AT_ONCE = 32


def train(archive, backbone, weights, directory):
    """A short `protuning train` of prompts that do something."""
    options = {
        "backbone": backbone,
        "weights": weights,
        "method": "pro-tuning",
        "shots": 6,
        "epochs": 3,
        "batch-size": 8,
        "lr": 0.01,
        "augment": "none",
        "workers": 0,
        "device": "cpu",
        "out": directory,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = CliRunner().invoke(app, ["train", str(archive), *arguments])
    assert done.exit_code == 0, done.output


def answers_of(client, task, samples):
    """The best label of each image, and its score, over HTTP."""
    for start in range(0, len(samples), AT_ONCE):
        images = [sample.read() for sample in samples[start : start + AT_ONCE]]
        for prediction in client.predict(task, images, top_k=1, timeout_ms=60_000).predictions:
            yield prediction.labels[0]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("data", SETS)
def test_accuracy_over_http_is_that_of_evaluate(
    backbone, data, real_inputs, tmp_path, pytestconfig
):
    """Image by image: the same answers and scores, so the same accuracy as in training's report."""
    if (backbone, data) != LEAN and not pytestconfig.getoption("full"):
        pytest.skip("not run: one of four is enough without --full")
    weights = real_inputs / "weights" / f"{backbone}.safetensors"
    archive = real_inputs / "data" / f"{data}.tar"
    run = tmp_path / "run"
    train(archive, backbone, weights, run)
    measured = json.loads((run / METRICS).read_text())
    task = open_adapter_task(read(run / ADAPTER), load_backbone(backbone, weights), archive)
    wanted = evaluate_adapter(task)
    index, store = f"sqlite:///{tmp_path}/index.db", tmp_path / "store"
    server = ServerProcess(backbone=backbone, weights=weights, index=index, store=store)
    try:
        with Client(server.address) as client:
            client.register(data, run / ADAPTER)
            answers = [*answers_of(client, data, task.samples)]
    finally:
        assert server.stop() == 0
    for answer, expected in zip(answers, wanted.predictions, strict=True):
        assert answer.label == expected.answer, expected
        assert answer.score == pytest.approx(expected.score, abs=1e-4)
    right = sum(a.label == p.truth for a, p in zip(answers, wanted.predictions, strict=True))
    assert right / len(answers) == wanted.evaluation.top1 == measured["test_top1"]
