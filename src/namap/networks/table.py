"""One learnt code per image: NAM's codes of the queries, GLO's of the training images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn

from .. import processes
from ..tensors import Codes


class CodeTable(nn.Module):
    """A table of codes, first drawn from N(0, I).

    Its gradient is sparse, so that an optimizer with row-wise state (`torch.optim.SparseAdam`) leaves alone the rows
    that are absent from a batch, and a step costs the same for a thousand rows as for a million.

    Several processes divide the rows (`divided`): process r of n keeps rows r, r + n, r + 2n … with their moments.

    Args:
        count: rows.
        latent_dim: d.
        rng: draws the first codes.
    """

    def __init__(self, count: int, latent_dim: int, rng: torch.Generator):
        super().__init__()
        self.latent_dim, self.count, self.divided = latent_dim, count, False
        codes = torch.randn(count, latent_dim, generator=rng, device=rng.device)
        self.table = nn.Embedding(count, latent_dim, sparse=True, _weight=codes)

    def rows(self, index: Int[torch.Tensor, " b"]) -> Codes:
        """The codes of these rows; where they are divided, every process must ask at once for as many."""
        if not self.divided:
            return self.table(index)
        wanted = processes.gather(index)
        mine = (wanted % processes.count() == processes.rank()).nonzero()[:, 0]
        codes = torch.zeros(len(wanted), self.latent_dim, device=index.device)
        codes = codes.index_put((mine,), self.table(wanted[mine] // processes.count()))
        return processes.total(codes)[processes.part(len(wanted))]

    def divide(self) -> None:
        """Keep this process's rows alone."""
        self.table.weight.data, self.divided = my_rows(self.table.weight.data), processes.count() > 1

    def unite(self) -> None:
        """Fetch all rows again."""
        if self.divided:
            self.table.weight.data, self.divided = all_rows(self.table.weight.data, self.count), False


def my_rows(whole: Tensor) -> Tensor:
    """Of a table, the rows that this process keeps."""
    return whole if processes.count() == 1 else whole[processes.rank() :: processes.count()].clone()


def all_rows(mine: Tensor, count: int) -> Tensor:
    """The table, from the rows that each process keeps."""
    whole = mine.new_zeros(count, *mine.shape[1:])
    whole[processes.rank() :: processes.count()] = mine
    return processes.total(whole)


@contextmanager
def divided_tables(*modules: nn.Module) -> Iterator[None]:
    """Divide the tables in these modules, before their optimizers hold any state.

    After an error they stay divided: the other processes may not be where they could send their rows.
    """
    tables = [t for module in modules for t in module.modules() if isinstance(t, CodeTable)]
    for table in tables:
        table.divide()
    yield
    for table in tables:
        table.unite()
