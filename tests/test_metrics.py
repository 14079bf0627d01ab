"""Measures without labels, with a small convolution network as the injected features."""

import numpy as np
import pytest
import torch
from torch import nn

from namap.data import load_domain
from namap.errors import UsageError
from namap.evaluation.metrics import kernel_distance, perceptual_distance, perceptual_diversity


class Levels(nn.Module):
    """Two levels of random filters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2)

    def forward(self, images):
        one = self.first(images).relu()
        return [one, self.second(one).relu()]


@pytest.fixture(scope="module")
def features():
    return Levels()


@pytest.fixture(scope="module")
def handwriting():
    return load_domain("embedded:handwriting/train")


def test_distance_is_zero_for_the_same_and_grows_with_noise(features, handwriting):
    x = handwriting.images[:140]  # more than a chunk
    rng = np.random.default_rng(0)
    little, much = (np.clip(x + rng.normal(0, s, x.shape), 0, 255).astype(np.uint8) for s in (8, 60))
    near, far = perceptual_distance(x, little, features), perceptual_distance(x, much, features)
    assert near.shape == (140,) and perceptual_distance(x, x, features).max() < 1e-6
    assert (near < far).all() and far.max() <= 4


def test_diversity_is_the_mean_over_pairs(features, handwriting):
    x = np.stack([handwriting.images[:130], handwriting.images[130:260], handwriting.images[:130]], 1)
    pair = perceptual_distance(x[:, 0], x[:, 1], features).mean()
    assert perceptual_diversity(x, features) == pytest.approx(2 * pair / 3, rel=1e-5)
    with pytest.raises(UsageError, match="two or more"):
        perceptual_diversity(x[:, :1], features)


def test_kernel_distance_tells_a_domain_from_another(features, handwriting):
    first, second = handwriting.images[:600], handwriting.images[600:1200]
    same = kernel_distance(first, second, features)
    turned = kernel_distance(255 - first, second, features)
    assert abs(same) < 30 and turned > 10 * abs(same) + 30
    assert kernel_distance(first, second, features) == same
