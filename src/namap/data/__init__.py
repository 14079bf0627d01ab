"""Where images come from."""

from .domain import ImageDomain, load_domain
from .images import UnreadableImage, read_image

__all__ = ["ImageDomain", "UnreadableImage", "load_domain", "read_image"]
