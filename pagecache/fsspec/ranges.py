"""Byte ranges of fsspec: [start, end), each of them possibly None or counted from the end.

They become spans here, (offset, length) inside a file of known size, which files of the cache take.
"""

from __future__ import annotations

from .file import PageCacheFile

Span = tuple[int, int]


def span_of(start: int | None, end: int | None, size: int) -> Span:
    """Return (offset, length) of [start, end), which may count from the end, inside a file of `size` bytes.

    >>> span_of(None, None, 10), span_of(-3, None, 10), span_of(2, -2, 10), span_of(8, 20, 10), span_of(5, 3, 10)
    ((0, 10), (7, 3), (2, 6), (8, 2), (5, 0))
    """
    first, last, _ = slice(start, end).indices(size)
    return first, max(0, last - first)


def read_span(file: PageCacheFile | Exception, span: Span, on_error: str) -> bytes | Exception:
    """Return the bytes, or the exception; with `on_error` "raise" it is raised."""
    if isinstance(file, Exception):
        return file
    try:
        return file.pread(span[1], span[0])
    except Exception as error:
        if on_error == "raise":
            raise
        return error
