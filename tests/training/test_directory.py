"""The run directory: who may use it, and files that are whole or not there."""

import resource
from contextlib import contextmanager

import pytest

from training.directory import ADAPTER, CONFIG, METRICS, MODEL, RunDirectory
from training.errors import NothingToResume, NotServable, RunBusy, RunExists, RunNotWritten


def _run(path, *files):
    path.mkdir()
    for name in (CONFIG, *files):
        (path / name).write_text(name)
    return RunDirectory(path)


@contextmanager
def _disk_with_room_for(size):
    """Every file that grows over `size` bytes fails while it is written, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_new_or_empty_directory_is_free(tmp_path):
    """Parents are made; an empty folder is taken as it is."""
    RunDirectory(tmp_path).create()
    directory = RunDirectory(tmp_path / "a" / "b")
    directory.create()
    assert directory.path.is_dir()


def test_another_run_is_kept_unless_told_otherwise(tmp_path):
    """A run is never replaced by chance."""
    directory = _run(tmp_path / "run", "history.csv")
    with pytest.raises(RunExists, match="--resume"):
        directory.create()
    assert (directory.path / "history.csv").is_file()
    directory.create(overwrite=True)
    assert not [*directory.path.iterdir()]


def test_what_is_no_run_is_never_overwritten(tmp_path):
    """A folder of somebody's files, or a file, survives --overwrite."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more")
    for name in ("folder", "file"):
        with pytest.raises(RunExists, match="another --out"):
            RunDirectory(tmp_path / name).create(overwrite=True)
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more"


def test_files_that_are_no_part_of_a_run_survive_overwriting(tmp_path):
    """Images or notes that somebody keeps beside the run are named, and nothing is removed."""
    directory = _run(tmp_path / "run", "history.csv")
    (directory.path / "images").mkdir()
    with pytest.raises(RunExists, match="'images', which is no part of a run"):
        directory.create(overwrite=True)
    assert {path.name for path in directory.path.iterdir()} == {CONFIG, "history.csv", "images"}


def test_a_link_to_a_directory_stays_one(tmp_path):
    """Replacing a run empties what the link leads to."""
    _run(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    RunDirectory(tmp_path / "link").create(overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert not [*(tmp_path / "disk").iterdir()]


def test_two_processes_never_run_in_one_directory(tmp_path):
    """The second is refused while the first runs, and free to go on after it."""
    one, other = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    with one.hold(), pytest.raises(RunBusy, match="another --out"), other.hold():
        pass
    with other.hold():
        assert other.path.is_dir()


def test_only_an_unfinished_run_can_be_resumed(tmp_path):
    """No run, and a finished run, are told apart."""
    with pytest.raises(NothingToResume, match="holds no run"):
        RunDirectory(tmp_path / "none").reopen()
    with pytest.raises(NothingToResume, match="finished"):
        _run(tmp_path / "done", METRICS).reopen()
    open_run = _run(tmp_path / "open")
    assert open_run.reopen() == open_run.file(CONFIG)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """A write that fails halfway is as if it had not begun, and says what to do."""
    directory = RunDirectory(tmp_path)
    directory.write("state", b"old")
    with _disk_with_room_for(1000), pytest.raises(RunNotWritten, match="Free some space"):
        directory.write("state", bytes(5000))
    assert directory.file("state").read_bytes() == b"old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["state"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunNotWritten, match="--out"):
        RunDirectory(tmp_path / "file" / "run").create()


def test_a_baseline_is_not_published(tmp_path):
    """The refusal gives the reason and the way out."""
    with pytest.raises(NotServable, match="pro-tuning or head"):
        _run(tmp_path / "full", MODEL).adapter()
    with pytest.raises(NotServable, match="--resume"):
        _run(tmp_path / "unfinished").adapter()
    served = _run(tmp_path / "head", ADAPTER)
    assert served.adapter() == served.path / ADAPTER
