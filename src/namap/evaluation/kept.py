"""Digit kept: the share of queries whose analogy gets the query's label from a classifier of X."""

from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import UInt8

from ..analogies import Analogies
from ..data import ImageDomain
from ..mapping import Mapping
from .classifier import Classifier


@dataclass(frozen=True)
class Kept:
    """The result of an evaluation; accuracies are shares in [0, 1].

    Attributes:
        kept: queries whose first analogy gets the query's label.
        copy_baseline: queries that get their label untouched (only resized, in the channels of X).
        any_solution: queries of which at least one solution gets the label.
        classifier_on_x: the classifier's own accuracy on held-out real images of X, or None without such images.
        confidence_on_samples: mean top probability of the classifier on samples of G.
        classes_of_samples: share of each class among samples of G.
        diversity: mean absolute pixel difference (of 255) between the solutions of one query; None with one solution.
        loss: mean reconstruction loss of the first analogies.
        confusion: counts `[label, predicted]`.
    """

    queries: int
    kept: float
    copy_baseline: float
    any_solution: float
    classifier_on_x: float | None
    confidence_on_samples: float
    classes_of_samples: list[float]
    diversity: float | None
    loss: float
    confusion: list[list[int]]

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """A few lines for people."""
        on_x = "unknown" if self.classifier_on_x is None else f"{self.classifier_on_x:.1%}"
        lines = [
            f"label kept           {self.kept:.1%} of {self.queries} queries",
            *([] if self.diversity is None else [f"any solution         {self.any_solution:.1%}"]),
            f"copy baseline        {self.copy_baseline:.1%} (the queries themselves)",
            f"classifier on real X {on_x}",
            f"confidence on G      {self.confidence_on_samples:.1%}",
        ]
        return "\n".join(lines)


def evaluate_kept(
    mapping: Mapping,
    queries: ImageDomain,
    classifier: Classifier,
    analogies: Analogies | None = None,
    **translate: int | None,
) -> Kept:
    """Translate labelled queries and judge them.

    Args:
        mapping: fitted.
        queries: with labels.
        classifier: trained on X.
        analogies: of these queries, where they exist already.
        **translate: solutions, refine, seed.

    Raises:
        DataError: queries without labels, or of a class that the classifier does not know.
    """
    queries = replace(queries, labels=classifier.labels_of(queries), classes=[])
    assert queries.labels is not None
    found = analogies or mapping.translate(queries, **translate)  # pyright: ignore[reportArgumentType]
    n, k = found.x.shape[:2]
    predicted = classifier.predict(found.x.reshape(n * k, *found.x.shape[2:])).reshape(n, k)
    correct = predicted == queries.labels[:, None]
    probability = classifier.probabilities(mapping.sample_x_uint8(1000))
    counts = np.bincount(probability.argmax(1), minlength=classifier.classes)
    confusion = np.zeros((classifier.classes, classifier.classes), int)
    np.add.at(confusion, (queries.labels, predicted[:, 0]), 1)
    return Kept(
        queries=n,
        kept=float(correct[:, 0].mean()),
        copy_baseline=copy_baseline(queries, classifier),
        any_solution=float(correct.any(1).mean()),
        classifier_on_x=classifier.accuracy_on_x,
        confidence_on_samples=float(probability.max(1).mean()),
        classes_of_samples=(counts / counts.sum()).round(4).tolist(),
        diversity=solution_diversity(found.x) if k > 1 else None,
        loss=float(found.losses[:, 0].mean()),
        confusion=confusion.tolist(),
    )


def copy_baseline(queries: ImageDomain, classifier: Classifier) -> float:
    """Accuracy of the queries themselves, resized and in the classifier's channels."""
    assert queries.labels is not None
    return classifier.accuracy(queries.images, queries.labels)


def solution_diversity(x: UInt8[np.ndarray, "n k c h w"]) -> float:
    """Mean absolute difference (of 255) between two solutions of the same query."""
    k = x.shape[1]
    pairs = [(i, j) for i in range(k) for j in range(i)]
    return float(np.mean([np.abs(x[:, i].astype(np.float32) - x[:, j]).mean() for i, j in pairs]))
