"""Where images come from."""

from .batches import QueryBatch, QueryStream, open_queries
from .domain import ImageDomain, Source, load_domain
from .images import UnreadableImage, read_image

__all__ = [
    "ImageDomain",
    "QueryBatch",
    "QueryStream",
    "Source",
    "UnreadableImage",
    "load_domain",
    "open_queries",
    "read_image",
]
