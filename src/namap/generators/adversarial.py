"""What the adversarial families share: the two losses, and what the discriminator is shown."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import share_of_copies
from ..processes import normal, uniform
from ..tensors import Images
from ..training import Batch, Update
from .base import Generator
from .training import GeneratorRecipe

MIN_DIVERSITY = 0.1  # of that of the data
MAX_COPIES = 0.5  # share of the samples that are nearly the same image
NEAR = 0.1  # two images are: they differ by less than this share of the diversity of the data


@dataclass(frozen=True, kw_only=True)
class AdversarialRecipe(GeneratorRecipe):
    """A generator and a discriminator with the non-saturating loss.

    Attributes:
        augment: differentiable augmentation of everything that the discriminator sees.
        noise: standard deviation of Gaussian noise on everything that the discriminator sees (instance noise,
            Sønderby et al. 2017): on a few thousand images it would otherwise learn them by heart, and the
            generator lose its balance between kinds of images.
    """

    augment: bool = False
    noise: float = Field(default=0.25, ge=0)

    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)

    def views(self, nets: Mapping[str, nn.Module], x: Images, progress: float) -> list[Tensor]:
        """What the discriminator is shown of training images: one picture, or one for each output of the generator."""
        return [x]

    def imagine(self, generator: Any, z: Tensor) -> list[Tensor]:
        """The generator's counterpart of `views`."""
        return [generator(z)]

    def judge(self, discriminator: Any, views: list[Tensor], rng: torch.Generator) -> Tensor:
        """Logits `[b n]`."""
        return discriminator(*(disturb(x, self.augment, self.noise, rng) for x in views))

    def losses(self, nets: Mapping[str, nn.Module], batch: Batch) -> Iterator[Update]:
        """One discriminator and one generator step, on the same fakes."""
        generator, discriminator = nets["generator"], nets["discriminator"]
        assert isinstance(generator, Generator)
        real = self.views(nets, batch.images, batch.progress)
        fake = self.imagine(generator, normal((len(batch.images), generator.latent_dim), batch.rng))
        discriminator.requires_grad_(True)
        real_logit = self.judge(discriminator, real, batch.rng)
        fake_logit = self.judge(discriminator, [x.detach() for x in fake], batch.rng)
        loss = discriminator_loss(real_logit, fake_logit)
        yield Update(("discriminator",), loss, {"discriminator": loss})
        discriminator.requires_grad_(False)
        loss = generator_loss(self.judge(discriminator, fake, batch.rng))
        spread = [views[-1].detach().float().std(0).mean() for views in (fake, real)]
        diversity, copies = spread[0] / spread[1].clamp(min=1e-6), share_of_copies(fake[-1], NEAR * spread[1])
        yield Update(("generator",), loss, {"generator": loss, "diversity": diversity, "copies": copies})

    def concern(self, row: dict[str, float]) -> str:
        """Mode collapse, in a logged row."""
        if row["copies"] > MAX_COPIES:
            return f"mode collapse: {row['copies']:.0%} of the samples are copies of one image; lower the rate"
        if row["diversity"] < MIN_DIVERSITY:
            return f"mode collapse: the samples differ {row['diversity']:.2f} times as much as the data; lower the rate"
        return ""


def discriminator_loss(real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), `[b]`, summed over a discriminator's outputs."""
    return (F.softplus(-real_logit) + F.softplus(fake_logit)).sum(1)


def generator_loss(fake_logit: Tensor) -> Tensor:
    """-log D(G(z)): the non-saturating form, `[b]`."""
    return F.softplus(-fake_logit).sum(1)


def disturb(images: Images, augment: bool, noise: float, rng: torch.Generator) -> Images:
    """What the discriminator sees of images: augmented, then noisy."""
    if augment:
        images = differentiable_augment(images, rng)
    return images + noise * normal(images.shape, rng)


def differentiable_augment(images: Images, rng: torch.Generator) -> Images:
    """Random brightness, shift by up to an eighth and a half-size cut-out per image (DiffAugment), differentiable."""
    b, _, h, w = images.shape
    images = images + (uniform((b, 1, 1, 1), rng) - 0.5)
    # Whole pixels: an interpolated shift would blur what the discriminator sees, and so the generator.
    shift = ((uniform((b, 2), rng) - 0.5) * (w / 4)).round() * (2 / w)
    theta = torch.eye(2, 3, device=images.device).repeat(b, 1, 1)
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    top, left = uniform((b, 1), rng) * h, uniform((b, 1), rng) * w
    inside = ((rows - top).abs() < h / 4)[:, :, None] & ((columns - left).abs() < w / 4)[:, None, :]
    return images * ~inside[:, None]
