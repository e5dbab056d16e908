"""A disk tier: what a program describes (`DiskTier`), and what runs (`Tier`).

    reads of a store ──► Segments.append ──► writer's thread ──► segments, and then the catalogue
    reads of a cache ◄── Copy.find, Segments.read

Nothing of it is needed: whatever is lost, damaged or late is a miss, and is read from the store. So only a read from
the disk waits for it, and no error of the disk reaches a caller: it is reported and counted.

One process has the directory (`flock`); its caches share one `Tier` for each directory.

Locks: that of a directory in `_opening` is held while its tier starts or ends, and guards who uses it; `Tier._lock`
guards its fields; then those of copies, segments and catalogue. `_lock` is never held across I/O.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from io import FileIO
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakValueDictionary, ref

from .. import loglines
from ..config import Size, named_options, parse_size
from ..native import uninterrupted
from ..native.checked import checked_size
from ..quantities import size_text
from .copies import CHUNK, Chunk, Copy, below
from .device import OS, Device, make_folders
from .segments import FULL, PAUSE, RESCUED, RESCUED_MAX, Segments

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .journal import Journal

log = logging.getLogger("pagecache.disk")

FORMAT = 1
MARK, SIGN = "tier", "pagecache disk tier, format "
"""The file that marks the directory and is locked; how it begins."""
MARK_SIZE = 128
SEGMENT_MIN, SEGMENT_MAX = 1 << 20, 1 << 32
SEGMENTS_MIN = 4
SAVE_EVERY = 1.0
"""Seconds between two saves of the catalogue."""
JOURNAL = "journal"
"""Folder of the journal, made with the first unsaved bytes."""
JOURNAL_MIN = SEGMENTS_MIN << 16
"""Of four segments, 64 KiB each."""
SAVED_AT_ONCE = 256
RANGES_MAX = 1 << 20
"""Loaded ranges beyond which copies let go of saved chunks: 24 bytes each."""
HITS_MAX = 512
"""Extents of one old segment that are known to have been read."""
ROW = 512
"""Bytes that the catalogue has of a small object at most, but for its key, which it has up to three times."""
LOGGED_EVERY = 10.0
"""Seconds between two lines about bytes that cannot be read."""
PASSING = frozenset({"tmpfs", "ramfs"})
REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.s3fs", "fuse.rclone"})


@named_options
class DiskTier:
    """A directory on a local disk that keeps clean data, and data that the store does not have yet.

    One process uses it at a time; caches and volumes of one process share it. Bytes of another user cannot be read:
    files have mode 0600.

    Args:
        path: of the directory, made with mode 0700 if it does not exist. Files of others in it are left alone.
        size: most bytes of it, metadata included.
        journal_limit: most bytes of it that are not saved in a store, at least 256 KiB; None: half of `size`.
        segment: bytes of one file of it, from 1 MiB to 4 GiB, at most a quarter of `size`.
        direct_io: read it past the page cache of the kernel, which then keeps no second copy.

    Raises:
        ValueError: a size out of range; names the value and the rule.
    """

    path: str
    size: int
    _device: Device = OS  # below the journal

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: Size = "10GiB",
        journal_limit: Size | None = None,
        segment: Size = "64MiB",
        direct_io: bool = False,
    ) -> None:
        found = os.fspath(path)
        if not isinstance(found, str):
            raise TypeError(f"path must be a str or an os.PathLike of str, not {type(path).__name__}")
        if not found:
            raise ValueError("path: '' names no directory")
        if "\0" in found:
            raise ValueError(f"path: {found!r} contains a null character")
        if not isinstance(direct_io, bool):
            raise TypeError(f"direct_io must be True or False, not {direct_io!r}")
        self.path = os.path.abspath(found)
        self.size, self.segment = parse_size(size, "size"), parse_size(segment, "segment")
        self.journal_limit = self.size // 2 if journal_limit is None else parse_size(journal_limit, "journal_limit")
        self.direct_io = direct_io
        if not SEGMENT_MIN <= self.segment <= SEGMENT_MAX:
            raise ValueError(f"segment: {segment!r} is not from 1 MiB to 4 GiB")
        if self.size < SEGMENTS_MIN * self.segment:
            least, each = size_text(SEGMENTS_MIN * self.segment), size_text(self.segment)
            what = f"size: {size!r} is less than {SEGMENTS_MIN} segments of {each}, so {least} is the minimum"
            raise ValueError(f"{what}; DiskTier(segment=) makes them smaller")
        if self.journal_limit > self.size:
            raise ValueError(f"journal_limit: {journal_limit!r} is more than the size of the tier, {self.size}")
        if self.journal_limit < JOURNAL_MIN:
            raise ValueError(f"journal_limit: {journal_limit!r} is less than 256 KiB")

    def __repr__(self) -> str:
        return f"DiskTier({self.path!r}, size={self.size})"

    def _rules(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("size", "journal_limit", "segment", "direct_io")}


def _least(copy: Copy) -> int:
    return ROW + 3 * len(copy.key)


def as_tier(disk: DiskTier | str | os.PathLike[str]) -> DiskTier:
    """Return a tier that was given as such, or as a path."""
    if isinstance(disk, DiskTier):
        return disk
    if not isinstance(disk, str | os.PathLike):
        raise TypeError(f"disk must be a DiskTier, a path or None, not {type(disk).__name__}")
    return DiskTier(disk)


_running: dict[str, Tier] = {}
_opening: dict[str, threading.Lock] = {}
"""Both by the real path of the directory."""


class Told(Protocol):  # a volume that the tier serves
    def emit(self, kind: Literal["disk"], *, error: OSError | None, message: str, next: str) -> object: ...
    def spooled_bytes(self) -> int: ...


class Called(Protocol):  # a file on which calls run that a volume has left behind; these keep it alive
    def is_called(self) -> bool: ...


_left: dict[str, WeakValueDictionary[int, Called]] = {}
"""By the real path of the directory, as a call may outlast the tier; then by the number of the file in the journal."""


class Tier:
    """A running disk tier.

    Attributes:
        errors: failures of the disk so far, damaged bytes among them.
    """

    def __init__(self, described: DiskTier, place: str) -> None:
        self.described, self._place = described, place
        self.errors = 0
        self._volumes: tuple[ref[Told], ...] = ()  # another one after each change: reading it takes no lock
        self._left = _left.setdefault(place, WeakValueDictionary())
        self._users: set[object] = set()
        self._lock = threading.Lock()
        self._copies: WeakValueDictionary[tuple[str, bytes], Copy] = WeakValueDictionary()
        self._numbers: WeakValueDictionary[int, Copy] = WeakValueDictionary()
        self._unsaved: set[Copy] = set()
        self._undropped: set[tuple[str, bytes]] = set()  # names that the catalogue loses at the next save
        self._announced: set[tuple[str, bytes]] = set()  # names to forget; grows without a lock
        self._names = 0
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._save_every = SAVE_EVERY
        self._ending = False
        self._swept = 0
        self._ranges = 0  # that copies have loaded, roughly: a thread may miss another's addition
        self._hits: dict[int, dict[int, tuple[Copy, int, int]]] = {}  # of segments: address -> copy, chunk, length
        self._logged = self._refused = -LOGGED_EVERY
        self._journal_failed: list[int] = []  # its last record when that was reported; []: it takes records
        self._lost: dict[str, Any] = {}  # what volumes that are attached later are told
        path = described.path
        self._journal: Journal | None = None
        self._opening_journal = threading.Lock()
        self._mark = occupy(path)
        try:
            if described._device is not OS or os.path.isdir(os.path.join(path, JOURNAL)):
                self._open_journal()
            from .catalogue import Catalogue  # imports sqlite3, which a cache without a tier does not need

            self._segments = Segments(
                path,
                described.size,
                described.segment,
                aligned=described.direct_io,
                others=self._size_of_others,
                report=self._report,
                rescue=self._rescue,
            )
            self._catalogue: Catalogue = Catalogue(path)
            while self._catalogue.full and self._segments.drop_oldest():
                self._catalogue.close()
                self._catalogue = Catalogue(path)
            self._segments.begin_behind(self._catalogue.last)
            if self._catalogue.damaged or not self._catalogue.last:
                self._segments.clear()  # nothing leads to them, and a full disk needs the room
            if self._catalogue.damaged:
                with contextlib.suppress(OSError):  # the writer tries it again
                    self._catalogue.begin_anew()
                why = "the disk is full" if self._catalogue.full else "the catalogue was damaged, or could not be read"
                what = f"{why}; the tier begins empty"
                self._count(OSError(errno.EIO, what, path))
            self._next = self._catalogue.next
            self._segments.work = self._wake
            self._wake()  # the size may be smaller than before
            self._thread = threading.Thread(target=self._work, name="pagecache-disk", daemon=True)
            self._thread.start()
            _running[place] = self
        except BaseException:
            self._ending = True  # an interrupt may have left the thread running
            self._wake()
            leave(self._mark)
            raise

    @classmethod
    def open(cls, described: DiskTier, user: object) -> Tier:
        """Return the running tier of a directory, or start it. It runs until `close` was called for each user.

        Raises:
            ValueError: another cache of this process uses it with other options, or the file system is remote.
            OSError: EBUSY: another process has it; EACCES, ENOSPC, ...: the directory cannot be used.
        """
        place = os.path.realpath(described.path)
        try:
            return cls._opened(described, place, user)
        except BaseException as error:
            _name_path(error, described.path)
            found = _running.get(place)
            if found is not None:  # an interrupt may have left it without a user that closes it
                found.close(user)
            raise

    @classmethod
    def _opened(cls, described: DiskTier, place: str, user: object) -> Tier:
        with _opening.setdefault(place, threading.Lock()):
            found = _running.get(place)
            if found is not None and found._ending:  # an interrupt has left it so
                found._end()
                found = None
            if found is None:
                found = cls(described, place)
            elif found.described._rules() != described._rules():
                ours, theirs = described._rules(), found.described._rules()
                other = [f"{name} {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name]]
                what = f"disk: {described.path!r} is used by another cache of this process with {', '.join(other)}"
                raise ValueError(f"{what}; give both caches the same DiskTier")
            found._users.add(user)
            return found

    def close(self, user: object) -> None:
        """Let go of the tier; the last one writes what waits, and ends it. Repeated after an interrupt."""
        with _opening.setdefault(self._place, threading.Lock()):  # a forked child has none of them
            self._users.discard(user)
            if not self._users and _running.get(self._place) is self:
                self._end()

    def _end(self) -> None:
        """The lock of the directory is held."""
        if not self._mark.closed:  # else an interrupt came when it was done, and others may have the directory
            self._ending = True
            self._wake()
            self._thread.join()
            if self._undropped or self._announced or self._catalogue.damaged:
                self._catalogue.remove()  # a next start would find others' bytes by these names
            self._catalogue.close()
            with self._opening_journal, contextlib.suppress(OSError):  # what is not confirmed was not promised
                if self._journal is not None:
                    self._journal.close()
            leave(self._mark)
        del _running[self._place]

    def forked(self) -> None:
        """Close its files in a forked child, but for the catalogue: SQLite has no call for that."""
        self._segments.forked()
        if self._journal is not None:
            self._journal.forked()

    # -- the journal

    def journal(self) -> Journal:
        """Return the journal of bytes that no store has; it is opened, or made, by the first call.

        Raises:
            OSError: of the disk, or it has a later format.
        """
        while self._journal is None:
            uninterrupted(self._open_journal)  # a signal handler may ask for it as well
        return self._journal

    def _open_journal(self) -> None:
        from .journal import SLICE, Journal

        if not self._opening_journal.acquire(timeout=SLICE):
            return  # signal handlers run before the next try
        try:
            if self._journal is None and self._ending:  # another one may have the directory
                raise OSError(errno.EBADF, f"the disk tier in {self.described.path!r} is closed", self.described.path)
            if self._journal is None:
                limit, path = self.described.journal_limit, self.described.path
                segment = min(self.described.segment, limit // SEGMENTS_MIN)
                folder, device, room = os.path.join(path, JOURNAL), self.described._device, self._journal_room
                grown, gives_way = self.others_grow, self.gives_way
                self._journal = Journal(
                    folder, segment=segment, limit=limit, device=device, room=room, grown=grown, gives_way=gives_way
                )
                if self._journal.recovered.lost:
                    self.tell_lost()
        except OSError as error:
            _name_path(error, self.described.path)
            raise
        finally:
            self._opening_journal.release()

    def _journal_room(self) -> int:
        return self.described.size - self._spooled_bytes()

    def tell_lost(self) -> None:
        """Report that a reading of the journal has found confirmed records that cannot be read."""
        self.errors += 1
        what = f"{self.described.path}: records of the journal are lost, perhaps of files that are not listed"
        self._lost = {"error": OSError(errno.EIO, "other bytes than were written"), "message": what, "next": ""}
        self._tell(what, self._lost["error"], "")

    def unsaved(self, volume: str) -> dict[int, int]:
        """Return what `Journal.unsaved` does."""
        return {} if self._journal is None else self._journal.unsaved(volume)

    def unsaved_now(self, volume: str) -> dict[int, int] | None:
        """Return what `Journal.unsaved_now` does."""
        return {} if self._journal is None else self._journal.unsaved_now(volume)

    def journal_bytes(self) -> int:
        """Return the bytes of the journal; 0: all of it is saved."""
        return 0 if self._journal is None or not self._journal.has_unsaved() else self._journal.bytes

    def _size_of_others(self) -> int:
        journal = 0 if self._journal is None else self._journal.bytes
        return self._catalogue.size_now() + journal + self._spooled_bytes()

    def _spooled_bytes(self) -> int:
        return sum(volume.spooled_bytes() for volume in self.volumes())

    def spool_room(self) -> int:
        """Return how many more bytes spools may take: `journal_limit` in all, and `size` with the journal."""
        journal = self.journal()
        return min(journal.limit, self.described.size - journal.bytes) - self._spooled_bytes()

    def others_grow(self) -> None:
        """Have the writer make room for the journal, or for spools."""
        self._wake()

    def gives_way(self, error: OSError) -> bool:
        """Remove the oldest segment if the disk had no space for unsaved bytes; return whether one went. Not by the
        writer, which may wait for the disk.
        """
        return error.errno in FULL and bool(uninterrupted(self._segments.drop_oldest))

    # -- copies

    @property
    def names(self) -> int:
        """Changes of names so far: see `publish`."""
        with self._lock:
            self._forget_announced()
            return self._names

    def find(self, volume: str, key: bytes) -> bool:
        """Return whether there is a copy of any version of an object."""
        with self._lock:
            self._forget_announced()
            copy = self._copies.get((volume, key))
        if copy is not None:
            return copy.version is not None
        return self._saved(volume, key) is not None

    def _saved(self, volume: str, key: bytes) -> tuple[int, str, int] | None:
        try:
            wrong = (volume, key) in self._announced or (volume, key) in self._undropped
            return None if wrong or self._catalogue.damaged else self._catalogue.find(volume, key)
        except OSError as error:
            self._count(error)
            return None

    def bind(self, volume: str, key: bytes, version: str, names: int) -> Copy | None:
        """Return the copy of a version of an object, an empty one if there is none; None: a name has changed since the
        attribute `names` was this.
        """
        with self._lock:
            self._forget_announced()
            copy = self._copies.get((volume, key))
        saved = self._saved(volume, key) if copy is None else None
        with self._lock:
            self._forget_announced()
            if names != self._names:
                return None
            other = self._copies.get((volume, key))
            if other is not None and other.version == version:
                return other
            made = None
            if saved is not None and saved[1] == version and other is copy:
                made = self._saved_copy(volume, key, saved)
            if made is None:
                made = self._new(volume, key, version)
            self._set_copy(made)
            return made

    def _saved_copy(self, volume: str, key: bytes, saved: tuple[int, str, int]) -> Copy | None:
        """Return the copy that the catalogue has; None: a file has it, as one of something else. The lock is held."""
        number, version, high = saved
        found = self._numbers.get(number)
        if found is not None:
            return found if (found.volume, found.key, found.version) == (volume, key, version) else None
        made = self._numbers[number] = Copy(number, volume, key, version, self._load)
        made.known, made.high = True, high
        return made

    def _set_copy(self, copy: Copy) -> None:
        """Make a copy that of its object. The lock is held."""
        other = self._copies.get((copy.volume, copy.key))
        if other is not None:
            other.replaced = True
        copy.replaced = False
        self._copies[copy.volume, copy.key] = copy

    def new(self, volume: str, key: bytes, number: int | None = None) -> Copy:
        """Return a copy of a version that does not exist yet; `publish` makes it known. `number`: of the copy that its
        bytes will be laid over.
        """
        with self._lock:
            return self._new(volume, key, None, number)

    def _new(self, volume: str, key: bytes, version: str | None, number: int | None = None) -> Copy:
        if number is not None:
            return Copy(number, volume, key, version, self._load)
        number = self._next
        self._next += 1
        made = self._numbers[number] = Copy(number, volume, key, version, self._load)
        return made

    def _load(self, number: int, chunk: int) -> Chunk:
        try:
            found = self._catalogue.chunk(number, chunk, self._segments.is_live)
        except OSError as error:
            self._count(error)
            raise
        self._ranges += len(found)
        return found

    def publish(self, copy: Copy, names: int) -> None:
        """Make a copy, whose version has just been set, that of its object. `names`: what the attribute was when the
        object was seen to have its name; if a name has changed since, no other file finds the copy. If another copy has
        this version, one may lack what the other's file has written: both are void.
        """
        saved = self._saved(copy.volume, copy.key)
        with self._lock:
            self._forget_announced()
            if names != self._names:
                return
            other = self._copies.get((copy.volume, copy.key))
            found = [] if other is None else [(other.number, other.version)]
            found += [] if saved is None else [saved[:2]]
            if all(number == copy.number or version != copy.version for number, version in found):
                self._set_copy(copy)
                self._save_soon(copy)
                return
        self.drop(copy.volume, copy.key)
        copy.void()

    def changed(self, copy: Copy) -> None:
        """Have a copy saved."""
        with self._lock:
            self._ranges += 1
            self._save_soon(copy)

    def _save_soon(self, copy: Copy) -> None:
        """The lock is held."""
        if not self._unsaved:
            self._wake()  # the writer may wait for bytes alone
        self._unsaved.add(copy)

    def drop(self, volume: str, key: bytes, *, tree: bool = False, identity: str | None = None) -> None:
        """Forget the copy under a name that another object may have now or soon, with the same version. `tree`: and
        those below it. `identity`: and those whose versions have it, under any name. Both by a walk of all copies.
        """
        later = _running.get(self._place)
        if later is not None and later is not self:  # this call has outlasted its tier
            later.drop(volume, key, tree=tree, identity=identity)
        first, last = below(key)
        with self._lock:
            known = self._copies if tree else ()
            names = [key, *(name for of, name in known if of == volume and first < name < last)]
            if identity is not None:
                ours = [copy for copy in self._copies.values() if copy.volume == volume]
                names += [copy.key for copy in ours if str(copy.version).endswith(f" {identity}")]
            copies = [self._pop(volume, name) for name in names]
        for copy in copies:
            if copy is not None:
                copy.void()  # files may have it
        self._drop_saved(volume, key, tree=tree, identity=identity)

    def forget(self, volume: str, key: bytes) -> None:
        """Have files that are opened later find no copy under a name. Waits for no disk: the next save drops it. Takes
        no lock: the thread of a signal handler may hold it.
        """
        self._announced.add((volume, key))
        self._wake()

    def _forget_announced(self) -> None:
        """The lock is held: only then copies get names."""
        for name in list(self._announced):
            self._pop(*name)  # first: a save beside it saves the copy no longer, or comes before the next one
            self._undropped.add(name)
            self._announced.discard(name)  # last: `_saved` takes no lock, and an interrupt repeats all

    def _pop(self, volume: str, key: bytes) -> Copy | None:
        """The lock is held."""
        self._names += 1
        copy = self._copies.pop((volume, key), None)
        if copy is not None:
            copy.replaced = True  # a save that runs may have it
            self._unsaved.discard(copy)
        return copy

    def _drop_saved(self, volume: str, key: bytes, *, tree: bool = False, identity: str | None = None) -> None:
        """Have the catalogue forget the copy under a name."""

        def drop() -> None:
            self._catalogue.drop(volume, key, tree)
            if identity is not None:
                self._catalogue.drop_object(volume, identity)

        self._dropped_by(drop)

    def _dropped_by(self, drop: Callable[[], None]) -> None:
        """Call `drop`; the catalogue goes if that fails: after a kill its names would lead to bytes of others."""
        try:
            try:
                drop()
            except OSError:
                if self._catalogue.damaged or not uninterrupted(self._segments.drop_oldest):
                    raise
                drop()  # a full disk, or quota, has room now
        except OSError as error:
            self._catalogue.remove()
            self._wake()
            self._count(error)

    # -- bytes

    def append(self, copy: Copy, offset: int, buffers: list[memoryview], length: int) -> int | None:
        """Take an extent of a copy; None: the disk is slower, or fails."""
        return self._segments.append(copy.number, offset, buffers, length, _least(copy))

    def read(
        self, address: int, length: int, copy: Copy, offset: int, skip: int, buffers: list[memoryview]
    ) -> int | None:
        """Fill buffers from an extent; None: it cannot be read now. 0: it never can be."""
        try:
            done = self._segments.read(address, length, copy.number, offset, skip, buffers)
        except OSError as error:
            self._count(error)
            return 0
        if done is None:
            return None if self.is_live(address) else 0
        if not self._segments.is_old(address):
            return done
        hits = self._hits.setdefault(address >> 32, {})
        if len(hits) < HITS_MAX or address in hits:
            hits[address] = copy, offset // CHUNK, length
        return done

    def is_live(self, address: int) -> bool:
        """Return whether an extent is there, or will be."""
        return self._segments.is_live(address)

    def _rescue(self, number: int) -> None:
        """Append the extents of a segment anew that were read, the last ones first; by the writer, before it goes."""
        left = min(self.described.segment // RESCUED, RESCUED_MAX)
        for address, (copy, chunk, length) in reversed(self._hits.pop(number, {}).copy().items()):
            left -= checked_size(length)
            if left < 0:
                return
            now = self._segments.append_again(address, length, _least(copy))
            if now is not None:
                with copy.lock:
                    copy.moved(chunk, address, now)
                self.changed(copy)

    def size_now(self) -> int:
        """Return the bytes that it takes on disk."""
        return self._segments.size_now() + self._size_of_others()

    # -- reports

    def attached(self, volume: Told) -> None:
        """Report failures of the disk to a volume, until `detached`, and count its spools."""
        with self._lock:
            self._volumes = (*self._others(volume), ref(volume))
        if self._lost:
            volume.emit("disk", **self._lost)

    def detached(self, volume: Told) -> None:
        with self._lock:
            self._volumes = self._others(volume)

    def _others(self, volume: Told) -> tuple[ref[Told], ...]:
        return tuple(each for each in self._volumes if each() not in (volume, None))

    def leave(self, number: int, file: Called) -> None:
        """Record that calls of a volume that ends run on a file of the journal."""
        self._left[number] = file

    def is_left_busy(self, number: int) -> bool:
        """Return whether a call of a volume that has ended still runs on a file of the journal."""
        file = self._left.get(number)
        return file is not None and file.is_called()

    def volumes(self) -> tuple[Told, ...]:
        """Return the volumes that are attached. Takes no lock: the journal asks within an append."""
        return tuple(volume for each in self._volumes if (volume := each()) is not None)

    def refused(self, error: BaseException | None) -> None:
        """Record that the journal took nothing: unless it is full or has ended, the disk fails. None: it took all."""
        from .journal import JournalFull

        journal = self._journal
        if error is None:
            for last in self._journal_failed[:]:
                if journal is not None and journal.last > last and not journal.is_behind():
                    with contextlib.suppress(ValueError):  # another thread tells it
                        self._journal_failed.remove(last)
                        self._tell(f"the journal in {self.described.path!r} is written again", None, "")
        elif not isinstance(error, OSError) or isinstance(error, JournalFull) or error.errno == errno.EBADF:
            pass
        elif monotonic() - self._refused >= PAUSE:  # each file that is saved asks again
            self._refused = monotonic()
            self._journal_failed[:] = [0 if journal is None else journal.last]
            self._count(error, "fsync saves in the store for a while")

    def _count(self, error: OSError, next: str = "they are read from the store") -> None:
        """Record bytes that cannot be read, or are not taken."""
        if self._mark.closed:  # a call has outlasted it
            return
        self.errors += 1
        if monotonic() - self._logged >= LOGGED_EVERY:
            self._logged = monotonic()
            what = f"{self.described.path}: {error.strerror or error} (failure {self.errors})"
            self._tell(what, error, next)

    def _report(self, error: OSError | None) -> None:
        if error is not None:
            self.errors += 1
            what = f"the disk tier in {self.described.path!r} failed: {error.strerror or error}"
            self._tell(what, error, "nothing is written to it for a while")
        else:
            self._tell(f"the disk tier in {self.described.path!r} is written again", None, "")

    def _tell(self, what: str, error: OSError | None, next: str) -> None:
        level = logging.INFO if error is None else logging.WARNING
        loglines.say(log, level, "%s%s", what, next and f"; {next}")
        for volume in self.volumes():
            volume.emit("disk", error=error, message=what, next=next)

    # -- the writer's thread

    def _wake(self) -> None:
        """Have the writer look for work. Takes no lock: see `forget`."""
        if self._woken.empty():
            self._woken.put(None)

    def _work(self) -> None:
        saved = monotonic()
        while True:
            owes = self._unsaved or self._undropped or self._announced or self._catalogue.damaged
            with contextlib.suppress(Empty):
                self._woken.get(timeout=self._pause() if owes else None)
            ending = self._ending
            try:
                self._segments.shrink()
                while self._segments.write_next():
                    if monotonic() - saved >= self._save_every:
                        self._save()
                        saved = monotonic()
                if ending or monotonic() - saved >= self._pause():
                    self._save()
                    saved = monotonic()
            except Exception:  # no fault of this code ends the thread while others need it
                loglines.say(log, logging.ERROR, "%s: the writer failed", self.described.path, caught=True)
            if ending:
                self._segments.close()
                return

    def _pause(self) -> float:
        """Return the seconds between two saves. A disk that fails is not spared names to drop: a kill leaves them."""
        drops = (self._undropped or self._announced) and not self._catalogue.damaged
        return SAVE_EVERY if drops else self._save_every

    def _save(self) -> None:
        self._save_every = SAVE_EVERY
        with self._lock:
            self._forget_announced()
            copies = [copy for copy in self._unsaved if copy.version is not None]
            copies = [copy for copy in copies if self._copies.get((copy.volume, copy.key)) is copy]  # files find it
            self._unsaved.clear()
        oldest = self._segments.oldest
        if not copies and oldest == self._swept and not self._catalogue.damaged and not self._undropped:
            return
        try:
            if self._catalogue.damaged:
                self._catalogue.begin_anew()
                self._undropped.clear()
                with self._lock:
                    copies = [copy for copy in self._copies.values() if copy.version is not None]
                for copy in copies:
                    copy.lose_saved()
            dropped = list(self._undropped)
            for first in range(0, len(dropped), SAVED_AT_ONCE):
                names = dropped[first : first + SAVED_AT_ONCE]
                self._dropped_by(partial(self._catalogue.drop_all, names))
                self._undropped.difference_update(names)
            for first in range(0, max(1, len(copies)), SAVED_AT_ONCE):  # or its log takes what small tiers have
                self._catalogue.save(copies[first : first + SAVED_AT_ONCE], oldest)
            self._swept = oldest
            for number in [number for number in list(self._hits) if number < oldest]:
                self._hits.pop(number, None)
        except OSError as error:
            self._report(error)
            self._save_every = PAUSE
            if self._ranges <= RANGES_MAX:
                with self._lock:
                    self._unsaved.update(copies)
                return
            copies = []  # they would fill the memory
        if self._ranges > RANGES_MAX:
            with self._lock:
                loaded, self._ranges = list(self._copies.values()), 0
            for copy in loaded:
                with copy.lock:
                    copy.release()
                    self._ranges += copy.size()


# -- the directory


def _name_path(error: BaseException, path: str) -> None:
    if isinstance(error, OSError) and error.filename is None:  # of a call with a descriptor
        error.filename = path


def _file_system(path: str) -> str:
    """Return the type of the file system that has a directory; "": unknown."""
    best, kind = -1, ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, behind = line.partition(" - ")
                place = before.split()[4].encode().decode("unicode_escape")
                inside = path == place or path.startswith(place.rstrip("/") + "/")
                if inside and len(place) >= best:
                    best, kind = len(place), behind.split()[0]
    except (OSError, ValueError, IndexError):
        return ""
    return kind


def _has_journal(path: str) -> bool:
    from .recovery import NAME

    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return any(map(NAME.fullmatch, os.listdir(os.path.join(path, JOURNAL))))
    return False


def occupy(path: str, *, make: bool = True) -> FileIO:
    """Make the directory ready, and lock it; return the file that holds the lock. Not `make`: it is a tier."""
    if make:
        with contextlib.suppress(FileExistsError):
            make_folders(path, mode=0o700)
    elif not (os.path.exists(os.path.join(path, MARK)) or _has_journal(path)):
        raise ValueError(f"disk: {path!r} has no file {MARK!r}, so it is not the directory of a tier")
    found = os.stat(path)
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, "disk: not a directory; name one, or a path that does not exist", path)
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"disk: the directory belongs to user {found.st_uid}", path)
    if found.st_mode & 0o077:
        if os.listdir(path):
            what = f"disk: others may enter the directory (mode {found.st_mode & 0o777:o}); run chmod 700"
            raise PermissionError(errno.EPERM, what, path)
        os.chmod(path, 0o700)
    kind = _file_system(os.path.realpath(path))
    if kind in REMOTE:
        raise ValueError(f"disk: {path!r} is on a file system of type {kind}; a tier needs a local disk")
    if make and kind in PASSING:
        what = "%s: on %s, the tier does not survive a restart of the machine"
        loglines.say(log, logging.WARNING, what, path, kind)
    place = os.path.join(path, MARK)
    try:
        fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        if make:
            raise
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)  # the disk may be read-only after an error
    mark = FileIO(fd, "r+")
    try:
        _marks.add(mark)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 100, 0).decode("ascii", "replace").partition("\n")[2].strip()
            what = f"disk: another process uses the tier{f' ({owner})' if owner else ''}"
            raise OSError(errno.EBUSY, what, path) from None
        _check_format(fd, path)
        content, marked = f"{SIGN}{FORMAT}\nprocess {os.getpid()}\n".encode("ascii"), os.fstat(fd).st_size > 0
        try:
            os.pwrite(fd, content.ljust(MARK_SIZE, b"\n"), 0)  # over that of a former process
            if not marked:
                os.fsync(fd)
        except OSError:
            if not marked:
                raise
    except BaseException:
        leave(mark)
        raise
    return mark


def _check_format(fd: int, path: str) -> None:
    text = os.pread(fd, 100, 0).decode("ascii", "replace").partition("\n")[0]
    if not text:
        return
    number = text.removeprefix(SIGN)
    if number == text or not number.isdigit():
        if _has_journal(path):
            what = f"the file {MARK!r} in {path!r} is damaged; remove this file: then the journal beside it can be read"
            raise ValueError(f"disk: {what}")
        raise ValueError(f"disk: {path!r} has a file {MARK!r} that is not of a tier; name another directory")
    if int(number) > FORMAT:
        what = f"disk: {path!r} has format {number}, and this version reads formats up to {FORMAT}"
        raise ValueError(f"{what}; use a newer pagecache, or another directory")


_marks: set[FileIO] = set()
"""Files that hold the locks of this process. No descriptors: one that is closed again may be that of another file."""


def leave(mark: FileIO) -> None:
    """Give up the lock of `occupy`."""
    mark.close()
    _marks.discard(mark)


def _after_fork() -> None:
    """Let go of the marks in a child, which has no tier: it would keep them when its parent has ended. A tier may have
    been starting or ending.
    """
    for mark in _marks:
        with contextlib.suppress(OSError):
            mark.close()
    _marks.clear()
    for tier in _running.values():
        tier.forked()
    _running.clear()
    _opening.clear()
    _left.clear()


os.register_at_fork(after_in_child=_after_fork)
