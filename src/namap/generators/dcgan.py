"""DCGAN, optionally with spectral normalisation (NAM §3.6): the default generator."""

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.io import write_png
from torchvision.utils import make_grid

from .. import checkpoint
from ..data import ImageDomain
from ..errors import UsageError
from ..networks import ConvEncoder, init_dcgan
from ..runs import occupied
from ..tensors import Codes, Images, pick_device, place, random_stream, to_uint8
from ..training import Batch, Run, Update, follow, identity, late_decay, train
from .base import Generator, freeze, prior, sample


class DCGAN(Generator):
    """The DCGAN generator: a linear layer to 4x4, then transposed 4x4 convolutions that double the side.

    Args:
        latent_dim: d, size of a code.
        image_size: side of the images: 32, 64, …: a power of two.
        channels: 1 or 3.
        width: channels before the last convolution; twice as many at each smaller scale.
    """

    def __init__(self, latent_dim: int, image_size: int = 32, channels: int = 1, width: int = 64):
        super().__init__()
        scales = math.log2(image_size / 4)
        if scales < 1 or scales != int(scales):
            raise UsageError(f"image size {image_size}: a DCGAN needs 8, 16, 32, 64, 128 …")
        self.latent_dim, self.image_size, self.channels = latent_dim, image_size, channels
        self.config = {
            "kind": "dcgan",
            "latent_dim": latent_dim,
            "image_size": image_size,
            "channels": channels,
            "width": width,
        }
        widths = [width * 2**i for i in reversed(range(int(scales)))]
        self.stem = nn.Linear(latent_dim, widths[0] * 16, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        for i, (inputs, outputs) in enumerate(zip(widths, [*widths[1:], channels], strict=True)):
            last = i == len(widths) - 1
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=last)]
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.apply(init_dcgan)

    def forward(self, z: Codes) -> Images:
        """Map codes to images in [-1, 1]."""
        return self.layers(self.stem(z).view(len(z), -1, 4, 4))


@dataclass(frozen=True)
class DCGANRecipe:
    """How a DCGAN is trained.

    Attributes:
        latent_dim: d.
        images: training images to see in all.
        seed: of weights, order and noise.
        width: channels of the widest scale, generator and discriminator.
        spectral: spectral normalisation of the discriminator in place of batch normalisation (NAM §3.6).
        augment: differentiable augmentation of everything that the discriminator sees.
        noise: standard deviation of Gaussian noise on everything that the discriminator sees (instance noise,
            Sønderby et al. 2017): on a few thousand images it would otherwise learn them by heart, and the
            generator lose its balance between kinds of images.
        batch_size: images of one step.
        rate: Adam's learning rate, betas (0.5, 0.999), decayed over the second half.
    """

    latent_dim: int = 64
    images: int = 400_000
    seed: int = 0
    width: int = 48
    spectral: bool = False
    augment: bool = False
    noise: float = 0.25
    batch_size: int = 64
    rate: float = 4e-4


def train_dcgan(
    domain: ImageDomain,
    recipe: DCGANRecipe,
    outdir: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> DCGAN:
    """Train a DCGAN on images of X; with an `outdir`, save it in `outdir/final`, with a sheet of samples.

    The same call goes on after an interruption, and loads what is finished.

    Raises:
        UsageError: `outdir` holds another run, or the images' side is not 8, 16, 32, 64, …
        DivergedError: training met NaN and did not recover.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        task = DCGANTask(DCGAN(recipe.latent_dim, domain.size, domain.channels, recipe.width), recipe)
    task.to(pick_device(device))
    run = Run(
        recipe.images,
        recipe.batch_size,
        recipe.seed,
        device,
        precision,
        quiet=quiet,
        label="training the generator",
    )
    with occupied(outdir, identity(task, domain, run)) as finished:
        if finished and outdir is not None:
            tensors, _ = checkpoint.load_directory(outdir / "final")
            checkpoint.load_weights(task.average, tensors, outdir / "final")
            return freeze(task.average)
        if outdir is not None:
            domain.write_skipped(outdir)
        train(task, domain, run, outdir)
        generator = freeze(task.average)
        if outdir is not None:
            save_generator(generator, recipe.seed, outdir)
    return generator


def save_generator(generator: DCGAN, seed: int, outdir: Path) -> None:
    """Write `samples.png`, a sheet of a hundred samples, and `final/`."""
    device = next(generator.parameters()).device
    images = to_uint8(sample(generator, 100, random_stream(seed, device=device)))
    write_png(make_grid(images, nrow=10, padding=1), str(outdir / "samples.png"))
    config = {"format": "namap-generator", "version": 1, "generator": generator.config}
    checkpoint.save_directory(outdir / "final", generator.state_dict(), config)


class DCGANTask:
    """Adversarial training of a DCGAN with the non-saturating loss; the average of the weights is the result.

    Args:
        generator: trained in place.
        recipe: its numbers.
    """

    def __init__(self, generator: DCGAN, recipe: DCGANRecipe):
        self.generator = generator
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self.discriminator = ConvEncoder(generator.channels, generator.image_size, 1, recipe.width, recipe.spectral)
        if not recipe.spectral:
            self.discriminator.apply(init_dcgan)
        self.augment, self.noise = recipe.augment, recipe.noise
        self.modules: dict[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(self.modules[name].parameters(), recipe.rate, (0.5, 0.999), fused=True)
            for name in ("discriminator", "generator")
        }
        self.config: dict[str, Any] = {"generator": generator.config, **asdict(recipe)}
        self.learning_rate = late_decay

    def to(self, device: torch.device) -> None:
        """Move the networks, channels last."""
        for module in self.modules.values():
            place(module, device)

    def updates(self, batch: Batch) -> Iterator[Update]:
        """One discriminator and one generator step, on the same fakes."""
        x = batch.images
        fake = self.generator(prior(len(x), self.generator.latent_dim, batch.rng))
        self.discriminator.requires_grad_(True)
        real_logit, fake_logit = (self.judge(images, batch.rng) for images in (x, fake.detach()))
        loss = discriminator_loss(real_logit, fake_logit)
        yield Update(("discriminator",), loss, {"discriminator": loss})
        self.discriminator.requires_grad_(False)
        loss = generator_loss(self.judge(fake, batch.rng))
        diversity = fake.detach().float().std(0).mean() / x.std(0).mean().clamp(min=1e-6)
        yield Update(("generator",), loss, {"generator": loss, "diversity": diversity})

    def concern(self, row: dict[str, float]) -> str:
        """Mode collapse, in a logged row."""
        if row["diversity"] < 0.1:
            return f"mode collapse: the samples differ {row['diversity']:.2f} times as much as the data; lower the rate"
        return ""

    def judge(self, images: Images, rng: torch.Generator) -> Tensor:
        """The discriminator's logit `[b]`."""
        if self.augment:
            images = differentiable_augment(images, rng)
        noise = torch.randn(images.shape, generator=rng, device=images.device)
        return self.discriminator(images + self.noise * noise)[:, 0]

    def after_step(self, step: int) -> None:
        """Move the average."""
        follow(self.average, self.generator, step)


def discriminator_loss(real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), `[b]`."""
    return F.softplus(-real_logit) + F.softplus(fake_logit)


def generator_loss(fake_logit: Tensor) -> Tensor:
    """-log D(G(z)): the non-saturating form, `[b]`."""
    return F.softplus(-fake_logit)


def differentiable_augment(images: Images, rng: torch.Generator) -> Images:
    """Random brightness, shift by up to an eighth and a half-size cut-out per image (DiffAugment), differentiable."""
    b, _, h, w = images.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, device=rng.device)

    images = images + (uniform(b, 1, 1, 1) - 0.5)
    # Whole pixels: an interpolated shift would blur what the discriminator sees, and so the generator.
    shift = ((uniform(b, 2) - 0.5) * (w / 4)).round() * (2 / w)
    theta = torch.eye(2, 3, device=images.device).repeat(b, 1, 1)
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    top, left = uniform(b, 1) * h, uniform(b, 1) * w
    inside = ((rows - top).abs() < h / 4)[:, :, None] & ((columns - left).abs() < w / 4)[:, None, :]
    return images * ~inside[:, None]
