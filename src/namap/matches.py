"""What a matching is asked and what it finds: settings, weights, and the table that is written of them."""

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from .data import ImageDomain
from .files import atomic_file
from .settings import MAX_SEED


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """How two sets are matched.

    Attributes:
        loss: `pixel` (colours and edges) or `perceptual` (these and VGG-16).
        inexact: Eq. 2 in place of Eq. 1.
        seed: of the random projection that finds the principal directions.
        rank: dimensions of a descriptor after the principal directions.
        whitening: 0 leaves their variances, 1 makes them equal.
        rounds: turns of T and the weights.
        warm: temperature of the first round of Eq. 1, in units of a cosine.
        cold: of the last.
        price_steps: updates of the prices in a round.
        reuse: whether an x may answer any number of queries; then all prices are zero.
        ridge: of T towards the identity, in units of the mean square of a coordinate.
        prior: of alpha towards zero, in the same units.
    """

    loss: Literal["pixel", "perceptual"] = "pixel"
    inexact: bool = False
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    rank: int = Field(default=512, ge=1)
    whitening: float = Field(default=0.5, ge=0, le=1)
    rounds: int = Field(default=20, ge=1)
    warm: float = Field(default=0.05, gt=0)
    cold: float = Field(default=0.005, gt=0)
    price_steps: int = Field(default=30, ge=0)
    reuse: bool = False
    ridge: float = Field(default=3.0, gt=0)
    prior: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class Matches:
    """What was found for n queries among m images of X.

    Attributes:
        weights: M `[n m]` (rows sum to 1), or alpha with `inexact` (rows are free).
        ranking: the x of the largest weights of each query, best first, `[n r]` with r = min(10, m).
        losses: ||T(sum_j W_ij phi(x_j)) - phi(y_i)||^2 of each query, `[n]`; 0 to 4.
        mapper: T, `[k k]`, applied from the right to descriptors of k numbers.
        recipe: the settings.
        log: one row a round: temperature, mean loss, mean of the largest weight.
    """

    weights: Float[np.ndarray, "n m"]
    ranking: Int[np.ndarray, "n r"]
    losses: Float[np.ndarray, " n"]
    mapper: Float[np.ndarray, "k k"]
    recipe: Recipe
    log: list[dict[str, float]]

    def summary(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        n, m = self.weights.shape
        return {
            "queries": n,
            "candidates": m,
            "loss": float(self.losses.mean()),
            "mean_weight": float(np.take_along_axis(self.weights, self.ranking[:, :1], 1).mean()),
            "distinct": int(np.unique(self.ranking[:, 0]).size),
            "recipe": asdict(self.recipe),  # pyright: ignore[reportArgumentType]
            "log": self.log,
        }


def labels(domain: ImageDomain) -> list[str]:
    """What the images are called in `matches.csv`: files of a folder, else positions."""
    return domain.files or [str(i) for i in range(len(domain))]


def write_csv(found: Matches, of_x: list[str], of_y: list[str], path: Path) -> None:
    """`query,match,weight,runner_up,loss`, a row a query; with a single x there is no runner-up."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "match", "weight", "runner_up", "loss"])
    rows = zip(of_y, found.weights, found.ranking.tolist(), found.losses.tolist(), strict=True)
    for query, weights, (best, *others), loss in rows:
        second = of_x[others[0]] if others else ""
        writer.writerow([query, of_x[best], f"{weights[best]:.6g}", second, f"{loss:.4g}"])
    with atomic_file(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))  # names that are not UTF-8
