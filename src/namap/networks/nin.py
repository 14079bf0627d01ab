"""Network in Network: the classifier that judges analogies (NAM §4 uses this architecture)."""

from jaxtyping import Float
from torch import Tensor, nn

from ..tensors import Images


def _block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for side, ins in ((kernel, inputs), (1, outputs), (1, outputs)):
        layers += [nn.Conv2d(ins, outputs, side, padding=side // 2, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU()]
    return layers


class NIN(nn.Module):
    """Three mlpconv blocks (a convolution and two 1x1 layers each) and global average pooling.

    Args:
        channels: of the images, 1 or 3.
        outputs: number of classes.
        width: channels of the first block; the later ones have twice as many.
    """

    def __init__(self, channels: int, outputs: int, width: int = 48):
        super().__init__()
        self.width = width
        layers = _block(channels, width, 5)
        for inputs in (width, 2 * width):
            layers += [nn.MaxPool2d(3, 2, 1), *_block(inputs, 2 * width, 3)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Images) -> Float[Tensor, "b classes"]:
        """Map images in [-1, 1] to logits in fp32."""
        return self.layers(images).float()
