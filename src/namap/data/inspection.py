"""What a set of images will make a fit stumble over, and what to do about it."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ..errors import Advice, one_line, warn
from .coverage import PLAIN, measure_coverage
from .domain import ImageDomain
from .folders import list_files
from .images import FORMATS, SUFFIXES

FEW = 200  # queries of a mapping; a generator wants ten times as many
BLANK = 2.0  # deviation of the pixels of a blank image, of 255
ELONGATED = 1.5  # long side over short: more than a third is cut off
OTHERS = frozenset({".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".dng", ".cr2", ".nef", ".arw"})
COMPARED = 2000  # images whose near-duplicates are sought
NEAR = 0.05  # distance of near-duplicates, of that of two images of the set
SMALL = 0.1  # extent of the content, of the side
SHARE = 0.05  # of a set, from which a fault is worth saying


def inspect_domain(domain: ImageDomain) -> list[Advice]:
    """Everything that is not as it should be, the worst first."""
    return [*_count(domain), *_left_out(domain), *_shapes(domain), *_contents(domain), *_doubles(domain)]


def _count(domain: ImageDomain) -> Iterator[Advice]:
    n, skipped = len(domain), len(domain.skipped)
    if n < FEW:
        yield Advice(
            f"only {n} images",
            f"a mapping wants {FEW} queries or more, a generator {10 * FEW}; --method nam goes furthest with few",
        )
    if skipped:
        yield Advice(
            f"{skipped} of {n + skipped} files cannot be read",
            "they are left out; re-save or delete them (a fit refuses more than a tenth)",
        )


def _left_out(domain: ImageDomain) -> Iterator[Advice]:
    """What a folder holds besides, and is passed over without a word."""
    if not domain.files:
        return
    if others := list_files(Path(domain.source), OTHERS):
        kinds = ", ".join(sorted({PurePath(path).suffix.lower() for path in others}))
        yield Advice(
            f"{len(others)} pictures of other formats ({kinds}) are not read",
            f"convert them to one of {', '.join(sorted(SUFFIXES))}",
        )
    beside = sum("/" not in path for path in domain.files)
    if 0 < beside < SHARE * len(domain.files):
        yield Advice(
            f"{beside} of {len(domain.files)} pictures lie beside the sub-folders, which give no labels then",
            "move them, where each sub-folder is meant to be a class",
        )


def warn_of_few(domain: ImageDomain, of: str, wanted: int) -> None:
    """Say it in one line where a training has fewer images than it wants."""
    if len(domain) < wanted:
        warn(f"{domain.source}: {len(domain)} images are few for a {of}, which wants {wanted} or more")


def _shapes(domain: ImageDomain) -> Iterator[Advice]:
    """Of the pictures as they lie in their folder."""
    sizes = _sizes(domain)
    if not len(sizes):
        return
    short, long = sizes.min(1), sizes.max(1)
    cut, enlarged = (long > ELONGATED * short).mean(), (short < domain.size).mean()
    if cut >= SHARE:
        yield Advice(
            f"{cut:.0%} of the pictures are more elongated than {ELONGATED:g}:1, and only their middle square is used",
            "crop them around their content, or pad them to squares",
        )
    if enlarged >= SHARE:
        yield Advice(
            f"{enlarged:.0%} of the pictures are smaller than {domain.size} pixels, and are enlarged",
            f"leave them out, or work at --size {max(8, 2 ** int(np.log2(np.quantile(short, SHARE))))}",
        )
    if short.max() > 4 * short.min():
        yield Advice(
            f"short sides from {short.min()} to {short.max()} pixels: some are blurred by enlarging, some not",
            "crop all to a like scale of their content; sizes themselves do not matter",
        )


def _sizes(domain: ImageDomain) -> np.ndarray:
    """Width and height of every file, `[n 2]`, from their headers; none for arrays."""
    sizes = []
    for name in domain.files:
        with Image.open(Path(domain.source) / name, formats=FORMATS) as picture:
            sizes.append(picture.size)
    return np.array(sizes, dtype=int).reshape(-1, 2)


def _contents(domain: ImageDomain) -> Iterator[Advice]:
    images = domain.images
    blank = np.flatnonzero(_of_each(images, lambda part: part.reshape(len(part), -1).std(1)) < BLANK)
    if len(blank):
        yield Advice(f"{len(blank)} images are blank, the first is {_named(domain, blank[0])}", "delete them")
    if domain.channels == 3:
        grey = _of_each(images, lambda part: (part == part[:, :1]).all((1, 2, 3))).mean()
        if SHARE <= grey < 1:
            yield Advice(f"{grey:.0%} of the images are grey, the others in colour", "keep one kind")
    extent, _, border = measure_coverage(images)
    if border <= PLAIN and 0 < extent < SMALL:
        yield Advice(
            f"the content spreads over {extent:.0%} of the side only: most of an image is background",
            "crop the images closer to their content; both domains should show it at one scale",
        )


def _of_each(images: UInt8[np.ndarray, "n c h w"], measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A measure of each image, some megabytes of them at a time: numpy makes eight times as much on the way."""
    count = max(1, 4_000_000 // images[0].size)
    return np.concatenate([measure(images[i : i + count]) for i in range(0, len(images), count)])


def _doubles(domain: ImageDomain) -> Iterator[Advice]:
    rows = np.linspace(0, len(domain) - 1, min(COMPARED, len(domain))).astype(int)
    near = near_duplicates(reduced(domain.subset(rows)))
    if len(near) >= max(1, SHARE * len(rows)):
        first, second = (_named(domain, rows[i]) for i in near[0])
        yield Advice(
            f"{len(near) / len(rows):.0%} of the images are all but copies of another, e.g. {second} of {first}",
            "keep one of each: copies weigh more in a fit, and a test set that holds them proves nothing",
        )


def reduced(domain: ImageDomain) -> Float[np.ndarray, "n k"]:
    """Images as 12 x 12 greys, flat."""
    small = domain.resized(12, 1)
    return small.images.reshape(len(small), -1).astype(np.float32)


def near_duplicates(rows: Float[np.ndarray, "n k"]) -> list[tuple[int, int]]:
    """(first, copy) for every row that all but repeats an earlier one."""
    square = (rows**2).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * rows @ rows.T, 0))
    typical = np.median(distance)
    close = np.triu(distance <= NEAR * typical, 1)
    return [(int(close[:, j].argmax()), int(j)) for j in np.flatnonzero(close.any(0))]


def _named(domain: ImageDomain, row: int) -> str:
    return one_line(domain.files[row]) if domain.files else f"image {domain.names[row]}"
