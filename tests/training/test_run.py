"""A whole run on small pictures: from a configuration to a directory that others can use."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from adapters.backbone import load_backbone
from adapters.checkpoint import read
from adapters.errors import ProofInsensitive
from training import results
from training.config import make_config, read_options
from training.directory import ADAPTER, CONFIG, HISTORY, METRICS, MODEL, RunDirectory
from training.errors import MissingPackage, NotServable, OtherRun, RunExists
from training.evaluate import evaluate_adapter, open_adapter_task
from training.methods import METHODS
from training.run import train

REPORT = {"report.md", "confusion-matrix.png", "learning-curve.png", "mistakes.png"}


@pytest.fixture
def no_report(monkeypatch):
    """Leave the report and its pictures out, which take most of a small run's time."""
    monkeypatch.setattr(results, "write_report", lambda *_: None)


def _names(path):
    return {file.name for file in path.iterdir()}


def test_a_run_leaves_all_that_was_promised(configure, tmp_path):
    """Pro-tuning: adapter, configuration, metrics, history and report, and nothing else."""
    config = configure(epochs=4)
    metrics = train(config, RunDirectory(tmp_path))
    assert _names(tmp_path) == REPORT | {ADAPTER, CONFIG, METRICS, HISTORY}
    assert json.loads((tmp_path / METRICS).read_text()) == metrics
    assert metrics["test_top1"] > 0.5
    assert {"val_top1", "test_top5", "parameters", "seconds", "images_per_s"} < metrics.keys()
    with (tmp_path / HISTORY).open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert max(float(row["val_top1"]) for row in rows) == metrics["val_top1"]
    report = (tmp_path / "report.md").read_text()
    assert f"validation images: epoch {metrics['best_epoch']}, with" in report
    assert "| kernel | 5 |" in report


@pytest.mark.usefixtures("no_report")
def test_the_adapter_is_as_good_as_it_says(configure, weights, pictures, tmp_path):
    """Read back and measured by itself, it has the accuracy of its own metrics."""
    metrics = train(configure(), RunDirectory(tmp_path))
    checkpoint = read(tmp_path / ADAPTER)
    assert checkpoint.manifest.labels == ("blue", "green", "red")
    provenance = checkpoint.manifest.provenance
    assert provenance.method == "pro-tuning"
    assert provenance.metrics["test_top1"] == metrics["test_top1"]
    assert str(pictures.parent) not in checkpoint.manifest.model_dump_json()
    backbone = load_backbone("test_vit", weights("test_vit"))
    task = open_adapter_task(checkpoint, backbone, pictures)
    measured = evaluate_adapter(task).evaluation
    assert measured.top1 == metrics["test_top1"]


@pytest.mark.usefixtures("no_report")
def test_its_configuration_reruns_it_to_the_same_bytes(configure, tmp_path):
    """config.toml holds everything that decides a run: the adapters have one digest."""
    train(configure(method="head", epochs=3), RunDirectory(tmp_path / "one"))
    config = make_config(read_options(tmp_path / "one" / CONFIG))
    train(config, RunDirectory(tmp_path / "two"))
    one, two = (read(tmp_path / name / ADAPTER) for name in ("one", "two"))
    assert one.digest == two.digest


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if not m.servable])
def test_a_baseline_leaves_weights_that_cannot_be_served(configure, tmp_path, method):
    """Every other method trains too; its weights come back, and publishing is refused."""
    config = configure(method=method, epochs=1, lr=1e-4, augment="none")
    train(config, RunDirectory(tmp_path))
    assert _names(tmp_path) == {MODEL, CONFIG, METRICS, HISTORY}
    with pytest.raises(NotServable, match="all tasks share"):
        RunDirectory(tmp_path).adapter()
    state = load_file(tmp_path / MODEL)
    fresh = METHODS[method].build(config, METHODS[method].load(config), 3)
    missing, unexpected = fresh.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("model.head." in name for name in missing)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "options",
    [
        {"shots": 2, "method": "head"},
        {"long_tail": 3.0, "method": "head"},
        {"method": "head", "augment": "light"},
        {"accumulation": 2, "grad_checkpointing": True, "label_smoothing": 0.1},
        {"precision": "bf16", "sites": "F1", "class_token": "none"},
        {"optimizer": "lamb", "schedule": "poly", "warmup": 0.0},
        {"val_fraction": 0.0, "backbone": "test_resnet"},
    ],
    ids=str,
)
def test_options_run_end_to_end(configure, tmp_path, options):
    """Scenarios, precisions, optimisers and the rest end in metrics."""
    metrics = train(configure(epochs=1, **options), RunDirectory(tmp_path))
    assert metrics["epochs"] == 1
    if "shots" in options:
        assert metrics["train_images"] == 6
    if "val_fraction" in options:
        assert "val_top1" not in metrics


@pytest.mark.usefixtures("no_report")
def test_a_taken_directory_is_refused_before_any_work(configure, tmp_path):
    """Even the images are not looked for."""
    train(configure(method="head", epochs=1), RunDirectory(tmp_path))
    with pytest.raises(RunExists):
        train(configure(data="missing"), RunDirectory(tmp_path))
    train(configure(method="head", epochs=2), RunDirectory(tmp_path), overwrite=True)
    assert json.loads((tmp_path / METRICS).read_text())["epochs"] == 2


def test_bad_images_leave_no_run(configure, tmp_path):
    """What fails before the first update leaves nothing that would be in the way."""
    with pytest.raises(Exception, match="missing"):
        train(configure(data="missing"), RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_refused_proof_keeps_the_figures(configure, tmp_path, monkeypatch):
    """No adapter, but metrics, and a report that says so; the error says how to go on."""

    def refuse(*_):
        raise ProofInsensitive("It would not notice.")

    monkeypatch.setattr(results, "make_checkpoint", refuse)
    advice = "It would not notice. Run it again with --overwrite and more epochs: --epochs 100"
    with pytest.raises(ProofInsensitive, match=f"{advice}.* metrics and the report are in"):
        train(configure(method="head", epochs=1), RunDirectory(tmp_path))
    assert _names(tmp_path) == REPORT | {CONFIG, METRICS, HISTORY}
    report = (tmp_path / "report.md").read_text()
    assert f"**No adapter was written.** {advice}" in report.replace("\\", "")
    assert ADAPTER not in report
    assert "kernel" not in report
    with pytest.raises(NotServable, match="says why"):
        RunDirectory(tmp_path).adapter()


@pytest.mark.usefixtures("no_report")
def test_tensorboard_is_written_on_request(configure, tmp_path, monkeypatch):
    """Event files with the package, a clear error without it."""
    config = configure(method="head", epochs=1, tensorboard=True)
    train(config, RunDirectory(tmp_path / "with"))
    assert [*(tmp_path / "with" / "tensorboard").glob("events.*")]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match=r"protuning\[tensorboard"):
        train(config, RunDirectory(tmp_path / "without"))


@pytest.mark.usefixtures("no_report")
def test_a_changed_image_set_cannot_be_resumed(configure, tmp_path):
    """The state knows the digest of the images that it was trained on."""

    class Stop:
        requested = True

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    with pytest.raises(Exception, match="--resume"):
        train(configure(method="head"), RunDirectory(tmp_path), stop=Stop())
    with pytest.raises(OtherRun):
        train(configure(method="head", seed=1), RunDirectory(tmp_path), resume=True)
    metrics = train(configure(method="head"), RunDirectory(tmp_path), resume=True)
    assert metrics["epochs"] == 2


@pytest.mark.usefixtures("no_report")
def test_training_leaves_the_backbone_bit_equal(configure, tmp_path, weights):
    """The frozen backbone's fingerprint in the adapter is that of the weights file."""
    train(configure(epochs=1), RunDirectory(tmp_path))
    spec = load_backbone("test_vit", weights("test_vit")).spec
    assert read(tmp_path / ADAPTER).manifest.backbone.fingerprint == spec.fingerprint
    assert torch.are_deterministic_algorithms_enabled()
