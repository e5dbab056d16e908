"""Calls by key about nodes whose names may change during the call.

A call uses the node's key, and keys change: if it finds nothing, or another object, it checks whether the name has
moved since, and is repeated with the new key. It waits for a running rename first. A key has the identity of the node,
or of the directory of an entry: the kernel has checked the permissions of that object, so the store compares it.

    thread 1   key of node 9 is "a"                       find "a": ENOENT, "a" moved: find "b"
    thread 2                        rename "a" to "b"

A program that opens a path has looked the name up before, in a separate request. The found node may lose its name
before the open: the server returns ESTALE, and the kernel repeats the lookup, but only once. So a call that takes a
name away lets pending opens of it finish first, and those of callers that look it up again (callers.py):

    opener     find "a": node 9          open 9: ESTALE    find "a": node 12                     open 12
    renamer                 "x" to "a"                                       "y" to "a" waits
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

from ..backends.protocol import CheckedKey
from .nodes import Node, Nodes

T = TypeVar("T")
OPEN_TIMEOUT_S = 1.0
"""Time limit in seconds of these waits: a longer open may lose the race."""
RETURN_TIMEOUT_S = 0.5
"""Seconds within which an open comes after its lookup, or returns if its thread is not known."""
Entry = tuple[Node, str]
"""A directory, and a name in it."""
GONE = (errno.ENOENT, errno.ESTALE)
"""Errors of a call by key whose node may have another key by now."""


def entry_key(directory: Node, key: str, name: str) -> CheckedKey:
    """Return the key of an entry of a directory that has this key."""
    return CheckedKey(f"{key}/{name}" if key else name, directory=directory.identity)


class Moving:
    """The names that are being changed, and calls by name in spite of that. Thread-safe."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._changed = threading.Condition()  # guards the maps; held briefly
        self._moves: dict[str, int] = {}  # key -> number of running renames
        self._opens: dict[object, Node] = {}  # running opens
        self._taken: Counter[Entry] = Counter()  # names that are being taken away
        # Names that calls come back for: the caller, and the time limit.
        self._awaited: dict[Hashable, tuple[Entry, float]] = {}

    def by_key(self, node: Node, call: Callable[[str], T]) -> T:
        """Make a call with a current key of a node: the first one that leads to it.

        Raises:
            FileNotFoundError: the node has lost its names, or nothing has one of them, and they have not moved.
            OSError: ESTALE: the same, but other objects have these names.
        """
        while True:
            keys = self._nodes.keys(node)
            gone: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            for key in keys:
                try:
                    return call(key)
                except OSError as error:
                    if error.errno not in GONE and not isinstance(error, FileNotFoundError):
                        raise
                    gone = error
            for key in keys:
                self._wait_moved(key)
            if self._nodes.keys(node) == keys:
                raise gone

    def of(self, node: Node, call: Callable[[CheckedKey], T]) -> T:
        """Make a call about a node that exists as far as the kernel is concerned.

        Raises:
            OSError: ESTALE: it is gone. The kernel looks the path up again, and finds the current node of that name.
        """
        try:
            return self.by_key(node, lambda key: call(CheckedKey(key, object=node.identity)))
        except FileNotFoundError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def entry(self, directory: Node, name: str, call: Callable[[Node, CheckedKey], T]) -> T:
        """Make a call about an entry of a directory, with the directory and the key of the entry."""
        return self.by_key(directory, lambda key: call(directory, entry_key(directory, key, name)))

    @contextlib.contextmanager
    def opening(self, node: Node, *, known: bool = False) -> Iterator[None]:
        """Context of an open of a node, or of a change by its name: waits for running calls that take the name away.
        `known`: the thread of its caller is, so its next lookups say what it comes back for.
        """
        opening = object()
        with self._changed:
            self._changed.wait_for(lambda: not any(self._taken[link] for link in list(node.links)), OPEN_TIMEOUT_S)
            self._opens[opening] = node
        names = node.links
        try:
            yield
        except OSError as error:
            if error.errno == errno.ESTALE and not known:
                for entry in (*names, *(() if node.lost is None else (node.lost,))):
                    self.comes_back(entry, object())
            raise
        finally:
            with self._changed:
                del self._opens[opening]
                self._changed.notify_all()

    def comes_back(self, entry: Entry, caller: Hashable) -> None:
        """Wait until no call takes the name away. Later ones wait until `caller` has come, or it is late."""
        with self._changed:
            now = time.monotonic()
            for other in [other for other, (_, until) in self._awaited.items() if until < now]:
                del self._awaited[other]
            self._awaited[caller] = entry, now + OPEN_TIMEOUT_S
            self._changed.wait_for(lambda: not self._taken[entry], OPEN_TIMEOUT_S)
            self._awaited[caller] = entry, time.monotonic() + RETURN_TIMEOUT_S
            self._changed.notify_all()

    def came(self, caller: Hashable) -> None:
        """Record that a call has come back, or does not."""
        if caller in self._awaited:
            with self._changed:
                self._awaited.pop(caller, None)
                self._changed.notify_all()

    @contextlib.contextmanager
    def taking(self, *entries: Entry, key: str | None = None) -> Iterator[None]:
        """Context of a call that takes these names away: waits for opens that come back, and for the running ones.
        `key`: it is renamed, so that calls that find nothing under it wait.
        """
        with self._changed:
            until = time.monotonic() + OPEN_TIMEOUT_S
            while awaited := [end for entry, end in self._awaited.values() if entry in entries]:
                if (left := min(max(awaited), until) - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            nodes = [self._nodes.child(*entry) for entry in entries]
            begun = [opening for opening, node in self._opens.items() if node in nodes]
            self._changed.wait_for(lambda: not any(opening in self._opens for opening in begun), OPEN_TIMEOUT_S)
            self._taken.update(entries)
            if key is not None:
                self._moves[key] = self._moves.get(key, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= Counter(entries)
                if key is not None:
                    self._moves[key] -= 1
                    if not self._moves[key]:
                        del self._moves[key]
                self._changed.notify_all()

    def _wait_moved(self, key: str) -> None:
        """Wait until no rename runs that affects the key."""

        def still() -> bool:
            return not any(key == moving or key.startswith(f"{moving}/") for moving in self._moves)

        with self._changed:
            self._changed.wait_for(still)
