"""Damaged and hostile archives end in a clear error, and nothing reaches the disk."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from adapters.errors import BrokenImage, ImageTooLarge
from training.data import archives
from training.data.archives import list_tar, list_tar_gz, list_zip
from training.data.open import open_dataset
from training.data.samples import LIMITS
from training.errors import BrokenArchive, DatasetTooLarge, UnsafeArchive

Pack = Callable[[Mapping[str, bytes]], Path]
Files = dict[str, bytes]


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    """One member with chosen header fields."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    """Only regular files are listed: a link to /etc/passwd is no image."""
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "a/real.png", b"real")
        add(archive, "a/soft.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "a/hard.png", type=tarfile.LNKTYPE, linkname="a/real.png")
        add(archive, "a/pipe.png", type=tarfile.FIFOTYPE)
    listing = list_tar(path)
    assert list(listing.files) == ["a/real.png"]
    assert listing.files["a/real.png"]() == b"real"


@pytest.mark.parametrize("name", ["../escape.png", "/etc/a.png", "a/../../b.png"])
def test_paths_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    """Such an archive is refused whole, as tar and as zip."""
    tar, zipped = tmp_path / "set.tar", tmp_path / "set.zip"
    with tarfile.open(tar, "w") as archive:
        add(archive, name, b"x")
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr(name, b"x")
    for lister, path in ((list_tar, tar), (list_zip, zipped)):
        with pytest.raises(UnsafeArchive, match="leads out"):
            lister(path)


def test_later_member_replaces_an_earlier_one_of_its_name(tmp_path: Path) -> None:
    """As on extraction, the last member of a name counts; './' means nothing."""
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "./a/x.png", b"old")
        add(archive, "a/x.png", b"new")
    assert [read() for read in list_tar(path).files.values()] == [b"new"]


def test_too_many_members(archived: Pack, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of members is bounded."""
    path = archived(files)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    with pytest.raises(UnsafeArchive, match="more than 5 members"):
        open_dataset(path)


def test_oversized_member_is_refused_unread(tmp_path: Path) -> None:
    """A header that claims terabytes costs nothing: the member is refused before it is read."""
    path = tmp_path / "set.tar"
    huge = tarfile.TarInfo("a/huge.png")
    huge.size = LIMITS.max_bytes + 1
    with path.open("wb") as file:
        file.write(huge.tobuf())
        file.seek(huge.size + (-huge.size % 512), io.SEEK_CUR)
        file.write(bytes(1024))
    with pytest.raises(ImageTooLarge, match="Make the file smaller"):
        list_tar(path).files["a/huge.png"]()


@pytest.mark.parametrize("claimed", [0, 100, LIMITS.max_bytes + 1])
def test_zip_bomb_is_cut_off(tmp_path: Path, claimed: int) -> None:
    """A member that unpacks to more than it may, or than it claims, is refused."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/bomb.png", bytes(LIMITS.max_bytes + 1))
    data = path.read_bytes()
    true = (LIMITS.max_bytes + 1).to_bytes(4, "little")
    path.write_bytes(data.replace(true, claimed.to_bytes(4, "little")))
    with pytest.raises((ImageTooLarge, BrokenImage)):
        list_zip(path).files["a/bomb.png"]()


def test_gzip_bomb_is_cut_off(tar_gz: Pack, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking stops at the limit, and the message says what to do instead."""
    path = tar_gz(files)
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DatasetTooLarge, match=r"gunzip set\.tar\.gz"):
        list_tar_gz(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_archive_is_noticed(archived: Pack, files: Files, keep: float) -> None:
    """Cut anywhere, an archive is refused: never trained on by half."""
    path = archived(files)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BrokenArchive, match="Copy or pack it again"):
        open_dataset(path)


def test_tar_cut_between_two_members_is_noticed(tar: Pack, files: Files) -> None:
    """Even at a member's edge, where a plain reader sees the end."""
    path = tar(files)
    with tarfile.open(path) as archive:
        edge = archive.getmembers()[7].offset
    path.write_bytes(path.read_bytes()[:edge])
    with pytest.raises(BrokenArchive, match="end mark"):
        list_tar(path)


def test_damaged_header_in_the_middle_is_noticed(tar: Pack, files: Files) -> None:
    """A damaged member does not hide those behind it."""
    path = tar(files)
    with tarfile.open(path) as archive:
        edge = archive.getmembers()[7].offset
    data = bytearray(path.read_bytes())
    data[edge : edge + 512] = b"\xff" * 512
    path.write_bytes(data)
    with pytest.raises(BrokenArchive):
        list_tar(path)


def test_negative_size_does_not_send_the_reader_in_circles(tmp_path: Path) -> None:
    """A member whose size leads back to itself ends in an error, not in a loop."""
    member = tarfile.TarInfo("a/x.png")
    member.size = -512
    path = tmp_path / "set.tar"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(BrokenArchive):
        list_tar(path)


@pytest.mark.parametrize("at", [30, 31, 46, 60, 70])
def test_garbage_in_a_zip_directory_is_an_error(tmp_path: Path, at: int) -> None:
    """Whatever the header's parser stumbles over, the error is ours."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é/x.png", b"x")
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + at] = 0xFF
    path.write_bytes(data)
    with suppress(BrokenArchive):
        for read in list_zip(path).files.values():
            with suppress(BrokenImage):
                read()


def test_not_an_archive(tmp_path: Path) -> None:
    """Any other bytes under an archive's name."""
    path = tmp_path / "set"
    path.write_bytes(b"hello" * 500)
    for lister in (list_tar, list_tar_gz, list_zip):
        with pytest.raises(BrokenArchive):
            lister(path)


def test_damaged_zip_member_is_a_broken_image(tmp_path: Path) -> None:
    """The checksum of a stored member is checked when it is read."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/x.png", b"content of the image")
    path.write_bytes(path.read_bytes().replace(b"content of", b"contempt o"))
    with pytest.raises(BrokenImage, match="damaged"):
        list_zip(path).files["a/x.png"]()


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    """There is no way to ask for a password."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/x.png", b"x")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UnsafeArchive, match="password"):
        list_zip(path)


def test_archive_that_vanishes_is_a_broken_image(tar: Pack, files: Files) -> None:
    """A read after the archive is gone names the archive."""
    path = tar(files)
    read = next(iter(list_tar(path).files.values()))
    path.unlink()
    with pytest.raises(BrokenImage, match=r"set\.tar"):
        read()
