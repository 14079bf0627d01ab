"""Several answers to one question: samples of q(z|y), how varied and how faithful they are, and a walk among them.

    python examples/several_solutions.py --outdir runs/several
    python examples/several_solutions.py --model runs/demo/seed0/mapping     # after `namap demo`: better, at once

A handwritten 7 has no typeface. Every face in which the 7 could be set is an answer, and VAE-NAM has them all.
"""

import argparse
from pathlib import Path

import torch

from namap import VAENAM, explore, load_domain, train_generator
from namap.evaluation.kept import solution_diversity
from namap.exploring import one_query, save_exploration

SOLUTIONS = 6


def obtain_mapping(outdir: Path, images: int) -> VAENAM:
    """Handwriting to print, small; loaded where it is there already."""
    generator = train_generator("embedded:typeset/train", outdir=outdir / "generator", latent_dim=12, images=images)
    return VAENAM(generator, beta=3e-3, images=images).fit("embedded:handwriting/train", outdir / "mapping")


def main() -> None:
    """Print a table, and write OUTDIR/solutions/*.png, OUTDIR/explore.png and OUTDIR/explore.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a fitted VAE-NAM of handwriting; default: fit one")
    parser.add_argument("--outdir", type=Path, default=Path("runs/several"))
    parser.add_argument("--images", type=int, default=128_000, help="training images to see, without --model")
    arguments = parser.parse_args()
    if arguments.model:
        mapping = VAENAM.from_pretrained(arguments.model)
    else:
        mapping = obtain_mapping(arguments.outdir, arguments.images)

    queries = load_domain("embedded:handwriting/test").subset(slice(0, 20))
    print("temperature   difference of two solutions (of 255)   mean loss")
    for temperature in (0.5, 1.0, 2.0):
        found = mapping.translate(queries, SOLUTIONS, temperature=temperature)
        print(f"{temperature:11}   {solution_diversity(found.x):38.1f}   {found.losses.mean():9.3f}")

    stream = torch.Generator().manual_seed(0)  # a stream gives other samples at each call, a number the same ones
    first, second = (mapping.translate(queries, SOLUTIONS, seed=stream) for _ in range(2))
    best = mapping.translate(queries, SOLUTIONS, refine=20)  # every sample goes on by Eq. 6
    losses = (first, second, best)
    print(f"best of {SOLUTIONS}, other samples, refined: " + ", ".join(f"{f.losses.min(1).mean():.3f}" for f in losses))
    first.save_pngs(arguments.outdir / "solutions")

    # The sheet: a 7 and its solutions; walks along the directions of largest spread; a segment.
    save_exploration(explore(mapping, one_query(queries, 1), SOLUTIONS, temperature=2), arguments.outdir)
    print(f"{arguments.outdir}/explore.png")


if __name__ == "__main__":
    main()
