"""Edges to shoes: photos of shoes from edge drawings, without one pair (NAM and VAE-NAM, Edges2Shoes).

    python examples/edges_to_shoes.py --data-root DATA --outdir runs/shoes

DATA (or $NAMAP_DATA) holds fashion_footwear.npz with photos_train, edges_train, photos_test and edges_test, uint8
`[n 1 32 32]`. The drawings were made of the photos, in the same order. Only the score uses that: the generator sees the
photos, the mapping sees the drawings. The sheet shows four samples for each drawing;
they keep its outline and differ in detail. A temperature of 4 varies them more, and breaks them.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from namap import VAENAM, load_domain, train_generator
from namap.report import image_grid

SOLUTIONS, SHOWN = 4, 16


def main() -> None:
    """Write OUTDIR/sheet.png: drawings, several analogies each, and the photo that was drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("NAMAP_DATA", "data")))
    parser.add_argument("--outdir", type=Path, default=Path("runs/shoes"))
    parser.add_argument("--images", type=int, default=150_000, help="training images to see, in each of two trainings")
    parser.add_argument("--queries", type=int, default=500, help="test drawings to judge")
    arguments = parser.parse_args()
    file, home = arguments.data_root / "fashion_footwear.npz", arguments.outdir

    generator = train_generator(
        f"{file}:photos_train", outdir=home / "generator", latent_dim=100, images=arguments.images
    )
    mapping = VAENAM(generator, images=arguments.images).fit(f"{file}:edges_train", home / "mapping")

    edges = load_domain(f"{file}:edges_test").subset(slice(0, None, max(1, 1500 // arguments.queries)))
    photos = load_domain(f"{file}:photos_test").subset(slice(0, None, max(1, 1500 // arguments.queries)))
    found = mapping.translate(edges, SOLUTIONS, temperature=2)

    def error(x: np.ndarray) -> float:
        return float(np.abs(x.astype(np.float32) - photos.images).mean())

    other = np.random.default_rng(0).permutation(len(photos))
    print(
        f"mean absolute error, of 255, against the photo that was drawn: analogy {error(found.x[:, 0]):.1f}, ", end=""
    )
    print(f"another shoe {error(photos.images[other]):.1f}")

    rows = [edges.images[:SHOWN], *found.x[:SHOWN].swapaxes(0, 1), photos.images[:SHOWN]]
    image_grid([list(row) for row in rows]).save(home / "sheet.png")
    print(f"{home}/sheet.png: drawings, {SOLUTIONS} analogies of each, the photos that were drawn")


if __name__ == "__main__":
    main()
