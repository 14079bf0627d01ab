"""CycleGAN (Zhu et al., ICCV 2017): least-squares GAN and cycle terms, ResNet translators, patch critics."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from namap.tensors import Images, random_stream
from namap.training import Batch, Update, late_decay

from .adversarial import Rival, critics

CYCLE, POOL = 10.0, 50


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(*convolve(width, width, 3), nn.ReLU(inplace=True), *convolve(width, width, 3))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.layers(h)


def convolve(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    padded = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect" if stride == 1 else "zeros")
    return [padded, nn.InstanceNorm2d(outputs)]


def translator(channels: int, width: int = 64, blocks: int = 6) -> nn.Sequential:
    """c7s1-64, d128, d256, six residual blocks, u128, u64, c7s1: the network published for images below 256 pixels."""
    layers: list[nn.Module] = [*convolve(channels, width, 7), nn.ReLU(inplace=True)]
    for scale in (1, 2):
        layers += [*convolve(width * scale, width * scale * 2, 3, 2), nn.ReLU(inplace=True)]
    layers += [Residual(width * 4) for _ in range(blocks)]
    for scale in (4, 2):
        up = nn.ConvTranspose2d(width * scale, width * scale // 2, 3, 2, 1, output_padding=1)
        layers += [up, nn.InstanceNorm2d(width * scale // 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 7, 1, 3, padding_mode="reflect"), nn.Tanh())


def patch_critic(channels: int, size: int, width: int = 64) -> nn.Sequential:
    """C64-C128-C256-C512, a logit a patch of 70 pixels; C64-C128-C256 and 34 pixels for images below 64.

    In an image of 32 pixels, 70 would be more than the whole, and instance normalisation would run over maps of 3x3.
    """
    scales = ((1, 2), (2, 2), (4, 1)) if size >= 64 else ((1, 2), (2, 1))
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for scale, stride in scales:
        layers += [nn.Conv2d(width * scale, width * scale * 2, 4, stride, 1), nn.InstanceNorm2d(width * scale * 2)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width * 2 * scales[-1][0], 1, 4, 1, 1))


class Pool(nn.Module):
    """The last fifty translations of a domain: a critic sees an old one half of the time. Lives in checkpoints."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.kept: Tensor
        self.count: Tensor
        self.register_buffer("kept", torch.zeros(POOL, channels, size, size))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def swap(self, image: Images, rng: torch.Generator) -> Images:
        """Keep `image` `[1 c h w]`; give it back, or an old one."""
        count = int(self.count)
        if count < POOL:
            self.kept[count] = image[0]
            self.count += 1
            return image
        if torch.rand((), generator=rng) < 0.5:
            return image
        place = int(torch.randint(POOL, (), generator=rng))
        old = self.kept[place : place + 1].clone()
        self.kept[place] = image[0]
        return old


class CycleGAN(Rival):
    """Batches of one, lambda 10, Adam 2e-4 with a linear decay over the second half.

    Without the identity term, which the paper has for paintings only, and without flipped and cropped images: a
    mirrored digit is none.
    """

    name = "cyclegan"
    batch_size = 1
    layout = torch.contiguous_format  # a step with a single image is a quarter faster

    def networks(self, channels: int, size: int) -> dict[str, nn.Module]:
        nets: dict[str, nn.Module] = {side: translator(channels) for side in ("to_x", "to_y")}
        nets |= {side: patch_critic(channels, size) for side in ("critic_x", "critic_y")}
        for net in nets.values():
            net.apply(_initialise)
        return nets | {"pool_x": Pool(channels, size), "pool_y": Pool(channels, size)}

    def learning_rate(self, progress: float) -> float:
        return late_decay(progress)

    def updates(self, batch: Batch) -> Iterator[Update]:
        """L_GAN + 10 (|to_x(to_y(x)) - x| + |to_y(to_x(y)) - y|)."""
        x, y = self.draw_x(batch), batch.images.contiguous()
        critics(False, self.critic_x, self.critic_y)
        x_hat, y_hat = self.to_x(y), self.to_y(x)
        fool = (self.critic_x(x_hat) - 1).square().mean() + (self.critic_y(y_hat) - 1).square().mean()
        cycle = (self.to_y(x_hat) - y).abs().mean() + (self.to_x(y_hat) - x).abs().mean()
        loss = fool + CYCLE * cycle
        yield Update(("translators",), loss[None], {"translators": loss, "cycle": cycle})
        critics(True, self.critic_x, self.critic_y)
        rng = random_stream(self.seed, batch.images_seen, 1)
        loss = torch.zeros(())
        for side, real, made in (("x", x, x_hat), ("y", y, y_hat)):
            critic, pool = self.modules[f"critic_{side}"], self.modules[f"pool_{side}"]
            assert isinstance(pool, Pool)
            old = pool.swap(made.detach().float(), rng)
            of_real, of_old = critic(torch.cat([real, old])).chunk(2)
            loss = loss + ((of_real - 1).square().mean() + of_old.square().mean()) / 2
        yield Update(("critics",), loss[None], {"critics": loss})


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0, 0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
