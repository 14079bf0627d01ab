"""Queries batch by batch, in constant memory: folders and npz arrays of any length."""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256 as digest
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8
from numpy.lib import format as npy

from .. import processes
from ..errors import DataError, UsageError
from .arrays import check_key, check_packed, readable_npz, split_npz
from .domain import MAX_UNREADABLE, ImageDomain, load_domain, too_many
from .folders import list_pictures, unique_names
from .images import UnreadableImage, read_image
from .shards import is_stream, open_shards

FEWEST = 1000  # images that a stream is taken to hold until its end is there
AGAIN = "write these shards again"

T = TypeVar("T")


class QueryBatch(NamedTuple):
    """Some queries: what `Mapping.translate_batches` takes.

    Attributes:
        names: unique over all batches, safe as file names.
        images: uint8, 0..255, of any side and 1 or 3 channels.
    """

    names: list[str]
    images: UInt8[np.ndarray, "b c h w"]


# Whether a query needs no answer any more, from its name and the time (ns) of its last change, 0 where unknown.
Finished = Callable[[str, int], bool]


def never(name: str, changed: int) -> bool:
    """Every query is to be translated."""
    return False


@dataclass
class QueryStream:
    """A source of queries that is read batch by batch.

    Attributes:
        identity: of the source: an interrupted translation goes on only with the same one.
        read: (batch size, finished) to batches in a fixed order. A batch whose queries have all finished may be left
            out; others come whole, so that each query always has the same batch-mates.
        total: how many queries there are; None: not known before the end.
        skipped: (path, reason) of every query that could not be read so far.
    """

    identity: str
    read: Callable[[int, Finished], Iterator[QueryBatch]]
    total: int | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


def open_queries(source: str | Path | ImageDomain, size: int, channels: int) -> QueryStream:
    """The queries that `source` names, unread: folders and C-ordered arrays of an npz take constant memory.

    Args:
        source: as for `load_domain`; what is no folder and no npz is small, and loaded.
        size: side of the images of a folder in pixels.
        channels: of the images of a folder.

    Raises:
        DataError: nothing there; on reading, what `load_domain` raises.
        UsageError: several processes cannot share this source.
    """
    text = str(source)
    if is_stream(text):
        return _open_shards(text, size, channels)
    if processes.count() > 1:
        raise UsageError(f"{text}: several processes share shards (webdataset:, datasets:); translate this in one")
    if isinstance(source, ImageDomain) or text.startswith(("torchvision:", "embedded:")):
        return open_domain(load_domain(source))
    if text.endswith(".npz") or ".npz:" in text:
        return _open_npz(text)
    if Path(text).is_file():  # one picture
        return open_domain(load_domain(text, size, channels))
    return _open_folder(Path(text), size, channels)


def open_domain(domain: ImageDomain) -> QueryStream:
    """Queries that are in memory already."""

    def read(batch_size: int, finished: Finished) -> Iterator[QueryBatch]:
        return without_finished(domain.batches(batch_size), finished)

    return QueryStream(domain.fingerprint, read, len(domain))


def without_finished(batches: Iterable[tuple[list[str], np.ndarray]], finished: Finished) -> Iterator[QueryBatch]:
    """The batches in which something is left to do."""
    for names, images in batches:
        if not all(finished(name, 0) for name in names):
            yield QueryBatch(names, images)


def _open_folder(folder: Path, size: int, channels: int) -> QueryStream:
    files = list_pictures(folder)
    names, skipped = unique_names(files), []

    def picture(file: str) -> np.ndarray | str:
        try:
            return read_image(folder / file, channels, size)
        except UnreadableImage as error:
            return str(error)

    def read(batch_size: int, finished: Finished) -> Iterator[QueryBatch]:
        def start(i: int) -> dict[int, Future[np.ndarray | str]]:
            batch = range(i, min(i + batch_size, len(files)))
            wanted = [j for j in batch if not finished(names[j], _changed(folder / files[j]))]
            return {j: pool.submit(picture, files[j]) for j in wanted}

        skipped.clear()
        with ThreadPoolExecutor() as pool:
            for i, started in _one_ahead(range(0, len(files), batch_size), start):
                found = {j: reading.result() for j, reading in started.items()}
                skipped.extend((str(folder / files[j]), r) for j, r in found.items() if isinstance(r, str))
                too_many(folder, skipped, len(files))
                if all(isinstance(r, str) for r in found.values()):
                    continue
                others = [j for j in range(i, min(i + batch_size, len(files))) if j not in found]
                found |= zip(others, pool.map(picture, [files[j] for j in others]), strict=True)
                kept = {j: r for j, r in sorted(found.items()) if not isinstance(r, str)}
                yield QueryBatch([names[j] for j in kept], np.stack([*kept.values()]))

    return QueryStream(str(folder.resolve()), read, len(files), skipped)


def _open_shards(text: str, size: int, channels: int) -> QueryStream:
    shards = open_shards(text)
    stream = QueryStream(digest("\n".join([text, *shards.labels]).encode()).hexdigest()[:16], lambda *_: iter(()))

    def picture(content: bytes) -> np.ndarray | str:
        try:
            return read_image(BytesIO(content), channels, size)
        except UnreadableImage as error:
            return str(error)

    def decode(batch: list[tuple[str, bytes]], seen: int, finished: Finished, pool: Executor) -> QueryBatch | None:
        left = [name for name, _ in batch if not finished(name, 0)]
        if not left:
            return None
        found = dict(zip((name for name, _ in batch), pool.map(picture, (c for _, c in batch)), strict=True))
        stream.skipped.extend((name, r) for name, r in found.items() if isinstance(r, str))
        if len(stream.skipped) > MAX_UNREADABLE * FEWEST:
            too_many(text, stream.skipped, seen, AGAIN)
        kept = {name: r for name, r in found.items() if not isinstance(r, str)}
        return QueryBatch([*kept], np.stack([*kept.values()])) if kept.keys() & set(left) else None

    def read(batch_size: int, finished: Finished) -> Iterator[QueryBatch]:
        mine = range(processes.rank(), len(shards), processes.count())
        samples = (sample for shard in mine for sample in shards.named(shard))
        stream.total, stream.skipped, ahead = 0, [], None
        with ThreadPoolExecutor() as pool, ThreadPoolExecutor(1) as reader:
            while batch := [*islice(samples, batch_size)]:
                stream.total += len(batch)
                now, ahead = ahead, reader.submit(decode, batch, stream.total, finished, pool)
                if now is not None and (decoded := now.result()):
                    yield decoded
            if ahead is not None and (decoded := ahead.result()):
                yield decoded
        _check_end(text, stream)

    stream.read = read
    return stream


def _check_end(source: str, stream: QueryStream) -> None:
    """Raise a DataError where all processes together have found nothing, or too much that cannot be read."""
    ends = processes.everyones([stream.total, stream.skipped])
    total, skipped = sum(end[0] for end in ends), [(name, reason) for end in ends for name, reason in end[1]]
    if not total:
        raise DataError(f"{source}: holds no images")
    too_many(source, skipped, total, AGAIN)


def _changed(file: Path) -> int:
    """When a file last changed or came to its name, ns; one that has vanished is found out on reading.

    A picture that is moved or copied over another may be older than its answer.
    """
    try:
        found = file.stat()
        return max(found.st_mtime_ns, found.st_ctime_ns)
    except OSError:
        return 0


def _one_ahead(items: range, start: Callable[[int], T]) -> Iterator[tuple[int, T]]:
    """(item, start(item)), the next one started before this one is handed out."""
    ahead = None
    for item in items:
        now, ahead = ahead, (item, start(item))
        if now is not None:
            yield now
    if ahead is not None:
        yield ahead


def _open_npz(text: str) -> QueryStream:
    path, key = split_npz(text)
    with readable_npz(path), zipfile.ZipFile(path) as archive:
        check_key(path, key, [name.removesuffix(".npy") for name in archive.namelist()])
        member = archive.getinfo(f"{key}.npy")
        check_packed(member)
        with archive.open(member) as file:
            (count, *_), fortran, _ = _read_header(file)
    if fortran:  # its rows are strewn over the file
        return open_domain(load_domain(text))
    return QueryStream(f"{key}, crc32 {member.CRC:08x}", partial(_read_npz, text, path, key), count)


def _read_npz(text: str, path: Path, key: str, batch_size: int, finished: Finished) -> Iterator[QueryBatch]:
    with readable_npz(path), zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
        (count, *shape), _, dtype = _read_header(file)
        ImageDomain.from_array(np.empty((min(count, 1), *shape), dtype), source=text)  # of the right type and shape
        size, width = int(np.prod(shape, dtype=np.int64)), len(str(count - 1))
        for i in range(0, count, batch_size):
            names = [f"{j:0{width}d}" for j in range(i, min(i + batch_size, count))]
            content = bytearray(file.read(len(names) * size))  # an array of it may be written to
            if len(content) < len(names) * size:
                raise DataError(f"{path}: not a readable npz of plain arrays ({key} is cut short)")
            if not all(finished(name, 0) for name in names):
                images = np.frombuffer(content, dtype).reshape(len(names), *shape)
                yield QueryBatch(names, ImageDomain.from_array(images, source=text).images)


def _read_header(file: IO[bytes] | zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type of an array of numpy's format."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file)
