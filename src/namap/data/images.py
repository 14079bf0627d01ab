"""Reading one image from an untrusted file: every Pillow mode, nothing dangerous."""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ..errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
# GIF and the rest of Pillow's decoders stay closed: fewer formats, fewer surprises.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
LARGE = 32_000_000  # bytes of pixels; what unpacks to more
MAX_RATIO = 200  # may be at most so many times as large as its file: photographs reach 60
MIN_SIDE = 4
MAX_ASPECT = 20
TO_8_BITS = [(level + 128) // 257 for level in range(65536)]  # 65535 is 255: scaled and rounded


class UnreadableImage(DataError):
    """One file that cannot be used; readers of folders skip it and list the reason."""


def read_image(file: str | Path | BytesIO, channels: int, size: int | None) -> UInt8[np.ndarray, "c h w"]:
    """Read one image file as uint8 `[c h w]`, 0..255.

    The EXIF orientation is applied, transparency is put on white, 16-bit grey is scaled to 8 bits
    (never clipped), the first frame of a multi-page file is taken, and embedded colour profiles are
    ignored: pixel values are used as stored.

    Args:
        channels: 1 (luminance) or 3 (RGB).
        size: side of the square that is cut from the centre and resized (Lanczos); None keeps the picture's own shape.

    Raises:
        UnreadableImage: not an image, truncated, too large (decompression bomb), too small or too elongated.
    """
    try:
        picture = Image.open(file, formats=FORMATS)
        _check_shape(*picture.size)
        _check_ratio(picture)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("is not a png, jpg, webp, bmp or tiff image, or is cut short") from None
    except Exception as error:  # decoders that are fed by strangers raise all sorts of things, struct.error included
        raise UnreadableImage(_why(error)) from None
    return picture_array(picture, channels, size)


def picture_array(picture: Image.Image, channels: int, size: int | None) -> UInt8[np.ndarray, "c h w"]:
    """A picture of Pillow as uint8 `[c h w]`, as `read_image` reads its file; the arguments are those.

    Raises:
        UnreadableImage: truncated, too large, too small or too elongated.
    """
    _check_shape(*picture.size)
    try:
        picture.load()  # verify() would let a truncated JPEG pass
        picture = _to_mode(ImageOps.exif_transpose(picture), "L" if channels == 1 else "RGB")
    except Exception as error:  # as above
        raise UnreadableImage(_why(error)) from None
    if size is not None and picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    array = np.array(picture, dtype=np.uint8)  # a copy: Pillow's own is read-only
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_shape(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width}x{height} is over {MAX_PIXELS // 10**6} megapixels (decompression bomb?)")
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"{width}x{height} is smaller than {MIN_SIDE} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(f"{width}x{height} is more elongated than {MAX_ASPECT}:1")


def _check_ratio(picture: ImageFile.ImageFile) -> None:
    """Refuse large pictures of next to nothing: a few of them, read at once, would fill the memory."""
    deep = {"I": 4, "F": 4}.get(picture.mode, 2 if picture.mode.startswith("I;16") else 1)
    unpacked = picture.width * picture.height * len(picture.getbands()) * deep
    assert picture.fp is not None
    packed = picture.fp.seek(0, 2)
    if unpacked > LARGE and unpacked > MAX_RATIO * packed:
        size = f"{unpacked / 1e6:.0f} MB of pixels in {packed / 1e3:.0f} kB"
        raise UnreadableImage(f"{picture.width}x{picture.height}: {size} (decompression bomb?)")


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    # Pillow clips 16 bits to 255 on conversion; scale instead.
    if picture.mode == "F":
        levels = np.array(picture)
        if not np.isfinite(levels).all():
            raise UnreadableImage("has pixels that are not finite")
        if levels.max(initial=0) > 1:  # of 255, of 65535, or of the brightest in the set: one picture cannot tell
            raise UnreadableImage("has floating-point levels above 1; store 8 or 16 bits, or levels from 0 to 1")
        picture = Image.fromarray((levels.clip(0, 1) * np.float32(255)).round().astype(np.uint8))
    elif picture.mode.startswith("I"):  # mode I is 16-bit data in 32-bit cells
        if picture.mode == "I" and 1 < np.asarray(picture).max() <= 255:
            raise UnreadableImage("has 32-bit levels of 255 at most; store 8 bits")
        picture = picture.convert("I").point(TO_8_BITS, "L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(background, picture)
    return picture.convert(mode)
