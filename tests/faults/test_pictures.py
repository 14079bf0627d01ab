"""Pictures that unpack to more than they are, and every mode, depth and layout against what was drawn."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from test_strangers import MANY, SLOW, chunk, encoded, png

from namap.data import UnreadableImage, load_domain, read_image
from namap.errors import DataError

RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
BLANK = {
    "a compressed TIFF": ("L", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "a compressed TIFF of 16 bits": ("I;16", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "a TIFF of floats": ("F", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "a PNG of four channels": ("RGBA", "PNG", {}),
    "a PNG of 16 bits": ("I;16", "PNG", {}),
    "a PNG of a palette": ("P", "PNG", {}),
    "a WebP without loss": ("RGB", "WEBP", {"lossless": True, "method": 0}),
}


@pytest.fixture(scope="module")
def blanks() -> dict[str, bytes]:
    """Pictures of 63 megapixels, which the limit allows, in a few kilobytes each."""
    return {name: encoded(Image.new(mode, (7937, 7937)), fmt, **how) for name, (mode, fmt, how) in BLANK.items()}


def read_grown(content: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        read_image(io.BytesIO(content), 3, 32)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"memory grew by {grown / 1e3:.0f} MB"


@pytest.mark.parametrize("name", BLANK)
def test_a_large_picture_of_nothing_is_no_picture(forks, blanks, name):
    assert len(blanks[name]) < 1_000_000
    process = forks.Process(target=read_grown, args=(blanks[name],))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "BMP", "TIFF"])
def test_a_header_of_400_megapixels(fmt):
    small = encoded(Image.new("L", (16, 16)), fmt)
    if fmt == "JPEG":
        at = small.index(b"\xff\xc0") + 5
        content = small[:at] + struct.pack(">HH", 20_000, 20_000) + small[at + 4 :]
    elif fmt == "BMP":
        content = small[:18] + struct.pack("<ii", 20_000, 20_000) + small[26:]
    elif fmt == "WEBP":  # an extended header, whose canvas is larger than its frame
        canvas = (20_000 - 1).to_bytes(3, "little") * 2
        content = small[:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + small[12:]
        content = b"RIFF" + struct.pack("<I", len(content) - 8) + content[8:]
    else:
        content = small
        for tag in (256, 257):
            field = struct.pack("<HHI", tag, 4, 1)
            content = content.replace(field + struct.pack("<I", 16), field + struct.pack("<I", 20_000))
    assert content != small
    with pytest.raises(UnreadableImage, match=r"20000x20000|400000000 pixels|decoder|cut short"):
        read_image(io.BytesIO(content), 3, 32)


def test_large_photographs_are_read():
    noise = np.random.default_rng(0).integers(0, 256, (500, 750, 3), np.uint8)
    photograph = Image.fromarray(noise).resize((6000, 4000), Image.Resampling.BICUBIC)
    assert read_image(io.BytesIO(encoded(photograph, "JPEG", quality=30)), 3, 32).shape == (3, 32, 32)


@pytest.mark.parametrize("levels", [np.arange(65536), np.array([0, 128, 129, 65407, 65535] * 20)])
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "big-endian TIFF"])
def test_16_bits_are_scaled_and_rounded_and_never_clipped(levels, fmt):
    drawn = np.resize(levels, (256, 256)).astype(np.uint16)
    content = big_endian(drawn) if fmt == "big-endian TIFF" else encoded(Image.fromarray(drawn), fmt)
    expected = (drawn.astype(np.float64) / 65535 * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(read_image(io.BytesIO(content), 1, None)[0], expected)


def big_endian(drawn: np.ndarray) -> bytes:
    height, width = drawn.shape
    strip = drawn.astype(">u2").tobytes()
    fields = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(strip)}
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in fields.items())
    return b"MM\0*" + struct.pack(">I", 8 + len(strip)) + strip + struct.pack(">H", len(fields)) + entries + bytes(4)


def test_colours_of_16_bits_and_of_photographs():
    rows = b"".join(
        b"\0" + (np.repeat(RAMP[0].astype(">u2")[:, None], 3, 1) * 257).astype(">u2").tobytes() for _ in RAMP
    )
    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    deep = read_image(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts)), 3, None)
    np.testing.assert_array_equal(deep, np.stack([RAMP] * 3))
    red = Image.new("RGB", (32, 32), (200, 40, 90))
    for picture, fmt in ((red, "JPEG"), (red.convert("CMYK"), "JPEG"), (red.convert("CMYK"), "TIFF"), (red, "WEBP")):
        found = read_image(io.BytesIO(encoded(picture, fmt, quality=100)), 3, None).astype(int)
        assert np.abs(found - np.array([200, 40, 90])[:, None, None]).max() <= 4, f"{picture.mode} {fmt}"


def test_transparency_of_a_palette_and_of_a_key():
    grey = Image.fromarray(RAMP)
    palette = grey.convert("RGB").quantize(32)
    for picture, key in ((palette, palette.getpixel((0, 0))), (grey, 0)):
        found = read_image(io.BytesIO(encoded(picture, "PNG", transparency=key)), 1, None)[0]
        np.testing.assert_array_equal(found[:, 0], 255)
        np.testing.assert_array_equal(found[:, 1:], np.asarray(picture.convert("L"))[:, 1:])


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP"])
def test_the_orientation_of_photographs_is_applied(fmt):
    side = np.zeros((32, 48), np.uint8)
    side[:, :8] = 255
    for value, where in ((1, np.s_[:, :8]), (3, np.s_[:, -8:]), (6, np.s_[:8]), (8, np.s_[-8:])):
        exif = Image.Exif()
        exif[0x0112] = value
        found = read_image(
            io.BytesIO(encoded(Image.fromarray(side).convert("RGB"), fmt, quality=100, exif=exif)), 1, None
        )[0]
        assert found.shape == ((32, 48) if value < 5 else (48, 32))
        assert found[where].mean() > 250
        assert found.astype(int).sum() < 255 * 8 * 32 * 1.1


def test_frames_and_formats_that_are_closed():
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    for fmt in ("WEBP", "PNG", "TIFF"):  # of an animation the first frame
        found = read_image(io.BytesIO(encoded(frames[0], fmt, save_all=True, append_images=frames[1:])), 3, None)
        assert found[0].mean() > 240 > 20 > found[2].mean()
    closed = ["GIF", "PPM", "PDF", "ICO", "TGA", *(["AVIF"] if features.check("avif") else [])]
    for content in [encoded(frames[0], fmt) for fmt in closed] + [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]:
        with pytest.raises(UnreadableImage, match="is not a png, jpg, webp, bmp or tiff"):
            read_image(io.BytesIO(content), 3, 32)


KINDS = [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"iCCP", b"iTXt", b"gAMA", b"acTL", b"fdAT"]
PARTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(KINDS), st.binary(max_size=40)),
        st.tuples(st.just(b"IDAT"), st.binary(max_size=40).map(zlib.compress)),
    ),
    max_size=5,
)  # fmt: skip
HEAD = st.sampled_from(
    [b"RIFF\x30\0\0\0WEBPVP8 ", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"\xff\xd8\xff\xe1", b"BM", b"GIF89a", b""]
)


@pytest.mark.parametrize("count", [300, MANY])
def test_any_bytes_and_any_chunks_are_a_picture_or_one_line(count, tmp_path):
    (tmp_path / "pictures").mkdir()

    @settings(max_examples=count, deadline=None, suppress_health_check=SLOW, database=None, derandomize=True)
    @given(
        st.builds(bytes.__add__, HEAD, st.binary(max_size=200))
        | PARTS.map(lambda p: png(32, 32, *(chunk(*c) for c in p)))
    )
    def check(content):
        try:
            assert read_image(io.BytesIO(content), 3, 32).shape == (3, 32, 32)
        except UnreadableImage as error:
            assert "\n" not in str(error)

    check()


def npz(**members: bytes) -> bytes:
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(shape: str, descr: str = "|u1", content: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    "member",
    [
        npy("(1099511627776, 1, 32, 32)"), npy("(10, -1, 32, 32)"), npy("(4, 1, 8, 8)", "|O", b"\x80\x04N."),
        npy("(4, 1, 8, 8)"), npy("()"), npy("[1]"), npy("(1,) + (2,)"), npy("(4, 1, 8, 8)", "<U99999999999"),
        b"\x93NUMPY", b"", npy("(" * 2000),
    ],
)  # fmt: skip
def test_an_array_of_a_stranger_is_read_or_one_line(member, tmp_path):
    (tmp_path / "a.npz").write_bytes(npz(x=member))
    with pytest.raises(DataError) as error:
        load_domain(f"{tmp_path}/a.npz:x")
    assert "\n" not in str(error.value)


def test_an_array_that_unpacks_to_a_thousand_times_its_file(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz(x=npy("(400000, 1, 32, 32)", content=bytes(400_000 * 1024))))
    with pytest.raises(DataError, match="bomb"):
        load_domain(f"{tmp_path}/a.npz:x")
