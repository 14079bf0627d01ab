"""What the judges share. A judge sees test answers only; its networks are trained on real training images of X."""

from pathlib import Path
from typing import Any

import numpy as np

from namap.data import ImageDomain
from namap.evaluation import obtain_classifier
from namap.evaluation.classifier import Classifier
from namap.evaluation.metrics import kernel_distance, perceptual_diversity

from .scene import QUICK_IMAGES, Judge, Scene

EACH = "each"  # key of a judge's scores: how good each first answer is, larger is better; not kept, only correlated


def label_judge(scene: Scene, home: Path) -> Judge:
    """Labels kept, by a NIN trained on X; beside it realism and diversity."""
    budget = {"images": QUICK_IMAGES} if scene.quick else {}
    classifier = obtain_classifier(home / "classifier", scene.x_train, held_out=scene.whole.x_test, **budget)
    realism = Realism(scene, home)

    def judge(x: np.ndarray, of: str = "y_test") -> dict[str, Any]:
        if of == "samples":
            return {**sure(classifier, x[:, 0]), "judge_on_x": classifier.accuracy_on_x, **realism(x)}
        labels = getattr(scene, of).labels
        predicted = classifier.predict(x.reshape(-1, *x.shape[2:])).reshape(x.shape[:2])
        right = predicted == labels[:, None]
        confusion = np.zeros((classifier.classes, classifier.classes), int)
        np.add.at(confusion, (labels, predicted[:, 0]), 1)
        return {
            "kept": float(right[:, 0].mean()),
            "kept_by_any": float(right.any(1).mean()),
            "judge_on_x": classifier.accuracy_on_x,
            "confusion": confusion.tolist(),
            EACH: right[:, 0].astype(float),
            **realism(x),
        }

    return judge


def sure(classifier: Classifier, samples: np.ndarray) -> dict[str, Any]:
    """How sure the judge is of samples of G, and the classes that it sees in them."""
    probability = classifier.probabilities(samples)
    classes = np.bincount(probability.argmax(1), minlength=classifier.classes) / len(samples)
    return {"confidence_on_samples": float(probability.max(1).mean()), "classes_of_samples": classes.round(4).tolist()}


class Realism:
    """KID to training images of X, how often a classifier of X against Y takes an answer for X, and diversity."""

    def __init__(self, scene: Scene, home: Path):
        self.scene = scene
        count = 100 if scene.quick else 1000
        self.reference = scene.x_train.images[np.random.default_rng(0).permutation(len(scene.x_train))[:count]]
        self.sides = domain_classifier(scene, home)

    def __call__(self, x: np.ndarray) -> dict[str, Any]:
        first = x[:, 0]
        size, channels = self.reference.shape[2], self.reference.shape[1]
        comparable = ImageDomain.from_array(first).resized(size, channels).images
        return {
            "kid": kernel_distance(comparable, self.reference, self.scene.features),
            "taken_for_x": float((self.sides.predict(first) == 0).mean()),
            "diversity": perceptual_diversity(x, self.scene.features) if x.shape[1] > 1 else None,
        }


def domain_classifier(scene: Scene, home: Path) -> Classifier:
    """0 for X, 1 for Y, from equally many training images of both, in X's channels."""
    count = min(len(scene.x_train), len(scene.y_train), 4000)
    rng = np.random.default_rng(0)
    sides = (scene.x_train, scene.y_train.resized(scene.x_train.size, scene.x_train.channels))
    images = np.concatenate([d.images[rng.permutation(len(d))[:count]] for d in sides])
    both = ImageDomain.from_array(images, np.repeat([0, 1], count))
    images = QUICK_IMAGES if scene.quick else 64_000
    place = home / ("domain-classifier-held-out" if scene.held_out else "domain-classifier")  # of fewer queries
    return obtain_classifier(place, both, images=images, width=32)
