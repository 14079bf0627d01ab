"""Arrays of npz files that come from strangers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipInfo

import numpy as np

from ..errors import DataError
from .images import LARGE, MAX_RATIO


def split_npz(text: str) -> tuple[Path, str]:
    """`file.npz:key` as path and key, which is empty where there is none.

    Raises:
        DataError: no such file.
    """
    path_text, _, key = text.rpartition(":") if ".npz:" in text else (text, "", "")
    path = Path(path_text)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return path, key


def check_key(path: Path, key: str, keys: list[str]) -> None:
    """Name the keys of a file that has not this one."""
    if not key or key not in keys:
        problem = f"no array {key!r}" if key else "needs a key"
        raise DataError(f"{path}: {problem}; write {path}:KEY with KEY one of {', '.join(keys)}")


@contextmanager
def readable_npz(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises (zipfile, zlib, numpy: each damage has its own exception) into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: not a readable npz of plain arrays ({error})") from None


def read_array(file: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    """One array of an npz, unless it is a bomb or no array."""
    assert file.zip is not None
    check_packed(next(i for i in file.zip.infolist() if i.filename in (key, f"{key}.npy")))
    found = file[key]
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{key} is no array")
    return found


def check_packed(member: ZipInfo) -> None:
    """Refuse an array of an npz that unpacks to more than such arrays do."""
    if member.file_size > LARGE and member.file_size > MAX_RATIO * member.compress_size:
        raise ValueError(f"{member.filename} unpacks from {member.compress_size} to {member.file_size} bytes: a bomb?")
