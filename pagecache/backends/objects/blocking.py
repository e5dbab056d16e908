"""An open object of a blocking store, for threads: its calls are carried out on the calling thread."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..protocol import BackendFile
from .file import ObjectFile
from .store import run

__all__ = ["BlockingFile", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")


def blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a method that carries out the method of this name of `self.inner`, which never suspends."""

    def carry_out(self: Any, /, *args: P.args, **options: P.kwargs) -> T:
        work: Coroutine[Any, Any, T] = getattr(self.inner, method.__name__)(*args, **options)
        return run(work)

    functools.update_wrapper(carry_out, method, updated=())  # else it may be abstract, too
    return carry_out


class BlockingFile(BackendFile):
    """One object."""

    def __init__(self, inner: ObjectFile[Any]) -> None:
        self.inner = inner

    @property
    def seen(self) -> object:
        """The version with which `open` can open the object anew, without a request; None: it is being changed."""
        return self.inner.seen

    @property
    def unanswered(self) -> object:
        """What identifies the commits of this file."""
        return self.inner.unanswered

    stat = blocking(ObjectFile.stat)
    read_into = blocking(ObjectFile.read_into)
    write_from = blocking(ObjectFile.write_from)
    truncate = blocking(ObjectFile.truncate)
    punch_hole = blocking(ObjectFile.punch_hole)
    commit = blocking(ObjectFile.commit)
    rollback = blocking(ObjectFile.rollback)
    recognises = blocking(ObjectFile.recognises)
    close = blocking(ObjectFile.close)
