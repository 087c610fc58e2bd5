"""Bounds on what one caller may ask for, where they are more than a number in `Settings`."""

from app.settings import Settings
from tsfm.series.options import Limits

READER_SHARE_OF_MEMORY = 4
"""The reader may hold a quarter of the parser's address space; the rest is code, stacks and buffers."""


def series_limits(settings: Settings) -> Limits:
    """The bounds of one file, as the reader takes them."""
    return Limits(
        max_bytes=settings.max_upload_bytes,
        max_decompressed_bytes=settings.max_decompressed_bytes,
        max_rows=settings.max_rows,
        max_series=settings.max_series,
        max_columns=settings.max_columns,
        memory_bytes=settings.parse_memory_bytes // READER_SHARE_OF_MEMORY,
    )
