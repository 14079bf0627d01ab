"""NAM Eq. 6: the code of a query by optimisation, T and G fixed."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from tqdm import tqdm

from .generators import Generator
from .losses import Reconstruction
from .tensors import Codes, Images, PerSample, XImages, random_stream

WINDOW = 10  # iterations whose mean objective is compared with that of as many before
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's
Keep = Callable[[Codes, XImages], Tensor]  # of codes z and G(z), what is wanted
SCORED, SCORED_PIXELS = 256, 2**22  # codes that are scored at a time, and pixels that G draws for them at most


class CodeSearch:
    """NAM Eq. 6 for every query from each of its k starts, some iterations at a time.

        argmin_z  E_eps reconstruction(T(G(z + spread * eps)), y) + prior_weight * 1/2 ||z||^2      (NAM Eq. 6)

    and, with `dissent`, E_eps dissent(G(z + spread * eps)): an image must keep the kind that it has been given.

    Without `spread` this is NAM's Eq. 6, and the best code of each path is kept. With the encoder's sigma as `spread`
    it refines the mean of q(z|y) under the objective that E was trained with: a point alone would find codes that
    reconstruct well and mean little.

    A path, a query from one start, ends after `steps` iterations, or when some of them have lowered its objective by
    less than a share `tolerance`; its place in the batch goes to one that waits. The objective is summed over paths,
    and Adam's moments, the learning rate and the noise follow a path's own iterations: what it finds depends neither
    on its neighbours nor on when it came in. With `steps=0` the starts are scored.

    Args:
        generator: G, frozen.
        mapper: T, in eval mode.
        reconstruction: the loss of the fit.
        y: queries in [-1, 1].
        starts: first codes, e.g. from `CodeSource.starts` (encode, then refine) or from the prior.
        steps: iterations of a path at most, over which the learning rate decays.
        rate: Adam's learning rate, decayed along half a cosine.
        prior_weight: weight of the Gaussian prior: the KL term for a point.
        spread: standard deviation of the noise on each query's codes; None: none.
        dissent: from numbers of paths `[p]` and their images to a loss `[p]`; None: none.
        tolerance: share of the objective that ten iterations must win; 0: every path takes all its steps.
        batch_size: paths that are optimised at a time.

    Attributes:
        codes: of each path, so far.
        step: iterations of the batch so far.
        spent: iterations of all paths so far.
    """

    def __init__(
        self,
        generator: Generator,
        mapper: nn.Module,
        reconstruction: Reconstruction,
        y: Images,
        starts: Float[Tensor, "b k d"],
        steps: int,
        *,
        rate: float = 0.03,
        prior_weight: float = 0.0,
        spread: Float[Tensor, "b d"] | None = None,
        dissent: Callable[[Int[Tensor, " p"], XImages], PerSample] | None = None,
        tolerance: float = 1e-3,
        batch_size: int = 64,
    ):
        self.generator, self.mapper, self.reconstruction = generator, mapper, reconstruction
        self.y, self.shape, self.steps, self.rate = y, starts.shape[:2], steps, rate
        self.prior_weight, self.spread, self.dissent = prior_weight, spread, dissent
        self.tolerance, self.batch_size = tolerance, batch_size
        self.codes = starts.detach().flatten(0, 1).clone()
        # eps and -eps, the same for all paths and in every window: of mean 0, which keeps a code where its objective
        # is least, and two windows differ by what was won alone.
        rng = random_stream(0, 1, device=y.device)  # starts are drawn from the stream of 0
        half = torch.randn(WINDOW // 2, starts.shape[2], generator=rng, device=y.device)
        self.noise = torch.stack([half, -half], 1).flatten(0, 1)
        self.waiting = torch.arange(len(self.codes) if steps else 0, device=y.device)
        self.rows: dict[str, Tensor] = {}  # of the paths in the batch
        self.known: list[Tensor] = []  # their y, and phi(y)
        self.step = self.spent = 0
        self.admit(batch_size)

    @property
    def finished(self) -> bool:
        """Whether every path has ended."""
        return not self.rows or not len(self.rows["path"])

    def admit(self, places: int) -> None:
        """Let paths that wait into the batch."""
        path, self.waiting = self.waiting[:places], self.waiting[places:]
        if not len(path):
            return
        z, none = self.codes[path], torch.zeros(len(path), device=path.device)
        new = {"path": path, "step": 0 * path, "z": z, "best_z": z, "mean": 0 * z, "square": 0 * z}
        new |= {"best": none + torch.inf, "sum": none, "before": none + torch.inf}
        known = self.look_up(path)
        self.rows = {name: torch.cat([self.rows[name], row]) for name, row in new.items()} if self.rows else new
        self.known = [torch.cat(pair) for pair in zip(self.known, known, strict=True)] if self.known else known

    @torch.no_grad()
    def look_up(self, path: Int[Tensor, " p"]) -> list[Tensor]:
        """y and phi(y) of paths, computed once for each query."""
        query, which = torch.unique_consecutive(path // self.shape[1], return_inverse=True)
        y = self.y[query]
        return [known[which] for known in (y, *self.reconstruction.targets(y))]

    def advance(self, count: int) -> None:
        """Do `count` iterations, or as many as are left."""
        for _ in range(count):
            if self.finished:
                return
            with torch.enable_grad():
                z = self.rows["z"].requires_grad_()
                noise = 0.0
                if self.spread is not None:
                    noise = self.spread[self.rows["path"] // self.shape[1]] * self.noise[self.rows["step"] % WINDOW]
                y, *targets = self.known
                x = self.generator(z + noise)
                loss = self.reconstruction(self.mapper(x), y, targets) + self.prior_weight * 0.5 * z.square().sum(1)
                if self.dissent is not None:
                    loss = loss + self.dissent(self.rows["path"], x)
                (gradient,) = torch.autograd.grad(loss.sum(), z)
            self.descend(loss.detach(), gradient)
            self.step += 1

    @torch.no_grad()
    def descend(self, loss: Float[Tensor, " p"], gradient: Float[Tensor, "p d"]) -> None:
        """Move the paths by a step of Adam; those that have ended leave the batch."""
        row, z = self.rows, self.rows["z"].detach()
        better = loss < row["best"]
        row["best"] = torch.where(better, loss, row["best"])
        row["best_z"] = torch.where(better[:, None], z, row["best_z"])
        self.codes[row["path"]] = row["best_z"] if self.spread is None else z

        row["sum"] = row["sum"] + loss
        judged = row["step"] % WINDOW == WINDOW - 1
        stalled = judged & (row["before"] - row["sum"] < self.tolerance * row["before"])
        ended = (row["step"] == self.steps) | (stalled & (self.tolerance > 0))
        row["before"] = torch.where(judged, row["sum"], row["before"])
        row["sum"] = torch.where(judged, 0.0, row["sum"])

        rate = self.rate * (0.5 + 0.5 * torch.cos(math.pi * row["step"] / self.steps))
        row["step"] = row["step"] + 1
        step, row["mean"], row["square"] = adam(gradient, row["mean"], row["square"], row["step"])
        row["z"] = z - rate[:, None] * step
        self.spent += len(loss)
        if ended.any():
            self.rows = {name: values[~ended] for name, values in row.items()}
            self.known = [known[~ended] for known in self.known]
            self.admit(int(ended.sum()))

    def run(
        self, quiet: bool = True, keep: Keep = lambda z, x: x
    ) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k"], Shaped[Tensor, "b k c h w"]]:
        """All iterations that are left, and the `result`; `quiet`: no progress bar."""
        hidden = True if quiet or self.finished else None
        with tqdm(unit="step", desc="optimising codes", leave=False, disable=hidden) as bar:
            while not self.finished:
                self.advance(1)
                bar.update()
        return self.result(keep)

    @torch.no_grad()
    def result(
        self, keep: Keep = lambda z, x: x
    ) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k"], Shaped[Tensor, "b k c h w"]]:
        """Codes so far, their reconstruction losses, without noise and prior, and what `keep` makes of their images.

        Args:
            keep: e.g. makes bytes: not all images lie in memory as floats then.
        """
        scores, images = [], []
        for path in torch.arange(len(self.codes), device=self.codes.device).split(scored_at_once(self.generator)):
            y, *targets = self.look_up(path)
            z = self.codes[path]
            x = self.generator(z)
            images += [keep(z, x)]
            scores += [self.reconstruction(self.mapper(x), y, targets)]
        parts = self.codes.clone(), torch.cat(scores), torch.cat(images)
        codes, losses, x = (part.unflatten(0, self.shape) for part in parts)
        return codes, losses, x


def scored_at_once(generator: Generator) -> int:
    """How many codes: fewer where the images that G draws inside are large."""
    return max(1, min(SCORED, SCORED_PIXELS // generator.drawn_size**2))


def adam(
    gradient: Float[Tensor, "p d"], mean: Float[Tensor, "p d"], square: Float[Tensor, "p d"], count: Int[Tensor, " p"]
) -> tuple[Float[Tensor, "p d"], Float[Tensor, "p d"], Float[Tensor, "p d"]]:
    """The step that row i takes down its gradient, in units of the rate, its `count[i]`-th; and both moments."""
    mean, square = torch.lerp(gradient, mean, BETAS[0]), torch.lerp(gradient.square(), square, BETAS[1])
    first, second = (moment / (1 - beta ** count[:, None]) for moment, beta in zip((mean, square), BETAS, strict=True))
    return first / (second.sqrt() + EPSILON), mean, square
