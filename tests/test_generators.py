import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import nn

from namap.data import ImageDomain, load_domain
from namap.errors import DataError, StorageError, UsageError
from namap.generators import (
    DCGAN,
    Generator,
    build_generator,
    families,
    find_family,
    freeze,
    load_generator,
    sample,
    sample_uint8,
    train_generator,
    wrap_generator,
)
from namap.generators.adversarial import differentiable_augment
from namap.generators.families import dcgan
from namap.generators.families.glo import GLO, laplacian_distance
from namap.generators.families.progressive import Progressive, ProgressiveDiscriminator
from namap.generators.families.stack import StackTree
from namap.generators.loading import _check_saved
from namap.runs import read_log
from namap.settings import make_settings
from namap.tensors import random_stream, to_uint8
from test_cli import call


class Foreign(nn.Module):
    def __init__(self, channels: int = 3, last: nn.Module | None = None):
        super().__init__()
        self.last = last or nn.Tanh()
        self.linear = nn.Linear(10, channels * 64)
        nn.init.normal_(self.linear.weight, 0, 0.7)
        self.channels = channels

    def forward(self, z):
        return self.last(self.linear(z)).view(len(z), self.channels, 8, 8)


def test_a_wrapped_generator_speaks_namaps_range():
    wrapped = wrap_generator(Foreign(last=nn.Sigmoid()), latent_dim=10, image_range=(0, 1))
    assert (wrapped.channels, wrapped.image_size, wrapped.latent_dim) == (3, 8, 10)
    x = wrapped(torch.randn(50, 10))
    assert x.min() < -0.5 < 0.5 < x.max()
    assert not any(p.requires_grad for p in wrapped.parameters())


def test_spatial_codes():
    module = nn.Sequential(nn.ConvTranspose2d(10, 1, 8), nn.BatchNorm2d(1, affine=False), nn.Hardtanh())
    module(torch.randn(64, 10, 1, 1))
    assert wrap_generator(module, latent_dim=10, spatial=True).image_size == 8


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.ones(()))

    def forward(self, z):
        return self.function(z * self.scale)


def spread(z, c=1, h=8, w=8):
    return torch.tanh(z.repeat(1, 100)[:, : c * h * w].reshape(len(z), c, h, w) * 2)


@pytest.mark.parametrize(
    ("module", "image_range", "problem"),
    [
        (Foreign().__class__(3), (-1, 1), None),
        (nn.Sequential(nn.Linear(7, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8))), (-1, 1), r"\[8, 10\] are refused"),
        (Returns(lambda z: (spread(z), z)), (-1, 1), "several images; pick one with stage="),
        (Returns(lambda z: spread(z, c=2)), (-1, 1), r"found \[8, 2, 8, 8\]"),
        (Returns(lambda z: spread(z, h=8, w=4)), (-1, 1), r"found \[8, 1, 8, 4\]"),
        (Returns(lambda z: spread(z).detach()), (-1, 1), "no gradient"),
        (Returns(lambda z: 127 * spread(z) + 128), (-1, 1), r"expected values in \[-1, 1\], found"),
        (Returns(lambda z: spread(z) / 2 + 0.5), (-1, 1), "none below 0"),
        (Returns(lambda z: spread(z)), (0, 255), "a tenth of the range"),
        (Returns(lambda z: spread(z) * float("nan")), (-1, 1), "NaN"),
        (Returns(lambda z: spread(z - z.mean(0))), (-1, 1), "changes with its batch"),
    ],
)
def test_what_does_not_fit_is_named(module, image_range, problem):
    if problem is None:
        wrap_generator(module, latent_dim=10, image_range=image_range)
        return
    with pytest.raises(UsageError, match=problem) as error:
        wrap_generator(module, latent_dim=10, image_range=image_range)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3)])
@pytest.mark.parametrize("spectral", [False, True])
def test_dcgan_trains_deterministically_and_loads_as_saved(tmp_path, size, channels, spectral):
    images = np.random.default_rng(0).integers(0, 256, (24, channels, size, size), np.uint8)
    domain = ImageDomain.from_array(images)
    recipe = dcgan.Recipe(latent_dim=5, images=24, width=8, batch_size=8, spectral_norm=spectral, augment=spectral)
    first = train_generator(domain, recipe, tmp_path / "a", quiet=True)
    second = train_generator(domain, recipe, None, quiet=True)
    for ours, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    loaded = load_generator(tmp_path / "a")
    assert torch.equal(sample(loaded, 3, random_stream(1)), sample(first, 3, random_stream(1)))
    assert (tmp_path / "a" / "samples.png").exists()
    assert not (tmp_path / "a" / "checkpoints").exists()
    assert train_generator(domain, recipe, tmp_path / "a", quiet=True).training is False


FAMILIES = ("dcgan", "vae", "glo", "progressive", "stack")


def settings(arch: str) -> dict:
    """Of a run of a few seconds."""
    small = {"latent_dim": 16, "images": 16_000, "width": 16}
    growing = {"images": 10_000, "rate": 3e-3, "width": 4}
    return small | {"progressive": growing, "stack": {"images": 8000, "stages": 2, "width": 6}}.get(arch, {})


def frechet_distance(a: np.ndarray, b: np.ndarray, features: PCA) -> float:
    """FID with the principal components of the data in place of Inception."""
    a, b = (features.transform(x.reshape(len(x), -1)) for x in (a, b))
    product = np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).real.clip(0)
    traces = np.trace(np.cov(a.T) + np.cov(b.T))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * np.sqrt(product).sum())


@pytest.mark.parametrize("arch", FAMILIES)
def test_samples_of_every_family_move_towards_real_digits(arch):
    domain = load_domain("embedded:handwriting/train", size=32)
    real = domain.images / 127.5 - 1
    features = PCA(20).fit(real.reshape(len(real), -1))
    recipe = make_settings(find_family(arch), settings(arch))
    torch.manual_seed(0)
    untrained = recipe.build(domain)["generator"].eval()
    assert isinstance(untrained, Generator)
    before, after = (
        frechet_distance(sample(g, 500, random_stream(0)).numpy(), real, features)
        for g in (untrained, train_generator(domain, recipe, quiet=True))
    )
    assert after < before / 2, (before, after)


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_is_deterministic_and_loads_as_saved(arch, tmp_path):
    domain = ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), np.uint8))
    tiny = {"latent_dim": 5, "images": 24, "width": 8, "batch_size": 8}
    first = train_generator(domain, outdir=tmp_path, arch=arch, quiet=True, **tiny)
    second = train_generator(domain, arch=arch, quiet=True, **tiny)
    loaded = load_generator(tmp_path)
    for ours, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(sample(loaded, 3, random_stream(1)), sample(first, 3, random_stream(1)))
    assert (tmp_path / "samples.png").exists()


def test_a_new_family_is_one_file(tmp_path, monkeypatch):
    guide = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    (tmp_path / "swae.py").write_text(guide.split("```python\n")[1].split("```")[0])
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    domain = load_domain("embedded:handwriting/train", size=32)
    trained = train_generator(
        domain, outdir=tmp_path / "g", arch="swae", latent_dim=16, width=8, images=6000, quiet=True
    )
    log = read_log(tmp_path / "g")
    assert log[-1]["loss"] < log[0]["loss"]
    assert torch.equal(load_generator(tmp_path / "g").stem.weight, trained.stem.weight)


def test_a_folder_is_read_at_the_side_that_is_asked_for(tmp_path):
    for i in range(8):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (80, 80), np.uint8)).save(tmp_path / f"{i}.png")
    short = {"images": 8, "batch_size": 8, "width": 4, "latent_dim": 4, "quiet": True}
    assert [train_generator(tmp_path, size=size, **short).image_size for size in (None, 64)] == [32, 64]


def test_a_setting_of_another_family_is_named():
    with pytest.raises(UsageError, match="unknown setting 'beta' of dcgan"):
        train_generator("nowhere", arch="dcgan", beta=1.0)
    with pytest.raises(UsageError, match="--arch dcgen: unknown; use dcgan, glo"):
        find_family("dcgen")


@pytest.mark.parametrize(("beta", "low", "high"), [(1e-2, 0, 20), (1e-5, 25, 500)])
def test_beta_sets_how_much_a_code_of_the_vae_says(tmp_path, beta, low, high):
    domain = load_domain("embedded:handwriting/train", size=32)
    train_generator(domain, arch="vae", outdir=tmp_path, beta=beta, quiet=True, **{**settings("vae"), "images": 10_000})
    assert low < read_log(tmp_path)[-1]["kl"] < high


def test_a_glo_of_one_image_is_refused_before_any_training():
    one = load_domain("embedded:handwriting/test").subset(slice(0, 1))
    with pytest.raises(DataError, match="two or more"):
        train_generator(one, arch="glo", quiet=True, **settings("glo"))


def test_glo_samples_from_the_gaussian_of_its_codes():
    domain = load_domain("embedded:handwriting/train", size=32)
    generator = train_generator(domain, arch="glo", quiet=True, **settings("glo"))
    assert isinstance(generator, GLO)
    codes = generator.mean + torch.randn(5000, 16) @ generator.factor.mT
    assert 0.3 < codes.norm(dim=1).mean() <= 1.2
    assert (generator.factor - torch.eye(16)).abs().max() > 0.1


def test_the_laplacian_distance_weighs_detail_and_coarse_shape():
    x = torch.rand(2, 1, 32, 32)
    assert laplacian_distance(x, x).max() == 0
    checks = torch.ones(32, 32)
    checks[::2, 1::2] = checks[1::2, ::2] = -1
    fine, coarse = x + 0.1 * checks, x + 0.1
    assert laplacian_distance(fine, x).min() > 0.09
    assert laplacian_distance(coarse, x).min() > 0.09


def test_progressive_growing_fades_every_octave_in():
    generator = Progressive(8, 32, 1, 8).eval()
    z = torch.randn(2, 8)
    sides = {}
    for level in (0.0, 0.5, 1.0, 1.001, 2.0, 3.0):
        generator.level = level
        sides[level] = generator(z)
    assert [x.shape[-1] for x in sides.values()] == [4, 8, 8, 16, 16, 32]
    enlarged = nn.functional.interpolate(sides[1.0], scale_factor=2.0)
    assert (sides[1.001] - enlarged).abs().max() < 0.01, "an octave begins as the one before, enlarged"
    discriminator = ProgressiveDiscriminator(32, 1, 8)
    logits = {}
    for level in (1.0, 1.001, 2.0):
        discriminator.level = level
        logits[level] = discriminator(sides[1.0] if level == 1.0 else enlarged)
    assert (logits[1.001] - logits[1.0]).abs().max() < 0.01
    assert (logits[2.0] - logits[1.0]).abs().max() > 0.01


def test_progressive_growing_reaches_1024_pixels():
    with torch.device("meta"):
        generator, discriminator = Progressive(512, 1024, 3, 16), ProgressiveDiscriminator(1024, 3, 16)
        images = generator(torch.randn(2, 512))
        assert images.shape == (2, 3, 1024, 1024)
        assert discriminator(images).shape == (2, 1)
    assert [head.weight.shape[1] for head in generator.heads] == [512, 512, 512, 512, 256, 128, 64, 32, 16]


def test_one_code_gives_every_size_of_a_tree_and_wrapping_picks_the_stage():
    tree = StackTree(16, 64, 3, 8, stages=3)
    with torch.no_grad():
        for p in tree.parameters():
            p.mul_(6)
        for _ in range(10):
            tree(torch.randn(64, 16))
    tree.eval()
    sides = [wrap_generator(tree, 16, stage=stage).image_size for stage in (0, 1, -1)]
    assert sides == [16, 32, 64]
    with pytest.raises(UsageError, match="several images"):
        wrap_generator(tree, 16)
    with pytest.raises(UsageError, match="stage 3"):
        wrap_generator(tree, 16, stage=3)


def test_augmentation_is_differentiable_and_keeps_the_shape():
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    out = differentiable_augment(x, random_stream(0))
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad is not None
    assert 0.3 < (x.grad != 0).float().mean() < 0.95


def test_odd_sizes_and_hostile_configurations_are_refused():
    with pytest.raises(UsageError, match="image size 48"):
        DCGAN(8, image_size=48)
    good = {"kind": "dcgan", "latent_dim": 8, "image_size": 32, "channels": 1, "width": 8}
    for change in ({"latent_dim": 2**40}, {"width": -1}, {"channels": "1"}, {"kind": "os.system"}, {"extra": 1}):
        with pytest.raises(StorageError):
            build_generator(good | change, "here")


def test_codes_of_a_foreign_generator_may_be_as_large_as_pictures():
    saved = {
        "kind": "foreign",
        "latent_dim": 3 * 256 * 256,
        "image_range": [-1.0, 1.0],
        "spatial": False,
        "stage": None,
    }
    assert _check_saved(saved, "here")["latent_dim"] == 196608
    with pytest.raises(StorageError, match="not one that namap writes"):
        _check_saved({**saved, "latent_dim": 2**40}, "here")


def test_options_that_would_be_ignored_are_refused():
    with pytest.raises(UsageError, match="a simulator knows its codes"):
        load_generator("simulator:face", latent_dim=5)
    with pytest.raises(UsageError, match="latent_dim beside a whole recipe"):
        train_generator("embedded:typeset/test", dcgan.Recipe(), latent_dim=5)


def test_samples_as_bytes_are_the_samples():
    g = freeze(DCGAN(4, 32, 1, 8))
    seen = sample_uint8(g, 300, random_stream(3))
    assert np.array_equal(seen, to_uint8(sample(g, 300, random_stream(3))).numpy())


def test_a_setting_decides_where_no_flag_does(monkeypatch, capsys):
    def resolved(*options: object) -> tuple[int, int]:
        command = ("train-generator", "--data", "embedded:typeset/test", "--outdir", "o", "--dry-run", *options)
        found = json.loads(call(monkeypatch, capsys, *command)[1])
        return found["latent_dim"], found["seed"]

    given = ("--set", "latent-dim=12", "--set", "seed=7")
    assert resolved() == (64, 0)
    assert resolved(*given) == (12, 7)
    assert resolved(*given, "--latent-dim", 5, "--seed", 0) == (5, 0)
