"""What a generator that can be used will do badly, and what to do about it."""

import torch

from ..errors import Advice
from ..tensors import random_stream
from .base import Generator, prior, sample

COUNT = 64
ALIKE = 0.1  # deviation of a pixel over samples, of that over one image, under which all samples look alike
CLIPPED = 0.999
SMOOTH = 0.05  # change of an image, of the samples' deviation, for a hundredth of the prior's


def inspect_generator(generator: Generator) -> list[Advice]:
    """Look at samples of a generator that `check_generator` has found sound."""
    device = next((t.device for t in generator.state_dict().values()), torch.device("cpu"))
    rng = random_stream(0, device=device)
    images = sample(generator, COUNT, rng)
    found = []
    spread, contrast = images.std(0).mean().item(), images.flatten(1).std(1).mean().item()
    if spread < ALIKE * contrast:
        what = f"samples hardly differ ({spread:.3f} a pixel, contrast of one {contrast:.3f}): it has collapsed"
        found.append(
            Advice(what, "train it longer, on more varied images, or with another seed; analogies vary as they do")
        )
    ends = (images.abs() > CLIPPED).float().mean((1, 2, 3)).median().item()
    between = images.abs().le(0.9).float().mean().item()
    if ends > 0.5 and between < 0.01:
        what = "its images are black and white without greys: almost no gradient reaches the code"
        found.append(Advice(what, "check image_range (--image-range), and that nothing rounds its images"))
    z = prior(COUNT, generator.latent_dim, rng)
    with torch.no_grad():
        near = z + 0.01 * prior(COUNT, generator.latent_dim, rng)
        pairs = zip(z.split(8), near.split(8), strict=True)  # few at a time: they may be large
        squares = [(generator(b) - generator(a)).float().square().mean((1, 2, 3)) for a, b in pairs]
    step = torch.cat(squares).mean().sqrt().item()
    if step > SMOOTH * images.std().item():
        what = f"a hundredth of a code's deviation changes an image by {step:.3f}: it is rough, and hard to invert"
        found.append(Advice(what, "scale its codes to N(0, 1), or train it with spectral normalisation or as a VAE"))
    return found
