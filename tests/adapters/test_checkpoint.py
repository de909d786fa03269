"""Checkpoints: what is written is what is read, by content, atomically."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adapters import durable
from adapters.checkpoint import check_backbone, make_checkpoint, parse, read, write
from adapters.container import ContainerLimits
from adapters.errors import (
    CheckpointNotFound,
    CheckpointTooLarge,
    InvalidManifest,
    NotFinite,
    WrongBackbone,
)
from adapters.manifest import Provenance
from adapters.model import AdapterModel
from tests import makers


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_round_trip_gives_the_same_answers(name, tmp_path):
    """Write, read, predict: the logits are the trained model's, bit for bit."""
    model = makers.model(name)
    path = tmp_path / "adapter.safetensors"
    write(path, makers.checkpoint(name))
    restored = read(path).model(model.backbone)
    size = model.backbone.spec.preprocessing
    images_BHWC = makers.pixels(2, size.height, size.width)
    assert torch.equal(restored.predict(images_BHWC), model.predict(images_BHWC))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {"beta": 0.5}),
        ("test_resnet", {"blocks": 2, "kernel_size": 3, "groups": 1, "activation": "gelu"}),
        ("test_resnet", {"sites": "stage2,stage4", "se_reduction": 2, "activation": "hardswish"}),
        ("test_resnet", {"sites": "none"}),
        ("test_vit", {"sites": "F5", "activation": "silu"}),
        ("test_vit", {"sites": "embed", "class_token": "none"}),
    ],
)
def test_every_configuration_survives(name, options):
    """Constant betas, several blocks, other sites and activations: the same answers again."""
    model = makers.model(name, **options)
    provenance = Provenance(method="pro-tuning")
    checkpoint = make_checkpoint(model, makers.labels(4), provenance)
    size = model.backbone.spec.preprocessing
    images_BHWC = makers.pixels(2, size.height, size.width)
    restored = parse(checkpoint.data).model(model.backbone)
    assert torch.equal(restored.predict(images_BHWC), model.predict(images_BHWC))


def test_the_manifest_survives():
    """Labels, provenance, specs and backbone come back as they went in."""
    manifest = parse(makers.checkpoint().data).manifest
    assert manifest.labels == makers.labels(4)
    assert manifest.provenance.metrics == {"test_top1": 0.5}
    assert manifest.prompt == makers.model().adapter.prompt_spec
    assert manifest.backbone == makers.backbone("test_resnet").spec


def test_awkward_labels_survive():
    """Quotes, backslashes, other scripts and something that looks like the digest's own place."""
    names = ('"sha256":"' + "0" * 64, "a\\b", "日本語", '{"__metadata__":{}}')
    checkpoint = make_checkpoint(makers.model(), names, Provenance(method="pro-tuning"))
    assert parse(checkpoint.data).manifest.labels == names


def test_the_same_adapter_is_the_same_content():
    """Writing twice gives the same bytes, in this process and in a new one."""
    make = (
        "from tests import makers; print(makers.checkpoint('test_vit').digest, "
        "makers.checkpoint('test_resnet').digest)"
    )
    output = subprocess.run(
        [sys.executable, "-c", make], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == [
        makers.checkpoint("test_vit").digest,
        makers.checkpoint("test_resnet").digest,
    ]


def test_another_adapter_is_another_content():
    """One parameter's last bit changes the digest."""
    model = makers.model(seed=1)
    provenance = Provenance(method="pro-tuning")
    first = make_checkpoint(model, makers.labels(4), provenance)
    with torch.no_grad():
        bias = model.adapter.head.bias
        bias[0] = torch.nextafter(bias[0], torch.tensor(torch.inf))
    assert make_checkpoint(model, makers.labels(4), provenance).digest != first.digest


def test_a_restored_adapter_trains_on():
    """The restored modules are ordinary ones: a training step works and moves them."""
    adapter = makers.checkpoint().adapter().train()
    model = AdapterModel(makers.backbone("test_resnet"), adapter)
    before = adapter.head.weight.detach().clone()
    size = model.backbone.spec.preprocessing
    model(torch.randn(2, 3, size.height, size.width)).square().sum().backward()
    torch.optim.SGD(adapter.parameters(), lr=0.1).step()
    assert not torch.equal(adapter.head.weight, before)
    assert next(adapter.buffers()).isfinite().all()


def test_another_backbone_is_refused():
    """Other weights are told by the fingerprint, other preprocessing by the description."""
    manifest = makers.checkpoint("test_resnet").manifest
    check_backbone(manifest, makers.backbone("test_resnet").spec)
    with pytest.raises(WrongBackbone, match="made for test_resnet"):
        check_backbone(manifest, makers.backbone("test_vit").spec)
    spec = makers.backbone("test_resnet").spec
    preprocessing = spec.preprocessing.model_copy(update={"crop_pct": 0.5})
    with pytest.raises(WrongBackbone, match="preprocessing"):
        check_backbone(manifest, spec.model_copy(update={"preprocessing": preprocessing}))


def test_the_name_under_which_a_backbone_was_loaded_does_not_matter():
    """With or without timm's tag it is the same backbone."""
    spec = makers.backbone("test_resnet").spec.model_copy(update={"name": "test_resnet.r160_in1k"})
    check_backbone(makers.checkpoint("test_resnet").manifest, spec)


def test_training_that_diverged_is_not_written():
    """NaN weights end before a file exists."""
    model = makers.model(seed=2)
    with torch.no_grad():
        model.adapter.head.weight[0, 0] = torch.nan
    with pytest.raises(NotFinite, match=r"head\.weight"):
        make_checkpoint(model, makers.labels(4), Provenance(method="pro-tuning"))


@pytest.mark.parametrize(
    "names", [("a", "a", "b", "c"), ("a", "b", "c", ""), ("a", "b", "c", "x\n")]
)
def test_bad_labels_are_not_written(names):
    """Duplicate, empty and unprintable labels are refused when the file would be made."""
    with pytest.raises(InvalidManifest, match="labels"):
        make_checkpoint(makers.model(), names, Provenance(method="pro-tuning"))


def test_writing_replaces_whole_files_or_nothing(tmp_path, monkeypatch):
    """A write that fails half-way leaves the old file and no temporary one."""
    path = tmp_path / "adapter.safetensors"
    write(path, makers.checkpoint())

    def full_disk(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(path, makers.checkpoint(seed=5))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert read(path).digest == makers.checkpoint().digest


def test_paths_that_are_no_files_are_refused(tmp_path):
    """Nothing, a directory, a named pipe and a device each end in CheckpointNotFound."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    handles = Path("/proc/self/fd")
    before = len([*handles.iterdir()])
    for path in (tmp_path / "none", tmp_path, pipe, makers.NULL_DEVICE, Path("a\0b")):
        with pytest.raises(CheckpointNotFound):
            read(path)
    assert len([*handles.iterdir()]) == before


def test_a_larger_file_than_allowed_is_not_read_whole(tmp_path):
    """The size limit holds for the file, whatever its header claims."""
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(makers.checkpoint().data)
    with pytest.raises(CheckpointTooLarge, match="at most 1,000"):
        read(path, ContainerLimits(max_bytes=1_000))


def test_inspect_shows_markup_as_it_is(tmp_path):
    """Labels and file names that look like the terminal's markup are shown, not obeyed."""
    from typer.testing import CliRunner

    from adapters.cli import app

    names = ("[/x]", "[red]cat", "[link=http://example.org]b[/link]", "d")
    path = tmp_path / "a[bold]b.safetensors"
    write(path, make_checkpoint(makers.model(), names, Provenance(method="pro-tuning")))
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0
    assert "[red]cat" in shown.stdout.replace("\n", "")


def test_inspect_shows_a_checkpoint(tmp_path):
    """`protuning inspect` prints for a person, and with --json everything for a program."""
    from typer.testing import CliRunner

    from adapters.cli import app

    path = tmp_path / "adapter.safetensors"
    write(path, makers.checkpoint())
    shown = CliRunner().invoke(app, ["inspect", str(path)]).stdout
    assert "test_resnet" in shown
    assert "class 3" in shown
    printed = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)
    assert printed["digest"] == makers.checkpoint().digest
    assert printed["labels"] == [*makers.labels(4)]
    assert printed["bytes"] == path.stat().st_size
