"""Handbags to shoes: what must survive is the material, not the shape."""

from pathlib import Path
from typing import Any

import numpy as np

from namap.generators.families import dcgan

from ..baselines.discogan import HANDBAGS_TO_SHOES
from ..judging import Realism
from ..scene import Experiment, Judge, Scene, Sources

OBJECT = 24  # grey level above which a pixel belongs to the object: photographs are light on black


def style_judge(scene: Scene, home: Path) -> Judge:
    """Correlation of brightness and of texture between query and analogy, beside realism."""
    realism = Realism(scene, home)

    def judge(x: np.ndarray, of: str = "y_test") -> dict[str, Any]:
        if of == "samples":
            return realism(x)
        queries, answers = material(getattr(scene, of).images), material(x[:, 0])
        kept = {name: float(np.corrcoef(queries[name], answers[name])[0, 1]) for name in queries}
        return {**kept, **realism(x)}

    return judge


def material(images: np.ndarray) -> dict[str, np.ndarray]:
    """Mean grey level of the object, and how much neighbouring pixels inside it differ as a share of that."""
    grey = images.astype(np.float32).mean(1)
    inside = grey > OBJECT
    area = inside.sum((1, 2)).clip(min=1)
    brightness = (grey * inside).sum((1, 2)) / area
    pairs = inside[:, :, 1:] & inside[:, :, :-1]
    steps = np.abs(np.diff(grey, axis=2)) * pairs
    texture = steps.sum((1, 2)) / pairs.sum((1, 2)).clip(min=1) / brightness.clip(min=1)
    return {"brightness": brightness, "texture": texture}


PHOTOS = {name: f"{{root}}/fashion_{name}.npz:photos_" for name in ("footwear", "bags")}

BAGS2SHOES = Experiment(
    name="bags2shoes",
    what="handbags to shoes of the same material; correlation of brightness and of texture",
    sources={
        "reference": Sources(*(PHOTOS[name] + split for name in ("footwear", "bags") for split in ("train", "test"))),
        "papers": Sources(
            *(f"{{root}}/{name}/{split}#B" for name in ("edges2shoes", "edges2handbags") for split in ("train", "val"))
        ),
    },
    generator=dcgan.Recipe(latent_dim=100),
    # Bags cover twice as many pixels as footwear: at their own scale, all become boots. A T that is free from the start
    # may find a few bright straps as cheap as a dark shoe.
    ours={"loss": "gram", "mapper": "earned", "images": 60_000, "query_scale": 0.68},
    papers={"loss": "gram", "skip": True},
    rivals={"discogan": HANDBAGS_TO_SHOES, "distancegan": HANDBAGS_TO_SHOES},
    judge=style_judge,
    headline={
        "brightness": "brightness kept",
        "texture": "texture kept",
        "kid": "KID",
        "taken_for_x": "taken for X",
        "diversity": "diversity",
    },
)
