"""Shared fixtures. Shapes in signatures are checked by beartype in every test."""

from jaxtyping import install_import_hook

with install_import_hook("namap", "typecheck.check"):
    import namap.cli
    import namap.demo
    import namap.speed  # noqa: F401

from pathlib import Path

import pytest
import torch

from namap.data import ImageDomain, load_domain
from namap.generators import DCGAN, freeze

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip(f"benchmark data not found at {SHARED}")
    return SHARED / "data"


@pytest.fixture(scope="session")
def handwriting() -> ImageDomain:
    return load_domain("embedded:handwriting/train").subset(slice(0, 200))


@pytest.fixture
def generator() -> DCGAN:
    """A small DCGAN with random weights and non-trivial batch statistics, frozen."""
    torch.manual_seed(0)
    dcgan = DCGAN(latent_dim=6, image_size=32, channels=1, width=8)
    with torch.no_grad():
        for p in dcgan.parameters():
            p.mul_(8)
        for _ in range(20):
            dcgan(torch.randn(64, 6))
    return freeze(dcgan)
