"""The inode table: numbers of the kernel, their lookup counts, and their current names.

    number 1   directory ""             the root
    number 7   directory "a"            children: {"b": 9}
    number 9   file      "a/b", "c"     two hard links, one object: one number

A node is one object of the store, by the identity that the store reports: a name that leads to another object gets
another node, and all names of an object get the same one. In a store that knows names only, a node is the object of a
name until this server takes the name away.

A number lives until the kernel has forgotten all its lookups, and the file is not open. Keys are built from names
upwards, so renaming a directory moves everything below it at once. Numbers are derived from the identity, or from the
key at the first lookup: so an object gets its old number again after it was forgotten, and after the next mount.

Nodes are as small as possible, since a kernel with free memory keeps every name that it has seen. Beyond `NAMES_MAX`
nodes it is asked to forget idle ones (FUSE_NOTIFY_PRUNE, Linux 6.18). That request takes no directory lock, so no other
request can block it. An older kernel refuses; it alone then decides the number of nodes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import math
import os
import struct
import threading
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

from ..backends.protocol import ObjectStat
from ..objects import Kind

log = logging.getLogger("pagecache.fuse")

ROOT = 1
NAMES_MAX = 1 << 16
"""Nodes beyond which the kernel is asked to forget idle ones."""
NOTIFY_PRUNE = 9
BATCH = 512
"""Nodes in one message."""
REFUSED = {errno.EINVAL, errno.ENOSYS}
NONE: Mapping[Any, Any] = MappingProxyType({})
PACKED = ("size", "mode", "uid", "gid", "nlink", "atime_ns", "mtime_ns", "ctime_ns", "allocated")
PACKING = struct.Struct("<QIIIIqqqQ")
NOT_SEEN = ("version", "mtime", "key", "kind", "identity")  # `mtime_ns` is more exact; nodes do not need the others
UNPACKED = tuple(name for name in ObjectStat.__slots__ if name not in PACKED and name not in NOT_SEEN)
Link = tuple["Node", str]


class Node:
    """The object of a number. The lock of the table protects all fields.

    Attributes:
        identity: of its object; None: the store knows names only.
        lookups: lookup count in the kernel.
        link, more_links: its names: (directory, name), and those after the first.
        children: of a directory: those of its entries that have a number.
        opens: numbers of its open files.
        kept: version of the object when the kernel's pages of it were last valid; with the number of an open file: it
            is that once the kernel has the answer of that open, and has dropped its pages.
        seen: its last status.
        losses: of a directory: number of names that it lost.
        lost: its last name, after it was lost: (directory, name).
        changed: time of its last change, or of a name of it, through this server, by time.monotonic_ns; 0: never. Of a
            directory: or of an entry that was forgotten since.
        taken_until: another program has taken one of its names, which the kernel may keep until then, by
            time.monotonic.
        was_read: it was read through an open that has ended, so the kernel may have pages of it.
        nameless: attributes that were set after its last name was lost.
        target: of a symbolic link, if it was read when the kernel looked it up.
        nameless_since: the stored time of the object when times among them were set.
    """

    __slots__ = (
        *("_seen", "changed", "children", "identity", "kept", "kind", "link", "lookups", "losses", "lost"),
        *("more_links", "taken_until", "nameless", "nameless_since", "number", "opens", "target", "was_read"),
    )

    def __init__(self, number: int, kind: Kind, identity: Hashable | None = None) -> None:
        self.number = number
        self.kind: Kind = kind
        self.identity = identity
        self.lookups = 0
        self.link: Link | None = None
        self.more_links: Mapping[Link, None] = NONE
        self.children: dict[str, Node] = {} if kind == "dir" else NONE  # type: ignore[assignment]
        self.opens: Mapping[int, None] = NONE
        self.kept: str | tuple[int, str | None] | None = None
        self._seen: bytes | ObjectStat | None = None
        self.losses = 0
        self.lost: Link | None = None
        self.changed = 0
        self.taken_until = 0.0
        self.was_read = False
        self.nameless: Mapping[str, Any] = NONE
        self.nameless_since: int | None = None
        self.target: str | None = None

    def may_be(self, kind: Kind, identity: Hashable | None) -> bool:
        """Return whether the name of this node still leads to it: to an object of this kind, with this identity. An
        object that is not stored yet has none.
        """
        return self.kind == kind and (None in (self.identity, identity) or self.identity == identity)

    @property
    def links(self) -> list[Link]:
        return [] if self.link is None else [self.link, *self.more_links]

    def add_link(self, link: Link) -> None:
        if self.link is None:
            self.link = link
        elif self.link != link:
            if not self.more_links:
                self.more_links = {}
            self.more_links[link] = None  # type: ignore[index]

    def drop_link(self, link: Link) -> None:
        if self.link == link:
            self.link = next(iter(self.more_links), None)
            link = self.link or link
        if link in self.more_links:
            del self.more_links[link]  # type: ignore[attr-defined]
            self.more_links = self.more_links or NONE

    def move_link(self, old: Link, new: Link) -> None:
        """Replace a name. The first stays the first: only that may be one that the kernel keeps without asking."""
        if self.link == old:
            self.link = new
        else:
            self.drop_link(old)
            self.add_link(new)

    @property
    def seen(self) -> ObjectStat | None:
        if not isinstance(self._seen, bytes):
            return self._seen
        return ObjectStat(kind=self.kind, **dict(zip(PACKED, PACKING.unpack(self._seen), strict=True)))

    @seen.setter
    def seen(self, found: ObjectStat | None) -> None:
        self._seen = found
        if found is not None and self.kind == found.kind == "file":
            values = [getattr(found, name) for name in PACKED]
            if None not in values and all(getattr(found, name) is None for name in UNPACKED):
                with contextlib.suppress(struct.error):  # a number that no file on a disk has
                    self._seen = PACKING.pack(*values)

    @property
    def seen_size(self) -> int | None:
        """The size in `seen`, without the rest: each open asks for it."""
        packed = self._seen
        if isinstance(packed, bytes):
            size: int = PACKING.unpack(packed)[PACKED.index("size")]
            return size
        return None if packed is None else packed.size


class Nodes:
    """All numbers in use by the kernel. Thread-safe: one lock, held briefly, without calls to other modules."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.root = Node(ROOT, "dir")
        self.root.lookups = 1
        self._nodes = {ROOT: self.root}
        self._prune_at: float = NAMES_MAX
        self.kept_s = math.inf  # how long the kernel keeps a name, and a call by it may be on its way
        self._objects: dict[Hashable, Node] = {}  # by identity: those with a name, and open ones

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, number: int) -> Node:
        """Raises:
        KeyError: the kernel has no such number.
        """
        return self._nodes[number]

    def key(self, node: Node) -> str | None:
        """Return a key of a node; None: it has lost its names."""
        return next(iter(self.keys(node)), None)

    def _key(self, node: Node) -> str | None:
        parts: list[str] = []
        while node is not self.root:
            if node.link is None:
                return None
            node, name = node.link
            parts.append(name)
        return "/".join(reversed(parts))

    def _key_in(self, parent: Node, name: str) -> str | None:
        above = self._key(parent)
        if above is None:
            return None
        return f"{above}/{name}" if above else name

    def keys(self, node: Node) -> list[str]:
        """Return all known keys of a node."""
        if node is self.root:
            return [""]
        with self.lock:
            keys = [self._key_in(parent, name) for parent, name in node.links]
        return [key for key in keys if key is not None]

    def child(self, parent: Node, name: str) -> Node | None:
        with self.lock:
            return parent.children.get(name)

    def found(
        self, parent: Node, name: str, kind: Kind, identity: Hashable | None = None, *, sole: int | None = None
    ) -> Node:
        """Return the node of a found entry, and count one lookup of the kernel. `identity`: of the found object.
        `sole`: it had no other name at that time, by time.monotonic_ns: another program has taken those that are known;
        0: at an earlier time.
        """
        with self.lock:
            node = parent.children.get(name)
            if node is not None and not node.may_be(kind, identity):
                self._taken(node)
                self._unlink(parent, name)
                node = None
            if node is None:
                node = self._of(identity, kind) or self._added(parent, name, kind, identity)
                node.add_link((parent, name))
                parent.children[name] = node
            others = [link for link in node.links if link != (parent, name)]
            if sole is not None and others:  # the kernel may keep more than one of these names
                self._taken(node)
                if node.changed < sole:
                    for link in others:
                        self._unlink(*link, by_us=False)
            node.lookups += 1
            return node

    def _of(self, identity: Hashable | None, kind: Kind) -> Node | None:
        """Return the node of an identity. One of another kind is gone: the store has used its identity again."""
        node = None if identity is None else self._objects.get(identity)
        return node if node is not None and node.kind == kind else None

    def _added(self, parent: Node, name: str, kind: Kind, identity: Hashable | None) -> Node:
        key = self._key_in(parent, name) or name
        node = Node(self._free_number(key if identity is None else repr(identity)), kind, identity)
        self._nodes[node.number] = node
        if identity is not None:
            self._objects[identity] = node
        return node

    def _free_number(self, origin: str) -> int:
        digest = hashlib.blake2b(origin.encode(errors="surrogateescape"), digest_size=8).digest()
        number = int.from_bytes(digest, "little") >> 1  # some programs need a signed number
        while number <= ROOT or number in self._nodes:
            number += 1
        return number

    def opened(self, node: Node, fh: int) -> None:
        with self.lock:
            if not node.opens:
                node.opens = {}
            node.opens[fh] = None  # type: ignore[index]

    def delivered(self, number: int, fh: int) -> None:
        """Record that the kernel has the answer of an open. Another open since, or a change, has overwritten `kept`."""
        with self.lock:
            node = self._nodes.get(number)
            if node is not None and isinstance(node.kept, tuple) and node.kept[0] == fh:
                node.kept = node.kept[1]

    def released(self, node: Node, fh: int) -> None:
        with self.lock:
            if fh in node.opens:
                del node.opens[fh]  # type: ignore[attr-defined]
            node.opens = node.opens or NONE
            self._forget_object(node)
            self._prune(node)

    def forget(self, number: int, times: int) -> None:
        """Subtract from the lookup count: the kernel has forgotten the node so often."""
        with self.lock:
            node = self._nodes.get(number)
            if node is not None and node is not self.root:
                node.lookups -= times
                self._prune(node)

    def _prune(self, node: Node) -> None:
        """Drop a node that neither the kernel nor an open file refers to, and directories that only it kept."""
        while node is not self.root and node.lookups <= 0 and not node.children and not node.opens:
            if not self._is_known(node):
                return
            del self._nodes[node.number]
            if len(self._nodes) <= NAMES_MAX and self._prune_at < math.inf:
                self._prune_at = NAMES_MAX
            links = node.links
            parents = [parent for parent, _ in links]
            for parent, name in links:
                if parent.children.get(name) is node:
                    del parent.children[name]
                parent.changed = max(parent.changed, node.changed)  # listings may be older
            node.link, node.more_links = None, NONE
            self._forget_object(node)
            for parent in parents[1:]:
                self._prune(parent)
            if not parents:
                return
            node = parents[0]

    def _is_known(self, node: Node) -> bool:
        """Return whether a node still has its number. A call that was answered early ends after the kernel has
        forgotten its nodes: another one may have the number then.
        """
        return self._nodes.get(node.number) is node

    def removed(self, parent: Node, name: str, known: Node | None = None) -> None:
        """Remove a name: only that of the node `known`, if given."""
        with self.lock:
            if known is None or parent.children.get(name) is known:
                self._unlink(parent, name)

    def lose(self, node: Node, keys: Collection[str]) -> bool:
        """Remove the names of a node that are among these keys: another program has taken them. Return whether it had
        one.
        """
        with self.lock:
            lost = [(parent, name) for parent, name in node.links if keys and self._key_in(parent, name) in keys]
            for parent, name in lost:
                self._unlink(parent, name, by_us=False)
            return bool(lost)

    def _unlink(self, parent: Node, name: str, *, by_us: bool = True) -> None:
        """`by_us`: through this server, so an open that the kernel looks up again may be on its way."""
        parent.losses += 1
        node = parent.children.pop(name, None)
        if node is not None:
            node.drop_link((parent, name))
            if by_us:
                node.lost = parent, name
            if node.opens or not by_us:  # the store may have known another object by this name
                self._taken(node)
            self._forget_object(node)

    def _taken(self, node: Node) -> None:
        node.taken_until = time.monotonic() + self.kept_s

    def _forget_object(self, node: Node) -> None:
        """Forget the identity of an object without a name that is not open: the store may use it again."""
        if node.link is None and not node.opens and self._objects.get(node.identity) is node:
            del self._objects[node.identity]

    def linked(self, node: Node, parent: Node, name: str) -> None:
        """Add a name to a node, and count one lookup of the kernel.

        Raises:
            OSError: ESTALE: the kernel has forgotten the node.
        """
        with self.lock:
            if not self._is_known(node):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)
            if parent.children.get(name) is not node:
                self._unlink(parent, name)
            node.add_link((parent, name))
            parent.children[name] = node
            node.lookups += 1
            node.changed = time.monotonic_ns()

    def renamed(self, parent: Node, name: str, new_parent: Node, new_name: str, known: Node | None = None) -> None:
        """Replace one name by another; the object with the new name, if any, loses it. `known`: the node that had the
        first: a lookup may have found it by the other one since.
        """
        with self.lock:
            if (parent, name) == (new_parent, new_name):
                return
            node = parent.children.get(name)
            if node is None and known is not None and new_parent.children.get(new_name) is known:
                known.changed = time.monotonic_ns()
                return
            if node is not None and new_parent.children.get(new_name) is node:
                return  # two names of one object: nothing happens
            self._unlink(new_parent, new_name)
            parent.losses += 1
            if node is not None:
                del parent.children[name]
                node.move_link((parent, name), (new_parent, new_name))
                new_parent.children[new_name] = node
                node.changed = time.monotonic_ns()  # earlier listings by that name are of another object

    def at(self, key: str) -> Node | None:
        """Return the node with this key, in any spelling, if there is one."""
        with self.lock:
            node: Node | None = self.root
            for part in key.split("/"):
                if part not in ("", "."):
                    node = None if node is None else node.children.get(part)
        return node

    def is_crowded(self) -> bool:
        """Return whether there is work for `prune`."""
        return len(self._nodes) > self._prune_at

    def prune(self, notify: Callable[[bytes], object]) -> None:
        """Ask the kernel to forget the idle nodes. `notify`: sends a message; OSError: EINVAL: it is not supported."""
        numbers = self.idle()
        for begin in range(0, len(numbers), BATCH):
            some = numbers[begin : begin + BATCH]
            body = struct.pack(f"<IIQ{len(some)}Q", len(some), 0, 0, *some)
            try:
                notify(struct.pack("<IiQ", 16 + len(body), NOTIFY_PRUNE, 0) + body)
            except OSError as error:
                if error.errno in REFUSED:
                    self._prune_at = math.inf
                log.debug("the kernel did not forget names: %s", os.strerror(error.errno or 0))
                return

    def idle(self) -> list[int]:
        """Return numbers of nodes that no process uses, oldest first, if there are too many nodes: as many as must go
        to free an eighth of `NAMES_MAX`. One pass over all nodes for every new eighth.
        """
        with self.lock:
            count = len(self._nodes)
            if not self.is_crowded():
                return []
            self._prune_at = count + NAMES_MAX // 8  # no further pass until the kernel has forgotten them
            found = (n.number for n in self._nodes.values() if n is not self.root and not n.children and not n.opens)
            return list(islice(found, count - NAMES_MAX + NAMES_MAX // 8))
