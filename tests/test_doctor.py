"""What is wrong with a machine, with data, with a generator, and how to mend it."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from foreigners import spatial_module
from namap import doctor
from namap.data import ImageDomain, load_domain
from namap.data.inspection import inspect_domain
from namap.errors import UsageError
from namap.generators import inspect_generator, wrap_generator
from namap.pictures import write_pngs
from test_cli import call


def findings(capsys, monkeypatch, *arguments) -> tuple[int, dict[str, dict]]:
    code, out, err = call(monkeypatch, capsys, "doctor", "--json", *arguments)
    assert not err
    return code, {f["name"]: f for f in json.loads(out)["findings"]}


def test_a_sound_machine_is_usable(monkeypatch, capsys):
    code, found = findings(capsys, monkeypatch)
    assert code == 0
    assert found["torch"]["found"] == torch.__version__.split("+")[0]
    assert {"python", "namap", "devices", "precision", "threads", "HF_HOME", "TORCH_HOME", "VGG-16"} <= found.keys()
    code, out, _ = call(monkeypatch, capsys, "doctor")
    assert (code, out.splitlines()[-1]) == (0, "namap can be used here")


def test_each_fault_has_its_remedy_and_its_code(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(doctor.NEEDED, "torch", (99, 1))
    code, found = findings(capsys, monkeypatch)
    assert (code, found["torch"]["remedy"]) == (2, "pip install --upgrade 'torch>=99.1'")
    monkeypatch.setitem(doctor.NEEDED, "torch", (2, 10))
    monkeypatch.setitem(doctor.EXTRAS, "onnx", ("no_such_module",))
    monkeypatch.setenv("NAMAP_VGG_WEIGHTS", str(tmp_path / "none.safetensors"))
    code, found = findings(capsys, monkeypatch)
    assert (code, found["VGG-16"]["code"]) == (2, 2)
    assert "pip install 'namap[onnx]'" in found["extra onnx"]["remedy"]
    monkeypatch.delenv("NAMAP_VGG_WEIGHTS")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file" / "home"))
    code, found = findings(capsys, monkeypatch)
    assert (code, "export HF_HOME=" in found["HF_HOME"]["remedy"]) == (5, True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    full = namedtuple("Usage", "free")(1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    code, found = findings(capsys, monkeypatch)
    assert (code, found["disk here"]["code"], "TMPDIR" in found["disk for scratch"]["remedy"]) == (5, 5, True)


def test_it_works_where_torch_does_not():
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['namap', 'doctor']; from namap.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2, done.stderr
    assert "cannot be imported" in done.stdout
    assert "--force-reinstall" in done.stdout
    assert "to be mended: torch" in done.stdout
    assert not done.stderr


# ---- data -------------------------------------------------------------------------------------------------------


def test_check_data_names_each_fault_and_its_remedy(monkeypatch, capsys, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(30):
        shape = (40, 90, 3) if i < 5 else (400, 380) if i < 8 else (20, 20, 3) if i < 12 else (48, 48, 3)
        pixels = np.full(shape, 128, np.uint8) if i == 29 else rng.integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    shutil.copy(tmp_path / "20.png", tmp_path / "copy1.png")
    shutil.copy(tmp_path / "20.png", tmp_path / "copy2.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, out, _ = call(monkeypatch, capsys, "check-data", tmp_path)
    assert code == 0
    said = [
        ("only 32 images", "--method nam"), ("1 of 33 files cannot be read", "re-save"), ("elongated", "pad them"),
        ("smaller than 32 pixels", "--size 16"), ("short sides from 20 to 380", "like scale"),
        ("1 images are blank", "delete"), ("are grey", "keep one kind"), ("copy1.png of 20.png", "keep one of each"),
    ]  # fmt: skip
    for what, remedy in said:
        line = next((i for i, text in enumerate(out.splitlines()) if what in text and text.startswith("! ")), None)
        assert line is not None, (what, out)
        assert remedy in out.splitlines()[line + 1]
    for i in range(5):
        (tmp_path / f"bad{i}.png").write_bytes(b"")
    code, out, err = call(monkeypatch, capsys, "check-data", tmp_path)
    assert (code, out.count("unreadable"), "re-save or delete them" in err) == (3, 6, True)


def test_good_data_and_small_content(handwriting):
    assert not inspect_domain(handwriting)
    images = np.zeros((300, 1, 32, 32), np.uint8)
    for image, (top, left) in zip(images, np.random.default_rng(0).integers(4, 26, (300, 2)), strict=True):
        image[:, top : top + 3, left : left + 2] = 255
    (what, remedy), *_ = inspect_domain(ImageDomain.from_array(images))
    assert "most of an image is background" in what
    assert "closer to their content" in remedy


def test_what_is_passed_over_in_a_folder_is_said(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 32, 32), np.uint8)
    for name in ("dark", "light"):
        (tmp_path / name).mkdir()
        write_pngs(tmp_path / name, [f"{i}.png" for i in range(len(images))], images)
    assert not any("labels" in what or "formats" in what for what, _ in inspect_domain(load_domain(tmp_path)))
    write_pngs(tmp_path, ["kinds.png"], images[:1])
    for name in ("dark/a.HEIC", "b.gif"):
        (tmp_path / name).write_bytes(b"another format")
    found = dict(inspect_domain(load_domain(tmp_path)))
    assert found["2 pictures of other formats (.gif, .heic) are not read"].startswith("convert them to one of .bmp")
    assert "1 of 61 pictures lie beside the sub-folders, which give no labels then" in found


def test_advice_takes_little_memory():
    images = np.tile(np.random.default_rng(0).integers(0, 256, (40, 3, 64, 64), np.uint8), (150, 1, 1, 1))
    domain = ImageDomain.from_array(images)
    tracemalloc.start()
    inspect_domain(domain)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * images.nbytes, f"{peak / images.nbytes:.1f} times the images"


# ---- generators -------------------------------------------------------------------------------------------------


class Changed(nn.Module):
    """A generator and what is done to its codes and its images."""

    def __init__(self, codes=lambda z: z, images=lambda x: x):
        super().__init__()
        self.inner, self.codes, self.images = spatial_module(), codes, images

    def forward(self, z):
        return self.images(self.inner(self.codes(z)))


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (Changed(images=lambda x: (x + 0.5 * torch.randn_like(x)).clamp(-1, 1)), "draws noise of its own; make that"),
        (Changed(codes=lambda z: 0 * z + 1), "every code gives the same image.*train it longer"),
        (Changed(images=lambda x: x.round() + 0 * x), "gradient of its images by the code is zero; look for"),
    ],
)
def test_what_a_generator_must_not_do(module, problem):
    with pytest.raises(UsageError, match=problem):
        wrap_generator(module, latent_dim=10, spatial=True)


def test_what_a_generator_had_better_not_do(monkeypatch, capsys):
    for module, what in (
        (Changed(codes=lambda z: 0.02 * z + 1), "collapsed"),
        (Changed(images=lambda x: (1e4 * x).tanh()), "almost no gradient"),
        (Changed(codes=lambda z: (300 * z).sin()), "hard to invert"),
    ):
        advice = inspect_generator(wrap_generator(module, latent_dim=10, spatial=True))
        assert any(what in a.what and a.remedy for a in advice), (what, advice)
    assert not inspect_generator(wrap_generator(spatial_module(), latent_dim=10, spatial=True))
    code, out, _ = call(monkeypatch, capsys, "check-generator", "simulator:face")
    assert (code, out.count("\n")) == (0, 1)


def test_what_is_wrong_with_a_picture_is_one_line(tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")  # Pillow warns of it, as of a torn EXIF
    Image.new("L", (32, 32)).save(tmp_path / "good.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02")
    done = subprocess.run(
        [sys.executable, "-m", "namap", "check-data", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["namap:"], done.stderr


def test_kinds_are_drawn_a_row_each_before_a_fit_votes_on_them(monkeypatch, capsys, tmp_path):
    sheet = tmp_path / "kinds.png"
    asked = ("check-data", "embedded:handwriting/test", "--kinds", 4, "--sheet", sheet)
    code, out, _ = call(monkeypatch, capsys, *asked, "--json")
    shares = json.loads(out)["kinds"]
    assert (code, len(shares), sum(shares)) == (0, 4, pytest.approx(1))
    assert shares == sorted(shares, reverse=True)
    with Image.open(sheet) as picture:
        assert picture.size == (16 * 33 - 1, 4 * 33 - 1)
    code, _, err = call(monkeypatch, capsys, *asked)
    assert (code, "is there already" in err) == (2, True)
    code, _, err = call(monkeypatch, capsys, *asked[:4])
    assert (code, "go together" in err) == (2, True)
    (tmp_path / "photos").mkdir()
    inside = tmp_path / "photos" / "kinds.png"
    code, _, err = call(monkeypatch, capsys, "check-data", tmp_path / "photos", "--kinds", 4, "--sheet", inside)
    assert (code, "--sheet" in err and "lies in the folder of the images" in err) == (2, True)
