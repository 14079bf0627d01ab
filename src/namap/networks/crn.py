"""The mapper T: X → Y, small and local (NAM §3.6: cascaded refinement, one convolution per scale)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tensors import Images, XImages

SCALES = 4


class CRN(nn.Module):
    """Cascaded refinement network with one 3x3 convolution per scale and 4F, 3F, 2F, F filters.

    The scales are the last four octaves of the picture (4 … 32 pixels for 32x32, 8 … 64 for 64x64), so that
    locality is kept: every scale sees the input image reduced to it, beside the enlarged features of the scale before.

    Args:
        in_channels: of X images.
        out_channels: of Y images.
        features: F; the paper takes 8 for the digits and 32 otherwise.
    """

    def __init__(self, in_channels: int, out_channels: int, features: int = 8):
        super().__init__()
        widths = [features * (SCALES - i) for i in range(SCALES)]
        inputs = [in_channels, *(in_channels + w for w in widths[:-1])]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, w, 3, 1, 1) for i, w in zip(inputs, widths, strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(1, w) for w in widths)  # layer norm: no statistics across a batch
        self.head = nn.Conv2d(widths[-1], out_channels, 1)

    def forward(self, x: XImages) -> Images:
        """Map X images in [-1, 1] to unbounded Y images of the same side."""
        features: Tensor | None = None
        for level, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            assert isinstance(convolution, nn.Conv2d)
            reduced = F.avg_pool2d(x, 2 ** (SCALES - 1 - level)) if level < SCALES - 1 else x
            # One convolution of [reduced, enlarged], as a sum over its inputs: odd channel counts are slow.
            of_image, of_features = convolution.weight.tensor_split([x.shape[1]], 1)
            out = F.conv2d(reduced, of_image, convolution.bias, padding=1)
            if features is not None:
                out = out + F.conv2d(F.interpolate(features, scale_factor=2.0), of_features, padding=1)
            features = F.leaky_relu(norm(out), 0.2)
        assert features is not None
        return self.head(features)


class PaperMapper(nn.Module):
    """T as published: a CRN with tanh, free from the first step; `skip` adds G(z) (Shoes2Handbags, Car2Car).

    Args:
        in_channels: of X images.
        out_channels: of Y images.
        features: F of the CRN.
        skip: add the input (its channel mean, or repeated, where the channels differ).
    """

    def __init__(self, in_channels: int, out_channels: int, features: int = 8, skip: bool = False):
        super().__init__()
        self.crn = CRN(in_channels, out_channels, features)
        self.out_channels = out_channels
        self.skip = skip

    def forward(self, x: XImages) -> Images:
        """Map X images in [-1, 1] to Y images in [-1, 1]."""
        out = self.crn(x)
        return torch.tanh(out + match_channels(x, self.out_channels)) if self.skip else torch.tanh(out)


class EarnedMapper(nn.Module):
    """T that starts as the identity and earns its freedom: x + local(x) + crn(x), both residuals zero at the start.

    A T that is free from the start finds a cheap, wrong alignment while the codes are still random. Here the
    local residual (two 3x3 layers) learns from the first step, and the CRN only once `free` is set.

    Args:
        in_channels: of X images.
        out_channels: of T's output: 1 under the appearance-invariant loss, which supplies the colours itself.
        features: F of the CRN and width of the local residual.
    """

    def __init__(self, in_channels: int, out_channels: int, features: int = 8):
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(in_channels, features, 3, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(features, out_channels, 3, 1, 1),
        )
        self.crn = CRN(in_channels, out_channels, features)
        for last in (self.local[-1], self.crn.head):
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.out_channels = out_channels
        self.free = True

    def forward(self, x: XImages) -> Images:
        """Map X images in [-1, 1] to Y images (unbounded: the loss rescales them)."""
        out = match_channels(x, self.out_channels) + self.local(x)
        return out + self.crn(x) if self.free else out


def match_channels(x: XImages, channels: int) -> Images:
    """As many channels: as they are, or their mean in each."""
    if x.shape[1] == channels:
        return x
    return x.mean(1, keepdim=True).expand(-1, channels, -1, -1)
