"""Shared fixtures. Shapes in signatures are checked by beartype in every test."""

from jaxtyping import install_import_hook

from offline import ALONE  # before torch starts its threads

with install_import_hook("namap", "typecheck.check"):
    import namap.app.archives
    import namap.cli
    import namap.demo
    import namap.distilling
    import namap.matching
    import namap.speed
    import namap.translating  # noqa: F401

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from namap.data import ImageDomain, load_domain
from namap.generators import DCGAN, freeze
from namap.mapping import METHODS

torch.set_num_threads(1)  # small steps gain little from threads; tests run in two processes instead
LOOPBACK = ("127.0.0.1", "::1", "localhost", None)
DATA = Path(os.environ.get("NAMAP_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches a network; loopback and local sockets stay open.

    This says so where it is tried. What a test starts is held back by `cut_off`, where that is possible.
    """
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def local_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise OSError(f"no network in tests: {address}")
        return connect(self, address)

    def local_lookup(host, *arguments, **options):
        if host not in LOOPBACK:
            raise OSError(f"no network in tests: {host}")
        return lookup(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", local_connect)
    monkeypatch.setattr(socket, "getaddrinfo", local_lookup)


@pytest.fixture(scope="session")
def cut_off_for_sure() -> None:
    """For tests of what else is started: only where the kernel holds it back."""
    if not ALONE:
        pytest.skip("a network of its own needs root: `make test-offline` asks for it")


@pytest.fixture(scope="session")
def shared() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"benchmark data not found at {DATA}; NAMAP_DATA says where it is")
    return DATA


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


@pytest.fixture
def domain() -> ImageDomain:
    """Forty small pictures of noise."""
    return ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8))


@pytest.fixture(scope="session")
def saved_models(handwriting, tmp_path_factory) -> dict[str, Path]:
    """Barely fitted mappings of three methods to one small generator, saved: enough to be served."""
    torch.manual_seed(0)
    dcgan = DCGAN(latent_dim=6, image_size=32, channels=1, width=8)
    with torch.no_grad():
        for p in dcgan.parameters():
            p.mul_(8)
    place, small = tmp_path_factory.mktemp("models"), {"encoder_width": 8, "filters": 4, "precision": "fp32"}
    for method in ("vae", "nam", "ae"):
        mapping = METHODS[method](freeze(dcgan), images=64, batch_size=32, **small)
        mapping.fit(handwriting.subset(slice(0, 32)), quiet=True).save_pretrained(place / method)
    return {method: place / method for method in ("vae", "nam", "ae")}


@pytest.fixture(scope="session")
def explorer(saved_models):
    """What `namap app` shows: three models, queries, and images of X."""
    from namap.app.views import open_explorer

    sources = {"data": "embedded:handwriting/test", "x": "embedded:handwriting/train"}
    return open_explorer(list(saved_models.values()), **sources, precision="fp32", device="cpu")


@pytest.fixture(scope="session")
def address(explorer) -> Iterator[str]:
    """Where this explorer is served."""
    from namap.app.looks import CSS
    from namap.app.page import build_page
    from namap.app.server import start

    page = build_page(explorer)
    yield start(page, "127.0.0.1", 0, CSS)
    page.close(verbose=False)
