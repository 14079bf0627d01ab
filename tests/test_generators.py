import numpy as np
import pytest
import torch
from torch import nn

from namap.data import ImageDomain, load_domain
from namap.errors import StorageError, UsageError
from namap.generators import DCGAN, build_generator, load_generator, sample, wrap_generator
from namap.generators.dcgan import DCGANRecipe, differentiable_augment, train_dcgan
from namap.tensors import random_stream


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
        (Returns(lambda z: (spread(z), z)), (-1, 1), "one tensor, found tuple"),
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
    recipe = DCGANRecipe(latent_dim=5, images=24, width=8, batch_size=8, spectral=spectral, augment=spectral)
    first = train_dcgan(domain, recipe, tmp_path / "a", quiet=True)
    second = train_dcgan(domain, recipe, None, quiet=True)
    for ours, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    loaded = load_generator(tmp_path / "a")
    assert torch.equal(sample(loaded, 3, random_stream(1)), sample(first, 3, random_stream(1)))
    assert (tmp_path / "a" / "samples.png").exists()
    assert not (tmp_path / "a" / "checkpoints").exists()
    assert train_dcgan(domain, recipe, tmp_path / "a", quiet=True).training is False


def test_samples_move_towards_the_data():
    domain = load_domain("embedded:typeset/train")
    real = domain.images[:500].astype(np.float32) / 127.5 - 1

    def distance(generator: DCGAN) -> float:
        x = sample(generator.eval(), 500, random_stream(0)).numpy()
        return float(np.abs(x.mean(0) - real.mean(0)).mean() + np.abs(x.std(0) - real.std(0)).mean())

    torch.manual_seed(0)
    before = distance(DCGAN(16, width=16))
    after = distance(train_dcgan(domain, DCGANRecipe(latent_dim=16, images=24_000, width=16), quiet=True))
    assert after < before / 2, (before, after)


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
