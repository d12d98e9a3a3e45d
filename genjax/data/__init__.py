"""Data: sources of images, and batches of them."""

from genjax.data.source import DataOptions, Source
from genjax.data.sources import open_source
from genjax.data.values import arrays, indexed

__all__ = ["DataOptions", "Source", "arrays", "indexed", "open_source"]
