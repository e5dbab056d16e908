"""Calls by key about nodes that may get another name meanwhile.

A call asks by key, and keys change: who finds nothing looks whether the name has moved meanwhile, and asks again by the
new one. A rename that runs is waited for then.

    thread 1   key of node 9 is "a"                       look "a": ENOENT, "a" moved: look "b"
    thread 2                        rename "a" to "b"

A program that opens a path has looked the name up before, in a request of its own. What it found may lose its name
until then: the server says ESTALE, and the kernel begins anew, but only once. So who takes a name away lets those go
first who have come to open what has it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from .nodes import Node, Nodes

__all__ = ["Moving"]

T = TypeVar("T")
PATIENCE = 1.0
"""Seconds: an open that takes longer may find that it came too late."""


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
        """Within it the node is opened."""
        opening = Opening(node)
        with self._changed:
            self._opens[opening] = None
        try:
            yield
        finally:
            with self._changed:
                del self._opens[opening]
                self._changed.notify_all()

    def wait_opened(self, *nodes: Node | None) -> None:
        """Before a name of theirs is taken away, and before `renaming`, for which opens wait in turn: until the opens
        that have begun have ended.
        """
        with self._changed:
            begun = [opening for opening in self._opens if opening.node in nodes]
            self._changed.wait_for(lambda: not any(opening in self._opens for opening in begun), PATIENCE)

    def _wait_moved(self, key: str) -> None:
        """Until nothing is being renamed that the key may have been found by."""

        def still() -> bool:
            return not any(key == moving or key.startswith(f"{moving}/") for moving in self._moves)

        with self._changed:
            self._changed.wait_for(still)

    @contextlib.contextmanager
    def renaming(self, key: str) -> Iterator[None]:
        with self._changed:
            self._moves[key] = self._moves.get(key, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._moves[key] -= 1
                if not self._moves[key]:
                    del self._moves[key]
                self._changed.notify_all()
