"""Generators that others might have made, and how they save them."""

import warnings
from pathlib import Path

import torch
from torch import nn

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "third_party_faces.py"
SMALL = {"images": 64, "batch_size": 32, "encoder_width": 4, "filters": 2, "precision": "fp32"}


class Boom:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was executed')",))


def spatial_module(last: nn.Module | None = None) -> nn.Module:
    """`[b 10 1 1]` to `[b 1 16 16]`, of a wide range."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.ConvTranspose2d(10, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 4), last or nn.Tanh()
    )
    nn.init.normal_(module[3].weight, 0, 1.0)
    module(torch.randn(64, 10, 1, 1))
    return module.eval()


def flat_module() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 1024), nn.Sigmoid(), nn.Unflatten(1, (1, 32, 32)))
    nn.init.normal_(module[0].weight, 0, 2.0)
    return module


def save_script(module: nn.Module, path: Path, codes: tuple[int, ...] = (10, 1, 1)) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, torch.randn(2, *codes)), path)
    return path


def save_scripted(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), path)
    return path


def save_program(module: nn.Module, path: Path, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    torch.export.save(torch.export.export(module, (torch.randn(2, 10, 1, 1),), dynamic_shapes=shapes), path)
    return path


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = spatial_module()

    def forward(self, z):
        return self.inner(z).detach()


class Twice(Detached):
    def forward(self, z):
        x = self.inner(z)
        return x, x
