"""DiscoGAN (Kim et al., ICML 2017): GAN, feature matching and reconstruction, with a curriculum between them."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from namap.data import ImageDomain
from namap.tensors import Images
from namap.training import Batch, Update

from .adversarial import Rival, critics

CURRICULUM = 10_000  # iterations with the first of the rates
CURRICULUM_SHARE = 0.2  # of a run that would otherwise end before it: our own addition
RATES = (0.01, 0.5)  # weight of what is not adversarial, before and after
# What is published for cars and faces by angle.
ANGLE_PAIRING: dict[str, Any] = {"rates": (0.9, 0.9), "bottleneck": 100, "match_from": 2}
HANDBAGS_TO_SHOES: dict[str, Any] = {"rates": (0.5, 0.5)}  # as published for these: `--starting_rate=0.5`


class Critic(nn.Module):
    """A DCGAN discriminator that also gives its inner feature maps, from level `match_from` on."""

    def __init__(self, channels: int, size: int, match_from: int, width: int = 64):
        super().__init__()
        self.match_from = match_from
        widths = [channels, *(width * 2**i for i in range(int(math.log2(size // 4))))]
        self.levels = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            norm = [nn.BatchNorm2d(outputs)] if i else []
            self.levels.append(nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), *norm))
        self.head = nn.Conv2d(widths[-1], 1, 4, bias=False)

    def forward(self, images: Images) -> tuple[Tensor, list[Tensor]]:
        """Logits `[b]` and feature maps."""
        features, h = [], (images + 1) / 2
        for level in self.levels:
            h = F.leaky_relu(level(h), 0.2)
            features.append(h)
        return self.head(h).flatten(), features[self.match_from :]


def translator(channels: int, size: int, bottleneck: int, width: int = 64) -> nn.Sequential:
    """Convolutions down to 4x4, to one vector of `bottleneck` numbers if there are any, and their mirror image."""
    widths = [width * 2**i for i in range(int(math.log2(size // 4)))]
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(zip([channels, *widths], widths, strict=False)):
        layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(outputs)] if i else []
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    if bottleneck:
        top = widths[-1]
        layers += [nn.Conv2d(top, bottleneck, 4, bias=False), nn.BatchNorm2d(bottleneck), nn.LeakyReLU(0.2, True)]
        layers += [nn.ConvTranspose2d(bottleneck, top, 4, bias=False), nn.BatchNorm2d(top), nn.ReLU(True)]
    for inputs, outputs in zip(widths[::-1], [*widths[-2::-1], channels], strict=True):
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False))
        layers += [nn.Sigmoid()] if outputs == channels else [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class DiscoGAN(Rival):
    """Batches of 64, Adam 2e-4 with weight decay 1e-5, critics every third iteration. Images in [0, 1] inside.

    Args:
        rates: weight of what is not adversarial, during the curriculum and after it.
        bottleneck: numbers between the halves of a translator; 0: its maps of 4x4.
        match_from: first of a critic's levels whose features are matched.
    """

    name = "discogan"
    batch_size = 64
    weight_decay = 1e-5

    def __init__(
        self,
        x: ImageDomain,
        y: ImageDomain,
        seed: int,
        rates: tuple[float, float] = RATES,
        bottleneck: int = 0,
        match_from: int = 1,
    ):
        self.rates, self.bottleneck, self.match_from = rates, bottleneck, match_from
        super().__init__(x, y, seed, rates=list(rates), bottleneck=bottleneck, match_from=match_from)

    def networks(self, channels: int, size: int) -> dict[str, nn.Module]:
        sides = ("x", "y")
        nets: dict[str, nn.Module] = {f"to_{s}": Unit(translator(channels, size, self.bottleneck)) for s in sides}
        return nets | {f"critic_{s}": Critic(channels, size, self.match_from) for s in sides}

    def agreement(self, x: Images, y: Images, x_hat: Images, y_hat: Images) -> Tensor:
        """Reconstruction after a round trip, in [0, 1]."""
        return ((self.to_x(y_hat) - x) / 2).square().mean() + ((self.to_y(x_hat) - y) / 2).square().mean()

    def updates(self, batch: Batch) -> Iterator[Update]:
        """(0.1 GAN + 0.9 feature matching) (1 - rate) + agreement rate."""
        x, y = self.draw_x(batch), batch.images
        step = batch.images_seen // self.batch_size
        learn_critics = step % 3 == 0
        critics(learn_critics, self.critic_x, self.critic_y)
        with torch.set_grad_enabled(not learn_critics):
            x_hat, y_hat = self.to_x(y), self.to_y(x)
        sides = ((self.critic_x, x, x_hat), (self.critic_y, y, y_hat))
        loss = torch.zeros(())
        if learn_critics:
            for critic, real, made in sides:
                loss = loss + (F.softplus(-critic(real)[0]).mean() + F.softplus(critic(made)[0]).mean()) / 2
            yield Update(("critics",), loss[None], {"critics": loss})
            return
        for critic, real, made in sides:
            (_, true), (logit, ours) = critic(real), critic(made)
            match = sum(
                (t.float().mean(0) - o.float().mean(0)).square().mean() for t, o in zip(true, ours, strict=True)
            )
            loss = loss + 0.1 * F.softplus(-logit).mean() + 0.9 * match
        early = step < CURRICULUM and batch.progress < CURRICULUM_SHARE
        rate = self.rates[0] if early else self.rates[1]
        agreement = self.agreement(x, y, x_hat, y_hat)
        loss = loss * (1 - rate) + agreement * rate
        yield Update(("translators",), loss[None], {"translators": loss, "agreement": agreement})


class Unit(nn.Module):
    """A network from [0, 1] to [0, 1], for images in [-1, 1]."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Images:
        return self.network((images + 1) / 2) * 2 - 1
