"""Generators of the domain X: trained here, loaded, or wrapped."""

from .adapt import WrappedGenerator, wrap_generator
from .base import Generator, check_generator, freeze, prior, sample
from .families.dcgan import DCGAN
from .loading import build_generator, find_model, load_generator
from .simulator import FaceSimulator
from .training import GeneratorRecipe, find_family, train_generator
from .warped import WarpedGenerator

__all__ = [
    "DCGAN", "FaceSimulator", "Generator", "GeneratorRecipe", "WarpedGenerator", "WrappedGenerator", "build_generator",
    "check_generator", "find_family", "find_model", "freeze", "load_generator", "prior", "sample", "train_generator",
    "wrap_generator",
]  # fmt: skip
