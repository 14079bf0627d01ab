"""Judging analogies: the classifier and what is measured with it."""

from .classifier import Classifier, obtain_classifier, train_classifier
from .kept import Kept, evaluate_kept, solution_diversity

__all__ = [
    "Classifier",
    "Kept",
    "evaluate_kept",
    "obtain_classifier",
    "solution_diversity",
    "train_classifier",
]
