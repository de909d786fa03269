"""The bootstrap key file: made once, for its owner only, and never written again."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import InvalidKeyFile
from service.key_file import read_or_create


def test_it_is_made_once_and_for_its_owner_only(tmp_path):
    """Mode 0600 below a directory that is made too; the second call reads it."""
    path = tmp_path / "secrets" / "admin.key"
    token = read_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() == str(token)
    written_at = path.stat().st_mtime_ns
    assert read_or_create(path) == token
    assert path.stat().st_mtime_ns == written_at
    assert [each.name for each in path.parent.iterdir()] == ["admin.key"]


def test_servers_that_start_together_agree(tmp_path):
    """One of them makes the file, all read the same key."""
    with ThreadPoolExecutor(8) as pool:
        tokens = {*pool.map(lambda _: str(read_or_create(tmp_path / "key")), range(8))}
    assert len(tokens) == 1


def test_a_file_that_is_no_key_is_left_alone(tmp_path):
    """The error does not repeat what may be another secret."""
    path = tmp_path / "key"
    path.write_text("hunter2")
    with pytest.raises(InvalidKeyFile) as caught:
        read_or_create(path)
    assert "hunter2" not in str(caught.value)
    assert path.read_text() == "hunter2"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    """A file where a directory should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidKeyFile, match="file"):
        read_or_create(tmp_path / "file" / "key")
