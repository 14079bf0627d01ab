"""VGG-16 features for the perceptual loss (NAM Eq. 4)."""

from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from ..checkpoint import load_weights
from ..errors import StorageError, UsageError
from ..tensors import Images

# Index of the last ReLU of each block in torchvision's vgg16().features.
BLOCK_ENDS = (3, 8, 15, 22, 29)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (0.48109379, 0.45752460, 0.40787053)
Convention = Literal["torchvision", "caffe"]


class VGGFeatures(nn.Module):
    """Activations at the end of the first `blocks` blocks of VGG-16, frozen.

    Images in [-1, 1] are normalised as the weights expect; one channel is repeated to three.

    Args:
        weights: a safetensors file with torchvision's names (`features.0.weight` …), the layers themselves, or
            None for torchvision's ImageNet weights (from its cache, else downloaded).
        blocks: 1 to 5.
        convention: what the weights expect: `torchvision` (RGB, ImageNet mean and deviation) or `caffe`
            (BGR, 0..255 minus the mean); the latter is folded into the first layer exactly, and features are
            given in units of the normalised input, so that both conventions weigh alike in a loss.

    Raises:
        UsageError: weights that are not there and cannot be downloaded.
        StorageError: a file that is not such a set of weights.
    """

    def __init__(
        self, weights: str | Path | nn.Module | None = None, blocks: int = 3, convention: Convention = "torchvision"
    ):
        super().__init__()
        if not 1 <= blocks <= len(BLOCK_ENDS):
            raise UsageError(f"perceptual blocks: {blocks} is not between 1 and 5")
        layers = weights if isinstance(weights, nn.Module) else _layers(pretrained=weights is None)
        assert isinstance(layers, nn.Sequential)
        self.layers = layers[: BLOCK_ENDS[blocks - 1] + 1]
        if isinstance(weights, str | Path):
            load_weights(self.layers, _read(Path(weights), self.layers.state_dict().keys()), Path(weights))
        self.register_buffer("mean", torch.tensor(CAFFE_MEAN if convention == "caffe" else IMAGENET_MEAN))
        self.register_buffer("std", torch.tensor(IMAGENET_STD))
        if convention == "caffe":
            _fold_caffe(self.layers, torch.tensor(IMAGENET_STD))
        self.ends = frozenset(BLOCK_ENDS[:blocks])
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # in bfloat16 on a CPU, in place takes twice the time
        self.requires_grad_(False).eval()

    def forward(self, images: Images) -> list[Tensor]:
        """Map `[b 1|3 h w]` in [-1, 1] to one `[b c h' w']` per block."""
        x = images.expand(-1, 3, -1, -1)
        assert isinstance(self.mean, Tensor) and isinstance(self.std, Tensor)
        x = ((x + 1) / 2 - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
        features = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.ends:
                features.append(x)
        return features


def _fold_caffe(layers: nn.Sequential, std: Tensor) -> None:
    # A ReLU network is positively homogeneous in (input, biases): dividing the input scale of 255*std and every
    # bias by the same unit divides every activation by it and changes nothing else.
    unit = 255 * std.mean()
    first = layers[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1) * (255 * std / unit).view(1, 3, 1, 1))
        for layer in layers:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias.div_(unit)


def _layers(pretrained: bool) -> nn.Module:
    try:
        return vgg16(weights=VGG16_Weights.IMAGENET1K_V1 if pretrained else None).features
    except (URLError, OSError) as error:
        raise UsageError(
            f"perceptual loss: VGG-16's ImageNet weights are not cached and cannot be downloaded ({error}); "
            "give a local file with --vgg-weights FILE.safetensors"
        ) from None


def _read(path: Path, wanted: object) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"--vgg-weights {path}: no such file")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise StorageError(f"{path}: not a safetensors file ({error})") from None
    named = {k.removeprefix("features."): t.float() for k, t in tensors.items()}
    return {k: t for k, t in named.items() if k in wanted}  # pyright: ignore[reportOperatorIssue]
