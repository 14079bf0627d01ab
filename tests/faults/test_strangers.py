"""Files from strangers: damaged, hostile, oversized. Every one is refused by one of our errors, or is harmless."""

import io
import json
import pickle
import random
import resource
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, PngImagePlugin

from namap import checkpoint
from namap.data import UnreadableImage, load_domain, read_image
from namap.errors import DataError, NamapError, StorageError
from namap.mapping import Mapping

MANY = pytest.param(10_000, marks=pytest.mark.long)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    outdir = tmp_path_factory.mktemp("model")
    tiny.fit("vae", outdir)
    return outdir / "final"


def reseal(folder: Path) -> None:
    """Make the manifest fit again, as an attacker would."""
    files = [p for p in folder.iterdir() if p.name != checkpoint.MANIFEST and p.is_file()]
    checkpoint.write_json(folder / checkpoint.MANIFEST, {"sha256": {p.name: checkpoint.file_sha256(p) for p in files}})


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_200_damages_of_a_file_are_all_found(model, tmp_path, name):
    whole = (model / name).read_bytes()
    folder = shutil.copytree(model, tmp_path / "m")
    rng, tensors = random.Random(name), checkpoint.load_directory(model)[0]
    for case in range(200):
        content = bytearray(whole)
        position = rng.randrange(len(content))
        if case % 2:
            content[position] ^= 1 << rng.randrange(8)
        else:
            content = content[:position]
        (folder / name).write_bytes(content)
        try:
            found, _ = checkpoint.load_directory(folder)
        except StorageError as error:
            assert str(folder) in str(error)
            continue
        assert name == "manifest.json", "only its white space may change without notice"
        assert all(torch.equal(found[k], tensors[k]) for k in tensors)


@pytest.mark.parametrize("count", [150, MANY])
def test_mutated_configurations_with_a_fitting_manifest(model, tmp_path, count):
    folder = shutil.copytree(model, tmp_path / "m")
    config, rng = checkpoint.read_json(model / "config.json"), random.Random(0)
    odd = [None, True, -1, 0, 1, 10**12, 10**30, 1e308, float("nan"), "", "x" * 1000, [], {}, [[]], "../../etc/passwd"]
    for _ in range(count):
        mutant = json.loads(json.dumps(config))
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.choice([mutant, mutant.get("recipe"), mutant.get("generator")])
            place = place if isinstance(place, dict) else mutant
            key = rng.choice([*place, "unknown"])
            if rng.random() < 0.2:
                place.pop(key, None)
            else:
                place[key] = rng.choice(odd)
        (folder / "config.json").write_text(json.dumps(mutant))
        reseal(folder)
        try:
            Mapping.from_pretrained(folder, precision="fp32")
        except NamapError as error:
            assert "\n" not in str(error)


def test_a_header_of_a_terabyte(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "m")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    reseal(folder)
    with pytest.raises(StorageError, match="safetensors"):
        Mapping.from_pretrained(folder)


def test_nested_json_does_not_end_the_process(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "m")
    (folder / "config.json").write_text('{"a":' + "[" * 100_000)
    reseal(folder)
    with pytest.raises(StorageError, match="not readable JSON"):
        Mapping.from_pretrained(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/../../outside"])
def test_a_manifest_that_points_out_of_the_directory(model, tmp_path, name):
    folder = shutil.copytree(model, tmp_path / "m")
    (tmp_path / "outside").write_text("secret")
    manifest = checkpoint.read_json(folder / "manifest.json")
    manifest["sha256"][name] = checkpoint.file_sha256(tmp_path / "outside")
    checkpoint.write_json(folder / "manifest.json", manifest)
    with pytest.raises(StorageError, match="plain file"):
        checkpoint.load_directory(folder)


class Boom:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was executed')",))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_a_pickle_in_the_place_of_a_file(model, tmp_path, name):
    folder = shutil.copytree(model, tmp_path / "m")
    (folder / name).write_bytes(pickle.dumps(Boom()))
    if name != "manifest.json":
        reseal(folder)
    with pytest.raises(StorageError):
        Mapping.from_pretrained(folder)


def encoded(picture: Image.Image, fmt: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, fmt, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * (min(width, 64) + 1) * min(height, 64)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 50_000_000, zip=True)
    return {
        "400 megapixels": png(20_000, 20_000),
        "a text of 200 MB": png(32, 32, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 200_000_000))),
        "a compressed TIFF": encoded(Image.new("L", (12_000, 12_000)), "TIFF", compression="tiff_adobe_deflate"),
    }


@pytest.mark.parametrize("name", ["400 megapixels", "a text of 200 MB", "a compressed TIFF"])
def test_bombs_are_refused_before_they_unpack(forks, name):
    content = bombs()[name]
    process = forks.Process(target=read_a_bomb, args=(content,))
    process.start()
    process.join()
    assert process.exitcode == 0


def read_a_bomb(content: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImage):
        read_image(io.BytesIO(content), 3, 32)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"memory grew by {grown / 1e3:.0f} MB"


def test_one_file_in_twenty_is_corrupt(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(160):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{i:03d}.png")
    whole = (tmp_path / "000.png").read_bytes()
    frames = [Image.new("L", (32, 32), c) for c in (0, 255)]
    corrupt = {
        "empty.png": b"",
        "truncated.jpg": encoded(Image.open(tmp_path / "001.png"), "JPEG")[:-200],
        "text.png": b"this is not a picture",
        "animated.png": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "point.png": encoded(Image.new("L", (1, 1)), "PNG"),
        "wide.png": encoded(Image.new("L", (20_000, 100)), "PNG"),
        "huge.png": png(20_000, 10_000),
    }
    for name, content in corrupt.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "suffix.jpg").write_bytes(whole)  # a PNG by another name is still a picture
    domain = load_domain(tmp_path)
    assert {Path(p).name for p, _ in domain.skipped} == corrupt.keys()
    assert len(domain) == 161
    for i in range(14):
        (tmp_path / f"{i:03d}.png").write_bytes(b"")
    with pytest.raises(DataError, match="21 of 168"):
        load_domain(tmp_path)


@pytest.mark.parametrize("count", [400, MANY])
def test_mutated_pictures_never_raise_anything_else(count):
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))).convert("RGB")
    seeds = [encoded(ramp, fmt) for fmt in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")]
    seeds += [encoded(ramp.convert(mode), "PNG") for mode in ("P", "LA", "1")] + [encoded(ramp.convert("CMYK"), "TIFF")]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    seeds += [encoded(ramp, fmt, exif=exif) for fmt in ("JPEG", "WEBP")]
    rng = random.Random(0)
    for _ in range(count):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            start = rng.randrange(len(content))
            content[start : start + rng.randrange(3)] = rng.randbytes(rng.randrange(5))
        try:
            image = read_image(io.BytesIO(bytes(content)), 3, 32)
        except UnreadableImage as error:
            assert "\n" not in str(error)
            continue
        assert image.shape == (3, 32, 32)
