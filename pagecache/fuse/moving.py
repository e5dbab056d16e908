"""Calls by key about nodes that may get another name meanwhile.

A call asks by key, and keys change: who finds nothing looks whether the name has moved meanwhile, and asks again by the
new one. A rename that runs is waited for then.

    thread 1   key of node 9 is "a"                       look "a": ENOENT, "a" moved: look "b"
    thread 2                        rename "a" to "b"

A program that opens a path has looked the name up before, in a request of its own. What it found may lose its name
until then: the server says ESTALE, and the kernel begins anew, but only once. So who takes a name away lets those go
first who have come to open what has it, and those who came too late and are about to come again:

    opener     look "a": node 9          open 9: ESTALE, when no rename runs    look "a": node 12     open 12
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

from .nodes import Node, Nodes

__all__ = ["Moving"]

T = TypeVar("T")
PATIENCE = 1.0
"""Seconds: an open that takes longer may find that it came too late."""
AGAIN = 0.25
"""Seconds within which an open that came too late comes again."""
OTHERS = 8
"""Opens that have to come after one that came too late: nobody can tell which of them is the one that comes again."""
Entry = tuple[Node, str]
"""A directory, and a name in it."""


class Opening:
    """An open of a node."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node


class Moving:
    """Which names are being changed, and how to ask by a name all the same. Thread-safe."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._changed = threading.Condition()  # guards the map, for moments
        self._moves: dict[str, int] = {}  # keys that are being renamed: how often
        self._opens: dict[Opening, None] = {}  # that have begun
        self._taken: Counter[Entry] = Counter()  # names that are being taken away
        # Names whose opens came too late: how many more are waited for, and until when.
        self._late: dict[Entry, tuple[int, float]] = {}

    def by_key(self, node: Node, call: Callable[[str], T]) -> T:
        """A call by what the node is called.

        Raises:
            FileNotFoundError: it has no name any more, or nothing has that name, which has not moved.
        """
        while True:
            key = self._nodes.key(node)
            if key is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            try:
                return call(key)
            except FileNotFoundError:
                self._wait_moved(key)
                if self._nodes.key(node) == key:
                    raise

    def of(self, node: Node, call: Callable[[str], T]) -> T:
        """A call about the node itself, which the kernel takes for something that is there.

        Raises:
            OSError: ESTALE, it is not: the kernel looks the path up once more, and finds what has the name by now.
        """
        try:
            return self.by_key(node, call)
        except FileNotFoundError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def entry(self, directory: Node, name: str, call: Callable[[Node, str], T]) -> T:
        """A call about an entry of a directory, with the directory and the key of the entry."""
        return self.by_key(directory, lambda key: call(directory, f"{key}/{name}" if key else name))

    @contextlib.contextmanager
    def opening(self, node: Node) -> Iterator[None]:
        """Within it the node is opened, or changed by its name: once nobody takes that away any more."""
        opening = Opening(node)
        with self._changed:
            self._changed.wait_for(lambda: not any(self._taken[link] for link in list(node.links)), PATIENCE)
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
        """Whoever takes the name away from here on waits; until nobody does who had begun."""
        with self._changed:
            for other in list(self._late):
                self._comes_again(other)  # else names that nobody ever takes away again would stay
            for patience in (PATIENCE, AGAIN):
                self._late[entry] = OTHERS, time.monotonic() + patience
                self._changed.wait_for(lambda: not self._taken[entry], PATIENCE)

    def _came(self, entry: Entry) -> None:
        """Somebody has come to open what has this name."""
        if entry in self._late:
            more, until = self._late[entry]
            self._late[entry] = more - 1, until

    def _comes_again(self, entry: Entry) -> float:
        """Seconds for which somebody may come again to open what has this name."""
        more, until = self._late.get(entry, (0, 0.0))
        left = until - time.monotonic() if more > 0 else 0.0
        if left <= 0:
            self._late.pop(entry, None)
        return left

    @contextlib.contextmanager
    def taking(self, *entries: Entry, key: str | None = None) -> Iterator[None]:
        """Within it these names are taken away from what has them: once those have come to open that who came too late,
        and the opens that have begun have ended. `key`: it is renamed, so that who finds nothing by it waits.
        """
        with self._changed:
            until = time.monotonic() + PATIENCE
            while (left := min(max(map(self._comes_again, entries)), until - time.monotonic())) > 0:
                self._changed.wait(left)
            nodes = [self._nodes.child(*entry) for entry in entries]
            begun = [opening for opening in self._opens if opening.node in nodes]
            self._changed.wait_for(lambda: not any(opening in self._opens for opening in begun), PATIENCE)
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
        """Until nothing is being renamed that the key may have been found by."""

        def still() -> bool:
            return not any(key == moving or key.startswith(f"{moving}/") for moving in self._moves)

        with self._changed:
            self._changed.wait_for(still)
