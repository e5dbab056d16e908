"""Calls that change names: remove and rename (contract 2.20).

They run on a thread of the volume while their keys are busy, and publish there what the backend has done. A rename has
the tokens of its files until it returns, also when nobody waits for it any more: meanwhile nothing of them is handed
over or committed, to one name or to the other.

As long as such a call runs nobody knows what its files are called. A reconnect meanwhile leaves them closed, because a
file opened by a name that is gone would be made there once more, and have what is written later; the call catches up
with the reconnect when it returns. A fenced one asks the store instead what the call has done: it can do nothing more,
and may never return.

A directory takes along what lies below it: the files that the cache knows there have other keys afterwards, and nobody
opens one meanwhile. An alias (a symbolic link, one of several hard links) is a name like any other, and taking it away
takes nothing from the object that it leads to, as long as that has another.

A transient error is followed by another try. If the try before it may have been carried out, the store is asked first:

    remove   the name is gone            it was carried out
    rename   src is gone, dst is there   it was carried out
             src is there                it was not; but without `replace` nobody can tell if dst is there, too
    both     another version than that which the cache knows has the name: nobody can tell

Where nobody can tell, the first error is raised.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ..backends.protocol import Backend
from ..engine.attempts import Attempts
from ..errors import Key
from ..native import TOKEN, Op
from . import lifetimes, opening, reconnect
from .inode import Inode
from .keys import is_below

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["Naming", "canonical_name", "remove", "rename"]

NOT_FOLLOWED = {errno.EACCES, errno.ELOOP}


@dataclass(eq=False, slots=True)
class Naming:
    """A call under way; `old` and `new` are the canonical keys. Without `dst` it is a remove."""

    volume: Volume
    src: Key
    old: Key
    dst: Key | None = None
    new: Key | None = None
    over: bool = False  # what it did is published, by itself or by a fenced reconnect
    catching_up: threading.Lock = field(default_factory=threading.Lock)  # held for moments, by who changes a file late
    inodes: list[Inode] = field(default_factory=list)
    beneath: list[Inode] = field(default_factory=list)  # files of a directory: nobody has lent their tokens

    def begin(self) -> Backend:
        """From here on a reconnect knows of it.

        Returns: the backend to call.

        Raises:
            ShutdownError: the volume was aborted.
        """
        volume = self.volume
        with volume.names:
            volume._check_alive(self.src)
            self.inodes = [volume.inodes[key] for key in (self.old, self.new) if key in volume.inodes]
            self.beneath = [inode for _, inode in self.below()]
            for inode in (*self.inodes, *self.beneath):
                inode.naming = self
            return volume.engine.backend

    def below(self) -> list[tuple[str, Inode]]:
        """Of a directory that is renamed: the files in it that the cache knows, by the rest of their keys. The lock of
        the names is held; the tree is busy, so they stay the same.
        """
        inodes, old = self.volume.inodes, self.old
        if self.dst is None or old in inodes or not isinstance(old, str) or old == self.new:
            return []
        if not inodes.has_below(old):
            return []
        return [
            (key.removeprefix(old), inode)
            for key, inode in inodes.items()
            if isinstance(key, str) and is_below(key, old)
        ]

    def end(self, inode: Inode) -> bool:
        """The call has returned, the name is sure. False: a reconnect has left the file closed, and this stands until
        `catch_up` has opened it.
        """
        volume = self.volume
        with volume.names:
            if inode.naming is self and inode.missed and not (volume.engine.aborted or volume.detached):
                return False
            if inode.naming is self:
                inode.naming = None  # a reconnect that goes on now finds what it has left
            return True

    def catch_up(self, inode: Inode) -> None:
        """Open what a reconnect has left closed. The token is held, on a thread of the volume."""
        while not self.end(inode):
            with self.volume.names:
                inode.missed = False
                backend = self.volume.engine.backend
            reconnect.catch_up(self, backend, inode)

    def claim(self) -> bool:
        """Whether what the call has done is still to be published: by who asks, once."""
        with self.volume.names:
            over, self.over = self.over, True
            return not over

    def publish(self, new: Key | None, *, replaced: bool = True) -> Inode | None:
        """The backend has done it; `replaced`: what was there before has no name any more. Returns the inode that has
        another key now.
        """
        volume = self.volume
        if new is None:
            lifetimes.unname(volume, self.old)
            if volume.engine.mirror is not None:
                volume.engine.mirror.removed(self.old)
            return None
        if new == self.old:
            return None  # an alias of it, or the same name
        with volume.names:
            inode = volume.inodes.take(self.old)
            below = self.below()
        assert self.new is not None
        if replaced:
            lifetimes.unname(volume, self.new)
        if inode is not None:
            self._move(inode, new)
        for rest, moved in below:
            key = _canonical(volume.engine.backend, f"{new}{rest}")
            with volume.names:
                del volume.inodes[f"{self.old}{rest}"]
            lifetimes.unname(volume, key)
            self._move(moved, key)
        if volume.engine.mirror is not None:
            volume.engine.mirror.renamed(self.old, self.new)
            for rest, moved in below:
                volume.engine.mirror.renamed(f"{self.old}{rest}", moved.key)
        return inode

    def _move(self, inode: Inode, key: Key) -> None:
        inode.key = inode.engine.key = key
        with self.volume.names:
            self.volume.inodes[key] = inode

    def settle(self, backend: Backend) -> None:
        """Publish what the call has done, as it is found in this backend. It can do nothing more, and what it answers
        does not count. On a thread of the volume, which is aborted.
        """
        done = not _stored(backend, self.src) and (self.dst is None or _stored(backend, self.dst))
        if self.dst is None and any(inode.native.undone()["created"] for inode in self.inodes):
            done = False  # it was never stored
        done = self.claim() and done
        with self.volume.names:
            for inode in (*self.inodes, *self.beneath):
                inode.naming = None
        with self.catching_up:  # who is about to catch up with a reconnect of before finds out
            pass
        if done:
            self.publish(None if self.dst is None else backend.canonical(self.dst))
        self.volume.busy.take_away((self.old, self.new))


@contextmanager
def _change(volume: Volume) -> Generator[None, None, None]:
    """A sync that begins meanwhile covers the change only if it comes after it; one that failed may have been."""
    volume.engine.names.changed()
    try:
        yield
    finally:
        volume.engine.names.changed()


@dataclass(slots=True)
class _Before:
    """How things stood before the first try: one that was carried out has changed them."""

    links: int | None = None  # names of the object that is removed, or is replaced
    version: str | None = None  # of the object whose name goes; None: not known

    def look(self, naming: Naming, inode: Inode | None) -> None:
        """Note it, once."""
        if self.links is not None:
            return
        cached = naming.volume._inode_at(naming.old)
        if cached is not None and naming.src == naming.old and not cached.engine.version_stale:
            self.version = cached.engine.version
        found = None if inode is None else inode.engine.stat_open()
        self.links = 1 if found is None else found.nlink or 1

    def is_other(self, version: str | None) -> bool:
        """Whether the version that is found says that the name is another object's by now."""
        return None not in (self.version, version) and version != self.version


def _never_stored(naming: Naming) -> bool:
    """Whether the object was created and not committed: the store cannot say what has become of its name."""
    inode = naming.volume._inode_at(naming.old)
    return inode is not None and bool(inode.native.undone()["created"])


def remove(volume: Volume, key: Key, canonical: Key, tries: Attempts) -> None:
    """Without the token: what is being handed over would have to be waited for, and nobody wants it any more."""
    before = _Before()
    volume.busy.run(lambda: _remove(Naming(volume, key, canonical), before, tries), tries, canonical)


def _was_removed(naming: Naming, backend: Backend, before: _Before, tries: Attempts) -> bool:
    """Whether a try before this one was carried out.

    Raises:
        OSError: the first error, if nobody can tell.
    """
    if not tries.doubtful or _never_stored(naming):
        return False
    version = _version(backend, naming.src)
    if version is _GONE:
        return True
    if before.is_other(version):
        tries.give_up()
    return False


def _remove(naming: Naming, before: _Before, tries: Attempts) -> None:
    """One try, on a thread of the volume; the key is busy."""
    try:
        backend = naming.begin()
        cached = naming.inodes[0] if naming.inodes else None
        before.look(naming, cached)
        with _change(naming.volume):
            if not _was_removed(naming, backend, before, tries):
                doubtful = tries.doubtful
                try:
                    tries.make(partial(backend.remove, naming.src))
                except FileNotFoundError:
                    if not doubtful and not _never_stored(naming):
                        raise  # else it is here, and was never stored; or an earlier try has landed
        tries.settle()
        alias = _is_alias(backend, naming.src, naming.old)
        if before.links == 1 and not alias and naming.claim():  # with other names left it stays the same object
            naming.publish(None)
    finally:
        naming.claim()
        for inode in naming.inodes:
            if not naming.end(inode):
                inode.engine.settle(partial(naming.catch_up, inode))


def rename(volume: Volume, src: Key, dst: Key, old: Key, new: Key, tries: Attempts, *, replace: bool) -> None:
    """`old` and `new` are the canonical keys."""
    before = _Before()
    lenders: list[Op] = []

    def run() -> None:
        naming = Naming(volume, src, old, dst, new)
        call: Callable[[], object] = partial(_rename, naming, dst, replace, before, tries)
        for op in lenders:
            call = partial(op.call, call)
        call()

    def within(wait: Callable[[], None]) -> None:
        """With the tokens of both objects: nothing of them is in flight."""

        def lend(*ops: Op) -> None:
            lenders.extend(ops)
            wait()

        cached = [inode.native for key in (old, new) if (inode := volume._inode_at(key)) is not None]
        if len(cached) == 2 and cached[0] is not cached[1]:
            cached[0].run_both(cached[1], "lending", lend, tries.until())
        elif cached:
            cached[0].run(TOKEN, "lending", lend, tries.until())
        else:
            wait()

    volume.busy.run(run, tries, old, new, within=within, trees=True)


def _was_renamed(naming: Naming, backend: Backend, dst: Key, replace: bool, before: _Before, tries: Attempts) -> bool:
    """Whether a try before this one was carried out.

    Raises:
        OSError: the first error, if nobody can tell.
    """
    if not tries.doubtful:
        return False
    src, there = _version(backend, naming.src), _version(backend, dst) is not _GONE
    if src is _GONE and there and not _never_stored(naming):
        return True
    if src is _GONE or before.is_other(src) or (there and not replace and naming.src != dst):
        tries.give_up()
    return False


def _rename(naming: Naming, dst: Key, replace: bool, before: _Before, tries: Attempts) -> None:
    """One try, on a thread of the volume; the keys are busy, and the tokens are lent to this call."""
    volume = naming.volume
    try:
        backend = naming.begin()
        with volume.names:
            replaced_inode = None if naming.new is None else volume.inodes.get(naming.new)
        before.look(naming, replaced_inode)
        shared = before.links != 1
        with _change(volume):
            if not _was_renamed(naming, backend, dst, replace, before, tries):
                tries.make(lambda: backend.rename(naming.src, dst, replace=replace))
        tries.settle()
        new = canonical_name(volume, dst)
        assert naming.new is not None
        replaced = naming.new == new or not (shared or _is_alias(backend, dst, naming.new))
        moved = naming.publish(new, replaced=replaced) if naming.claim() else None
        if moved is not None and not volume.engine.aborted:
            opening.follow(moved, dst)
    finally:
        naming.claim()
        for inode in naming.inodes:
            naming.catch_up(inode)
        for inode in naming.beneath:
            if not naming.end(inode):
                inode.engine.settle(partial(naming.catch_up, inode))


def canonical_name(volume: Volume, key: Key) -> Key:
    """The canonical key of the object that a name stands for. A symbolic link that cannot be followed (it leads out of
    the root, or to itself) stands for itself: it can be renamed and removed like any other.
    """
    try:
        return volume._canonical(key)
    except OSError as error:
        if error.errno not in NOT_FOLLOWED:
            raise
        return key


def _canonical(backend: Backend, key: str) -> Key:
    try:
        return backend.canonical(key)
    except (ValueError, OSError):
        return key


_GONE = object()


def _version(backend: Backend, key: Key) -> Any:
    """The version of what has a name, links not followed; `_GONE`: nothing has it."""
    look = getattr(backend, "lstat", backend.stat)
    try:
        return look(key).version
    except FileNotFoundError:
        return _GONE


def _stored(backend: Backend, key: Key) -> bool:
    try:
        backend.stat(key)
    except FileNotFoundError:
        return False
    return True


def _is_alias(backend: Backend, name: Key, canonical: Key) -> bool:
    """Whether a name that is gone was another than that by which its object is known, and the object is still there: a
    symbolic link to it, or one of several hard links. An answer that says nothing counts as yes: then nothing is given
    up.
    """
    if name == canonical:
        return False
    try:
        # A key may be another spelling of the name, where that is taken by an object that has lost it.
        return backend.canonical(canonical) == canonical and _stored(backend, canonical)
    except (ValueError, NotADirectoryError):
        return False
    except OSError:
        return True
