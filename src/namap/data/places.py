"""Directories on any file system that pyarrow opens: this machine's, S3 and so on."""

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from . import folders

if TYPE_CHECKING:
    from pyarrow import fs


def open_place(uri: str) -> tuple["fs.FileSystem", str]:
    """The file system of a path or a URI, and the path in it.

    Raises:
        DataError: it is not UTF-8.
    """
    from pyarrow import fs

    check_name(uri)
    if "://" in uri:
        return fs.FileSystem.from_uri(uri)
    return fs.LocalFileSystem(), str(Path(uri).absolute())


def keep_apart(outdir: str, source: str) -> None:
    """Refuse to write among the queries: the same command would take its answers for queries, or the other way round.

    Raises:
        UsageError: `outdir` is `source`, lies in it, or is the folder of the one file that `source` is.
    """
    from pyarrow import fs

    (system, place), (other, queries) = open_place(outdir), open_place(source)
    if isinstance(system, fs.LocalFileSystem):
        place, queries = (str(Path(path).resolve()) for path in (place, queries))
    there, images = PurePosixPath(place), PurePosixPath(queries)
    among = there == images.parent and other.get_file_info(queries).is_file
    if system == other and (among or there.is_relative_to(images)):
        raise UsageError(f"--outdir {outdir}: lies in the folder of the images; choose another")


def check_name(path: str) -> None:
    """Refuse a name of other bytes than UTF-8, which pyarrow does not take."""
    if re.search("[\ud800-\udfff]", path):
        raise DataError(f"{path}: a name that is not UTF-8, which Ray cannot read; rename it")


def list_files(system: "fs.FileSystem", place: str, suffixes: frozenset[str]) -> list[str]:
    """Files of a directory and below with one of these suffixes, or the one file that `place` is, in order.

    Raises:
        DataError: a directory of this machine cannot be read, or one of the files has a name that is not UTF-8.
    """
    from pyarrow import fs

    info = system.get_file_info(place)
    if info.is_file:
        return [place] if Path(place).suffix.lower() in suffixes else []
    if info.type == fs.FileType.NotFound:
        return []
    if isinstance(system, fs.LocalFileSystem):  # as everywhere else: pyarrow itself follows links that lead back
        names = [f"{place.rstrip('/')}/{name}" for name in folders.list_files(Path(place), suffixes)]
        for name in names:
            check_name(name)
        return names
    found = system.get_file_info(fs.FileSelector(place, recursive=True))
    return sorted(f.path for f in found if f.is_file and Path(f.path).suffix.lower() in suffixes)
