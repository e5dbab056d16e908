"""`--trace FILE`: what the caches of a run did, a file each.

Cases make their caches through `made`; where traces are wanted it begins one. They end with the repetition, when the
caches are closed.
"""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import Self

from pagecache import PageCache

_current: ContextVar[Traces | None] = ContextVar("traces", default=None)


def made(cache: PageCache) -> PageCache:
    """A cache of a case; traced, where traces are wanted."""
    traces = _current.get()
    if traces is not None:
        traces.begin(cache)
    return cache


class Traces:
    """Traces of the caches that are made while this is entered: the first one is `path`, the others are numbered."""

    def __init__(self, path: Path, first: int = 1) -> None:
        self.path = path
        self.next = first
        self._stack = ExitStack()
        self._token: Token[Traces | None] | None = None

    def name(self, number: int) -> Path:
        """trace.json, trace-2.json, trace-3.json, ..."""
        return self.path if number == 1 else self.path.with_stem(f"{self.path.stem}-{number}")

    def begin(self, cache: PageCache) -> None:
        """Trace a cache."""
        self._stack.enter_context(cache.trace(self.name(self.next)))
        self.next += 1

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        self._stack.__exit__(kind, error, trace)
