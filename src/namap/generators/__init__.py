"""Generators of the domain X: trained here, loaded, or wrapped."""

from .adapt import WrappedGenerator, device_of, wrap_generator
from .base import Generator, check_generator, freeze, prior, sample, sample_uint8
from .families.dcgan import DCGAN
from .inspection import inspect_generator
from .loading import build_generator, load_generator, recall_generator, remember_generator
from .simulator import FaceSimulator
from .training import GeneratorRecipe, find_family, train_generator
from .warped import WarpedGenerator, unwarped

__all__ = [
    "DCGAN", "FaceSimulator", "Generator", "GeneratorRecipe", "WarpedGenerator", "WrappedGenerator", "build_generator",
    "check_generator", "device_of", "find_family", "freeze", "inspect_generator", "load_generator",
    "prior", "recall_generator", "remember_generator", "sample", "sample_uint8", "train_generator", "unwarped",
    "wrap_generator",
]  # fmt: skip
