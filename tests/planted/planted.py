"""The fields of a table entry, and the switch of a bug."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pagecache.backends import Backend
from pagecache.native.extension import extension

__all__ = [
    "DEBUG_EXTENSION",
    "PLANTED_EXTENSION",
    "Factory",
    "Kind",
    "Planted",
    "debug_environment",
    "is_planted",
    "patched",
    "planted_environment",
    "without",
]

Kind = Literal["core", "engine", "backend"]
Factory = Callable[[], Backend]
"""A function that opens the store. Called again after a crash, it opens that store once more: uncommitted bytes may be
gone.
"""

BUILD = Path(__file__).parents[2] / "build"
DEBUG_EXTENSION = BUILD / "debug" / "pagecache" / "_native"
"""The place of the extension that `make debug-extension` builds."""
PLANTED_EXTENSION = BUILD / "planted" / "pagecache" / "_native"
"""The place of the extension that `make planted` builds: a debug extension with all bugs of the kind "core"."""


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug.

    Attributes:
        name: of the bug; for `core` that of the fix that is taken out, so it states the right behaviour.
        sentence: the mistake, and the user's loss.
        rule: the broken rule, as named by the contract.
        kind: core: `on()` works only in processes with the planted extension; engine: in all;
            backend: `target` is the broken thing, and there is nothing to switch on.
        on: the bug is active for the length of a `with`.
        target: makes a factory, on a new and empty store; None: any store of the tester's choice.
    """

    name: str
    sentence: str
    rule: str
    kind: Kind
    on: Callable[[], AbstractContextManager[None]] = nullcontext
    target: Callable[[], Factory] | None = None


def debug_environment() -> dict[str, str]:
    """The environment of a process that imports the debug extension."""
    return {**os.environ, "PAGECACHE_EXTENSION": str(DEBUG_EXTENSION)}


def planted_environment() -> dict[str, str]:
    """The environment of a process that imports the planted extension."""
    return {**os.environ, "PAGECACHE_EXTENSION": str(PLANTED_EXTENSION)}


def is_planted() -> bool:
    """Return whether this process has imported the planted extension."""
    return hasattr(ctypes.CDLL(extension.__file__), "pc_fix_remove")


@contextmanager
def patched(*changes: tuple[object, str, object]) -> Iterator[None]:
    """Set attributes of modules and classes to other values: (owner, name, value) each."""
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def without(fix: str, *changes: tuple[object, str, object]) -> Callable[[], AbstractContextManager[None]]:
    """Take a fix of the C core out, and apply the related changes of the engine."""

    @contextmanager
    def on() -> Iterator[None]:
        if not is_planted():
            raise RuntimeError("the planted extension is not imported: make planted, set PAGECACHE_EXTENSION")
        remove = ctypes.CDLL(extension.__file__).pc_fix_remove
        remove.argtypes, remove.restype = [ctypes.c_char_p], None
        name = fix.encode()  # stays alive as long as the fix is out
        remove(name)
        try:
            with patched(*changes):
                yield
        finally:
            remove(None)

    return on
