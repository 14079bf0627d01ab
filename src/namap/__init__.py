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
    from .batch import translate_on_ray
    from .data import ImageDomain, load_domain, open_queries
    from .distilling import distil
    from .errors import NamapError
    from .exploring import explore
    from .export import export_mapping
    from .generators import load_generator, train_generator, wrap_generator
    from .grounding import Grounding
    from .mapping import AENAM, NAM, VAENAM, WAENAM, Mapping
    from .matching import Matches, match
    from .strong import StrongMapper, train_mapper
    from .translating import translate_files

_HOMES = {
    "AENAM": "mapping",
    "Analogies": "analogies",
    "Grounding": "grounding",
    "ImageDomain": "data",
    "Mapping": "mapping",
    "Matches": "matching",
    "NAM": "mapping",
    "NamapError": "errors",
    "StrongMapper": "strong",
    "VAENAM": "mapping",
    "WAENAM": "mapping",
    "distil": "distilling",
    "explore": "exploring",
    "export_mapping": "export",
    "load_domain": "data",
    "load_generator": "generators",
    "match": "matching",
    "open_queries": "data",
    "train_generator": "generators",
    "train_mapper": "strong",
    "translate_files": "translating",
    "translate_on_ray": "batch",
    "wrap_generator": "generators",
}

__all__ = [
    "AENAM",
    "NAM",
    "VAENAM",
    "WAENAM",
    "Analogies",
    "Grounding",
    "ImageDomain",
    "Mapping",
    "Matches",
    "NamapError",
    "StrongMapper",
    "distil",
    "explore",
    "export_mapping",
    "load_domain",
    "load_generator",
    "match",
    "open_queries",
    "train_generator",
    "train_mapper",
    "translate_files",
    "translate_on_ray",
    "wrap_generator",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
