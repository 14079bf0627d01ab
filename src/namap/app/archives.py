"""A zip of pictures in, a zip of analogies out. The zip comes from a stranger; nothing of it is unpacked to disk."""

import io
import json
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from ..analogies import file_names
from ..data import UnreadableImage, read_image
from ..data.folders import is_hidden, unique_names
from ..errors import DataError
from ..mapping import Mapping
from ..pictures import encode_png
from .views import Explorer, Image, Settings, finish, start_search, targets

MAX_FILES = 500
MAX_UNPACKED = 200_000_000  # bytes
BATCH = 16


def read_archive(path: str | Path) -> list[tuple[str, bytes]]:
    """Name and content of every file in a zip that is not hidden, in the order of the names.

    Raises:
        DataError: no zip, damaged, encrypted, with names that leave it or hold control characters, with too many or
            too large files.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            there = [entry for entry in archive.infolist() if not entry.is_dir()]
            entries = sorted((e for e in there if not is_hidden(e.filename)), key=lambda e: e.filename)
            _check_names(there)
            _check_entries(entries)
            files, left = [], MAX_UNPACKED
            for entry in entries:
                with archive.open(entry) as file:
                    content = file.read(left + 1)  # the size in the header may be a lie
                left -= len(content)
                if left < 0:
                    raise DataError(f"this zip unpacks to more than {MAX_UNPACKED // 10**6} MB; send fewer pictures")
                files.append((entry.filename, content))
            return files
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise DataError(f"this file is not a zip that can be read ({error})") from None


def _check_names(entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        name = entry.orig_filename
        windows = PureWindowsPath(name)
        if ".." in windows.parts or windows.anchor or PurePosixPath(name).is_absolute():
            raise DataError(f"this zip holds a file named {name[:80]!r}, which leads out of it; rename it")
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise DataError(f"this zip holds a file named {name[:80]!r}, with control characters; rename it")


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    if not entries:
        raise DataError("this zip holds no files; put pictures into it")
    if len(entries) > MAX_FILES:
        raise DataError(f"this zip holds {len(entries)} files; send at most {MAX_FILES} at a time")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        raise DataError(f"this zip unpacks to more than {MAX_UNPACKED // 10**6} MB; send fewer pictures")
    for entry in entries:
        if entry.flag_bits & 1:
            raise DataError("this zip is encrypted; send it without a password")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError("this zip is packed in an unusual way; send it as every system packs one (deflate)")


def read_pictures(mapping: Mapping, path: str | Path) -> tuple[list[str], list[Image], list[dict[str, str]]]:
    """The pictures of a zip at the size of a model, by name; and which files are none, with the reason.

    Raises:
        DataError: what `read_archive` raises, or not one file is a picture.
    """
    names, images, skipped = [], [], []
    for name, content in read_archive(path):
        try:
            images.append(read_image(io.BytesIO(content), mapping.channels, mapping.image_size))
            names.append(PureWindowsPath(name).as_posix())
        except UnreadableImage as error:
            skipped.append({"path": name, "reason": str(error)})
    if not images:
        raise DataError(f"this zip holds no picture; first: {skipped[0]['path'][:80]}: {skipped[0]['reason']}")
    return names, images, skipped


def translate_archive(
    explorer: Explorer, model: str, path: str | Path, settings: Settings, output: Path
) -> Iterator[tuple[int, int]]:
    """Write the analogies of the pictures in a zip to the zip `output`; one zip at a time.

    Pictures become NAME.png, NAME_k1.png …; files that are no pictures are listed in skipped.jsonl.

    Yields:
        Pictures done, and all of them.

    Raises:
        DataError: as `read_pictures`.
    """
    mapping = explorer.model(model)
    solutions = settings.solutions if mapping.fitted_codes.several else 1
    with explorer.zips:
        names, images, skipped = read_pictures(mapping, path)
        outputs = [file_names(name, solutions) for name in unique_names(names)]
        with zipfile.ZipFile(output, "w") as archive:
            for i in range(0, len(images), BATCH):
                yield i, len(images)
                with explorer.lock:
                    search = start_search(mapping, targets(mapping, np.stack(images[i : i + BATCH])), settings)
                x = finish(explorer, mapping, search)
                for row, analogies in zip(outputs[i : i + BATCH], x, strict=True):
                    for target, analogy in zip(row, analogies, strict=True):
                        archive.writestr(target, encode_png(analogy))
            if skipped:
                archive.writestr("skipped.jsonl", "".join(json.dumps(line) + "\n" for line in skipped))
    yield len(images), len(images)
