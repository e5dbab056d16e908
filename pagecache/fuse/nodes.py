"""The inode table: which number the kernel has for what, how often it was told, and what it is called now.

    number 1   directory ""             the root
    number 7   directory "a"            children: {"b": 9}
    number 9   file      "a/b", "c"     two hard links, one object: one number

A number lives until the kernel has forgotten it as often as it was told of it, and nobody has the file open. Keys are
made from names upwards, so a directory that is renamed moves everything below it at once. Numbers are made from the
key at the first look, so that a file has the same number again after it was forgotten, and after the next mount,
unless it was renamed meanwhile.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from ..backends.protocol import ObjectStat
from ..stats import Kind

__all__ = ["ROOT", "Node", "Nodes"]

ROOT = 1


class Node:
    """What a number stands for. All fields are under the lock of the table.

    Attributes:
        lookups: how often the kernel was told of it, and has not forgotten it.
        links: its names: (directory, name).
        children: of a directory: those of its entries that have a number.
        opens: numbers of its open files.
        kept: version of the object when the kernel's pages of it were last known to be right.
        seen: what was last found of it.
        losses: of a directory: how often a name of it was given up.
        lost: the name that it had last, and has no more: (directory, name).
        changed: when it, or a name of it, was last changed through this server, by time.monotonic_ns; 0: never.
        nameless: attributes that it was given after its last name was gone.
    """

    __slots__ = (
        *("changed", "children", "kept", "kind", "links", "lookups", "losses", "lost", "nameless", "number", "opens"),
        "seen",
    )

    def __init__(self, number: int, kind: Kind) -> None:
        self.number = number
        self.kind = kind
        self.lookups = 0
        self.links: dict[tuple[Node, str], None] = {}
        self.children: dict[str, Node] = {}
        self.opens: dict[int, None] = {}
        self.kept: str | None = None
        self.seen: ObjectStat | None = None
        self.losses = 0
        self.lost: tuple[Node, str] | None = None
        self.changed = 0
        self.nameless: dict[str, Any] = {}


class Nodes:
    """All numbers that the kernel has. Thread-safe: one lock, held for moments, and no call to anybody within."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.root = Node(ROOT, "dir")
        self.root.lookups = 1
        self._nodes = {ROOT: self.root}
        self._shared: dict[str, Node] = {}  # objects with several names, by their canonical key
        self._unsettled: dict[Node, None] = {}  # of those: names have changed, and canonical keys follow names

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, number: int) -> Node:
        """Raises:
        KeyError: the kernel has no such number.
        """
        return self._nodes[number]

    def key(self, node: Node) -> str | None:
        """What it is called; None: it has no name any more."""
        with self.lock:
            return self._key(node)

    def _key(self, node: Node) -> str | None:
        parts: list[str] = []
        while node is not self.root:
            link = next(iter(node.links), None)
            if link is None:
                return None
            node = link[0]
            parts.append(link[1])
        return "/".join(reversed(parts))

    def keys(self, node: Node) -> list[str]:
        """Everything it is called, as far as it is known."""
        with self.lock:
            parents = [(self._key(parent), name) for parent, name in node.links]
        return [f"{parent}/{name}" if parent else name for parent, name in parents if parent is not None]

    def key_in(self, parent: Node, name: str) -> str | None:
        """What an entry of a directory is called; None: the directory has no name any more."""
        above = self.key(parent)
        return None if above is None else f"{above}/{name}" if above else name

    def child(self, parent: Node, name: str) -> Node | None:
        with self.lock:
            return parent.children.get(name)

    def found(self, parent: Node, name: str, kind: Kind, shared: str | None = None) -> Node:
        """An entry was found in a directory, and the kernel is told of it: one lookup more. `shared`: the canonical key
        of an object that has several names.
        """
        with self.lock:
            node = parent.children.get(name)
            if node is not None and node.kind != kind:
                self._unlink(parent, name)
                node = None
            if node is None and shared is not None:
                node = self._shared.get(shared)
                if node is not None:
                    node.links[parent, name] = None
                    parent.children[name] = node
            if node is None:
                above = self._key(parent) or ""
                node = Node(self._free_number(f"{above}/{name}" if above else name), kind)
                node.links[parent, name] = None
                parent.children[name] = node
                self._nodes[node.number] = node
            if shared is not None:
                self._shared[shared] = node
            node.lookups += 1
            return node

    def _free_number(self, key: str) -> int:
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        number = int.from_bytes(digest, "little") >> 1  # a signed number for some
        while number <= ROOT or number in self._nodes:
            number += 1
        return number

    def opened(self, node: Node, fh: int) -> None:
        with self.lock:
            node.opens[fh] = None

    def released(self, node: Node, fh: int) -> None:
        with self.lock:
            node.opens.pop(fh, None)
            self._prune(node)

    def forget(self, number: int, times: int) -> None:
        """The kernel has forgotten it so often."""
        with self.lock:
            node = self._nodes.get(number)
            if node is not None and node is not self.root:
                node.lookups -= times
                self._prune(node)

    def _prune(self, node: Node) -> None:
        """Drop a node that nobody can name any more, and the directories that only it kept."""
        while node is not self.root and node.lookups <= 0 and not node.children and not node.opens:
            self._nodes.pop(node.number, None)
            parents = [parent for parent, _ in node.links]
            for parent, name in node.links:
                if parent.children.get(name) is node:
                    del parent.children[name]
            node.links.clear()
            self._unshare(node)
            self._unsettled.pop(node, None)
            for parent in parents[1:]:
                self._prune(parent)
            if not parents:
                return
            node = parents[0]

    def removed(self, parent: Node, name: str) -> None:
        """The name is gone."""
        with self.lock:
            self._unlink(parent, name)

    def _unlink(self, parent: Node, name: str) -> None:
        parent.losses += 1
        node = parent.children.pop(name, None)
        if node is not None:
            node.links.pop((parent, name), None)
            node.lost = parent, name
            self._unshare(node)

    def _unshare(self, node: Node) -> None:
        for key in [key for key, other in self._shared.items() if other is node]:
            del self._shared[key]
            self._unsettled[node] = None

    def take_unsettled(self) -> list[Node]:
        """Objects with several names whose canonical key has to be asked for again, before another is looked up."""
        with self.lock:
            nodes = [node for node in self._unsettled if node.links]
            self._unsettled.clear()
            return nodes

    def share(self, node: Node, key: str) -> None:
        """The canonical key of an object that has several names."""
        with self.lock:
            self._shared.setdefault(key, node)

    def linked(self, node: Node, parent: Node, name: str) -> None:
        """It has another name, and the kernel is told of it once more."""
        with self.lock:
            if parent.children.get(name) is not node:
                self._unlink(parent, name)
            node.links[parent, name] = None
            parent.children[name] = node
            node.lookups += 1
            node.changed = time.monotonic_ns()

    def renamed(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        """One name was given up for another, whose object, if any, has lost it."""
        with self.lock:
            if (parent, name) == (new_parent, new_name):
                return
            node = parent.children.get(name)
            if node is not None and new_parent.children.get(new_name) is node:
                return  # two names of one object: nothing happens
            self._unlink(new_parent, new_name)
            parent.losses += 1
            self._unsettled.update(dict.fromkeys(self._shared.values()))
            self._shared.clear()
            if node is not None:
                del parent.children[name]
                del node.links[parent, name]
                node.links[new_parent, new_name] = None
                new_parent.children[new_name] = node
                node.changed = time.monotonic_ns()  # what was listed by that name was another

    def known_as(self, key: str) -> list[Node]:
        """The nodes that a key of the cache may stand for: by its names, or as an object with several."""
        with self.lock:
            node: Node | None = self.root
            for part in key.split("/"):
                node = None if node is None else node.children.get(part)
            shared = self._shared.get(key)
        return list({found: None for found in (node, shared) if found is not None})

    def __iter__(self) -> Iterator[Node]:
        with self.lock:
            return iter(list(self._nodes.values()))
