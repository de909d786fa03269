"""The files of a .tar, .tar.gz or .zip, read in place: nothing is ever unpacked to disk.

A reader holds the place of its member and opens the archive for each read, so it has no state:
threads, forked and fresh processes can share it.
"""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from adapters.errors import BrokenImage
from training.data.listing import Listing, refuse_oversized
from training.data.samples import Reader
from training.errors import BrokenArchive, DataError, DatasetTooLarge, UnsafeArchive

MAX_MEMBERS = 2_000_000
MAX_UNPACKED_BYTES = 4 * 2**30
_TAR_BLOCK = 512
_ZIP_HEADER = struct.Struct("<26xHH")
_ENCRYPTED = 0x1

# (offset, size) of a member's data -> how to read it.
_ReaderAt = Callable[[int, int], Reader]


def list_tar(path: Path) -> Listing:
    """The regular files and folders of an uncompressed tar. Links and devices are left out.

    Raises:
        UnsafeArchive: too many members, or a path that leaves the archive.
        BrokenArchive: damaged, or it ends early.
    """
    with path.open("rb") as file:
        return _list_tar(file, path, lambda offset, size: partial(_read_range, path, offset, size))


def list_tar_gz(path: Path) -> Listing:
    """As `list_tar`, of a tar compressed with gzip, which is held in memory unpacked.

    Raises:
        DatasetTooLarge: over `MAX_UNPACKED_BYTES` unpacked.
        UnsafeArchive: too many members, or a path that leaves the archive.
        BrokenArchive: damaged, or it ends early.
    """
    data = _gunzip(path)
    return _list_tar(
        io.BytesIO(data), path, lambda offset, size: partial(_read_slice, data, offset, size)
    )


def list_zip(path: Path) -> Listing:
    """The files and folders of a zip whose members are stored or deflated.

    Raises:
        UnsafeArchive: too many members, an encrypted one, or a path that leaves the archive.
        BrokenArchive: damaged, or it ends early.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:
        # zipfile raises whatever it meets in damaged headers.
        raise _broken(path, error) from error
    _check_count(len(members), path)
    files: dict[str, Reader] = {}
    folders: set[str] = set()
    for member in members:
        name = _checked_name(member.filename, path)
        if member.filename.endswith("/"):
            folders.add(name)
        else:
            files[name] = _zip_reader(path, member)
    return Listing(files, frozenset(folders))


def _list_tar(file: BinaryIO, path: Path, reader_at: _ReaderAt) -> Listing:
    files: dict[str, Reader] = {}
    folders: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, member in enumerate(archive, start=1):
                _check_count(number, path)
                if member.size < 0:
                    raise _broken(path, f"{member.name!r} has a negative size")
                if member.isdir():
                    folders.add(_checked_name(member.name, path))
                elif member.isreg() and not member.issparse():
                    name = _checked_name(member.name, path)
                    files[name] = reader_at(member.offset_data, member.size)
            end = archive.offset
    except DataError:
        raise
    except Exception as error:
        # tarfile raises whatever it meets in damaged headers.
        raise _broken(path, error) from error
    # tarfile takes a damaged header, or a file cut between two members, for the end.
    file.seek(end)
    if file.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
        raise _broken(path, "there is no end mark after the last member")
    return Listing(files, frozenset(folders))


def _gunzip(path: Path) -> bytes:
    data = bytearray()
    try:
        with gzip.open(path, "rb") as stream:
            while block := stream.read(2**20):
                data += block
                if len(data) > MAX_UNPACKED_BYTES:
                    raise DatasetTooLarge(
                        f"{path} has more than {MAX_UNPACKED_BYTES:,} bytes unpacked, which would "
                        f"be held in memory. Unpack it once (gunzip {path.name}): a plain .tar is "
                        "read in place."
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, error) from error
    return bytes(data)


def _zip_reader(path: Path, member: zipfile.ZipInfo) -> Reader:
    if member.flag_bits & _ENCRYPTED:
        raise UnsafeArchive(
            f"{path}: {member.filename!r} is encrypted. Pack it without a password."
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsafeArchive(
            f"{path}: {member.filename!r} is neither stored nor deflated. Pack it with plain zip."
        )
    return partial(
        _read_zip_member,
        path,
        header_offset=member.header_offset,
        stored_size=member.compress_size,
        size=member.file_size,
        crc=member.CRC,
        deflated=member.compress_type == zipfile.ZIP_DEFLATED,
    )


def _read_zip_member(
    path: Path, *, header_offset: int, stored_size: int, size: int, crc: int, deflated: bool
) -> bytes:
    refuse_oversized(max(stored_size, size))
    header = _read_range(path, header_offset, 30)
    # The local header's extra field may differ in length from the directory's.
    name_size, extra_size = _ZIP_HEADER.unpack(header)
    data = _read_range(path, header_offset + 30 + name_size + extra_size, stored_size)
    try:
        content = _inflate(data, size) if deflated else data
    except zlib.error as error:
        raise _damaged_member() from error
    if len(content) != size or zlib.crc32(content) != crc:
        raise _damaged_member()
    return content


def _inflate(data: bytes, size: int) -> bytes:
    # One byte more than claimed is enough to see that there are more; 0 would mean no limit.
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)


def _read_range(path: Path, offset: int, size: int) -> bytes:
    refuse_oversized(size)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise BrokenImage(
            f"The archive cannot be read ({error.strerror}). Check that {path} is there."
        ) from error
    if len(data) != size:
        raise _damaged_member()
    return data


def _read_slice(data: bytes, offset: int, size: int) -> bytes:
    refuse_oversized(size)
    return data[offset : offset + size]


def _checked_name(name: str, path: Path) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise UnsafeArchive(
            f"{path} has the member {name!r}, which leads out of the archive. "
            "Pack it again from inside its folder, with relative paths."
        )
    return "/".join(parts)


def _check_count(members: int, path: Path) -> None:
    if members > MAX_MEMBERS:
        raise UnsafeArchive(
            f"{path} has more than {MAX_MEMBERS:,} members. Unpack it and give the folder."
        )


def _broken(path: Path, cause: object) -> BrokenArchive:
    return BrokenArchive(f"{path} cannot be read as an archive ({cause}). Copy or pack it again.")


def _damaged_member() -> BrokenImage:
    return BrokenImage("The archive's member is damaged or cut short. Pack the archive again.")
