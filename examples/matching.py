"""Which picture is which: two sets of the same things, matched without pairs, labels or a generator (NAM Eq. 1).

    python examples/matching.py                      # handwriting, and its negatives: pale, blurred, turned
    python examples/matching.py photos/ sketches/    # two folders of yours

Nothing is trained. The first form knows the answer and counts; it also shows what Eq. 2, a free mixture, gives.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from namap import ImageDomain, load_domain, match


def disguise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey pictures `[n 1 h w]` as pale, blurred negatives, each turned by up to 20 degrees."""
    pictures = [Image.fromarray(image[0]).rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC) for image in images]
    return np.stack([255 - np.asarray(p.filter(ImageFilter.GaussianBlur(2))) // 2 for p in pictures])[:, None]


def known_pair(count: int) -> tuple[ImageDomain, ImageDomain, np.ndarray]:
    """Digits, their negatives in another order, and which digit each negative is of."""
    x = load_domain("embedded:handwriting/test").subset(slice(0, count))
    rng = np.random.default_rng(0)
    order = rng.permutation(count)
    return x, ImageDomain.from_array(disguise(x.images, rng)[order], source="negatives"), order


def main() -> None:
    """Print the matches, or how many are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="X, then Y")
    parser.add_argument("--images", type=int, default=300, help="digits, without folders")
    arguments = parser.parse_args()

    if arguments.folders:
        x, y = (load_domain(folder) for folder in arguments.folders)
        found = match(x, y)
        for query, (best, *_), row in zip(y.files, found.ranking, found.weights, strict=True):
            print(f"{query}\t{x.files[best]}\t{row[best]:.2f}")
        return

    x, y, truth = known_pair(arguments.images)
    found = match(x, y)
    right = found.ranking[:, 0] == truth
    near = (found.ranking[:, :5] == truth[:, None]).any(1)
    print(f"{len(y)} queries: {right.mean():.1%} matched, {near.mean():.1%} among the first five")
    weights = match(x, y, inexact=True).ranking[:, 0]
    print(f"Eq. 2: {(weights == truth).mean():.1%} of the mixtures have their largest weight on the right picture")


if __name__ == "__main__":
    main()
