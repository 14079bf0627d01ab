"""A folder of pictures: which there are in it, and under what names their answers can be kept."""

import errno
import os
from collections import Counter
from collections.abc import Set
from hashlib import sha256
from pathlib import Path, PurePosixPath

from ..errors import DataError
from .images import SUFFIXES

LONGEST = 200  # bytes of a name: a file system takes 255, and what is written to it gets a suffix and a number
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a link that leads to nothing


def list_pictures(folder: Path) -> list[str]:
    """The pictures in a folder and below, as paths within it, in order.

    Raises:
        DataError: no such folder, no picture in it, or a folder that cannot be read.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; give a folder of images, a picture, file.npz:key or torchvision:NAME/SPLIT"
        )
    found = list_files(folder, SUFFIXES)
    if not found:
        raise DataError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))}) in this folder or below")
    return found


def list_files(folder: Path, suffixes: Set[str]) -> list[str]:
    """Files with one of these suffixes in a folder and below, through links, as paths within it, in order.

    Hidden ones, and what a Mac leaves beside its files (`._NAME`, `__MACOSX`), are nobody's pictures.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[str] = []  # of strings: a Path takes ten times the memory, and there may be millions
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        within, above = waiting.pop()
        try:
            about = (folder / within).stat()
            way = above | {(about.st_dev, about.st_ino)}
            if way == above:  # a link back to where it was come from
                continue
            with os.scandir(folder / within) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    path = f"{within}/{entry.name}" if within else entry.name
                    kind = _kind(entry)
                    if kind == "folder":
                        waiting.append((path, way))
                    elif kind == "file" and PurePosixPath(path).suffix.lower() in suffixes:
                        found.append(path)
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
            raise DataError(f"{error.filename or folder}: {problem}; allow it, or move it elsewhere") from None
    return sorted(found, key=lambda path: path.replace("/", "\0"))  # part by part, as paths are ordered


def is_hidden(path: str) -> bool:
    """Whether a file is none that its owner sees, or lies in such a folder.

    >>> [is_hidden(path) for path in ("a/b.png", "a/._b.png", ".trash/b.png", "__MACOSX/b.png", "../b.png")]
    [False, True, True, True, False]
    """
    return any(part == "__MACOSX" or (part[:1] == "." and part not in (".", "..")) for part in path.split("/"))


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, or leads to."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError as error:
        if error.errno in NOWHERE:
            return ""
        raise


def unique_names(files: list[str]) -> list[str]:
    """Stems, nested folders joined with `_`; whatever would collide keeps its suffix, then gets a hash of its path.

    No name follows from an order: where a file goes, the others keep theirs. What is too long for a file system is cut,
    and gets a hash of the whole.

    >>> unique_names(["a.jpg", "a.png", "b/c.png"])
    ['a_jpg', 'a_png', 'b_c']
    """
    stems, full = [], []
    for path in map(PurePosixPath, files):
        stem = "_".join([*path.parent.parts, path.stem])
        stems.append(_cut(stem))
        full.append(_cut(f"{stem}_{path.suffix[1:].lower()}"))
    count = Counter(s.casefold() for s in stems)
    chosen = [s if count[s.casefold()] == 1 else f for s, f in zip(stems, full, strict=True)]
    count = Counter(c.casefold() for c in chosen)
    taken, names = set(count), []
    for path, name, stem in zip(files, chosen, stems, strict=True):
        unique, tries = name, 0
        while name != stem and count[name.casefold()] > 1 and unique.casefold() in taken:
            unique, tries = f"{name}_{_hash(path + '/' * tries)[:8]}", tries + 1
        taken.add(unique.casefold())
        names.append(unique)
    return names


def _cut(name: str) -> str:
    """A name of at most `LONGEST` bytes: a longer one is cut between two characters."""
    content = name.encode(errors="surrogatepass")
    if len(content) <= LONGEST:
        return name
    return f"{content[: LONGEST - 9].decode(errors='ignore')}_{_hash(name)[:8]}"


def _hash(name: str) -> str:
    return sha256(name.encode(errors="surrogatepass")).hexdigest()
