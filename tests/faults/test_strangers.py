"""Files from strangers: damaged, hostile, oversized. Every one is refused by one of our errors, or is harmless."""

import contextlib
import io
import json
import pickle
import random
import resource
import shutil
import struct
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from namap import checkpoint
from namap.console import read_settings
from namap.data import UnreadableImage, load_domain, read_image
from namap.errors import DataError, NamapError, StorageError, UsageError
from namap.mapping import Mapping
from namap.recipes import Recipe, make_recipe
from test_cli import call

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


@pytest.mark.parametrize(("key", "value"), [("seed", 10**30), ("seed", 2**63), ("seed", -1), ("filters", 10**12)])
def test_settings_that_no_network_can_be_built_with(model, tmp_path, key, value):
    """The first of them was found among ten thousand mutations."""
    folder = shutil.copytree(model, tmp_path / "m")
    config = checkpoint.read_json(folder / "config.json")
    config["recipe"][key] = value
    checkpoint.write_json(folder / "config.json", config)
    reseal(folder)
    with pytest.raises(StorageError, match=key):
        Mapping.from_pretrained(folder, precision="fp32")


@pytest.mark.parametrize("text", ["~: 1", "3: 4", "[1]: 2", "- seed", "&a [*a]", "[" * 9999, "seed: 1\n\t- x", "\0"])
def test_a_file_of_settings_that_holds_none(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"not readable YAML|expected `key: value` lines"):
        read_settings(tmp_path / "c.yaml", [])


def test_settings_that_refer_to_themselves_a_billion_times(tmp_path):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "c.yaml").write_text("\n".join([*rows, "seed: *a9"]))
    settings = read_settings(tmp_path / "c.yaml", [])
    with pytest.raises(UsageError, match="setting seed") as error:
        make_recipe({"seed": settings["seed"]})
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("count", [200, MANY])
def test_mutated_model_directories(model, tmp_path, count):
    """Bytes of any file changed, cut or added, every second time with a manifest that was made to fit."""
    folder, rng = shutil.copytree(model, tmp_path / "m"), random.Random(0)
    whole = {path.name: path.read_bytes() for path in model.iterdir()}
    for case in range(count):
        for name, content in whole.items():
            (folder / name).write_bytes(content)
        name = rng.choice(sorted(whole))
        content = bytearray(whole[name])
        # The header of safetensors is where a change can do harm; the rest of the file is numbers.
        end = len(content) if rng.random() < 0.3 else min(len(content), 3000)
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(end)
            content[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
        (folder / name).write_bytes(content)
        if case % 2 and name != checkpoint.MANIFEST:
            reseal(folder)
        try:
            Mapping.from_pretrained(folder, precision="fp32")
        except NamapError as error:
            assert "\n" not in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = sorted(asdict(Recipe()))
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.parametrize("count", [100, MANY])
def test_any_manifest_any_configuration_any_setting(model, tmp_path, count):
    folder = shutil.copytree(model, tmp_path / "m")
    config, sums = checkpoint.read_json(model / "config.json"), checkpoint.read_json(model / "manifest.json")

    @settings(max_examples=count, deadline=None, suppress_health_check=SLOW, database=None, derandomize=True)
    @given(st.sampled_from(["config", "recipe", "generator", "manifest", "sums", "setting", "yaml"]), st.data())
    def check(what, data):
        value, key = data.draw(JSON), data.draw(st.sampled_from(FIELDS) | st.text(max_size=8))
        try:
            if what == "setting":
                make_recipe({key: value})
            elif what == "yaml":
                text = data.draw(st.text(max_size=60) | st.just(json.dumps({key: value})))
                (tmp_path / "c.yaml").write_text(text)
                make_recipe(read_settings(tmp_path / "c.yaml", [f"{key}={value}"]))
            else:
                mutant = {"config": config | {key: value}, "recipe": config | {"recipe": value}}
                mutant["generator"] = config | {"generator": config["generator"] | {key: value}}
                checkpoint.write_json(folder / "config.json", mutant.get(what, config))
                reseal(folder)
                if what == "manifest":
                    (folder / "manifest.json").write_text(json.dumps(value))
                if what == "sums":
                    checkpoint.write_json(folder / "manifest.json", {"sha256": sums["sha256"] | {key: value}})
                Mapping.from_pretrained(folder, precision="fp32")
        except NamapError as error:
            assert "\n" not in str(error)

    check()


def test_a_header_of_a_terabyte(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "m")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    reseal(folder)
    with pytest.raises(StorageError, match="safetensors"):
        Mapping.from_pretrained(folder)


KINDS = ["F4", "F6_E2M3", "F8_E5M2", "F8_E4M3", "F8_E8M0", "C64", "BOOL", "U8", "I16", "U16", "BF16", "F64", "U64", "X"]
SHAPES = [([2**62, 4], 0), ([0, 2**62], 0), ([2**63, 0], 0), ([-1], 4), ([1.5], 4), ([1] * 5000, 4), ("1", 4), ([1], 9)]


@pytest.mark.parametrize(("dtype", "shape", "size"), [(k, [2], n) for k in KINDS for n in (1, 2, 4, 8, 16)]
                         + [("F32", *s) for s in SHAPES] + [("F32", [1], 4)])  # fmt: skip
def test_odd_types_and_shapes_of_tensors(model, tmp_path, dtype, shape, size):
    folder = shutil.copytree(model, tmp_path / "m")
    tensors = {"mapper.a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    tensors["mapper.b"] = {"dtype": "F32", "shape": [1], "data_offsets": [size // 2, size // 2 + 4]}  # overlaps
    for header in (tensors, {"mapper.a": tensors["mapper.a"]}, {"codes.table.weight": tensors["mapper.a"]}):
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
        reseal(folder)
        with pytest.raises(StorageError) as error:
            Mapping.from_pretrained(folder, precision="fp32")
        assert "\n" not in str(error.value)


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
        "a profile of 200 MB": png(32, 32, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 200_000_000))),
        "a strip of 400 MB": tiff(64, 64, zlib.compress(b"\0" * 400_000_000)),
    }


def tiff(width: int, height: int, strip: bytes) -> bytes:
    """A grey TIFF whose one deflated strip is not as large as its header says."""
    fields = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: height, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    place = 8 + len(strip) + len(strip) % 2
    directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", place) + strip + b"\0" * (len(strip) % 2) + directory


HARMLESS = ("a strip of 400 MB", "a profile of 200 MB")  # decoders that stop at what the header says may read these
BOMBS = ["400 megapixels", "a text of 200 MB", "a compressed TIFF", *HARMLESS]


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_unpack(forks, name):
    content = bombs()[name]
    assert len(content) < (1_000 if name == "400 megapixels" else 1_000_000)
    process = forks.Process(target=read_a_bomb, args=(content, name in HARMLESS))
    process.start()
    process.join()
    assert process.exitcode == 0


def read_a_bomb(content: bytes, harmless: bool) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(UnreadableImage) if harmless else pytest.raises(UnreadableImage):
        read_image(io.BytesIO(content), 3, 32)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"memory grew by {grown / 1e3:.0f} MB"


def test_one_file_in_twenty_is_corrupt(model, tmp_path, monkeypatch, capsys):
    folder, rng = tmp_path / "queries", np.random.default_rng(0)
    folder.mkdir()
    for i in range(160):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i:03d}.png")
    whole = (folder / "000.png").read_bytes()
    frames = [Image.new("L", (32, 32), c) for c in (0, 255)]
    corrupt = {
        "empty.png": b"",
        "truncated.jpg": encoded(Image.open(folder / "001.png"), "JPEG")[:-200],
        "text.png": b"this is not a picture",
        "animated.png": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "point.png": encoded(Image.new("L", (1, 1)), "PNG"),
        "wide.png": encoded(Image.new("L", (20_000, 100)), "PNG"),
        "huge.png": png(20_000, 10_000),
        "strip.bmp": encoded(Image.new("L", (20_000, 10)), "BMP"),
    }
    for name, content in corrupt.items():
        (folder / name).write_bytes(content)
    (folder / "suffix.jpg").write_bytes(whole)  # a PNG by another name is still a picture
    domain = load_domain(folder)
    assert {Path(p).name for p, _ in domain.skipped} == corrupt.keys()
    assert len(domain) == 161
    command = ("translate", model, folder, "--outdir", tmp_path / "out", "--quiet")
    code, out, err = call(monkeypatch, capsys, *command)
    assert (code, "161 queries, 161 files" in out, "8 skipped" in out) == (0, True, True), err
    assert {p.stem for p in (tmp_path / "out").glob("*.png")} == set(domain.names)
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {Path(row["path"]).name for row in listed} == corrupt.keys()
    assert all(row["reason"] for row in listed)
    for i in range(14):
        (folder / f"{i:03d}.png").write_bytes(b"")
    with pytest.raises(DataError, match="22 of 169"):
        load_domain(folder)
    code, _, err = call(monkeypatch, capsys, *command)
    assert (code, err.count("\n")) == (3, 1)


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
