"""The order in which training sees images: a function of (seed, step), so that a resumed run needs no state of it."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int


def batch_index(count: int, batch_size: int, seed: int, step: int) -> Int[np.ndarray, " b"]:
    """Rows of batch `step` in an endless sequence of permutations, each a function of (seed, epoch)."""
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = position // count
    parts = [epoch_order(count, seed, int(e))[position[epochs == e] % count] for e in np.unique(epochs)]
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """All rows in the order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)
