"""Files that are whole or absent. Without torch: worker processes import this."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import StorageError, UsageError

SCRATCH = re.compile(r"\..+\.[0-9a-f]{12}")
NAMED = 200  # bytes of a name that its scratch keeps: a file system takes 255


@contextmanager
def atomic_file(target: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `target` when the block ends without error."""
    scratch = beside(target)
    try:
        with scratch.open("xb") as file:
            yield file
        scratch.rename(target)
    finally:
        scratch.unlink(missing_ok=True)


def write_file(target: Path, content: bytes) -> None:
    """Write a file that is whole or as it was.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    with storage_errors(target), atomic_file(target) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def claim_file(target: Path, mark: bytes, what: str) -> None:
    """Leave alone a file of somebody else.

    Args:
        target: the file that is to be written.
        mark: what every file of the kind holds that namap wrote.
        what: the kind, for people.

    Raises:
        UsageError: something else is there.
        StorageError: it cannot be read.
    """
    with storage_errors(target):
        there = target.exists() or target.is_symlink()
        if there and not (target.is_file() and mark in target.read_bytes()):
            raise UsageError(f"{target}: is no {what} of namap, and would be lost; choose another name")


def sweep(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder that nobody else writes to."""
    for path in folder.glob(".*"):
        if SCRATCH.fullmatch(path.name):
            _delete(path)


def remove(path: Path) -> None:
    """Delete a file or directory, whole or, if that is interrupted, to be swept away; of a link, only the link."""
    gone = beside(path)
    path.rename(gone)
    _delete(gone)


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def beside(target: Path) -> Path:
    """A hidden place of its own in the directory of `target`, whose name may be as long as names can be."""
    start = os.fsencode(target.name)[:NAMED].decode(errors="ignore")
    return target.with_name(f".{start}.{secrets.token_hex(6)}")


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn an OSError of writing `target` into a StorageError."""
    try:
        yield
    except OSError as error:
        reason = "no space left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise StorageError(f"{target}: cannot be written ({reason})") from None
