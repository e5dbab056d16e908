"""Backends as programs pass them: objects of any class, paths by mistake.

A backend needs `open` and `stat`. `completed` adds everything else that the engine calls: an object with missing parts
is wrapped in `Completed`, which takes these parts from `Backend` (or `AsyncBackend`).
"""

from __future__ import annotations

import functools
import inspect
import os
import reprlib
from types import MethodType
from typing import Any, Protocol

from .protocol import AsyncBackend, Backend, BackendLimits

REQUIRED = ("open", "stat")
FROM_SUBCLASSING = ("canonical", "sync", "close", "list", "remove", "rename")
FILE_METHODS = ("stat", "read_into", "write_from", "truncate", "commit")
ADVICE = "a Backend has both; subclass pagecache.Backend (or AsyncBackend), which has the rest"


class PlainBackend(Protocol):
    """The minimum of a backend; each method may be a coroutine function."""

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any: ...
    def stat(self, key: Any) -> Any: ...


def open_to_read(backend: Any, key: Any) -> Any:
    """Open an object whose beginning is read next: a backend whose `open` takes `read` is told so."""
    opening = backend.open
    return opening(key, read=True) if _takes(getattr(opening, "__func__", opening), "read") else opening(key)


def open_seen(backend: Any, key: Any, seen: object) -> Any:
    """Open an object without a request, in the version `seen` of a closed file; None: its `open` takes no `seen`."""
    opening = backend.open
    return opening(key, seen=seen) if _takes(getattr(opening, "__func__", opening), "seen") else None


@functools.lru_cache(maxsize=64)
def _takes(function: Any, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable without a signature
        return False


class Completed:
    """A backend that is no subclass of `Backend`: `wrapped`, with the defaults of a protocol for missing methods."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self._defaults = AsyncBackend if inspect.iscoroutinefunction(wrapped.open) else Backend

    def __repr__(self) -> str:
        return repr(self.wrapped)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # not set yet: unpickling
            raise AttributeError(name)
        if name == "limits":
            return getattr(self.wrapped, name, self._defaults.limits)
        found = getattr(self.wrapped, name, None) if name in FROM_SUBCLASSING else getattr(self.wrapped, name)
        if name not in FROM_SUBCLASSING or callable(found):
            return found
        return MethodType(getattr(self._defaults, name), self.wrapped)


def completed(backend: Any, what: str) -> Any:
    """Return a backend with every method and limit of the protocol; `what`: the name of the argument, for errors.

    Raises:
        TypeError: the object is no backend; names everything that it lacks.
    """
    if why := why_no_backend(backend):
        raise TypeError(f"{what} {backend.__name__ if isinstance(backend, type) else repr(backend)} {why}")
    if hasattr(backend, "limits") and all(callable(getattr(backend, name, None)) for name in FROM_SUBCLASSING):
        return backend
    return Completed(backend)


def given(backend: Any) -> Any:
    """Return the object that `completed` was called with."""
    return backend.wrapped if isinstance(backend, Completed) else backend


def why_no_backend(made: Any) -> str:
    """Return why an object cannot be a backend and what to do, as the end of a sentence; "" if it can."""
    if isinstance(made, type):
        return f"is a class; give an object: {made.__name__}(...), for a class is not a Backend"
    if isinstance(made, os.PathLike):
        return f"is a path; did you mean {as_directory(os.fspath(made))!r}?"
    missing = [name for name in REQUIRED if not callable(getattr(made, name, None))]
    if missing:
        return f"has no {' and no '.join(missing)}: {ADVICE}"
    limits = getattr(made, "limits", None)
    if hasattr(made, "limits") and not isinstance(limits, BackendLimits):
        rule = "write `limits = BackendLimits(...)` into its class, or leave `limits` out"
        return f"has the limits {reprlib.repr(limits)}, which is not a BackendLimits: {rule}"
    return ""


def missing_in_file(file: Any) -> str:
    """Return the required methods that the answer of `open` lacks, as in "stat, no commit"; "" if it has them all."""
    if _is_class_of_files(type(file)):  # type: ignore[arg-type]
        return ""
    return ", no ".join(name for name in FILE_METHODS if not callable(getattr(file, name, None)))


@functools.lru_cache
def _is_class_of_files(kind: type) -> bool:
    return all(callable(getattr(kind, name, None)) for name in FILE_METHODS)


def returned(value: object) -> str:
    """Return what a backend returned, for an error message that ends with it."""
    try:
        return f"it returned {reprlib.repr(value)}{forgotten(value)}"
    except Exception:
        return f"it returned an object of class {type(value).__name__}"


def forgotten(value: object) -> str:
    """Return the likely reason for an answer of None, as the end of a sentence; "" for another answer."""
    return "; a `return` is missing?" if value is None else ""


def as_directory(path: str | bytes) -> str:
    """Return the URL of the backend for a directory that was named as a path or as a file URL."""
    text = os.fsdecode(path)
    if text.startswith("file:"):
        from urllib.parse import unquote, urlsplit

        text = unquote(urlsplit(text).path)
    return f"dir:{os.path.expanduser(text)}"
