"""Where the pixels of a data set lie: in memory, or in a file that is mapped into it."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..errors import StorageError
from ..files import storage_errors

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container, v2 and v1
SHARE = 0.5  # of the memory, at most, for one data set


def available_memory() -> int:
    """Bytes of memory that there are for this process: of the machine, or of its container where that has less."""
    least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in map(Path, LIMITS):
        with suppress(OSError):  # there is none, or it may not be known
            said = limit.read_text().strip()
            least = min(least, int(said)) if said.isdecimal() else least  # else it is "max"
    return least


MEMORY = available_memory()


def make_room(count: int, channels: int, size: int) -> UInt8[np.ndarray, "n c s s"]:
    """Room for images: in memory, or where it would fill half of that, in a nameless file in the temporary directory.

    Raises:
        StorageError: that is full.
    """
    shape = (count, channels, size, size)
    needed = count * channels * size * size
    if needed <= SHARE * MEMORY:
        return np.empty(shape, np.uint8)
    place = tempfile.gettempdir()
    if shutil.disk_usage(place).free < needed:  # what does not fit would end a process without a word
        raise StorageError(f"{place}: these images need {needed / 1e9:.1f} GB, which are not free; set TMPDIR")
    with storage_errors(Path(place)), tempfile.TemporaryFile(dir=place) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def close_gaps(images: UInt8[np.ndarray, "n c s s"], kept: list[int]) -> UInt8[np.ndarray, "m c s s"]:
    """The images at `kept`, moved to the front without another copy of them all."""
    if len(kept) < len(images):
        for to, at in enumerate(kept):
            images[to] = images[at]
    return images[: len(kept)]


def without_colour(images: UInt8[np.ndarray, "n c s s"]) -> UInt8[np.ndarray, "n k s s"]:
    """One channel where all are the same in every image, else the images as they are."""
    if not all((image == image[:1]).all() for image in images):
        return images
    grey = make_room(len(images), 1, images.shape[2])
    np.copyto(grey, images[:, :1])
    return grey
