"""Calls by key about nodes whose names may change during the call.

A call uses the node's key, and keys change: if it finds nothing, or another object, it checks whether the name has
moved since, and is repeated with the new key. It waits for a running rename first. A key has the identity of the node,
or of the directory of an entry: the kernel has checked the permissions of that object, so the store compares it.

    thread 1   key of node 9 is "a"                       find "a": ENOENT, "a" moved: find "b"
    thread 2                        rename "a" to "b"

A program that opens a path has looked the name up before, in a separate request. The found node may lose its name
before the open: the server returns ESTALE, and the kernel repeats the lookup, but only once. So a call that takes a
name
away lets pending opens of it finish first, and those that lost the race and are about to return:

    opener     find "a": node 9          open 9: ESTALE, when no rename runs    find "a": node 12     open 12
    renamer                 "x" to "a"                                          "y" to "a" waits
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..backends.protocol import CheckedKey
from .nodes import Node, Nodes

__all__ = ["Moving", "entry_key"]

T = TypeVar("T")
OPEN_TIMEOUT_S = 1.0
"""Time limit in seconds of these waits: a longer open may lose the race."""
RETURN_TIMEOUT_S = 0.25
"""Seconds within which an open that lost the race returns."""
OPENS_AWAITED = 8
"""Number of opens to wait for after one that lost the race: the returning one cannot be identified."""
Entry = tuple[Node, str]
"""A directory, and a name in it."""
GONE = (errno.ENOENT, errno.ESTALE)
"""Errors of a call by key whose node may have another key by now."""


def entry_key(directory: Node, key: str, name: str) -> CheckedKey:
    """Return the key of an entry of a directory that has this key."""
    return CheckedKey(f"{key}/{name}" if key else name, directory=directory.identity)


class Opening:
    """A running open of a node."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node


class Moving:
    """The names that are being changed, and calls by name in spite of that. Thread-safe."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._changed = threading.Condition()  # guards the maps; held briefly
        self._moves: dict[str, int] = {}  # key -> number of running renames
        self._opens: dict[Opening, None] = {}  # running opens
        self._taken: Counter[Entry] = Counter()  # names that are being taken away
        # Names whose opens lost the race: number of opens to wait for, and the time limit.
        self._late: dict[Entry, tuple[int, float]] = {}

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
    def opening(self, node: Node) -> Iterator[None]:
        """Context of an open of a node, or of a change by its name: waits for running calls that take the name away."""
        opening = Opening(node)
        with self._changed:
            self._changed.wait_for(lambda: not any(self._taken[link] for link in list(node.links)), OPEN_TIMEOUT_S)
            self._opens[opening] = None
            for entry in list(node.links) if self._late else ():
                self._came(entry)
            self._changed.notify_all()
        try:
            yield
        except OSError as error:
            if error.errno == errno.ESTALE and node.lost is not None:
                self._let_come_again(node.lost)
            raise
        finally:
            with self._changed:
                del self._opens[opening]
                self._changed.notify_all()

    def _let_come_again(self, entry: Entry) -> None:
        """Let an open that lost the race return: later calls that take the name away wait; returns after the earlier
        ones.
        """
        with self._changed:
            for other in list(self._late):
                self._comes_again(other)  # drops names that have no renamer to drop them
            for timeout in (OPEN_TIMEOUT_S, RETURN_TIMEOUT_S):
                self._late[entry] = OPENS_AWAITED, time.monotonic() + timeout
                self._changed.wait_for(lambda: not self._taken[entry], OPEN_TIMEOUT_S)

    def _came(self, entry: Entry) -> None:
        """Count an open of the node with this name."""
        if entry in self._late:
            more, until = self._late[entry]
            self._late[entry] = more - 1, until

    def _comes_again(self, entry: Entry) -> float:
        """Return the seconds for which opens of this name may return."""
        more, until = self._late.get(entry, (0, 0.0))
        left = until - time.monotonic() if more > 0 else 0.0
        if left <= 0:
            self._late.pop(entry, None)
        return left

    @contextlib.contextmanager
    def taking(self, *entries: Entry, key: str | None = None) -> Iterator[None]:
        """Context of a call that takes these names away: waits for returning opens, and for the running ones. `key`: it
        is renamed, so that calls that find nothing under it wait.
        """
        with self._changed:
            until = time.monotonic() + OPEN_TIMEOUT_S
            while (left := min(max(map(self._comes_again, entries)), until - time.monotonic())) > 0:
                self._changed.wait(left)
            nodes = [self._nodes.child(*entry) for entry in entries]
            begun = [opening for opening in self._opens if opening.node in nodes]
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
