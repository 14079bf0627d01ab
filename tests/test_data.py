import errno
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from namap.data import ImageDomain, UnreadableImage, load_domain, open_queries, read_image, room
from namap.data.batches import never
from namap.data.coverage import compare_coverage, shrink
from namap.errors import DataError, StorageError

RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))


def saved(picture: Image.Image, fmt: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, fmt, **options)
    file.seek(0)
    return file


@pytest.mark.faults
def test_every_mode_reads_as_the_same_ramp():
    grey = Image.fromarray(RAMP)
    rgb = grey.convert("RGB")
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    opaque = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    for picture, fmt in (
        (grey, "PNG"), (opaque, "PNG"), (grey.convert("P"), "PNG"), (rgb, "PNG"), (rgb.convert("RGBA"), "PNG"),
        (deep, "PNG"), (deep, "TIFF"), (grey, "TIFF"), (rgb, "BMP"),
    ):  # fmt: skip
        np.testing.assert_array_equal(
            read_image(saved(picture, fmt), 1, None)[0], RAMP, err_msg=f"{picture.mode} {fmt}"
        )
    cmyk = read_image(saved(rgb.convert("CMYK"), "TIFF"), 3, None)
    assert np.abs(cmyk.astype(int) - RAMP).max() <= 2
    bilevel = read_image(saved(grey.convert("1", dither=Image.Dither.NONE)), 1, None)
    np.testing.assert_array_equal(bilevel[0], np.where(RAMP > 127, 255, 0))


@pytest.mark.faults
def test_levels_of_floats_and_of_32_bits_are_not_guessed():
    for levels in (RAMP / np.float32(255), RAMP.astype(np.int32) * 257):
        found = read_image(saved(Image.fromarray(levels.astype(levels.dtype)), "TIFF"), 1, None)
        np.testing.assert_array_equal(found[0], RAMP, err_msg=str(levels.dtype))
        assert found.flags.writeable, "torch warns of others"
    for levels, said in ((RAMP.astype(np.float32), "floating-point levels above 1"), (RAMP.astype(np.int32), "32-bit")):
        with pytest.raises(UnreadableImage, match=said):
            read_image(saved(Image.fromarray(levels), "TIFF"), 1, None)


@pytest.mark.faults
def test_a_colour_profile_is_ignored():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    picture = Image.fromarray(RAMP).convert("RGB")
    for fmt in ("PNG", "TIFF"):
        tagged = saved(picture, fmt, icc_profile=profile)
        assert Image.open(tagged).info["icc_profile"] == profile
        np.testing.assert_array_equal(read_image(tagged, 3, None), np.stack([RAMP] * 3))


@pytest.mark.faults
def test_transparency_is_put_on_white():
    picture = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (read_image(saved(picture), 3, None) == 255).all()


@pytest.mark.faults
@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_every_exif_orientation_is_applied(fmt):
    seen = [RAMP, np.fliplr(RAMP), np.rot90(RAMP, 2), np.flipud(RAMP), RAMP.T, np.rot90(RAMP, -1),
            np.rot90(RAMP.T, 2), np.rot90(RAMP)]  # fmt: skip
    for value, expected in enumerate(seen, 1):
        exif = Image.Exif()
        exif[0x0112] = value
        turned = read_image(saved(Image.fromarray(RAMP), fmt, exif=exif), 1, None)[0]
        np.testing.assert_array_equal(turned, expected, err_msg=f"orientation {value}")


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not"),
        (b"text, not a picture", "is not"),
        (saved(Image.fromarray(RAMP), "JPEG").getvalue()[:-60], "truncated"),
        (saved(Image.fromarray(RAMP), "GIF").getvalue(), "is not"),
        (bomb(20_000, 20_000), "bomb"),
        (saved(Image.new("L", (1, 1))).getvalue(), "smaller"),
        (saved(Image.new("L", (2000, 10))).getvalue(), "elongated"),
    ],
)
def test_unusable_files_are_refused_with_a_reason(content, reason):
    with pytest.raises(UnreadableImage, match=reason):
        read_image(io.BytesIO(content), 3, 32)


@given(st.binary(max_size=400), st.integers(0, 3000), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_damaged_files_never_raise_anything_else(tail, position, value):
    content = bytearray(saved(Image.fromarray(RAMP), "PNG").getvalue() + tail)
    content[position % len(content)] = value
    try:
        image = read_image(io.BytesIO(bytes(content)), 1, 32)
    except UnreadableImage:
        return
    assert image.shape == (1, 32, 32)
    assert image.dtype == np.uint8


def folder(path: Path, count: int = 20) -> Path:
    path.mkdir()
    for i in range(count):
        Image.fromarray(np.roll(RAMP, i, 1)).save(path / f"{i:02d}.png")
    return path


def test_hidden_files_are_no_pictures(tmp_path):
    pictures = folder(tmp_path / "y", 3)
    (pictures / "._00.png").write_bytes(b"what a Mac leaves beside a file")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        folder(pictures / name, 2)
    assert load_domain(pictures).names == ["00", "01", "02"]
    (batch,) = open_queries(pictures, 16, 1).read(8, never)
    assert batch.names == ["00", "01", "02"]
    with pytest.raises(DataError, match="'': names no images"):
        load_domain("")


def test_a_folder_skips_and_lists_what_it_cannot_read(tmp_path):
    pictures = folder(tmp_path / "y")
    (pictures / "05.png").write_bytes(b"")
    domain = load_domain(pictures)
    assert len(domain) == 19
    assert domain.channels == 1
    assert [Path(p).name for p, _ in domain.skipped] == ["05.png"]
    domain.write_skipped(tmp_path / "out")
    assert "05.png" in (tmp_path / "out" / "skipped.jsonl").read_text()
    for i in range(3):
        (pictures / f"{i:02d}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="4 of 20"):
        load_domain(pictures)


def test_what_is_left_out_is_said_once(tmp_path, capsys):
    pictures = folder(tmp_path / "y")
    (pictures / "05.png").write_bytes(b"")
    load_domain(load_domain(pictures, 16), 32)
    said = f"warning: {pictures}: 1 of 20 images cannot be read and are left out; `namap check-data {pictures}` lists"
    assert capsys.readouterr().err.splitlines() == [f"{said} them"]
    assert load_domain(pictures, tell=False).skipped and not capsys.readouterr().err


def test_links_are_followed_but_not_round(tmp_path):
    folder(tmp_path / "elsewhere", 2)
    real = tmp_path / "real"
    real.mkdir()
    folder(real / "cat", 3)
    (real / "dog").symlink_to(tmp_path / "elsewhere")
    (real / "dog" / "up").symlink_to(real)
    (real / "self.png").symlink_to("self.png")
    (real / "gone").symlink_to(tmp_path / "nowhere")
    domain = load_domain(real)
    assert domain.files == ["cat/00.png", "cat/01.png", "cat/02.png", "dog/00.png", "dog/01.png"]
    assert domain.classes == ["cat", "dog"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    pictures, scandir = folder(tmp_path / "y", 3), os.scandir
    (pictures / "shut").mkdir()

    def refuse(place):  # not by its mode, which says nothing to root
        if Path(place).name == "shut":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    for read in (load_domain, lambda source: open_queries(source, 32, 1)):
        with pytest.raises(DataError, match=r"y/shut: cannot be read \(Permission denied\); allow it"):
            read(pictures)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_domain(tmp_path / "nothing")
    with pytest.raises(DataError, match="no images"):
        load_domain(tmp_path)


def test_one_picture_is_a_source(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name, values in (("a.png", pixels), ("b.png", pixels[..., 0])):
        Image.fromarray(values).save(tmp_path / name)
    colour, grey = (load_domain(tmp_path / name, 16) for name in ("a.png", "b.png"))
    assert (colour.images.shape, grey.images.shape) == ((1, 3, 16, 16), (1, 1, 16, 16))
    np.testing.assert_array_equal(colour.images[0], load_domain(tmp_path, 16).images[0])
    assert colour.names == ["a"] and load_domain(tmp_path / "b.png", 16, 3).channels == 3
    (batch,) = open_queries(tmp_path / "a.png", 16, 3).read(8, never)
    assert batch.names == ["a"] and (batch.images == colour.images).all()
    (tmp_path / "note.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"note\.txt: is not a png.*another picture"):
        load_domain(tmp_path / "note.txt")


def test_subfolders_give_labels(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("7", "3"):
        folder(tmp_path / "d" / name, 2)
    domain = load_domain(tmp_path / "d")
    assert domain.labels is not None
    assert domain.labels.tolist() == [3, 3, 7, 7]
    assert domain.names == ["3_00", "3_01", "7_00", "7_01"]


def test_npz(tmp_path):
    path = tmp_path / "d.npz"
    images = np.zeros((5, 1, 32, 32), np.uint8)
    np.savez(path, x_train=images, y_train=np.arange(5), photos_a=images, f=images.astype(float), o=np.array([{}]),
             s_train=images[..., :16], x_words=images, y_words=np.array(list("abcde")), x_cars=images,
             y_cars=np.linspace(-75, 75, 5, dtype=np.float32), x_some=images, y_some=np.arange(5) - 1)  # fmt: skip
    domain = load_domain(f"{path}:x_train", channels=3)
    assert domain.images.shape == (5, 3, 32, 32)
    assert domain.labels is not None
    assert domain.labels.tolist() == [0, 1, 2, 3, 4]
    for kind in ("words", "cars", "some"):  # no classes: only what asks for labels minds
        assert load_domain(f"{path}:x_{kind}").labels is None
    assert load_domain(f"{path}:photos_a", size=16).images.shape == (5, 1, 16, 16)
    for source, reason in (
        (f"{path}:nope", "no array 'nope'"), (str(path), "needs a key"), (f"{path}:f", "store uint8"),
        (f"{path}:s_train", "store squares"), (f"{path}:o", "not a readable npz"),
        (f"{tmp_path}/no.npz:x", "no such file"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=reason):
            load_domain(source)
    with (tmp_path / "renamed.npz").open("wb") as file:
        np.save(file, images)
    with pytest.raises(DataError, match="not a readable npz"):
        load_domain(f"{tmp_path}/renamed.npz:x")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError):
        load_domain(f"{path}:x_train")


def test_torchvision_offline_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match="offline"):
        load_domain("torchvision:svhn/test")
    with pytest.raises(DataError, match="use torchvision:NAME"):
        load_domain("torchvision:mnist")


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x01\0\0\0\x0a1234"])
def test_a_torchvision_set_that_was_left_short_is_to_be_deleted(monkeypatch, tmp_path, content):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    raw = tmp_path / ".cache" / "namap" / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for kind in ("images-idx3", "labels-idx1"):
        for part in ("train", "t10k"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=r"the copy in .*torchvision is damaged \(.*\); delete it"):
        load_domain("torchvision:mnist/test")


def test_embedded_sets():
    y, x = load_domain("embedded:handwriting/train"), load_domain("embedded:typeset/train")
    assert len(y) == 1297
    assert len(load_domain("embedded:handwriting/test")) == 500
    assert x.images.shape == (6000, 1, 32, 32)
    assert x.images.reshape(6000, -1).max(1).min() > 128, "an empty glyph"
    assert compare_coverage(x.images, y.images) is None


def test_gross_differences_of_scale_are_noticed():
    x = load_domain("embedded:typeset/test").images
    small = shrink(x, 0.6)
    assert small.shape == x.shape
    assert "times as large" in (compare_coverage(small, x) or "")
    assert "only" in (compare_coverage(x, small) or "")
    assert "generator are blank" in (compare_coverage(np.zeros_like(x), x) or "")


def test_fuller_queries_are_to_be_shrunk(shared):
    shoes = load_domain(f"{shared}/fashion_footwear.npz:photos_test").images
    bags = load_domain(f"{shared}/fashion_bags.npz:photos_test").images
    assert re.search(r"covers 2\.0 times as many pixels .* query_scale=0\.8", compare_coverage(shoes, bags) or "")
    assert compare_coverage(shoes, shrink(bags, 0.78)) is None
    assert (compare_coverage(bags, shoes) or "scale").endswith("scale"), "nothing to shrink"


def test_textured_backgrounds_give_no_verdict(shared):
    street = load_domain(f"{shared}/street_digits.npz:x_test")
    digits = load_domain(f"{shared}/digits_mnist5k.npz:x_test")
    assert compare_coverage(digits.images, street.images) is None


def test_an_array_is_a_source_and_other_things_are_named():
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), np.uint8)
    assert (load_domain(images).images == images).all()
    assert load_domain(images, 32, 3).images.shape == (3, 3, 32, 32)
    # In a process of its own: the annotations, which the tests have checked, are no help to a user.
    wrong = """import numpy, namap
for source in (['a.png'], numpy.zeros((3, 16, 16), numpy.uint8)):  # three grey pictures, or one in colour?
    try: namap.load_domain(source)
    except namap.NamapError as e: print(type(e).__name__, e)"""
    said = subprocess.run([sys.executable, "-c", wrong], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("UsageError images in a list: give a path, a uint8 array")
    assert said[1].startswith("DataError array: shape (3, 16, 16) is not [n c h w]; ImageDomain.from_array takes")


def test_pictures_of_pillow_are_a_source_as_their_files_are(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (40, 30 + i, 4), np.uint8)) for i in range(3)]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    for channels in (None, 1):
        np.testing.assert_array_equal(
            load_domain(pictures, 16, channels).images, load_domain(tmp_path, 16, channels).images
        )
    grey = pictures[0].convert("L")
    assert load_domain(grey).images.shape == (1, 1, 32, 32)
    with pytest.raises(DataError, match="picture 1: 2x2 is smaller"):
        load_domain([grey, grey.resize((2, 2))])
    with pytest.raises(DataError, match="holds no images"):
        load_domain([])


def test_an_array_turns_grey_as_a_folder_does(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 64, 64), np.uint8)
    images[0], images[1, :, :, :3] = 255, 1
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(load_domain(images, 64, 1).images, load_domain(tmp_path, 64, 1).images)


def test_memory_is_that_of_the_container(tmp_path, monkeypatch):
    everything = room.available_memory()
    for said, found in (("max", everything), (str(2**60), everything), ("1000000", 1_000_000)):
        (tmp_path / "memory.max").write_text(said + "\n")
        monkeypatch.setattr(room, "LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "none")))
        assert room.available_memory() == found


def test_from_array_refuses_what_it_cannot_use():
    for images in (np.zeros((0, 1, 8, 8), np.uint8), np.zeros((2, 5, 8, 8), np.uint8), np.zeros((2, 1, 8, 8))):
        with pytest.raises(DataError):
            ImageDomain.from_array(images)
    assert ImageDomain.from_array(np.zeros((2, 8, 8, 3), np.uint8)).channels == 3


def test_what_would_fill_the_memory_lies_in_a_file(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "03.png").write_bytes(b"no picture")
    held = load_domain(tmp_path, 16)
    monkeypatch.setattr(room, "MEMORY", 1000)
    mapped = load_domain(tmp_path, 16)
    assert isinstance(mapped.images.base, np.memmap) and not isinstance(held.images.base, np.memmap)
    assert mapped.fingerprint == held.fingerprint
    assert (mapped.names, len(mapped.skipped)) == (held.names, 1)
    np.testing.assert_array_equal(mapped.images[[4, 10]], held.images[[4, 10]])
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"these images need 0\.0 GB, which are not free; set TMPDIR"):
        load_domain(tmp_path, 16)


def test_a_large_set_is_shrunk_in_pieces_as_each_of_its_images():
    images = np.random.default_rng(0).integers(0, 256, (1030, 1, 8, 8), np.uint8)
    shrunk = shrink(images, 0.75)
    for i in (0, 1023, 1024, 1029):
        np.testing.assert_array_equal(shrunk[i : i + 1], shrink(images[i : i + 1], 0.75))
