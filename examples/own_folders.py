"""Two folders of your own: learn to draw the one, map the other onto it, write the analogies.

    python examples/own_folders.py photos/ sketches/ --outdir runs/own

The first folder is where you want to arrive (X), the second holds the pictures that you have (Y). Neither needs labels
or pairs, and they may differ in number, size and colours. Interrupt it and run it again: it goes on.
"""

import argparse
from pathlib import Path

import numpy as np

from namap import VAENAM, load_domain, train_generator

SIZE = 32  # side of the images; 64 takes about eight times as long


def main() -> None:
    """Write OUTDIR/analogies/*.png, named after the queries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("x", type=Path, help="pictures of the domain to arrive in")
    parser.add_argument("y", type=Path, help="pictures that you have: the queries")
    parser.add_argument("--outdir", type=Path, default=Path("runs/own"))
    parser.add_argument("--images", type=int, default=256_000, help="training images to see, in each of two trainings")
    arguments = parser.parse_args()

    x, y = (load_domain(folder, SIZE) for folder in (arguments.x, arguments.y))
    for domain in (x, y):
        print(f"{domain.source}: {len(domain)} images, {domain.channels} channel(s), {len(domain.skipped)} skipped")

    home = arguments.outdir
    generator = train_generator(x, outdir=home / "generator", images=arguments.images)
    print(f"look at {home}/generator/samples.png: what G cannot draw, no query will get")

    mapping = VAENAM(generator, images=arguments.images).fit(y, home / "mapping")
    found = mapping.translate(y)
    found.save_pngs(home / "analogies")

    losses = found.losses[:, 0]
    worst = found.names[losses.argmax()]
    print(f"{len(losses)} analogies in {home}/analogies; loss: median {np.median(losses):.3f}, worst {worst}.png")
    print(f"next: namap report {home}/mapping --data {arguments.y} -o {home}/report.html")


if __name__ == "__main__":
    main()
