"""uint8 arrays as pictures and as PNG files, also in worker processes. Without torch: these import this module."""

import io
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from .errors import StorageError
from .files import atomic_file, storage_errors

QUEUED = 2  # batches for each worker: the next one is there when it has written one

WritePngs = Callable[[list[str], np.ndarray], None]


def to_picture(image: UInt8[np.ndarray, "c h w"]) -> Image.Image:
    """A uint8 array as a Pillow picture, grey or RGB."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def image_grid(rows: Sequence[Sequence[UInt8[np.ndarray, "c h w"]]], gaps: Sequence[int] = ()) -> Image.Image:
    """Images in rows, one pixel apart, with a wider white gap before the columns in `gaps`."""
    side = rows[0][0].shape[1]
    offsets = [x * (side + 1) + 4 * sum(g <= x for g in gaps) for x in range(max(map(len, rows)))]
    sheet = np.full((len(rows) * (side + 1) - 1, offsets[-1] + side, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for image, x in zip(row, offsets, strict=False):
            top = r * (side + 1)
            sheet[top : top + side, x : x + side] = image.transpose(1, 2, 0)
    return Image.fromarray(sheet)


def encode_png(image: UInt8[np.ndarray, "c h w"]) -> bytes:
    """A uint8 array as the content of a PNG file."""
    buffer = io.BytesIO()
    to_picture(image).save(buffer, "PNG", pnginfo=signed())
    return buffer.getvalue()


def signed() -> PngInfo:
    """What namap's PNGs say of themselves, so that they can be told from others in the same folder."""
    info = PngInfo()
    info.add_text("Software", "namap")
    return info


def is_signed(path: Path) -> bool:
    """Whether a PNG says that namap wrote it. An empty file, which a power cut leaves, is nobody's, and counts as ours.

    Raises:
        StorageError: it cannot be read.
    """
    with storage_errors(path):
        try:
            with Image.open(path) as picture:
                return picture.info.get("Software") == "namap"
        except (UnidentifiedImageError, Image.DecompressionBombError, ValueError):  # too large, or with too much text
            return not path.stat().st_size


def write_pngs(folder: Path, names: list[str], images: UInt8[np.ndarray, "n c h w"]) -> None:
    """Write one PNG for each name, each of them whole or not there.

    Raises:
        StorageError: `folder` cannot be written, or is full.
    """
    for name, image in zip(names, images, strict=True):
        write_picture(folder / name, to_picture(image))


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        StorageError: `path` cannot be written.
    """
    with storage_errors(path.parent), atomic_file(path) as file:
        picture.save(file, "PNG", pnginfo=signed())


def usual_workers() -> int:
    """Processes that write PNGs unless told otherwise: half of the cores, at most 16; idle ones are never started."""
    return min(16, max(1, len(os.sched_getaffinity(0)) // 2)) if hasattr(os, "sched_getaffinity") else 1


@contextmanager
def png_writer(folder: Path, workers: int) -> Iterator[WritePngs]:
    """A `write(names, images)` that encodes and writes in worker processes, and waits when these are behind.

    At the end everything has been written. On an error or a signal what is being written is finished and the rest is
    dropped, so that there are whole files only.

    Args:
        folder: where to; made if it is not there.
        workers: how many processes; 0 writes at once in this one.

    Raises:
        StorageError: `folder` cannot be written, is full, or a worker was killed.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not workers:
        yield partial(write_pngs, folder)
        return
    # Not forked: a fork of a process in which torch has started its threads may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    waiting: deque[Future[None]] = deque()

    def write(names: list[str], images: np.ndarray) -> None:
        while len(waiting) >= QUEUED * workers:
            waiting.popleft().result()
        waiting.append(pool.submit(write_pngs, folder, names, images))

    try:
        yield write
        while waiting:
            waiting.popleft().result()
    except BrokenProcessPool:
        problem = "a process that writes pictures was killed (out of memory?); run the same command again"
        raise StorageError(f"{folder}: {problem}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """A signal to the group is the parent's to answer, which ends its workers; one that is killed cannot."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
