"""Where images come from."""

from .batches import QueryBatch, QueryStream, open_queries
from .domain import ImageDomain, load_domain
from .images import UnreadableImage, read_image

__all__ = [
    "ImageDomain",
    "QueryBatch",
    "QueryStream",
    "UnreadableImage",
    "load_domain",
    "open_queries",
    "read_image",
]
