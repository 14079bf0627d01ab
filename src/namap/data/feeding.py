"""What each step of a training sees: images in memory in a new order every epoch, or streams of shards."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from .. import processes
from ..errors import DataError, StorageError, UsageError
from .coverage import shrink
from .domain import MAX_UNREADABLE, ImageDomain, write_skipped
from .images import UnreadableImage, read_image
from .order import batch_index, epoch_order
from .shards import Shards, open_shards

HEAD = 512  # first images, by which a stream is known: channels, coverage, pictures of the log

Position = list[int]  # epoch, how many of a lane's shards were read in it, samples read of the next one


class Drawn(NamedTuple):
    """Images of one step, or of this process's part of it."""

    index: Int[np.ndarray, " b"]
    images: UInt8[np.ndarray, "b c h w"]
    labels: Int[np.ndarray, " b"] | None


class MemoryFeed:
    """Images in memory: what a step sees is a function of (seed, step)."""

    def __init__(self, domain: ImageDomain, batch_size: int, seed: int):
        self.domain, self.batch_size, self.seed = domain, batch_size, seed

    def take(self, step: int) -> Drawn:
        """The images of a step."""
        index = batch_index(len(self.domain), self.batch_size, self.seed, step)[processes.part(self.batch_size)]
        labels = self.domain.labels
        return Drawn(index, self.domain.images[index], None if labels is None else labels[index])

    def positions(self) -> dict[str, Any]:
        """Nothing needs to be remembered."""
        return {}

    def seek(self, config: dict[str, Any], where: Path) -> None:
        """Every step can be asked for."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class ImageStream:
    """Images that are read from shards as training goes on.

    Attributes:
        shards: where they are.
        size: side in pixels, to which they are cut and resized.
        channels: 1 or 3.
        scale: they are shrunk about their centre by this factor.
        unreadable: reasons of those that could not be read, by name.
    """

    shards: Shards
    size: int
    channels: int
    scale: float = 1.0
    unreadable: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    failed: int = 0

    @property
    def source(self) -> str:
        """As the user named it."""
        return self.shards.source

    @cached_property
    def head(self) -> ImageDomain:
        """The first images.

        Raises:
            DataError: there are none.
        """
        samples = (sample for shard in range(len(self.shards)) for sample in self.shards.named(shard))
        images = [*islice((y for y in (self.decode(*sample) for sample in samples) if y is not None), HEAD)]
        if not images:
            raise DataError(f"{self.source}: holds no images that can be read")
        return ImageDomain.from_array(np.stack(images), source=self.source)

    @cached_property
    def fingerprint(self) -> str:
        """Short sha256 of the shards' names and sizes and of the first images."""
        return sha256("\n".join([*self.shards.labels, self.head.fingerprint]).encode()).hexdigest()[:16]

    def write_skipped(self, directory: Path) -> None:
        """Write `skipped.jsonl` into `directory` where images were skipped, else nothing."""
        if self.unreadable:
            write_skipped(directory, [*self.unreadable.items()])

    def decode(self, name: str, content: bytes) -> UInt8[np.ndarray, "c h w"] | None:
        """The picture in a file's content; None, and a note, where it cannot be read.

        Raises:
            DataError: too many cannot.
        """
        self.seen += 1
        try:
            image = read_image(BytesIO(content), self.channels, self.size)
        except UnreadableImage as error:
            self.unreadable[name], self.failed = str(error), self.failed + 1
            if self.failed > MAX_UNREADABLE * max(self.seen, 100):
                problem = f"{self.failed} of {self.seen} images cannot be read, the last {name}: {error}"
                raise DataError(f"{self.source}: {problem}; write these shards again") from None
            return None
        return shrink(image[None], self.scale)[0]


class StreamFeed:
    """Images of a stream, read in lanes.

    Lane l of L takes the shards l, l + L, l + 2L … of the epoch's order, each from its first sample to its last, and
    gives the same share of every batch. Process r of n reads its part of the lanes, so a batch is the same whatever n.

    Args:
        stream: the images.
        batch_size: images of a step, of all processes.
        seed: decides the order of the shards in every epoch.

    Raises:
        UsageError: the lanes cannot be divided among the processes.
    """

    def __init__(self, stream: ImageStream, batch_size: int, seed: int):
        self.stream, self.batch_size, self.seed = stream, batch_size, seed
        self.lanes = lane_count(batch_size, len(stream.shards))
        if self.lanes % processes.count():
            raise UsageError(
                f"{stream.source}: {len(stream.shards)} shards are read in {self.lanes} lanes, which "
                f"{processes.count()} processes cannot divide; start another number of them, or write more shards"
            )
        self.mine = range(self.lanes)[processes.part(self.lanes)]
        self.readers = ThreadPoolExecutor(len(self.mine), "lane")
        self.ahead: Future[tuple[list[np.ndarray], list[Position]]] | None = None
        self._open([[0, 0, 0]] * self.lanes)

    def take(self, step: int) -> Drawn:
        """The images of the next step; those of the one after it are read meanwhile."""
        assert self.ahead is not None
        images, self.at = self.ahead.result()
        self.ahead = self.next.submit(self._read)
        index = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[processes.part(self.batch_size)]
        return Drawn(index, np.concatenate(images), None)

    def positions(self) -> dict[str, Any]:
        """Where every lane stands, and what could not be read so far, of all processes."""
        stream, everyones = self.stream, processes.everyones
        unreadable = {name: why for part in everyones(dict(stream.unreadable)) for name, why in part.items()}
        return {
            "positions": [position for part in everyones(self.at) for position in part],
            "unreadable": unreadable,
            "read": [sum(everyones(stream.seen)), sum(everyones(stream.failed))],
        }

    def seek(self, config: dict[str, Any], where: Path) -> None:
        """Go on from `positions`.

        Raises:
            StorageError: these are none of this stream.
        """
        found: Any = config.get("positions")
        sound = isinstance(found, list) and len(found) == self.lanes and all(isinstance(p, list) for p in found)
        if not sound or not all(len(p) == 3 and all(type(n) is int and n >= 0 for n in p) for p in found):
            raise StorageError(f"{where}: does not say where its {self.lanes} lanes of shards stand; use --overwrite")
        unreadable, read = config.get("unreadable", {}), config.get("read", [0, 0])
        if not isinstance(unreadable, dict) or not isinstance(read, list) or [type(n) for n in read] != [int, int]:
            raise StorageError(f"{where}: does not say which images could not be read; use --overwrite")
        self.stream.unreadable |= unreadable
        self.stream.seen, self.stream.failed = (n // processes.count() for n in read)
        self._open(found)

    def close(self) -> None:
        """Read no further, and know what any process could not read."""
        for pool in (self.next, self.readers):
            pool.shutdown()
        for part in processes.everyones(self.stream.unreadable):
            self.stream.unreadable |= part

    def _open(self, positions: list[Position]) -> None:
        if self.ahead is not None:
            self.ahead.cancel()
            self.next.shutdown()  # what is being read is dropped
        self.at = [positions[lane] for lane in self.mine]
        starts = zip(self.mine, self.at, strict=True)
        self.open = [self._pictures(lane, position) for lane, position in starts]
        self.next = ThreadPoolExecutor(1, "batch")
        self.ahead = self.next.submit(self._read)

    def _read(self) -> tuple[list[np.ndarray], list[Position]]:
        each = self.batch_size // self.lanes

        def read(pictures: Iterator[tuple[np.ndarray, Position]]) -> tuple[np.ndarray, Position]:
            found = [next(pictures) for _ in range(each)]
            return np.stack([image for image, _ in found]), found[-1][1]

        images, positions = zip(*self.readers.map(read, self.open), strict=True)
        return list(images), list(positions)

    def _pictures(self, lane: int, position: Position) -> Iterator[tuple[np.ndarray, Position]]:
        """The pictures of a lane from a position on, without end, each with the position behind it."""
        epoch, done, start = position
        shards = self.stream.shards
        while True:
            order = epoch_order(len(shards), self.seed, epoch)[lane :: self.lanes]
            found = start > 0 or done > 0
            for k in range(done, len(order)):
                for number, (name, content) in enumerate(shards.named(int(order[k]), start), start + 1):
                    image = self.stream.decode(name, content)
                    if image is not None:
                        found = True
                        yield image, [epoch, k, number]
                start = 0
            if not found:
                raise DataError(
                    f"{self.stream.source}: shards without images that can be read; write fewer, fuller ones"
                )
            epoch, done = epoch + 1, 0


def lane_count(batch_size: int, shards: int) -> int:
    """The largest power of two of lanes that divides a batch, up to 16 and to the number of shards.

    >>> lane_count(128, 40), lane_count(128, 3), lane_count(6, 40)
    (16, 2, 2)
    """
    return max(2**i for i in range(5) if batch_size % 2**i == 0 and 2**i <= max(1, shards))


def open_feed(images: ImageDomain | ImageStream, batch_size: int, seed: int) -> MemoryFeed | StreamFeed:
    """What gives a training its batches."""
    return (StreamFeed if isinstance(images, ImageStream) else MemoryFeed)(images, batch_size, seed)  # pyright: ignore


def open_stream(source: str, size: int, channels: int | None = None, scale: float = 1.0) -> ImageStream:
    """The stream that `source` names; without `channels`, grey where the first images are.

    Raises:
        DataError: no pictures in it.
        UsageError: the library that reads it is not installed.
    """
    shards = open_shards(source)
    stream = ImageStream(shards, size, channels or 3, scale)
    images = stream.head.images
    grey = channels is None and (images == images[:, :1]).all()
    return ImageStream(shards, size, 1, scale) if grey else stream
