"""Avatars to photographs of faces: a generator that somebody else trained, and several answers per avatar.

X has no images of its own: where a rival or a judge needs some, they are samples of the generator.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..judging import Realism
from ..scene import SAMPLES, Experiment, Judge, Scene, Sources

# Rows and columns of 64: where a centred face shows skin (cheeks and nose), hair (above the forehead), and eyes.
PATCHES = {"skin": (slice(32, 44), slice(22, 42)), "hair": (slice(4, 12), slice(20, 44))}
EYES = (slice(24, 34), slice(16, 48))
UNSEEN = 255
LABELS = {"skin": "skin", "hair": "hair_color"}
BARE = ("NONE", "SIDES")  # hair styles with none above the forehead; a colour of hair is then that of a beard


def luminance(images: np.ndarray, patch: tuple[slice, slice]) -> np.ndarray:
    """Mean luminance of a patch of RGB images, 0 to 255."""
    red, green, blue = (images[:, c, patch[0], patch[1]].astype(np.float32).mean((1, 2)) for c in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def attribute_judge(scene: Scene, home: Path) -> Judge:
    """Correlation of a patch's luminance in the analogy with that of the avatar's label, and of eyes with glasses."""
    file = np.load(scene.root / "avatars.npz")
    realism = Realism(scene, home)
    train, shown = file["x_train"], scene.y_test.images
    split, rows = scene.judged("y_test")
    split = split.removeprefix("y_")
    tones = {name: label_tones(train, visible_labels(file, name, "train"), PATCHES[name]) for name in LABELS}

    def judge(x: np.ndarray, of: str = "y_test") -> dict[str, Any]:
        if of != "y_test":  # faces of G have no labels
            return realism(x)
        scores = {}
        for name in LABELS:
            labels = visible_labels(file, name, split)[rows]
            seen = labels != UNSEEN
            wanted = np.array([tones[name][value] for value in labels[seen]])
            each = [np.corrcoef(luminance(x[seen, k], PATCHES[name]), wanted)[0, 1] for k in range(x.shape[1])]
            scores |= {name: float(each[0]), f"{name}_all_solutions": float(np.mean(each))}
        glasses = file[f"glasses_{split}"][rows] > 0
        contrast = x[:, 0, :, EYES[0], EYES[1]].astype(np.float32).std((1, 2, 3))
        own = shown[:, :, EYES[0], EYES[1]].astype(np.float32).std((1, 2, 3))
        scores["glasses"] = float(np.corrcoef(contrast, glasses)[0, 1])
        scores["glasses_of_the_avatars"] = float(np.corrcoef(own, glasses)[0, 1])
        return {**scores, **realism(x)}

    return judge


def visible_labels(file: Mapping[str, np.ndarray], name: str, split: str) -> np.ndarray:
    """The label behind an attribute of each avatar, `UNSEEN` where its patch cannot show it."""
    labels = file[f"{LABELS[name]}_{split}"].copy()
    if name == "hair":
        labels[np.isin(file["hair_style_names"][file[f"hair_style_{split}"]], BARE)] = UNSEEN
    return labels


def label_tones(images: np.ndarray, labels: np.ndarray, patch: tuple[slice, slice]) -> dict[int, float]:
    """What luminance a label stands for: the median over the training avatars that have it."""
    each = luminance(images, patch)
    return {int(value): float(np.median(each[labels == value])) for value in np.unique(labels)}


AVATAR2FACE = Experiment(
    name="avatar2face",
    what="cartoon avatars to faces of a third-party generator; correlation of skin and hair luminance with the labels",
    sources={"reference": Sources(SAMPLES, SAMPLES, "{root}/avatars.npz:x_train", "{root}/avatars.npz:x_test")},
    generator="{root}/faces.pt",
    # A T that is free from the start may find the negative of a drawing as cheap as the drawing.
    ours={"loss": "l1", "mapper": "earned", "images": 24_000, "batch_size": 32, "filters": 8, "beta": 1.5e-3},
    judge=attribute_judge,
    headline={
        "skin": "skin",
        "hair": "hair",
        "glasses": "glasses",
        "kid": "KID",
        "taken_for_x": "taken for X",
        "diversity": "diversity",
    },
)
