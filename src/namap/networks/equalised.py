"""Layers of progressive growing: equal learning rates, pixel norm, minibatch deviation (Karras et al. 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EqualConv(nn.Module):
    """A convolution whose weights are N(0, 1) and scaled when used, so that Adam moves every layer at one pace.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: side of the kernel; padded to keep the size, or `padding`.
        gain: of He's initialisation.
        padding: zeros around; None: half the kernel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, gain: float = 2**0.5, padding: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / (inputs * kernel * kernel) ** 0.5
        self.padding = kernel // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        """`[b inputs h w]` to `[b outputs h w]`."""
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def pixel_norm(x: Tensor) -> Tensor:
    """Every pixel's channels scaled to unit mean square: `[b c …]` to the same."""
    return x * (x.float().square().mean(1, keepdim=True) + 1e-8).rsqrt().to(x.dtype)


def append_deviation(x: Tensor, group: int = 4) -> Tensor:
    """One more channel: the mean standard deviation over groups of the batch, `[b c h w]` to `[b c+1 h w]`."""
    b, c, h, w = x.shape
    size = group if b % group == 0 else b
    deviation = x.float().view(size, -1, c, h, w).std(0, correction=0).mean((1, 2, 3))
    return torch.cat([x, deviation.to(x.dtype).repeat(size).view(b, 1, 1, 1).expand(-1, 1, h, w)], 1)
