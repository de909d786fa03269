"""What a newcomer meets first: the sample pictures, the sample backbone, and the demo itself."""

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from adapters.backbone import load_backbone
from adapters.preprocess import decode
from examples.demo.__main__ import run_demo
from examples.demo.training import Backbone
from examples.make_images import TASKS, make_images
from examples.painting import SIDE
from examples.sample import NAME, WEIGHTS
from examples.sample.train_backbone import write_pictures

FEW = {"train": 60, "test": 12}
FINGERPRINT = "d8d523025c9fb320a4eddc288af4b77ce49fe84f7cf50dd7801c840b32d2f6ff"


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_pictures_are_the_same_every_time(tmp_path):
    """A seed gives the same files again, also over older ones, and another seed gives others."""
    make_images(tmp_path / "one", {"train": 24, "test": 24})
    for counts in ({"train": 30, "test": 30}, FEW):
        make_images(tmp_path / "two", counts)
    make_images(tmp_path / "one", FEW)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    make_images(tmp_path / "two", FEW, seed=1)
    assert _files(tmp_path / "one") != _files(tmp_path / "two")


def test_pictures_are_whole_and_in_their_classes(tmp_path):
    """Every task has as many pictures as asked for, and every class has some to train and test."""
    folders = make_images(tmp_path, FEW)
    for task, folder in zip(TASKS, folders, strict=True):
        for split, count in FEW.items():
            pictures = sorted((folder / split).glob("*/*"))
            assert len(pictures) == count
            assert {path.parent.name for path in pictures} == set(task.classes.values())
            assert {decode(path.read_bytes()).size for path in pictures} == {(SIDE, SIDE)}


def test_the_backbone_has_seen_none_of_the_tasks_digits(tmp_path, monkeypatch):
    """Its recipe paints 0 to 4, the tasks 5 to 9: what the demo shows is transfer."""
    monkeypatch.setattr("examples.sample.train_backbone.paint", lambda *_: Image.new("L", (1, 1)))
    write_pictures(tmp_path)
    seen = {int(path.name[0]) for path in (tmp_path / "train").iterdir()}
    asked = {digit for task in TASKS for digit, _turn in task.classes}
    assert seen == {0, 1, 2, 3, 4}
    assert asked == {5, 6, 7, 8, 9}


def test_the_sample_backbone_is_the_documented_one():
    """Its file gives the fingerprint that adapters in the field refer to."""
    assert load_backbone(NAME, WEIGHTS).spec.fingerprint == FINGERPRINT


def test_the_demo_runs_and_is_right(tmp_path):
    """Every answer over HTTP comes, and accuracy there is what evaluation measured, exactly."""
    console = Console(file=io.StringIO(), width=200)
    trained, answers = run_demo(tmp_path, Backbone(NAME, str(WEIGHTS)), 4, console, FEW)
    for one in trained:
        right = [answer.is_right for answer in answers if answer.ask.task == one.name]
        assert len(right) == FEW["test"]
        assert sum(right) / len(right) == pytest.approx(one.top1)
    assert "tasks a batch" in console.file.getvalue()
