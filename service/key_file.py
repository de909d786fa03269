"""The file with the first key, where nobody can run a command before the start."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from adapters.durable import sync_directory
from service.errors import InvalidKeyFile, Unauthenticated
from service.tenants import ID_BYTES, SECRET_BYTES, Token, parse_token, token_of

MAX_BYTES = 4_096


def read_or_create(path: Path) -> Token:
    """The token in a file; where there is none, a new one that only its owner can read.

    A file that is there is never written, so any number of servers may be given the same one.

    Raises:
        InvalidKeyFile: it cannot be read or made, or holds something else.
    """
    try:
        if not path.exists():
            _create(path)
        with path.open("rb") as file:
            text = file.read(MAX_BYTES)
    except OSError as error:
        raise InvalidKeyFile(
            f"The key file {path} can neither be read nor made ({error.strerror}). Check the path "
            "and its permissions."
        ) from error
    try:
        return parse_token(text.decode("ascii", "replace").strip())
    except Unauthenticated:
        # What it holds may be a secret all the same.
        raise InvalidKeyFile(
            f"The file {path} does not hold a key. Remove it to have one made, or name another."
        ) from None


def _create(path: Path) -> None:
    token = token_of(secrets.token_bytes(ID_BYTES + SECRET_BYTES))
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp gives its files the mode 0600.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(file.fileno())
        # Another server may have been faster; a link, unlike a rename, replaces nothing.
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        Path(temporary).unlink()
    sync_directory(path.parent)
