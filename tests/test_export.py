"""A mapping as one file: what it computes, for whom it cannot be made, and that it needs neither torch nor namap."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from foreigners import save_program, save_script, spatial_module
from namap import export
from namap.data import ImageDomain
from namap.errors import StorageError, UsageError
from namap.export import BATCHES, export_mapping
from namap.generators import DCGAN, FaceSimulator, freeze, load_generator, wrap_generator
from namap.mapping import AENAM, NAM, VAENAM, Mapping
from namap.tensors import from_numpy
from test_cli import call

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"images": 256, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32"}


@pytest.fixture(scope="module")
def colours() -> ImageDomain:
    """Rectangles of many colours."""
    rng = np.random.default_rng(0)
    images = np.zeros((64, 3, 32, 32), np.uint8)
    for image in images:
        top, left = rng.integers(0, 16, 2)
        image[:, top : top + 14, left : left + 10] = rng.integers(60, 256, (3, 1, 1))
    return ImageDomain.from_array(images)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, colours) -> Path:
    """A VAE-NAM of coloured queries, shrunk, to grey images."""
    torch.manual_seed(0)
    dcgan = DCGAN(latent_dim=6, width=8)
    with torch.no_grad():
        for p in dcgan.parameters():
            p.mul_(8)
        for _ in range(10):
            dcgan(torch.randn(64, 6))
    path = tmp_path_factory.mktemp("map")
    mapping = VAENAM(freeze(dcgan), seed=0, query_scale=0.8, **SMALL)
    mapping.fit(colours, quiet=True).save_pretrained(path)
    return path


def test_the_example_translates_without_torch(saved, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "queries"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in {"a.png": (40, 52, 3), "b.jpg": (70, 33, 3), "c.png": (32, 32), "d.png": (45, 45, 4)}.items():
        picture = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        picture.resize((picture.width * 3, picture.height * 3)).save(folder / name)
    file = tmp_path / "map.onnx"
    code, out, err = call(monkeypatch, capsys, "export", saved, "--format", "onnx", "-o", file, "--verify", "--json")
    assert code == 0, err
    about = json.loads(out)
    assert about["difference"] <= 1e-4
    assert (about["size"], about["channels"], about["part"]) == (32, 3, "analogy")
    assert b"/src/" not in file.read_bytes(), "directories of this machine are in the file"
    alone = (
        "import runpy, sys; sys.modules.update(torch=None, torchvision=None, namap=None); "
        f"sys.argv[1:] = {[str(file), str(folder), str(tmp_path / 'onnx')]!r}; "
        f"runpy.run_path({str(ROOT / 'examples' / 'onnx_translate.py')!r}, run_name='__main__')"
    )
    subprocess.run([sys.executable, "-c", alone], check=True)
    options = ("--outdir", tmp_path / "namap", "--precision", "fp32")
    assert call(monkeypatch, capsys, "translate", saved, folder, *options)[0] == 0
    ours, theirs = (
        np.stack([np.asarray(Image.open(tmp_path / who / f"{n}.png"), int) for n in "abcd"])
        for who in ("namap", "onnx")
    )
    assert ours.std() > 10
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_both_parts_give_what_the_mapping_gives_for_any_batch(saved, colours, tmp_path, kind):
    mapping = Mapping.from_pretrained(saved, precision="fp32")
    y = torch.rand(7, 3, 32, 32) * 2 - 1
    x = torch.rand(7, 1, 32, 32) * 2 - 1
    assert 7 not in BATCHES
    with torch.no_grad():
        levels = ((y + 1) * 127.5).round().byte().numpy()
        y = from_numpy(levels)
        mu = mapping.codes.distribution(from_numpy(mapping.prepare_queries(ImageDomain.from_array(levels)).images))[0]
        expected = {"analogy": (y, mapping.generator(mu)), "mapper": (x, mapping.map_forward(x))}
    if kind == "onnx":
        del expected["analogy"]  # is what the example runs
    for part, (images, answer) in expected.items():
        file = tmp_path / f"{part}.{kind}"
        assert export_mapping(mapping, file, part)["difference"] <= 1e-4
        if kind == "onnx":
            found = torch.from_numpy(onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})[0])
        else:
            found = torch.export.load(file).module()(images)
        # Shrinking may round a pixel of a query to the grey level beside it, which moves an answer by less than one.
        torch.testing.assert_close(found, answer, atol=1e-4 if part == "mapper" else 4e-3, rtol=0)


def test_nam_has_no_encoder_and_its_mapper_is_exported(colours, monkeypatch, capsys, tmp_path, generator):
    NAM(generator, **SMALL).fit(colours, quiet=True).save_pretrained(tmp_path / "nam")
    code, _, err = call(monkeypatch, capsys, "export", tmp_path / "nam", "-o", tmp_path / "a.pt2", "--part", "analogy")
    assert (code, "namap distil" in err, len(err.splitlines())) == (2, True, 1)
    code, out, err = call(monkeypatch, capsys, "export", tmp_path / "nam", "-o", tmp_path / "t.pt2")
    assert code == 0, err
    assert out.startswith("mapper in ") and "differs from PyTorch by at most" in out
    assert "NAM has no encoder, so this is T" in err


class Rings(nn.Module):
    """Calls hypot, as the simulator does, which ONNX does not know."""

    def __init__(self):
        super().__init__()
        self.net = spatial_module()

    def forward(self, z):
        x = self.net(z)
        return torch.hypot(x, x.flip(3)) / 1.5 - 0.5


def test_a_simulator_and_a_torch_export_program_are_exported_and_torchscript_is_refused(colours, tmp_path):
    ready = {"encoder_width": 8, "precision": "fp32"}
    program = load_generator(save_program(spatial_module(), tmp_path / "g.pt2"))
    script = load_generator(save_script(spatial_module(), tmp_path / "g.pt"))
    rings = wrap_generator(Rings(), latent_dim=10, spatial=True)
    for generator, kind in ((FaceSimulator(16), "pt2"), (rings, "onnx"), (program, "pt2"), (script, "pt2")):
        mapping = AENAM(generator, **ready)
        mapping.build(3, 0)
        mapping.eval()
        file = tmp_path / f"out.{kind}"
        if generator is script:
            with pytest.raises(UsageError, match=r"TorchScript.*--part mapper"):
                export_mapping(mapping, file)
        else:
            assert export_mapping(mapping, file)["difference"] <= 1e-4


class Odd(nn.Module):
    """Looks at its values in Python: no graph."""

    def __init__(self):
        super().__init__()
        self.net = spatial_module()

    def forward(self, z):
        return self.net(z) if float(z.detach().sum()) > 1e9 else self.net(z) * 0.9


def test_an_export_leaves_a_mapping_in_the_precision_of_its_fit(saved, tmp_path):
    mapping = Mapping.from_pretrained(saved, precision="auto")
    mapping.precision = {"fp32": "bf16", "bf16": "fp32"}[mapping.precision]  # of a fit that began on another machine
    before = mapping.precision
    export_mapping(mapping, tmp_path / "t.pt2", "mapper")
    assert mapping.precision == before


def test_what_cannot_be_exported_is_said_in_one_line(saved, monkeypatch, tmp_path):
    odd = AENAM(wrap_generator(Odd(), latent_dim=10, spatial=True), encoder_width=8)
    odd.build(3, 0)
    odd.eval()
    with pytest.raises(UsageError, match=r"^export: the network cannot be exported \(.*\)$"):
        export_mapping(odd, tmp_path / "x.pt2")
    mapping = Mapping.from_pretrained(saved, precision="fp32")
    for name, part, words in (("x.bin", "analogy", "--format"), ("x.onnx", "encoder", "no part")):
        with pytest.raises(UsageError, match=words):
            export_mapping(mapping, tmp_path / name, part)
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(StorageError, match="nothing was written"):
        export_mapping(mapping, tmp_path / "x.pt2", "mapper")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'namap\[onnx\]'"):
        export_mapping(mapping, tmp_path / "x.onnx", "mapper")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("x.")]
