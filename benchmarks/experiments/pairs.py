"""Edges to photographs: unpaired in training, paired in judging."""

from pathlib import Path
from typing import Any

import numpy as np

from namap.evaluation.metrics import perceptual_distance
from namap.generators.families import dcgan

from ..judging import EACH, Realism, label_judge
from ..methods import ONE_PASS, rows_with
from ..scene import Experiment, Judge, Scene, Sources

HEADLINE = {
    "kept": "class kept",
    "distance": "distance to the photo",
    "best_distance": "best of k",
    "diversity": "diversity",
    "kid": "KID",
    "taken_for_x": "taken for X",
}


def pair_judge(scene: Scene, home: Path) -> Judge:
    """Perceptual distance to the true photograph; the class kept, where there are classes."""
    score = Realism(scene, home) if scene.x_train.labels is None else label_judge(scene, home)
    split, rows = scene.judged("y_test")
    photos = scene.load(split.replace("y", "x")).images[rows]  # row by row those of the drawings

    def judge(x: np.ndarray, of: str = "y_test") -> dict[str, Any]:
        if of == "samples":
            return score(x) if isinstance(score, Realism) else score(x, of)
        truth = photos if of == "y_test" else scene.x_test.images
        each = np.stack([perceptual_distance(x[:, k], truth, scene.features) for k in range(x.shape[1])])
        scores = score(x) if isinstance(score, Realism) else score(x, of)
        distances = {"distance": float(each[0].mean()), "best_distance": float(each.min(0).mean())}
        return {EACH: -each[0], **distances, **scores}

    return judge


def pairs(name: str, item: str, what: str, file: str, folder: str) -> Experiment:
    reference = f"{{root}}/{file}.npz:"
    return Experiment(
        name=name,
        what=f"edge drawings to photographs of {what}; perceptual distance to the true photograph",
        sources={
            "reference": Sources(
                *(f"{reference}{kind}_{split}" for kind in ("photos", "edges") for split in ("train", "test"))
            ),
            "papers": Sources(
                *(f"{{root}}/{folder}/{split}#{side}" for side in ("B", "A") for split in ("train", "val"))
            ),
        },
        generator=dcgan.Recipe(latent_dim=100),
        ours={"beta": 5e-3, "refine": 100, "refine_noise": 0.0, "code_rate": 0.1},
        rows=rows_with(namap=ONE_PASS),
        judge=pair_judge,
        headline={key: value for key, value in HEADLINE.items() if item == "shoes" or key != "kept"},
    )


EDGES2SHOES = pairs("edges2shoes", "shoes", "shoes", "fashion_footwear", "edges2shoes")
EDGES2BAGS = pairs("edges2bags", "bags", "handbags", "fashion_bags", "edges2handbags")
