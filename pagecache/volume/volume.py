"""Volume: one backend seen through the cache. Names, opens, sync, failed data.

`inodes_lock`, held briefly, protects the table of inodes and their handles. An operation on names marks them as busy
(keys.py), so a slow open delays only its own name (contract 2.20). A name is a key in its canonical spelling; the
backend is always called with the original key.
"""

from __future__ import annotations

import builtins
import errno
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..backends.plain import PlainBackend
from ..backends.protocol import AsyncBackend, Backend, BackendLimits, ObjectStat
from ..backends.url import as_backend
from ..config import Durability, RetryPolicy, Size, VolumeOptions, checked_seconds, parse_size, with_overrides
from ..engine import failures
from ..engine.aside import Aside
from ..engine.attempts import Attempts
from ..engine.blocking import blocking, original
from ..engine.commit import overdue, remote
from ..engine.park import Deadline, Signal
from ..engine.report.notices import spans
from ..engine.volume import EngineVolume
from ..errors import FailedRange, Key, LostRange, ShutdownError
from ..file.cached import CachedFile, extent
from ..file.direct import DirectFile
from ..native import END, FOREVER, inside
from ..objects import FileStat
from . import conflicts, detach, lifetimes, modes, namespace, opening, reconnect, status
from .inode import Inode, InodeTable
from .keys import BusyKeys
from .ticket import SyncTicket

if TYPE_CHECKING:
    from ..cache import PageCache
    from ..engine.file import EngineFile
    from ..options import OpenMode
    from ..stats import FileStats, RecoveredFile, VolumeStats
    from .recovered import Recovery


def largest_window(limits: BackendLimits, least: Size = "1MiB") -> int:
    """Return the largest readahead window of a volume whose options name none: what a far store takes at once."""
    most = 0 if limits.prompt else int(limits.max_inflight) * int(limits.max_read)
    return min(max(parse_size(least, "read_ahead"), int(limits.read_ahead) or most), FOREVER)


def options_for(
    limits: BackendLimits, options: VolumeOptions | None, overrides: Mapping[str, Any], call: Any
) -> VolumeOptions:
    """Return the explicit options of a call, otherwise those of `options`, otherwise the best for these limits."""
    if options is None:
        overrides = {"read_ahead": largest_window(limits), **overrides}
    return with_overrides(options or VolumeOptions(), overrides, call)


class Volume:
    """One backend seen through the cache; made by `PageCache.attach`.

    Attributes:
        name: name of the volume in events, errors and statistics.
        options: the options of the volume, with the defaults that its backend prefers.
    """

    name: str
    options: VolumeOptions

    def __init__(
        self,
        cache: PageCache,
        backend: Backend,
        name: str,
        options: VolumeOptions,
        mirror: Backend | None,
        timeout: float | None,
        prompt: bool | None,
        retry: RetryPolicy | None,
        spool: str | None,
    ) -> None:
        self.cache = cache
        self.name = name
        self.options = options
        self._timeout = timeout
        self.engine: EngineVolume = EngineVolume(cache, backend, name, options, mirror, prompt, retry, spool)
        self.prefers_stored = False  # acknowledged bytes give way to later foreign versions, as in network file systems
        self.detached = False  # no unsaved data is left
        self.ended = False  # no threads or files are left
        self.given_up: builtins.list[LostRange] = []  # by ends that have not returned it
        self.backend_closed = False
        self.turn: tuple[int, Signal] | None = None  # the thread that ends it, and the signal set at its end
        self.aside: Aside = Aside(name, self.engine, cache._check_forked)
        self.inodes_lock: threading.Lock = threading.Lock()
        self.busy = BusyKeys(self.engine, self.inodes_lock, self._check_alive)
        self.inodes = InodeTable()
        self.handles = 0  # of all inodes
        self.orphans: dict[Inode, None] = {}  # removed, but still open or in use
        self.recovery: Recovery | None = None  # of what the disk tier had for it
        self.unsettled: dict[Key, namespace.NameChange] = {}  # removes and renames of unknown result, by name
        # Held while files take the backend files of a reconnect, and briefly by the end of the volume, which a signal
        # handler may begin anew in the middle.
        self.late_lock = threading.RLock()
        self.late: dict[Inode, reconnect.Opened] = {}  # files that it opens again after a commit of an older backend

    @property
    def backend(self) -> Backend | AsyncBackend:
        """The attached backend."""
        found: Backend | AsyncBackend = original(self.engine.backend)
        return found

    def __repr__(self) -> str:
        return f"<pagecache.Volume {self.name!r} {'detached' if self.detached else type(self.backend).__name__}>"

    # -- alive

    def _check_alive(self, key: Key | None = None) -> None:
        if self.detached or self.cache.native.forked:
            self.cache._check_forked()
            raise ShutdownError(f"the volume {self.name!r} is detached", key)
        self.engine.check_alive(key)

    # -- names

    def _canonical(self, key: Key) -> Key:
        """Return the canonical spelling of a key, by which the volume knows it; that of such a spelling is the same."""
        if type(key) is str and key in self.inodes:
            return key
        try:
            hash(key)
        except TypeError:
            raise TypeError(f"key {key!r} is not hashable") from None
        canonical = self.engine.backend.canonical
        if getattr(canonical, "__func__", None) is Backend.canonical:
            return canonical(key)
        return self.engine.call_here("canonical", key, partial(canonical, key))

    def _inode_at(self, key: Key) -> Inode | None:
        """Return the inode that a name led to when it was last known."""
        with self.inodes_lock:
            return self.inodes.at(key)

    def _inode_found(self, key: Key, stat: ObjectStat | None) -> Inode | None:
        """Return the inode of an object that the store has found by a name; None: it has found nothing."""
        with self.inodes_lock:
            return self.inodes.found(key, stat)

    def open(
        self,
        key: Key,
        mode: OpenMode = "rb",
        *,
        flags: int | None = None,
        direct: bool = False,
        write_through: bool | None = None,
        keep_cache: bool = False,
        revalidate: float | None = None,
        read_ahead: Size | None = None,
        parallel_direct_writes: bool = False,
        kind: type[CachedFile] = CachedFile,
        timeout: float | None = None,
    ) -> CachedFile:
        """Open an object.

        Args:
            key: of the object in the backend.
            mode: as `open()` without buffering: r, r+, w, w+, x, x+, a, a+; 'b' may be left out.
            flags: `os.O_RDWR | os.O_CREAT ...` instead of a mode.
            direct: bypass the cache, coherently with it; see docs/how-to/direct.md.
            write_through: None: as the volume's options say.
            keep_cache: use cached data without comparing the backend's version (close-to-open).
            revalidate: seconds for which a version that an open or a commit has seen under this name is not compared
                again; 0: every open asks the backend; None: as the volume's options say.
            read_ahead: largest readahead window in bytes; None: as the volume's options say.
            parallel_direct_writes: direct writes that extend nothing may run concurrently, if the backend allows it
                too.
            kind: class of the handle, unless it is a direct one: `CachedFile`, or a class derived from it.
            timeout: seconds to wait; None: the volume's default. An open that times out leaves no handle; a backend
                call that still runs may create the object later.

        Raises:
            FileNotFoundError, FileExistsError, IsADirectoryError: as `open()`.
            PermissionError: for writing on a read-only volume.
            ConflictError: the stored object changed under local data.
            TimeoutError: the deadline passed.
            ValueError: mode, key or size; names value and rule.
        """
        tries = self._attempts("open", key, timeout, changes=True)
        bits = modes.mode_flags(mode) if flags is None else modes.checked_flags(flags)
        window = int(self.options.read_ahead) if read_ahead is None else parse_size(read_ahead, "read_ahead")
        if bits != os.O_RDONLY:
            self._check_may_write(key, bits)
        canonical = self._canonical(key)
        self._recover_first(tries, canonical)
        name = mode if flags is None else modes.flags_mode(bits)
        through = self.options.write_through if write_through is None else bool(write_through)
        age = self.options.revalidate if revalidate is None else checked_seconds(revalidate, "revalidate")
        age = math.inf if keep_cache else age

        def make(use: lifetimes.Use) -> CachedFile:
            if direct:
                return DirectFile(use, key, name, bits, parallel=parallel_direct_writes, read_ahead=window)
            return kind(use, key, name, bits, through=through, read_ahead=window)

        return self._open(key, canonical, bits, age, make, tries)

    def _open(
        self,
        key: Key,
        canonical: Key,
        bits: int,
        age: float,
        make: Callable[[lifetimes.Use], CachedFile],
        tries: Attempts,
        *,
        lays: bool = False,
        brief: bool = False,
    ) -> CachedFile:
        """Open an object, as a part of a call with a deadline. It is found anew if it was abandoned concurrently, or if
        a remove or rename ended with an unknown result. `lays`: the bytes that were left of it. `brief`: one change.
        """
        handle = None
        try:
            while handle is None:
                if self.unsettled:
                    namespace.settle_names(self, tries, canonical)
                holding = self.busy.holding(canonical, what="an open", tries=tries)
                with holding.block, holding:
                    if not self.unsettled or namespace.unsettled_at(self, canonical) is None:
                        use = opening.open_inode(self, canonical, key, bits, age, tries)
                        handle = opening.bind(use, key, bits, make)
            if self.recovery is not None and not lays:
                self.recovery.opened(canonical, handle._inode, tries)
                if bits & (os.O_ACCMODE | os.O_TRUNC):
                    self.recovery.opened_for_writing(handle._inode, tries)
            if bits & os.O_TRUNC and handle._inode.size:
                handle._empty(tries)
            if bits & os.O_APPEND:
                handle.seek(0, os.SEEK_END)
            if not brief:
                lifetimes.opened(handle._use)
        except BaseException:
            if handle is not None:
                handle._never_opened()
            raise
        return handle

    def _attempts(self, what: str, key: Key | None, timeout: float | None, *, changes: bool = False) -> Attempts:
        """Begin a program's call with a deadline, and return its attempts. `timeout`: None: the volume's default.
        `changes`: the volume must not be ending.
        """
        if inside():
            self.engine.check_reentry(what, key)
        if self.detached or self.cache.native.forked:
            self._check_alive(key)
        self.engine.check_alive(key)
        if changes and self.engine.seals:
            self.engine.check_unsealed(key)
        return Attempts(self.engine, what, key, self._timeout if timeout is None else timeout)

    def _check_may_write(self, key: Key | None, bits: int) -> None:
        """Raise PermissionError if an open with these flags would change a read-only object."""
        writes = bits & os.O_ACCMODE != os.O_RDONLY or bits & (os.O_CREAT | os.O_TRUNC)
        if writes and self._is_read_only():
            why = getattr(self.engine.backend, "why_read_only", "")
            raise PermissionError(errno.EACCES, f"the volume {self.name!r} is read-only{why and f': {why}'}", key)

    def _is_read_only(self) -> bool:
        return self.options.read_only or self.engine.backend.limits.read_only

    # -- the namespace

    def stat(self, key: Key, *, timeout: float | None = None) -> FileStat:
        """Return size and times for a reader of the cache (including local extensions).

        Args:
            key: of the object.
            timeout: seconds to wait; None: the volume's default.

        Raises:
            FileNotFoundError: no such object. TimeoutError: the deadline passed.
        """
        tries = self._attempts("stat", key, timeout)
        canonical = self._canonical(key)
        self._recover_first(tries, canonical)
        if self.unsettled:
            namespace.settle_names(self, tries, canonical)
        return status.of_name(self, canonical, key, tries)

    def unsaved(self, key: Key | None = None, *, hidden: bool = False) -> builtins.list[FileStat]:
        """Return objects whose store differs from the cache by uncommitted changes, by canonical keys; `hidden`:
        without those that show these changes in the store. No backend call.
        """
        self.cache._check_forked()
        found = self._unsaved_of(key)
        return [status.of_cached(each) for each in found if (not each.is_stored() if hidden else each.has_local())]

    def exists(self, key: Key, *, timeout: float | None = None) -> bool:
        """Return whether `open(key)` would find an object. `timeout`: that of `stat`."""
        try:
            self.stat(key, timeout=timeout)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "", *, timeout: float | None = None) -> Iterator[FileStat]:
        """Yield the stored objects whose key starts with `prefix`, in several calls of the backend.

        Args:
            prefix: of the keys.
            timeout: seconds to wait for each call of the backend (up to 1000 objects); None: the volume's default.

        Raises:
            TimeoutError: the deadline passed.
        """
        self._check_alive()
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {type(prefix).__name__}")
        yield from status.listed(self, prefix, timeout)

    def remove(self, key: Key, *, timeout: float | None = None) -> None:
        """Remove a name. Open handles keep working; unwritten data stays readable through them and is dropped when the
        last of them closes.

        Args:
            key: the name.
            timeout: seconds to wait; None: the volume's default. A running call goes on, and the name is busy until
                it returns.

        Raises:
            FileNotFoundError: no such object. TimeoutError: the deadline passed.
        """
        tries = self._attempts("remove", key, timeout, changes=True)
        self._check_may_write(key, os.O_RDWR)
        canonical = self._canonical(key)
        self._recover_first(tries, canonical)
        namespace.remove(self, key, canonical, tries)

    def rename(self, src: Key, dst: Key, *, replace: bool = True, timeout: float | None = None) -> None:
        """Give an object another name; an open destination behaves as removed.

        Args:
            src: the current name.
            dst: the new name.
            replace: False: FileExistsError if there is an object of that name.
            timeout: seconds to wait; None: the volume's default. A running call goes on, and both names are busy
                until it returns.

        Raises:
            FileNotFoundError: no such object. TimeoutError: the deadline passed.
        """
        tries = self._attempts("rename", src, timeout, changes=True)
        self._check_may_write(src, os.O_RDWR)
        old, new = self._canonical(src), self._canonical(dst)
        if self.recovery is not None:
            self.recovery.first(tries, old, new, tree=True)
        namespace.rename(self, src, dst, old, new, tries, replace=replace)

    def setattr(self, key: Key, **changes: int) -> ObjectStat:
        """Set attributes, see `NamespaceBackend.setattr`; the new version that comes with changed times is no foreign
        change. Dirty data is not written back first: that would change the times once more.

        Raises:
            io.UnsupportedOperation: the backend keeps no attributes.
        """
        self._check_alive(key)
        self._check_may_write(key, os.O_RDWR)
        canonical = self._canonical(key)
        self._recover_first(self._attempts("setattr", key, None), canonical)
        holding = self.busy.holding(canonical, what="setattr")
        with holding.block, holding:  # the object keeps its name until the change is done
            return conflicts.set_attributes(self, canonical, key, changes)

    def truncate(self, key: Key, size: int, *, timeout: float | None = None) -> None:
        """Truncate by key, like `CachedFile.truncate`; does not write back other dirty data of the file.

        Args:
            key: of the object.
            size: in bytes.
            timeout: seconds to wait; None: the volume's default.

        Raises:
            TimeoutError: the deadline passed. If the backend's call had begun, the file has the new size and the call
                is repeated before its next one.
        """
        tries = self._attempts("truncate", key, timeout, changes=True)
        self._check_may_write(key, os.O_RDWR)
        window = int(self.options.read_ahead)
        make = partial(
            CachedFile, key=key, mode="rb+", flags=os.O_RDWR, through=self.options.write_through, read_ahead=window
        )
        canonical = self._canonical(key)
        self._recover_first(tries, canonical)
        handle = self._open(key, canonical, os.O_RDWR, False, make, tries, brief=True)
        try:
            handle._truncate(size, tries)
        except TimeoutError:
            handle._leave()  # closing it may wait for the backend again
            raise
        finally:
            if self.engine.backend.limits.commit_on_close:
                handle._close(tries.deadline.timeout())
            else:
                handle._leave()

    # -- sync

    def sync(self, timeout: float | None = None, *, durability: Durability | None = None) -> None:
        """syncfs: return once every write made before the call is committed; later writes are not waited for.

        Args:
            timeout: seconds to wait; None: no limit.
            durability: "backend", "disk" or None, as in `CachedFile.fsync`.

        Raises:
            WritebackError: with the errors of all files; their data is still in the cache.
            TimeoutError: I/O goes on.
        """
        deadline = Deadline(self.engine.clock, timeout)
        self.begin_sync(durability=durability).wait(deadline.timeout())

    def begin_sync(self, *, durability: Durability | None = None) -> SyncTicket:
        """Begin a sync without waiting: return a ticket for "everything written so far". With "disk" the tier has it on
        return, and the ticket is about what it could not take, and files that a call holds. Recovered files that are
        not held are opened first.
        """
        return self._begin_sync(durability)

    def _begin_sync(self, durability: Durability | None = None, *, ending: bool = False) -> SyncTicket:
        """Begin a sync; `ending`: for the end of the volume, which leaves withheld objects to their writers."""
        self._check_alive()
        self.engine.check_reentry("sync")
        if self.engine.level(durability) == "backend" or self.engine.journal is None:
            return self._add_ticket(SyncTicket(self, recovery=self.recovery, ending=ending))
        if ending:
            lifetimes.withhold_again(self)
        busy: builtins.list[EngineFile] = []
        left = self.engine.journal.append(self.engine.dirty_files(), busy=busy)
        error = self.engine.journal.confirm_all()  # here: a store that hangs has the threads of the volume
        return self._add_ticket(SyncTicket(self, left, busy=busy, names=False, failed=error, ending=ending))

    def _add_ticket(self, ticket: SyncTicket) -> SyncTicket:
        self.engine.add_ticket(ticket)
        return ticket

    def _begin_saving(self, files: builtins.list[EngineFile]) -> SyncTicket:
        return self._add_ticket(SyncTicket(self, files, asked=False))

    # -- what the disk tier had

    def _recover_first(self, tries: Attempts, *names: Key) -> None:
        if self.recovery is not None:
            self.recovery.first(tries, *names)

    def recovered(self) -> builtins.list[RecoveredFile]:
        """Return the files whose bytes were found in the disk tier at attach, and are not in the store yet."""
        self._check_alive()
        return [] if self.recovery is None else self.recovery.files()

    def resume(self, key: Key | None = None) -> None:
        """Begin to save what was recovered; for `on_recovery="hold"`, and for objects that were gone.

        Args:
            key: of one object, also over perhaps newer bytes; None: of all others.

        Raises:
            PermissionError: on a read-only volume.
            FileNotFoundError: the attach found nothing of the key; not if that was saved or discarded meanwhile.
            OSError: a crash has left the key in a rename, and the store does not tell which object has it.
        """
        self._check_alive(key)
        self._check_may_write(key, os.O_RDWR)
        name = None if key is None else self._canonical(key)
        if not (self.recovery is not None and self.recovery.resume(name)) and name is not None:
            raise FileNotFoundError(errno.ENOENT, "resume: no file that `recovered` has listed has this name", key)

    # -- invalidation, failed data

    def _inodes_of(self, key: Key | None, has: Callable[[Inode], object] | None = None) -> builtins.list[Inode]:
        """Return the inode of a key, or, for None, all of them. `has`: a condition. If the inode does not meet it: one
        with unsaved bytes that does, and whose last name the key was.
        """
        if key is None:
            with self.inodes_lock:
                return list(self.inodes.objects.values())
        name = self._canonical(key)
        with self.inodes_lock:
            inode = self.inodes.last_known(name)
        if has is not None and (inode is None or not has(inode)):
            files = [file for file in self.engine.dirty_files() if file.key == name and not file.abandoned]
            with self.inodes_lock:
                former = [self.inodes.of_file(file) for file in files]
            inode = next((each for each in former if each is not None and has(each)), inode)
        return [] if inode is None else [inode]

    def _unsaved_of(self, key: Key | None) -> builtins.list[Inode]:
        """Return the inode of a key, or, for None, those with unsaved data; abandoned data is not to be saved."""
        if key is not None:
            found: builtins.list[Inode | None] = [*self._inodes_of(key, Inode.unsaved)]
        else:
            files = self.engine.dirty_files()
            with self.inodes_lock:
                found = [self.inodes.of_file(file) for file in files]
        return [inode for inode in found if inode is not None and not inode.abandoned]

    def invalidate(self, key: Key | None = None, offset: int = 0, length: int | None = None) -> None:
        """Write back, commit if needed, then drop cached data.

        Raises:
            WritebackError: nothing is lost. BlockingIOError: dirtied repeatedly, or held by a writable view.
        """
        self._check_alive(key)
        for inode in self._inodes_of(key):
            conflicts.invalidate(inode, offset, length)

    def drop_clean(self, key: Key | None = None, offset: int = 0, length: int | None = None) -> int:
        """Drop clean data that is not in use; return the bytes freed. Never blocks, never fails."""
        self._check_alive(key)
        freed = 0
        for inode in self._inodes_of(key):
            start, end = extent(offset, length, inode.size)
            freed += inode.drop_clean(start, END if length is None else end)
        return freed

    def invalidate_remote(
        self, key: Key, offset: int = 0, length: int | None = None, *, version: str | None = None
    ) -> None:
        """Record a change of the stored object: later reads of the range use local bytes only, and the store for all
        others. Callable from anywhere, even inside a backend call; never blocks.
        """
        self.cache._check_forked()
        inodes = self._inodes_of(key)
        for inode in inodes:
            conflicts.announce(self, inode, offset, length, version)
        if not inodes and key is not None:
            self.engine.announced(self._canonical(key))

    def discard(self, key: Key, offset: int = 0, length: int | None = None) -> builtins.list[LostRange]:
        """Drop dirty, failed and unstable data on purpose; return the losses. Each handle open at this time raises
        DataLossError once.
        """
        self._check_alive(key)
        lost: builtins.list[LostRange] = []
        if self.recovery is not None:
            if offset == 0 and length is None:
                lost += self.recovery.forget(self._canonical(key))
            else:
                self._recover_first(self._attempts("open", key, None), self._canonical(key))
        with lifetimes.using(self._inodes_of(key, Inode.unsaved)) as inodes:
            for inode in inodes:
                start, end = extent(offset, length, inode.size)
                record = partial(self._record_discard, inode, lost)
                lifetimes.drop_local(self, inode, start, END if length is None else end, record)
                if inode.conflict is not None and not inode.unsaved():
                    with suppress(OSError):  # else the list would be lost; the conflict stands
                        inode.settled(partial(remote.take, inode))
                if self.recovery is not None:
                    with suppress(OSError):  # so too; a discard again ends the hold
                        self.recovery.discarded(inode)
                inode.journaled.confirm_dropped()
        return lost

    def _record_discard(self, inode: Inode, lost: builtins.list[LostRange], dropped: builtins.list[LostRange]) -> None:
        inode.report_to_handles(dropped, seen=True)
        what = f"discard: {spans([(entry.offset, entry.length) for entry in dropped])} given up"
        next = "each handle raises DataLossError once"
        self.engine.say(logging.ERROR, "data that was given up", what, next, inode.key)
        lost += dropped

    def failed(self) -> builtins.list[FailedRange]:
        """Return ranges that could not be written back or committed and wait for a repair of the cause."""
        self.cache._check_forked()
        return [r for file in self.engine.dirty_files() for r in overdue.failed_ranges(file)]

    def not_mirrored(self) -> dict[Key, str]:
        """Return the objects whose copy in the mirror was given up, and why; {} without a mirror."""
        return {} if self.engine.mirror is None else self.engine.mirror.not_mirrored()

    def retry_failed(self, key: Key | None = None) -> None:
        """Retry failed data now, without waiting for the result."""
        self._check_alive(key)
        for inode in self._unsaved_of(key):
            failures.resume(inode)
            overdue.resume(inode)

    def dirty_ranges(self, key: Key) -> builtins.list[tuple[int, int]]:
        """Return (offset, length) of dirty and unstable ranges, and of those in flight."""
        self.cache._check_forked()
        return [r for inode in self._unsaved_of(key) for r in inode.local_ranges()]

    def resolve(self, key: Key, how: Literal["force", "rebase", "discard"]) -> builtins.list[LostRange]:
        """Settle a ConflictError; return what is lost by it. The next fsync or close publishes the result.

        Args:
            key: of the object, or its last name if it has lost that; without a conflict, nothing happens.
            how: "force": the local version replaces the stored one: as a whole if objects are replaced as a whole,
                otherwise local bytes and the size. "rebase": what this program has written since the last commit is
                laid over the stored version. "discard": the local version is dropped.

        The call concerns the current stored version: a later one is another conflict.

        Returns:
            "discard": local bytes. "rebase": bytes of the stored version that written ones replace with others, with
            `errno` ESTALE, whether or not the other program changed them: the version below ours can no longer be read.
            "force": nothing.

        Raises:
            OSError: the stored version cannot be read: the conflict stands.
            PageCacheError: "force": ENOBUFS: the local version does not fit into memory.
            ConflictError: "force": some local bytes are neither in memory nor readable any longer; "rebase" still
                works.
        """
        self._check_alive(key)
        if how not in ("force", "rebase", "discard"):
            raise ValueError(f"how {how!r} is not one of 'force', 'rebase', 'discard'")
        self._recover_first(self._attempts("open", key, None), self._canonical(key))
        with lifetimes.using(self._inodes_of(key, lambda inode: inode.conflict is not None)) as inodes:
            return [lost for inode in inodes for lost in conflicts.resolve(inode, how)]

    # -- abort, reconnect, detach

    def abort(self, reason: BaseException | None = None) -> None:
        """End every wait with ShutdownError because the backend is gone; data stays in memory as failed until
        `reconnect`. A signal handler may call it.

        A call of a prompt backend runs on the thread of its caller, and ends when the backend returns.
        """
        self.cache._check_forked()
        self.engine.abort(reason)

    def reconnect(self, backend: Backend | AsyncBackend | PlainBackend, *, fenced: bool = False) -> None:
        """Continue with a new backend: uncommitted data is dirty again and is sent to it.

        Args:
            backend: opens the objects of the old one.
            fenced: calls still running on the old backend can no longer change the store.

        Files in use by a call of the old backend are not written, truncated or committed before it has returned, unless
        `fenced`. Uncommitted holes are a loss: handles raise DataLossError once.

        Raises:
            OSError: an object cannot be opened there; nothing has changed, the volume stays aborted.
            ValueError: another volume of the process has this backend. TypeError: no backend.

        Blocks: until the objects that are open or not saved are open in the new backend.
        """
        self.cache._check_forked()
        if self.detached:
            raise ShutdownError(f"the volume {self.name!r} is detached")
        found = as_backend(backend, "backend", {})
        self.cache._check_unused(found, "backend", by=self)
        same = original(found) is self.backend  # then its files are asked whether they have kept the bytes sent to them
        other = self.engine.backend if same else self.engine.tiered(blocking(found, self.cache._event_loop))
        reconnect.reconnect(self, other, fenced)

    def detach(
        self, *, timeout: float | None = None, on_failed: Literal["raise", "discard"] = "raise"
    ) -> builtins.list[LostRange]:
        """Write back, commit and release the backend.

        Raises:
            UnsavedDataError: lists unsaved ranges; the volume stays attached, nothing is lost.
        """
        self.cache._check_forked()
        if on_failed not in ("raise", "discard"):
            raise ValueError(f"on_failed {on_failed!r} is not one of 'raise', 'discard'")
        self.engine.check_wait("detach")
        return detach.detach(self, timeout, on_failed)

    # -- numbers

    def stats(self) -> VolumeStats:
        """Return the counters of this volume."""
        self.cache._check_forked()
        from ..stats import VolumeStats

        return VolumeStats(**self.cache._counters(self._usage()))

    def _usage(self) -> dict[str, int]:
        """Return CORE's numbers; bytes whose commit failed count as failed."""
        usage = self.engine.native.usage()
        usage["failed"] += sum(overdue.failed_bytes(file) for file in self.engine.troubles.failing_files())
        usage["disk_hits"] = self.engine.disk_hits()
        return usage

    def _file_stats(self, inode: Inode) -> FileStats:
        from ..stats import FileStats

        usage = inode.usage()
        usage["failed"] += overdue.failed_bytes(inode)
        return FileStats(**self.cache._counters(usage))
