"""Names of a directory that can be shown to programs.

The kernel rejects a whole listing with EIO if one name cannot be a component of a path. So such a name is left out of
the listing, with one log line per name. Listings contain no "." and "..": the code that replies to the kernel adds
them.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable
from typing import TypeVar

log = logging.getLogger("pagecache.fuse")

T = TypeVar("T")
NAME_MAX = 1024
"""Bytes that every kernel accepts; newer ones accept more."""
SAID = 1000
"""Names in the log: a store with only invalid names would otherwise fill the disk."""
SHOWN = 100


def why_no_name(name: object) -> str:
    """Return the rule that the name of an entry breaks; "": none."""
    if not isinstance(name, str | bytes):
        return f"a name is a str, not {type(name).__name__}"
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return f"a name can be encoded ({sys.getfilesystemencoding()})"
    if not encoded:
        return "a name is not empty"
    if b"/" in encoded:
        return "a name has no slash"
    if b"\0" in encoded:
        return "a name has no NUL"
    if len(encoded) > NAME_MAX:
        return f"a name has at most {NAME_MAX} bytes, and this one {len(encoded)}"
    return ""


class Listed:
    """The listings of one file system. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the set; held briefly
        self._said: set[tuple[str, str]] = set()

    def of(self, directory: str, entries: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
        """Return the entries that can be shown, in order. `directory`: its name in the log."""
        shown = []
        for name, found in entries:
            if why := why_no_name(name):
                self._say(directory, repr(name), why)
            elif name not in (".", ".."):
                shown.append((name, found))
        return shown

    def _say(self, directory: str, name: str, why: str) -> None:
        with self._lock:
            count = len(self._said)
            if count == SAID or (directory, name) in self._said:
                return
            self._said.add((directory, name))
        shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        log.warning("%s: the name %s is left out of the listing: %s", directory, shown, why)
        if count + 1 == SAID:
            log.warning("the log has %d names that are left out of listings, and gets no more of them", SAID)
