"""namap: map images of one domain onto another without pairs and without adversarial training of the mapping.

    from namap import VAENAM, load_generator
    G = load_generator("runs/digits-generator")
    m = VAENAM(G, beta=1e-3, seed=0).fit("data/street", outdir="runs/street2digits")
    out = m.translate("data/new", solutions=4)

Names are imported when they are first used, so that `import namap` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analogies import Analogies
    from .data import ImageDomain, load_domain
    from .errors import NamapError
    from .generators import load_generator, train_generator, wrap_generator
    from .mapping import AENAM, NAM, VAENAM, Mapping
    from .matching import Matches, match

_HOMES = {
    "AENAM": "mapping",
    "Analogies": "analogies",
    "ImageDomain": "data",
    "Mapping": "mapping",
    "Matches": "matching",
    "NAM": "mapping",
    "NamapError": "errors",
    "VAENAM": "mapping",
    "load_domain": "data",
    "load_generator": "generators",
    "match": "matching",
    "train_generator": "generators",
    "wrap_generator": "generators",
}

__all__ = [
    "AENAM",
    "NAM",
    "VAENAM",
    "Analogies",
    "ImageDomain",
    "Mapping",
    "Matches",
    "NamapError",
    "load_domain",
    "load_generator",
    "match",
    "train_generator",
    "wrap_generator",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
