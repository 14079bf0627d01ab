"""One learnt code per image: NAM's codes of the queries, GLO's of the training images."""

import torch
from jaxtyping import Int
from torch import nn

from ..tensors import Codes


class CodeTable(nn.Module):
    """A table of codes, first drawn from N(0, I).

    Its gradient is sparse, so that an optimizer with row-wise state (`torch.optim.SparseAdam`) leaves alone the rows
    that are absent from a batch, and a step costs the same for a thousand rows as for a million.

    Args:
        count: rows.
        latent_dim: d.
        rng: draws the first codes.
    """

    def __init__(self, count: int, latent_dim: int, rng: torch.Generator):
        super().__init__()
        self.latent_dim = latent_dim
        codes = torch.randn(count, latent_dim, generator=rng, device=rng.device)
        self.table = nn.Embedding(count, latent_dim, sparse=True, _weight=codes)

    def rows(self, index: Int[torch.Tensor, " b"]) -> Codes:
        """The codes of these rows."""
        return self.table(index)
