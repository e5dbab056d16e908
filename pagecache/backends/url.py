"""Backends by URL, as the command line and configuration files name them.

    memory:            objects in this process
    dir:PATH           files below a directory that exists
    SCHEME:...         whatever an installed package registered under the entry-point group `pagecache.backends`

An entry point names a callable, called as `callable(url, **options)`. Schemes that belong to this package but need an
extra are known here, so that the error says what to install instead of "unknown".
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from .directory import DirectoryBackend
from .memory import MemoryBackend
from .protocol import AsyncBackend, Backend

__all__ = ["backend_from_url"]

GROUP = "pagecache.backends"
EXTRAS = {"s3": "s3", "fsspec": "fsspec"}  # scheme: extra of this package


def _memory(url: str, **options: Any) -> Backend:
    rest = url.partition(":")[2]
    if rest not in ("", "//"):
        raise ValueError(f"{url!r}: nothing may follow 'memory:'")
    return MemoryBackend(**options)


def _directory(url: str, **options: Any) -> Backend:
    path = url.partition(":")[2]
    if not path:
        raise ValueError(f"{url!r}: a path must follow 'dir:'")
    return DirectoryBackend(path, **options)


BUILT_IN: dict[str, Callable[..., Backend]] = {"memory": _memory, "dir": _directory}


def backend_from_url(url: str, **options: Any) -> Backend | AsyncBackend:
    """The backend that a URL names.

    Args:
        url: `SCHEME:REST`.
        options: go to the backend's constructor.

    Raises:
        ValueError: no such scheme, or its extra is not installed; names the known schemes.

    >>> type(backend_from_url("memory:")).__name__
    'MemoryBackend'
    """
    scheme, colon, _ = url.partition(":")
    if colon and scheme in BUILT_IN:
        return BUILT_IN[scheme](url, **options)
    registered = {point.name: point for point in entry_points(group=GROUP)}
    if colon and scheme in registered:
        backend: Backend | AsyncBackend = registered[scheme].load()(url, **options)
        return backend
    known = ", ".join(f"{name}:" for name in sorted(BUILT_IN.keys() | registered.keys() | EXTRAS.keys()))
    if colon and scheme in EXTRAS:
        need = f"{scheme}: is not part of this installation; it needs the extra 'pagecache[{EXTRAS[scheme]}]'"
        raise ValueError(f"{url!r}: {need} (known schemes: {known})")
    what = f"no backend for the scheme {scheme + ':'!r}" if colon else "not a URL of the form SCHEME:REST"
    raise ValueError(f"{url!r}: {what} (known schemes: {known})")
