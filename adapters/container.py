"""A signed safetensors file: its header read within bounds, its digest at a fixed place.

The file is ordinary safetensors with one metadata entry, a JSON text that begins with the digest:
the sha256 over the whole file with the digest's own 64 characters set to zeros.
"""

import hashlib
import json
from typing import Any

import safetensors.torch
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from adapters.errors import (
    CheckpointTooLarge,
    DigestMismatch,
    InvalidHeader,
    NotACheckpoint,
    PickleRefused,
    TruncatedCheckpoint,
    first_error,
    shown,
)
from adapters.manifest import Frozen

_KEY = "protuning"
_LENGTH_BYTES = 8
_DIGEST_CHARACTERS = 64
_ZEROS = "0" * _DIGEST_CHARACTERS
_PREFIX = f'{{"__metadata__":{{"{_KEY}":"{{\\"sha256\\":\\"'.encode()
_DIGEST_START = _LENGTH_BYTES + len(_PREFIX)
_DIGEST_END = _DIGEST_START + _DIGEST_CHARACTERS
# A pickle's protocol mark (torch's old format too), and a zip archive (torch's new one).
_PICKLE_MAGIC = (b"\x80", b"PK\x03\x04")


class ContainerLimits(Frozen):
    """What a file and its header may weigh, in bytes."""

    max_bytes: int = Field(default=256 * 2**20, gt=0)
    max_header_bytes: int = Field(default=2**20, gt=0)


class TensorEntry(Frozen):
    """A tensor as the header announces it."""

    model_config = ConfigDict(strict=True)

    dtype: str
    shape: list[int] = Field(max_length=8)
    data_offsets: list[int] = Field(min_length=2, max_length=2)


class Container(Frozen):
    """The parts of a file whose digest holds: its JSON text, its tensor entries, its bytes."""

    digest: str
    text: str
    entries: dict[str, TensorEntry]
    data: bytes = Field(repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, copied out of the file.

        Raises:
            InvalidHeader: the entries overlap, leave holes, or do not fit the data.
        """
        try:
            return safetensors.torch.load(self.data)
        except SafetensorError as error:
            raise InvalidHeader(
                f"The tensor entries do not fit the data ({shown(str(error))}). Write the "
                "checkpoint again."
            ) from error


def pack(tensors: dict[str, Tensor], content: str) -> bytes:
    """A signed file that holds `tensors` and the JSON text `{"sha256": ..., "content": ...}`."""
    text = f'{{"sha256":"{_ZEROS}","content":{content}}}'
    return sign(safetensors.torch.save(tensors, metadata={_KEY: text}))


def sign(data: bytes) -> bytes:
    """The same file with its digest set right."""
    return data[:_DIGEST_START] + digest_of(data).encode() + data[_DIGEST_END:]


def digest_of(data: bytes) -> str:
    """The sha256 over the file with the digest's own characters set to zeros."""
    digest = hashlib.sha256(data[:_DIGEST_START])
    digest.update(_ZEROS.encode())
    digest.update(memoryview(data)[_DIGEST_END:])
    return digest.hexdigest()


def unpack(data: bytes, limits: ContainerLimits) -> Container:
    """Check a file's bounds, header and digest.

    Raises:
        CheckpointTooLarge: the file or its header is over `limits`.
        PickleRefused: a pickle or a zip archive.
        NotACheckpoint: another kind of file.
        TruncatedCheckpoint: shorter than its header says.
        InvalidHeader: the header is malformed.
        DigestMismatch: a byte differs from what was signed.
    """
    _check_size(len(data), limits)
    _check_prefix(data)
    header = _header(data, limits)
    text, entries = _parse(header)
    _check_data_size(len(data) - _LENGTH_BYTES - len(header), entries)
    stated = data[_DIGEST_START:_DIGEST_END]
    if stated != digest_of(data).encode():
        raise DigestMismatch(
            "The file's sha256 is not the one written in it: it was damaged or changed. Copy it "
            "again from where it was made."
        )
    return Container(digest=stated.decode(), text=text, entries=entries, data=data)


def _check_size(size: int, limits: ContainerLimits) -> None:
    if size > limits.max_bytes:
        raise CheckpointTooLarge(
            f"The checkpoint has {size:,} bytes; at most {limits.max_bytes:,} are read. "
            "Use fewer or smaller prompt blocks, or raise the limit."
        )


def _check_prefix(data: bytes) -> None:
    if not _PREFIX.startswith(data[_LENGTH_BYTES:_DIGEST_START]):
        if data.startswith(_PICKLE_MAGIC):
            raise PickleRefused(
                "This is a pickle or zip file, which could run code when it is loaded. Only "
                "safetensors checkpoints written by `protuning train` are read."
            )
        raise NotACheckpoint(
            "This is not a checkpoint written by `protuning train`, or another tool has "
            "rewritten it. Pass the adapter.safetensors of a run directory."
        )
    if len(data) < _DIGEST_END:
        raise TruncatedCheckpoint(
            f"The file ends after {len(data)} bytes, inside its header. Copy it again, whole."
        )


def _header(data: bytes, limits: ContainerLimits) -> bytes:
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if size > limits.max_header_bytes:
        raise CheckpointTooLarge(
            f"The file claims a header of {size:,} bytes; at most {limits.max_header_bytes:,} "
            "are read. The file is damaged, or the labels are too long."
        )
    if _LENGTH_BYTES + size > len(data):
        raise TruncatedCheckpoint(
            f"The file ends after {len(data)} bytes, inside its header of {size}. Copy it again, "
            "whole."
        )
    return data[_LENGTH_BYTES : _LENGTH_BYTES + size]


def _parse(header: bytes) -> tuple[str, dict[str, TensorEntry]]:
    try:
        fields = json.loads(header, object_pairs_hook=_without_duplicates)
        metadata = fields.pop("__metadata__")
        if [*metadata] != [_KEY] or not isinstance(metadata[_KEY], str):
            raise TypeError("the metadata is not one text")
        # One by one: the first wrong entry ends it, however many there are.
        entries = {name: TensorEntry.model_validate(entry) for name, entry in fields.items()}
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else shown(str(error))
        raise InvalidHeader(
            f"The safetensors header is malformed ({reason}). Write the checkpoint again."
        ) from error
    return metadata[_KEY], entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands in it twice")
    return fields


def check_object_sizes(text: str, most: int) -> None:
    """Refuse a JSON text in which an object has a name twice, or more than `most` names.

    Raises:
        ValueError: such an object, or no JSON.
        RecursionError: it is nested too deeply.
    """

    def check(pairs: list[tuple[str, Any]]) -> None:
        if len(_without_duplicates(pairs)) > most:
            raise ValueError(f"an object has more than {most} names")

    json.loads(text, object_pairs_hook=check)


def _check_data_size(size: int, entries: dict[str, TensorEntry]) -> None:
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if size < end:
        raise TruncatedCheckpoint(
            f"The file ends {end - size} bytes before its last tensor. Copy it again, whole."
        )
