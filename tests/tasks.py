"""The smallest real training run, which the tests of the loop and of the log share."""

import os
import signal

import torch
from torch import nn

from namap.training import Run, Task, Update


class Autoencoder(Task):
    """The smallest real task: a linear autoencoder with noise and two optimizers, one of them row-wise."""

    def __init__(self, break_at: tuple[int, ...] = (), stop_at: int | None = None):
        torch.manual_seed(0)
        self.net, self.bias = nn.Linear(64, 64), nn.Embedding(40, 64, sparse=True)
        self.modules = {"net": self.net, "bias": self.bias}
        self.optimizers = {
            "net": torch.optim.Adam(self.net.parameters(), 1e-2),
            "bias": torch.optim.SparseAdam(list(self.bias.parameters()), 1e-2),
        }
        self.config = {"kind": "test"}
        self.concerned = False
        self.break_at, self.stop_at, self.calls = list(break_at), stop_at, 0

    def learning_rate(self, progress: float) -> float:
        return 1 - progress

    def updates(self, batch):
        y = batch.images.flatten(1)
        noise = torch.randn(y.shape, generator=batch.rng)
        loss = (self.net(y + 0.1 * noise) + self.bias(batch.index) - y).square().mean(1)
        step = batch.images_seen // len(y)
        if self.break_at and step == self.break_at[0]:
            self.break_at.pop(0)
            loss = loss * float("nan")
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        yield Update(("net", "bias"), loss, {"loss": loss})

    def after_step(self, step: int) -> None:
        self.calls += 1

    def concern(self, row: dict[str, float]) -> str:
        return "the test is concerned" if self.concerned else ""

    def pictures(self) -> list[torch.Tensor]:
        return [self.net.weight[None, None]]

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for m in self.modules.values() for p in m.parameters()])


def run(steps: int = 30, **kw) -> Run:
    return Run(steps * 8, 8, precision="fp32", quiet=True, log_every=5, **kw)
