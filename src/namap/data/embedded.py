"""Two real domains that need no network: handwriting (scikit-learn) and typeset digits (matplotlib's fonts)."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import DataError

SIZE = 32
PER_CLASS = {"train": 600, "test": 60}
# Side of the box that a digit's ink fills, in pixels: typeset digits are rendered at the handwriting's scale.
INK = 22.0
# Faces without ordinary digits (mathematical delimiters, symbols, size variants, the placeholder font).
NO_DIGITS = (
    "LastResort",
    "DejaVuSansDisplay",
    "DejaVuSerifDisplay",
    "STIXNon",
    "STIXSiz",
    "cmex",
    "cmsy",
    "cmmi",
)


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """`handwriting/train`, `handwriting/test`, `typeset/train` or `typeset/test`: images `[n 1 32 32]` and labels.

    Raises:
        DataError: another name.
    """
    domain, _, split = name.partition("/")
    if split in ("train", "test") and domain == "handwriting":
        return handwriting(split)
    if split in ("train", "test") and domain == "typeset":
        return typeset(split)
    raise DataError(f"embedded:{name}: use embedded:handwriting/train, embedded:typeset/train, or …/test")


def handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1797 real handwritten digits, 8x8 enlarged to a 24-pixel frame in 32x32; 1297 train, 500 test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    levels = (np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    images = np.zeros((len(levels), 1, SIZE, SIZE), np.uint8)
    for image, level in zip(images, levels, strict=True):
        image[0, 4:28, 4:28] = np.asarray(Image.fromarray(level).resize((24, 24), Image.Resampling.BICUBIC))
    order = np.random.default_rng(0).permutation(len(images))
    index = order[:-500] if split == "train" else order[-500:]
    return images[index], np.asarray(labels)[index].astype(np.int64)


def typeset(split: str, extra_fonts: Sequence[Path] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Digits 0-9 in every face that matplotlib ships, each with a small random size, shift and rotation.

    Args:
        split: `train` or `test`; the same faces under another random stream.
        extra_fonts: further font files to draw from.
    """
    return _typeset(split, tuple(extra_fonts))


@lru_cache(maxsize=4)
def _typeset(split: str, extra_fonts: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([len(split), 7])
    fonts = [_font(path) for path in (*font_files(), *extra_fonts)]
    labels = np.arange(10).repeat(PER_CLASS[split])
    faces = np.concatenate([rng.permutation(PER_CLASS[split]) % len(fonts) for _ in range(10)])
    images = np.stack([_draw(str(d), fonts[f], rng) for d, f in zip(labels, faces, strict=True)])
    order = rng.permutation(len(labels))
    return images[order][:, None], labels[order]


def _font(path: Path) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(path), 96)
    except OSError as error:
        raise DataError(f"{path}: not a font that can be read ({error})") from None


def font_files() -> list[Path]:
    """The font files of matplotlib that have ordinary digits."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(p for p in folder.glob("*.ttf") if not p.name.startswith(NO_DIGITS))


def _draw(digit: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> np.ndarray:
    left, top, right, bottom = font.getbbox(digit)
    width, height = right - left, bottom - top
    side = 4 * SIZE
    canvas = Image.new("L", (side, side))
    # Height rules the scale; a wide glyph is never allowed past the frame.
    scale = 4 * INK * rng.uniform(0.88, 1.08) / max(height, width)
    glyph = Image.new("L", (round(width) + 2, round(height) + 2))
    ImageDraw.Draw(glyph).text((1 - left, 1 - top), digit, fill=255, font=font)
    glyph = glyph.resize((max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))))
    shift = rng.uniform(-1.2, 1.2, 2) * 4
    corner = (round((side - glyph.width) / 2 + shift[0]), round((side - glyph.height) / 2 + shift[1]))
    canvas.paste(glyph, corner)
    canvas = canvas.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX))
