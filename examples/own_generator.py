"""A generator of your own: any differentiable module from codes to images is wrapped in one line.

    python examples/own_generator.py --outdir runs/own-generator

Here it is as plain as can be, principal components of typeset digits: G(z) = mean + (z * deviations) components. The
components are no convincing artist; what the example shows is all that namap asks of a module. Handwriting is mapped
to it, the mapping is saved without the module, and loaded again with it.
"""

import argparse
from pathlib import Path

import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from namap import VAENAM, load_domain, wrap_generator
from namap.report import image_grid

LATENT_DIM = 40


class Eigendigits(nn.Module):
    """Codes N(0, I) `[b 40]` to images `[b 1 32 32]` in [0, 1]."""

    def __init__(self, images: Tensor):
        super().__init__()
        pca = PCA(LATENT_DIM, random_state=0).fit(images.flatten(1).numpy())
        self.register_buffer("mean", torch.from_numpy(pca.mean_).float())
        rows = pca.components_ * pca.explained_variance_[:, None] ** 0.5
        self.register_buffer("rows", torch.from_numpy(rows).float())

    def forward(self, z: Tensor) -> Tensor:
        """Differentiable in z; each image depends on its own code alone."""
        return (self.mean + z @ self.rows).clamp(0, 1).unflatten(1, (1, 32, 32))


def main() -> None:
    """Write OUTDIR/mapping and OUTDIR/sheet.png: queries above their analogies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outdir", type=Path, default=Path("runs/own-generator"))
    parser.add_argument("--images", type=int, default=64_000, help="training images to see")
    arguments = parser.parse_args()

    module = Eigendigits(torch.from_numpy(load_domain("embedded:typeset/train").images) / 255)
    generator = wrap_generator(module, LATENT_DIM, image_range=(0, 1))  # checked here: shape, range, gradient, batch

    # Components can draw nearly anything; more weight on the prior keeps the answers near what is print.
    fitted = VAENAM(generator, beta=1e-2, images=arguments.images)
    fitted.fit("embedded:handwriting/train", arguments.outdir / "mapping")
    mapping = VAENAM.from_pretrained(arguments.outdir / "mapping", generator)  # the module is not saved with it

    queries = load_domain("embedded:handwriting/test").subset(slice(0, 16))
    found = mapping.translate(queries)
    image_grid([list(queries.images), list(found.x[:, 0])]).save(arguments.outdir / "sheet.png")
    print(f"mean loss {found.losses.mean():.3f} (0: explained, 1: not at all); {arguments.outdir}/sheet.png")


if __name__ == "__main__":
    main()
