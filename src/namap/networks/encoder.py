"""The encoder E: a DCGAN discriminator without the sigmoid (VAE-NAM §3.5); also the trunk of the discriminator."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..tensors import Images


class ConvEncoder(nn.Module):
    """Strided 4x4 convolutions down to 4x4, then one linear layer to `outputs` numbers.

    Args:
        channels: of the input images, 1 or 3.
        image_size: 32, 64, …: a power of two.
        outputs: 2d for VAE-NAM (mu and log sigma^2), d for AE-NAM, 1 for a discriminator.
        width: channels of the first convolution; they double with every halving of the side.
        spectral: spectral normalisation of every layer in place of batch normalisation (NAM §3.6).
    """

    def __init__(self, channels: int, image_size: int, outputs: int, width: int = 64, spectral: bool = False):
        super().__init__()
        normed: Callable[[nn.Module], nn.Module] = spectral_norm if spectral else lambda m: m
        layers: list[nn.Module] = []
        inputs, side = channels, image_size
        while side > 4:
            first = not layers
            outs = width if first else 2 * inputs
            plain = spectral or first
            layers += [normed(nn.Conv2d(inputs, outs, 4, 2, 1, bias=plain))]
            layers += [] if plain else [nn.BatchNorm2d(outs)]
            layers += [nn.LeakyReLU(0.2)]
            inputs, side = outs, side // 2
        head = normed(nn.Linear(inputs * side * side, outputs))
        self.layers = nn.Sequential(*layers, nn.Flatten(), head)

    def forward(self, images: Images) -> Float[Tensor, "b n"]:
        """Map images in [-1, 1] to `[b outputs]` in fp32."""
        return self.layers(images).float()


def init_dcgan(module: nn.Module) -> None:
    """DCGAN's initialisation: weights N(0, 0.02), batch-norm gains N(1, 0.02). Use as `net.apply(init_dcgan)`."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
