"""A store behind a disk tier: reads go to the copy on disk first, and the store's answers are kept there.

                      read_into
      copy has it ───────┴─────── store has it ──► append to the copy, if its version is still the one that was read
     │  changed here since the version was found: the store alone is asked  │

Bytes on disk belong to versions (contract D8). The cache says which version a file has; *changed* are the ranges of
writes, truncates and holes after that. They are neither read from the copy nor kept.

    beside a read                                the read
    write, truncate, hole                        is not kept where it was changed (`_changed`)
    commit, also by another file of the object   is not kept (`Copy.turn`)
    another program's change is announced        is not kept, nor is what the copy had of it (`forget`)
    damage, a failing disk                       goes to the store

Lock: `_lock` of a file guards its fields, and is taken before those of its reader and its copy. It is held while the
catalogue is read, and never across a call of the store.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from ..backends.passing import PassingBackend, PassingFile
from ..backends.plain import missing_in_file, open_seen, open_to_read
from ..backends.protocol import Backend, BackendFile, ObjectStat
from ..backends.spool import END, Ranges, parts_of_buffers, revoked
from ..errors import Key
from .copies import CHUNK, Copy, Found, encoded

if TYPE_CHECKING:
    from .tier import Tier

EXTENT_MAX = 1 << 20
"""Bytes of one extent, of at most one chunk and a quarter of a segment."""


class Reader(Protocol):
    """The file of the cache that has a file of the store."""

    @property
    def key(self) -> Key: ...

    def settled_version(self, backend_file: BackendFile) -> str | None:
        """Return the version, `labelled`, of every byte that a read of this file delivers now; None: unknown."""
        ...

    def labelled(self, version: str) -> str:
        """Return a version with the identity of the object, if a later process can check that."""
        ...

    def about_to_commit(self) -> None:
        """Record that a commit of a whole object begins."""
        ...

    def has_committed(self, version: str | None, backend_file: BackendFile) -> None:
        """Record the version that it has made, by this file: the next `settled_version`."""
        ...

    def is_named(self) -> bool:
        """Return whether the object has its name, and no call changes that."""
        ...


class TieredFile(PassingFile):
    """An object of the store, read through its copy on disk."""

    def __init__(self, inner: BackendFile, backend: TieredBackend, key: bytes) -> None:
        super().__init__(inner)
        self._backend, self._tier, self._key = backend, backend.tier, key
        self._lock = threading.Lock()
        self._turn = 0  # changes begun and ended
        self._running = 0  # changes that run
        self._changed: Ranges | None = None
        self._copy: Copy | None = None  # of `_version`
        self._version: str | None = None
        self._reader: Callable[[], Reader | None] = lambda: None
        self._next: Copy | None = None  # the bytes sent since, under the number of their future copy

    @property
    def seen(self) -> object:
        return getattr(self.inner, "seen", None)

    # -- versions

    def follow(self, file: Reader) -> None:
        """Take versions from this file of the cache from now on."""
        self._reader = weakref.ref(file)

    def _whole(self) -> bool:
        return bool((getattr(self.inner, "limits", None) or self._backend.inner.limits).commit_on_close)

    def _current(self) -> Copy | None:
        """Return the copy of the version that the file has; None: that is not known. The lock is held."""
        reader = self._reader()
        version = None if reader is None else reader.settled_version(self)
        if version is None or self._running:
            return None
        if version != self._version or self._copy is None or self._copy.version != version:
            if self._changed is not None and (version == self._version or self._whole()):
                return None
            self._take(version)
        return self._copy

    def _take(self, version: str) -> None:
        """Record the version that the object has, with all that was changed here. The lock is held."""
        names, reader = self._tier.names, self._reader()
        if reader is not None and not reader.is_named():
            self._copy = self._version = self._next = None
            return
        self._key = (None if reader is None else encoded(reader.key)) or self._key  # it may have been renamed
        if self._changed is not None:
            self._advance(version, self._changed, names)
        elif self._copy is None or self._version != version or self._copy.version != version:
            self._copy = self._tier.bind(self._backend.volume_id, self._key, version, names)
            self._version = version
        self._changed = self._next = None

    def _labelled(self, version: str) -> str:
        """Return a version as copies have it."""
        reader = self._reader()
        return version if reader is None else reader.labelled(version)

    def stat(self) -> ObjectStat:
        with self._lock:
            turn, quiet = self._turn, not self._running
        found = self.inner.stat()
        if self._changed is not None and not self._whole():
            with self._lock:
                if turn == self._turn and quiet and self._changed is not None and isinstance(found.version, str):
                    version = self._labelled(found.version)
                    if version != self._version:  # otherwise others may have it for the bytes before
                        self._take(version)
        return found

    def forget(self, begin: int, end: int) -> None:
        """Record that another program may have changed [begin, end) of the object."""
        with self._lock:
            self._turn += 1
            self._add_changed(begin, min(end, END))
            if self._version is None and (reader := self._reader()) is not None:
                self._version = reader.settled_version(self)  # what follows has another one
            if self._copy is not None:
                with self._copy.lock:
                    self._copy.turn += 1

    # -- reads

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        wanted, found, then = sum(map(len, buffers)), None, 0
        with self._lock:
            copy = self._current()
            if copy is not None:
                with copy.lock:
                    then = copy.turn
                    found = copy.find(offset) if copy.version == self._version else None
                    copy = copy if copy.version == self._version else None  # another file has committed since
                if found is not None:
                    found = self._within(found, offset, wanted)
        if found is not None and copy is not None and (done := self._read_copy(copy, found, buffers, wanted)):
            return done
        done = self.inner.read_into(offset, buffers)
        if copy is not None and type(done) is int and 0 < done <= wanted:
            self._keep(copy, then, offset, buffers, done)
        return done

    def _within(self, found: Found, offset: int, wanted: int) -> Found | None:
        """Return what of these bytes may be delivered: nothing that was changed, and whole units. The lock is held."""
        length = min(found.length, wanted)
        if self._changed is not None:
            _, stop, changed = next(self._changed.pieces(offset, offset + length))
            length = 0 if changed else stop - offset
        if length < wanted:
            unit = int((getattr(self.inner, "limits", None) or self._backend.inner.limits).read_unit)
            length -= length % unit
        return found._replace(length=length) if length else None

    def _read_copy(self, copy: Copy, found: Found, buffers: Sequence[memoryview], wanted: int) -> int:
        """Fill buffers from an extent; 0: it cannot be read."""
        if found.length < wanted:
            with revoked(parts_of_buffers(buffers, 0, found.length)) as parts:
                done = self._tier.read(found.address, found.extent, copy, found.offset, found.skip, list(parts))
        else:
            done = self._tier.read(found.address, found.extent, copy, found.offset, found.skip, list(buffers))
        if done:
            self._backend.count_hit()
            return done
        if done == 0:
            with copy.lock:
                copy.drop(found, self._tier.is_live)
            self._tier.changed(copy)
        return 0

    def _keep(self, copy: Copy, then: int, offset: int, buffers: Sequence[memoryview], length: int) -> None:
        """Keep bytes of the store that the copy lacks. `then`: `Copy.turn` before the read."""
        with self._lock:
            with copy.lock:
                gaps = list(copy.gaps(offset, offset + length))
            if self._changed is not None:
                gaps = [piece[:2] for gap in gaps for piece in self._changed.pieces(*gap) if not piece[2]]
        kept = list(self._append(copy, offset, buffers, gaps))
        if not kept:
            return
        with copy.lock:
            if copy.turn != then:
                return
            for begin, size, address in kept:
                copy.put(begin, size, address)
        self._tier.changed(copy)

    def _append(
        self, copy: Copy, offset: int, buffers: Sequence[memoryview], ranges: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[int, int, int]]:
        """Append ranges of the bytes in the buffers; yield begin, length and address of each extent that was taken."""
        most = min(EXTENT_MAX, self._tier.described.segment // 4)
        for begin, stop in ranges:
            while begin < stop:
                end = min(stop, begin + most, begin - begin % CHUNK + CHUNK)
                with revoked(parts_of_buffers(buffers, begin - offset, end - offset)) as parts:
                    address = self._tier.append(copy, begin, list(parts), end - begin)
                if address is None:
                    return
                yield begin, end - begin, address
                begin = end

    # -- changes

    def _add_changed(self, begin: int, end: int) -> None:
        """The lock is held."""
        if self._changed is None:
            self._changed = Ranges()
        self._changed.add(begin, end)

    @contextmanager
    def _changing(self, begin: int = 0, end: int = 0) -> Iterator[None]:
        """Context of a call that changes [begin, end)."""
        with self._lock:
            if self._copy is None and self._changed is None:
                self._current()  # what the change leaves as it is stays on disk
            self._turn += 1
            self._running += 1
            if begin < end:
                self._add_changed(begin, end)
                if self._next is not None:
                    with self._next.lock:
                        self._next.cut(begin, None if end == END else end)
        try:
            yield
        finally:
            with self._lock:
                self._turn += 1
                self._running -= 1

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        length = sum(map(len, buffers))
        with self._changing(offset, offset + length):
            coming = self._coming() if self._whole() else None
            done = self.inner.write_from(offset, buffers)
        if coming is not None and type(done) is int and 0 < done <= length:
            self._keep_next(coming, offset, buffers, done)
        return done

    def _coming(self) -> Copy:
        """Return the copy of the bytes that are sent; another one after each event that makes them uncertain."""
        with self._lock:
            if self._next is None:
                beside = None if self._copy is None else self._copy.number
                self._next = self._tier.new(self._backend.volume_id, self._key, beside)
            return self._next

    def _keep_next(self, coming: Copy, offset: int, buffers: Sequence[memoryview], length: int) -> None:
        """Keep bytes of the next version. No other call changes them, but calls for other bytes run beside."""
        kept = list(self._append(coming, offset, buffers, ((offset, offset + length),)))
        with self._lock:
            if coming is self._next:
                with coming.lock:
                    for begin, size, address in kept:
                        coming.put(begin, size, address)

    def truncate(self, size: int) -> None:
        with self._changing(size, END):
            self.inner.truncate(size)

    def _punch_hole(self, offset: int, length: int) -> None:
        inner: Any = self.inner
        with self._changing(offset, offset + length):
            inner.punch_hole(offset, length)

    def _rollback(self) -> None:
        inner: Any = self.inner
        with self._changing():
            inner.rollback()
        with self._lock:
            self._next = None

    def commit(self) -> str | None:
        with self._lock:
            turn, quiet = self._turn + 2, not self._running
        reader = self._reader() if self._whole() else None
        if reader is not None:
            reader.about_to_commit()
        try:
            with self._changing():
                version = self.inner.commit()
        except BaseException:
            with self._lock:
                self._next = None  # bytes that the store has forgotten may be given up before the next commit
            raise
        if reader is not None:
            reader.has_committed(version, self)
        with self._lock:
            if turn == self._turn and quiet and isinstance(version, str):
                self._take(self._labelled(version))
            else:
                self._copy = self._version = self._next = None
        return version

    def _advance(self, version: str, changed: Ranges, names: int) -> None:
        """Make the copy one of the version that changes have made. In place others may have changed it as well, and it
        begins empty. The lock is held.
        """
        copy, coming, self._next = self._copy, self._next, None  # an interrupt leaves nothing to lay over it again
        if copy is None:
            copy = coming or self._tier.new(self._backend.volume_id, self._key)
        elif not (self._whole() and self._cut_changed(copy, changed)):  # another file has committed its version
            copy = self._tier.new(self._backend.volume_id, self._key)
        elif coming is not None:
            with copy.lock:
                copy.lay(coming)
        with copy.lock:
            copy.renamed(self._key)  # bytes may have been sent before a rename
            copy.version = version
            copy.turn += 1
        self._tier.publish(copy, names)
        self._copy, self._version = copy, version

    def _cut_changed(self, copy: Copy, changed: Ranges) -> bool:
        """Cut the changed ranges out of the copy; False: it is of another version by now. The lock is held."""
        with copy.lock:
            if copy.version != self._version:
                return False
            copy.version = None  # an interrupt in the middle leaves it without one
            for begin, end, inside in changed.pieces(0, END):
                if inside:
                    copy.cut(begin, None if end == END else end)
            return True


def past_tier(read_into: Any) -> Any:
    """Return the store's own method for a `read_into`."""
    owner = getattr(read_into, "__self__", None)
    return owner.inner.read_into if type(owner) is TieredFile else read_into


class TieredBackend(PassingBackend):
    """A store with a disk tier.

    Args:
        inner: the store.
        tier: a running one, for the time of this backend.
        volume_id: name of the store in the tier.

    Attributes:
        hits: reads that were served from disk.
    """

    def __init__(self, inner: Backend, tier: Tier, volume_id: str) -> None:
        super().__init__(inner)
        self.tier, self.volume_id = tier, volume_id
        self.hits = 0
        self._counting = threading.Lock()

    @property
    def canonical(self) -> Callable[[Any], Key]:
        """The store's own method, which callers compare with the default."""
        return self.inner.canonical

    def count_hit(self) -> None:
        with self._counting:
            self.hits += 1

    def open(
        self, key: Key, *, create: bool = False, exclusive: bool = False, read: bool = False, seen: object = None
    ) -> BackendFile:
        name = self._name(key)
        opened: BackendFile
        if seen is not None:
            opened = open_seen(self.inner, key, seen)
        elif read and (name is None or not self.tier.find(self.volume_id, name)):
            opened = open_to_read(self.inner, key)
        elif create or exclusive:
            opened = self.inner.open(key, create=create, exclusive=exclusive)
        else:
            opened = self.inner.open(key)
        return opened if name is None or opened is None or missing_in_file(opened) else TieredFile(opened, self, name)

    def announced(self, key: Key) -> None:
        """Forget the copy of an object that another program has changed: in place, its version may be a version of this
        cache too. Never waits. `key`: canonical.
        """
        if not self.inner.limits.commit_on_close and (name := encoded(key)) is not None:
            self.tier.forget(self.volume_id, name)

    def remove(self, key: Key) -> None:
        self._drop(key)  # before: the process may be killed after the call
        try:
            self.inner.remove(key)
        finally:
            self._drop(key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True, tree: bool = True) -> None:
        """`tree`: it may be a directory, which has no copy itself. A renamed object begins without one."""
        for name in (src, dst):  # before: the process may be killed after the call
            self._drop(name, tree=tree)
        try:
            self.inner.rename(src, dst, replace=replace)
        finally:
            for name in (src, dst):
                self._drop(name, tree=tree)

    def _setattr(self, key: Key, **changes: Any) -> ObjectStat:
        inner: Any = self.inner
        back = changes.get("mtime_ns") is not None  # perhaps to the version that former bytes had
        if back:
            self._drop_object(key)
        try:
            found: ObjectStat = inner.setattr(key, **changes)
        finally:
            if back:
                self._drop(key)
        return found

    def _drop_object(self, key: Key) -> None:
        """Drop the copies of an object, also under its other links: a process before may have opened it by them."""
        identity, lasting = None, getattr(self.inner, "lasting_identity", None)
        if lasting is not None:
            with suppress(Exception):  # the call itself raises it
                found = self.inner.stat(key)
                identity = None if found.identity is None or found.nlink == 1 else lasting(found.identity)
        if (name := self._name(key)) is not None:
            self.tier.drop(self.volume_id, name, identity=identity)

    def _drop(self, key: Key, *, tree: bool = False) -> None:
        if (name := self._name(key)) is not None:
            self.tier.drop(self.volume_id, name, tree=tree)

    def _name(self, key: Key) -> bytes | None:
        """Return a key as the tier has it, where files have canonical ones."""
        return encoded(self.inner.canonical(key))
