"""street_digits.npz: house-number digits in the style of SVHN, rendered with the fonts of Debian packages.

    python -m benchmarks.data.build_street --output DATA
    python -m benchmarks.data.build_street --package /usr/share/fonts --output DATA    # fonts that are installed

The label is the centre digit; its neighbours may be cut off at the sides. Each picture has a font, size, colours, a
gradient behind, a rotation of up to 12 degrees, a blur and noise of its own; 64 grey levels a channel.
"""

import argparse
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from namap.errors import DataError

from .packages import Package, main, obtain

FONTS = {
    "fonts-cantarell": "0.303.1-1",
    "fonts-comfortaa": "3.001-3",
    "fonts-crosextra-carlito": "20220224-1",
    "fonts-dejavu-core": "2.37-6",
    "fonts-dejavu-extra": "2.37-6",
    "fonts-freefont-ttf": "20120503-10",
    "fonts-hack": "3.003-3",
    "fonts-inconsolata": "001.010-6",
    "fonts-lato": "2.0-2.1",
    "fonts-liberation": "1:1.07.4-11",
    "fonts-linuxlibertine": "5.3.0-6",
    "fonts-open-sans": "1.11-2",
    "fonts-urw-base35": "20200910-7",
}
CANVAS, SIDE, TURN, LEVELS = 96, 32, 12.0, 64
SUFFIXES = (".ttf", ".otf")  # Type 1 fonts come beside an OpenType twin
DINGBATS = "D050000L"  # has other pictures in place of the digits
MIN_CONTRAST = 30  # of the mean of the channels, between digit and background


def font_files(arguments: argparse.Namespace) -> list[Path]:
    """All fonts of the packages with ten different digits.

    Raises:
        DataError: there is none.
    """
    given = arguments.package
    there = [] if given is None else sorted(p.name.partition("_")[0] for p in given.glob("fonts-*.deb"))
    if given is not None and not there:
        folders = [given]
    else:
        folders = [obtain(Package("deb", n, FONTS.get(n, "")), given, arguments.work) for n in there or FONTS]
    found = (p for f in folders for p in f.rglob("*") if p.suffix.lower() in SUFFIXES and p.stem != DINGBATS)
    files = sorted(filter(has_digits, found))
    if not files:
        raise DataError(f"{folders[0]}: holds no font with digits")
    return files


def has_digits(path: Path) -> bool:
    """Whether the digits are drawn, each in its own way; a font that cannot be read has none."""
    try:
        font = ImageFont.truetype(str(path), 32)
        return len({bytes(font.getmask(c)) for c in (*"0123456789", "\uffff")}) == 11
    except OSError:
        return False


@cache
def font_of(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


def colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two ends of the background's gradient, and the ink, which stands out from both."""
    while True:
        tint = rng.normal(0, 15, (2, 3))
        ground = np.clip(rng.uniform(20, 215) + tint[0], 0, 255)
        ink = np.clip(rng.uniform(0, 255) + tint[1], 0, 255)
        ends = np.clip(ground + rng.normal(0, 20, (2, 3)), 0, 255)
        if np.abs(ends.mean(1) - ink.mean()).min() > MIN_CONTRAST:
            return ends[0], ends[1], ink


def draw(digit: int, fonts: list[Path], rng: np.random.Generator) -> np.ndarray:
    """One house number around its centre digit, uint8 `[3 32 32]`."""
    font = font_of(fonts[rng.integers(len(fonts))], int(rng.integers(56, 92)))
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    pen, middle = ImageDraw.Draw(mask), CANVAS / 2
    shift = rng.normal(0, 3, 2)
    pen.text((middle + shift[0], middle + shift[1]), str(digit), 255, font, "mm")
    gap = (font.getlength(str(digit)) + font.getlength("0")) / 2 * rng.uniform(1.0, 1.15)
    for side in (-1, 1):
        if rng.random() < 0.5:
            place = (middle + shift[0] + side * gap, middle + shift[1])
            pen.text(place, str(rng.integers(10)), 255, font, "mm")
    mask = mask.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BICUBIC)
    first, second, ink = colours(rng)
    angle = rng.uniform(0, 2 * np.pi)
    v, u = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j]
    along = ((u * np.cos(angle) + v * np.sin(angle)) / 2.83 + 0.5)[..., None]
    opacity = np.asarray(mask, np.float32)[..., None] / 255
    image = (first * (1 - along) + second * along) * (1 - opacity) + ink * opacity
    page = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    page = page.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4.0))).resize((SIDE, SIDE), Image.Resampling.BOX)
    noisy = np.asarray(page, np.float32) + rng.normal(0, rng.uniform(2, 16), (SIDE, SIDE, 3))
    step = 256 // LEVELS
    return (noisy.clip(0, 255) // step * step + step // 2).astype(np.uint8).transpose(2, 0, 1)


def build(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Class-balanced pictures; those of the test split are drawn with another seed."""
    fonts = font_files(arguments)
    arrays = {}
    for number, (split, count) in enumerate((("train", arguments.count), ("test", arguments.test_count))):
        rng = np.random.default_rng([arguments.seed, number])
        labels = rng.permutation(np.arange(count) % 10)
        arrays[f"x_{split}"] = np.stack([draw(int(label), fonts, rng) for label in labels])
        arrays[f"y_{split}"] = labels.astype(np.uint8)
    return arrays


if __name__ == "__main__":
    main(__doc__ or "", "street_digits.npz", (12_000, 1000), build)
