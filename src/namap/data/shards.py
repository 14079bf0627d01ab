"""Queries in shards, read as a stream because they do not fit a disk or a memory: WebDataset, Hugging Face datasets."""

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError, NamapError, UsageError
from .images import SUFFIXES

SCHEMES = ("webdataset:", "datasets:")


@dataclass(frozen=True)
class Shards:
    """Pictures in numbered parts, each of which can be read from any of its samples on.

    Attributes:
        source: as the user named it.
        labels: what each shard is, the same on every machine.
        read: (shard, first sample) to (key, content of an image file), in a fixed order.
    """

    source: str
    labels: list[str]
    read: Callable[[int, int], Iterator[tuple[str, bytes]]]

    def __len__(self) -> int:
        return len(self.labels)

    def named(self, shard: int, start: int = 0) -> Iterator[tuple[str, bytes]]:
        """(name, content) from a sample on: names are safe as file names, and unique over all shards."""
        for number, (key, content) in enumerate(self.read(shard, start), start):
            yield "_".join([f"{shard:05d}", f"{number:06d}", *re.findall(r"[A-Za-z0-9.-]+", key)])[:200], content


def is_stream(source: Any) -> bool:
    """Whether a source of images is one that is read as a stream."""
    return str(source).startswith(SCHEMES)


def open_shards(source: str) -> Shards:
    """The shards that `webdataset:PATTERN` or `datasets:PATH[:SPLIT]` names.

    Raises:
        DataError: nothing there, or no pictures in it.
        UsageError: the library that reads them is not installed.
    """
    scheme, _, rest = source.partition(":")
    return _open_webdataset(source, rest) if scheme == "webdataset" else _open_datasets(source, rest)


def _open_webdataset(source: str, pattern: str) -> Shards:
    try:
        from webdataset.compat import WebDataset
        from webdataset.shardlists import expand_urls
    except ImportError:
        raise UsageError(f"{source}: needs WebDataset; pip install 'namap[webdataset]'") from None
    urls = [url for part in expand_urls(pattern) for url in _matching(part)]
    if any(url.startswith("pipe:") for url in urls):
        raise UsageError(f"{source}: pipe: would run a shell command; give files or URLs")
    missing = [url for url in urls if ":" not in url and not Path(url).is_file()]
    if missing or not urls:
        raise DataError(f"{source}: no such file: {missing[0] if missing else pattern}")

    def read(shard: int, start: int) -> Iterator[tuple[str, bytes]]:
        try:
            # Which process reads which shard is decided elsewhere.
            samples = WebDataset(urls[shard], shardshuffle=False, empty_check=False, nodesplitter=list)
            for sample in islice(samples, start, None):
                picture = next((name for name in sample if f".{name.rpartition('.')[2].lower()}" in SUFFIXES), None)
                yield sample["__key__"], b"" if picture is None else sample[picture]
        except (OSError, ValueError, EOFError, tarfile.TarError) as error:
            raise DataError(f"{urls[shard]}: not a readable tar archive ({error}); copy it again") from None

    labels = [f"{Path(url).name} {Path(url).stat().st_size}" if ":" not in url else url for url in urls]
    return Shards(source, labels, read)


def _matching(part: str) -> list[str]:
    place = Path(part)
    return sorted(map(str, place.parent.glob(place.name))) if "*" in place.name and ":" not in part else [part]


def _open_datasets(source: str, rest: str) -> Shards:
    try:
        import datasets
        from datasets.utils.file_utils import xopen
    except ImportError:
        raise UsageError(f"{source}: needs Hugging Face datasets; pip install 'namap[datasets]'") from None
    path, _, split = rest.partition(":")
    try:
        found = datasets.load_dataset(path, split=split or "train", streaming=True)
        features = found.features or found._resolve_features().features or {}
    except Exception as error:  # a library of many readers, each with errors of its own
        raise DataError(f"{source}: cannot be opened ({' '.join(str(error).split())[:200]})") from None
    column = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise DataError(f"{source}: no column of images among {', '.join(features)}")
    # Undecoded: strangers' pictures are decoded by `read_image` alone.
    found = found.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def read(shard: int, start: int) -> Iterator[tuple[str, bytes]]:
        part = found.shard(num_shards=found.num_shards, index=shard)
        try:
            for row in part.skip(start) if start else part:
                picture = row[column] or {}
                content = picture.get("bytes") or b""
                if not content and picture.get("path"):  # maybe of a file in an archive: zip://NAME::PATH
                    with xopen(picture["path"], "rb") as file:
                        content = file.read()
                yield "", content
        except NamapError:
            raise
        except Exception as error:  # as above
            raise DataError(f"{source}: cannot be read on ({' '.join(str(error).split())[:200]})") from None

    return Shards(source, [f"{split or 'train'} {i} of {found.num_shards}" for i in range(found.num_shards)], read)
