"""Exact matching of two designs of the same emoji, beside systems that learn nothing (NAM sections 3.1 and 3.2).

X is Noto, Y is Twemoji: 1160 shuffled pictures a side, whose pairing is used for scoring only. Another 128 a side are
matched on their own. Seconds and the peak of memory include reading, describing and matching both.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from namap import ImageDomain, match
from namap.descriptors import Descriptor, describe_pair
from namap.matches import Recipe
from namap.matching import load_pair, make_features, synthesise
from namap.networks import VGGFeatures
from namap.tensors import from_numpy, pick_device

from ..judging import EACH
from ..scene import Answer, Experiment, Row, Scene, Sources

RANKED = 5
SMALL = {"_small": ("x_test", "y_test")}
PARTS = {"": ("x_train", "y_train"), **SMALL}  # suffix of the measures: the two sides
Similarity = torch.Tensor  # [queries candidates]


def pictures(scene: Scene, sides: tuple[str, str]) -> tuple[ImageDomain, ImageDomain, np.ndarray]:
    """X, the queries, and the position in X of each query's counterpart."""
    x, y = (scene.load(side) for side in sides)
    truth = np.arange(len(x))
    if sides[0] == "x_train":
        with np.load(scene.root / "emoji_pairs.npz") as file:
            truth[file["pair_index_train"]] = np.arange(len(x))
    return x, y, truth


def scored(suffix: str, ranking: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    hits = ranking[:, :RANKED] == truth[:, None]
    return {f"top1{suffix}": float(hits[:, 0].mean()), f"top5{suffix}": float(hits.any(1).mean())}


def ours(loss: str, inexact: bool = False) -> Row:
    """namap's matching; its answers are the matches, or the mixtures of Eq. 2."""
    settings = {"loss": loss, "inexact": inexact}

    def run(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
        measures: dict[str, Any] = {}
        answer = Answer(np.empty(0), measures=measures)
        for suffix, sides in (SMALL if scene.quick else PARTS).items():
            x, y, truth = pictures(scene, sides)
            found = match(x, y, **(scene.vgg if loss == "perceptual" else {}), seed=seed, **settings)
            measures |= scored(suffix, found.ranking, truth)
            answer.x = synthesise(found, x, y.names).x if inexact else x.images[found.ranking[:, :1]]
            if answer.losses is None:  # what the loss tells is asked of the first part
                answer.losses, measures[EACH] = found.losses, (found.ranking[:, 0] == truth).astype(float)
        return answer

    title = f"namap, {'inexact (Eq. 2), ' if inexact else ''}{loss}"
    return Row(run, title, lambda scene: settings)


def baseline(describe: Callable[[Scene, list[ImageDomain]], list[torch.Tensor]], rank: Callable, title: str) -> Row:
    """A system that learns nothing: descriptors, their distances, and a rule that ranks."""

    def run(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
        measures: dict[str, Any] = {}
        answers = np.empty(0)
        for suffix, sides in (SMALL if scene.quick else PARTS).items():
            x, y, truth = pictures(scene, sides)
            phi_x, phi_y = describe(scene, [x, y])
            ranking = rank(-torch.cdist(phi_y, phi_x))
            measures |= scored(suffix, ranking, truth)
            answers = x.images[ranking[:, :1]]
        return Answer(answers, measures=measures)

    return Row(run, title, once=True)


def by_pixels(scene: Scene, sides: list[ImageDomain]) -> list[torch.Tensor]:
    """Centred and of unit length: the best of four pixel distances."""
    flat = (from_numpy(d.images).flatten(1) for d in sides)
    return [F.normalize(f - f.mean(0), dim=1) for f in flat]


@torch.no_grad()
def by_vgg(scene: Scene, sides: list[ImageDomain]) -> list[torch.Tensor]:
    """The ends of four blocks, averaged over 8x8 cells, every block of unit length."""
    return [
        torch.cat([cells(scene.features, domain.images[i : i + 64]) for i in range(0, len(domain), 64)])
        for domain in sides
    ]


def cells(network: VGGFeatures, images: np.ndarray) -> torch.Tensor:
    blocks = network(from_numpy(images))
    return torch.cat([F.normalize(F.adaptive_avg_pool2d(b, 8).flatten(1), dim=1) for b in blocks], 1)


def by_ours(scene: Scene, sides: list[ImageDomain]) -> list[torch.Tensor]:
    """namap's own, before a T is learnt."""
    recipe = Recipe(loss="perceptual")
    network = make_features(recipe, None, scene.vgg.get("vgg_weights"), scene.vgg.get("vgg_input", "torchvision"))
    describe = Descriptor(network, pick_device(), "fp32", 64, True)
    return list(describe_pair(describe, *load_pair(*sides), recipe.rank, recipe.whitening, recipe.seed))


def nearest(similarity: Similarity) -> np.ndarray:
    return similarity.topk(RANKED, 1).indices.numpy()


def csls(similarity: Similarity, k: int = 10) -> np.ndarray:
    """Cross-domain similarity local scaling: less for what is near to everything."""
    of_y, of_x = (similarity.topk(k, d).values.mean(d, keepdim=True) for d in (1, 0))
    return nearest(2 * similarity - of_y - of_x)


def assignment(similarity: Similarity) -> np.ndarray:
    """The best one-to-one assignment; the ranks behind it are those of the nearest."""
    best = linear_sum_assignment(similarity.numpy(), maximize=True)[1]
    favoured = similarity.clone()
    favoured[torch.arange(len(best)), torch.from_numpy(best)] = torch.inf
    return nearest(favoured)


RULES = {"nearest": nearest, "csls": csls, "assignment": assignment}
TITLES = {"nearest": "nearest", "csls": "CSLS", "assignment": "one-to-one assignment"}
DESCRIPTORS = {
    "pixels": (by_pixels, "pixels"),
    "vgg": (by_vgg, "VGG features"),
    "ours": (by_ours, "namap's descriptors"),
}

EMOJI = Experiment(
    name="emoji",
    what="Twemoji to the same of Noto (Google, Apache-2.0; Twemoji CC-BY 4.0, Twitter and contributors): 1160 "
    "shuffled pictures a side, and 128 on their own",
    sources={
        "reference": Sources(
            *(f"{{root}}/emoji_pairs.npz:{d}_{s}" for d in ("google", "twitter") for s in ("train", "test"))
        )
    },
    headline={"top1": "top-1", "top5": "top-5", "top1_small": "top-1 of 128", "top5_small": "top-5 of 128"},
    rows={
        "namap": ours("perceptual"),
        "namap-pixels": ours("pixel"),
        "namap-inexact": ours("perceptual", inexact=True),
        **{
            f"{rule}-{by}": baseline(describe, RULES[rule], f"{TITLES[rule]} by {what}")
            for by, (describe, what) in DESCRIPTORS.items()
            for rule in RULES
        },
    },
)
