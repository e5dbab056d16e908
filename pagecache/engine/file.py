"""The engine's state of one cached object.

`EngineFile` is the core's inode with the backend's file, its limits and the flags that keep data back. Its parts own
all other state:

    versions   stored version below the cached bytes, own changes    commit/versions.py
    dispute    foreign version, conflict, rebase                     commit/remote.py     made with a foreign change
    commits    failed commits, uncommitted holes                     commit/commits.py    made with a failure or hole
    staging    spool of uncommitted bytes                            commit/staging.py    made with staged bytes
    owed       backend calls that must come first                    commit/owed.py       made with a debt
    failures   failed ranges                                         failures.py          made with a failure
    journaled  its unsaved bytes in the disk tier's journal          commit/journaled.py  made with the first append

A part that only trouble needs is made when trouble comes: until then its name stands for an empty one that all files
share and that nothing changes. A module assigns fields of classes that it defines, and calls methods of the others.

C calls the methods of the backend's file that are bound as `read_into`, `write_from` and `bound_commit`. Otherwise,
and if a call has failed, it enters the functions listed in the class, on a caller's thread or one of the volume's.
While `abandoned` or `withheld` is set, only an explicit fsync or close writes back: nothing is published behind the
application's back.

Locks: `lock` guards the parts, each of which names its lock, and `read_into`; it is held briefly and never across a
call. `_aside_lock` guards the flags that CORE counts, `_limits_lock` the limits. `settling` has none: it takes jobs
from any thread, and the holder of the token runs them.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..backends.protocol import BackendFile, BackendLimits, ObjectStat
from ..disk.backend import TieredFile
from ..errors import ConflictError, DeadlockError, Key, LostRange, ShutdownError, os_error
from ..native import END, STAMP_MAX, NativeInode, Op
from . import failures, throttle
from .commit import overdue, remote
from .commit.commits import NO_COMMITS, Commits
from .commit.journaled import NOT_JOURNALED, Journaled
from .commit.owed import FOLLOWING, NOTHING_OWED, Debt, Owed, Step
from .commit.remote import NO_DISPUTE, Dispute
from .commit.staging import NOTHING_STAGED, Staging
from .commit.versions import Versions
from .failures import NO_FAILURES, Failures
from .gone import GoneFile
from .io import direct, issuer, reader, sizes
from .mirror import NO_COPY, Copy
from .park import NEVER, SLICE
from .report.notices import fault, spans
from .report.reason import during, of_file
from .runner import Job

if TYPE_CHECKING:
    from .attempts import Attempts
    from .volume import EngineVolume

P = TypeVar("P")
T = TypeVar("T")


def limits_of(limits: BackendLimits, max_write: int | None = None, *, stages: bool = False) -> dict[str, int]:
    """Return the limits in CORE's form; `max_write` if the object asked for less, `stages` if it has a spool."""
    most = int(limits.max_write)
    return {
        "max_read": int(limits.max_read),
        "max_write": most if max_write is None else max(1, min(most, max_write)),
        "read_unit": int(limits.read_unit),
        "write_unit": int(limits.write_unit),
        "boundary": int(limits.boundary),
        "max_vectors": min(int(limits.max_vectors), 1024),
        "durable_writes": limits.durable_writes,
        "commit_on_close": limits.commit_on_close,
        "ordered_writes": limits.ordered_writes,
        "parallel_direct_writes": limits.parallel_direct_writes and not limits.ordered_writes,
        "stages": stages,
    }


NOT_LOSING = threading.Lock()
"""The lock of every file that has given up no bytes; never held."""
NO_WORK: deque[Callable[[], object]] = deque()
"""The queue of every file without a job so far."""


class EngineFile(NativeInode):
    """One object of a volume: its inode in CORE and its file in the backend."""

    # What every file has. All else is in the instance's dict, once it differs from what the class has.
    __slots__ = (
        *("__dict__", "__weakref__", "_aside_lock", "_limits_lock", "_seen_limits", "backend_file", "bound_commit"),
        *("identity", "key", "lock", "read_into", "versions", "volume", "write_from"),
    )

    dispute: Dispute = NO_DISPUTE
    commits: Commits = NO_COMMITS
    owed: Owed = NOTHING_OWED
    staging: Staging = NOTHING_STAGED
    failures: Failures = NO_FAILURES
    journaled: Journaled = NOT_JOURNALED
    settling: deque[Callable[[], object]] = NO_WORK  # jobs that wait for the token, without a waiter
    losing: threading.Lock = NOT_LOSING  # held from before bytes leave until their loss is recorded

    removed = False
    abandoned = False
    withheld = False
    recovering = False  # bytes that the journal has are laid over the object
    unclosed = False  # a writer's handle was collected with unpublished data
    synced = 0  # everything up to this epoch is committed: a sync has seen it, which the end of a later commit hides
    rebases = 0  # odd while another version becomes the base
    forgetting = False  # a rollback outside of a commit runs: reads wait for its end
    publications: frozenset[object] = frozenset()  # running calls that store the object under its name, by commit
    unnaming: object | None = None  # the call that removes or changes its name, which has the token
    last_seen: tuple[int, object] | None = None  # `EngineVolume.reconnects`, `seen` of its closed backend file
    sent_before: tuple[int, float] | None = None  # changes up to this epoch were sent by age; when the oldest arose
    retired: tuple[BackendFile, ...] = ()
    holds = False  # the volume has it, and refers to its files
    copy: Copy = NO_COPY  # in the mirror
    _forced_reads = 0
    _resumed = -math.inf  # when a write has resumed parked data last
    _max_write: int | None = None

    def __init__(
        self,
        volume: EngineVolume,
        key: Key,
        backend_file: BackendFile,
        size: int,
        version: str | None,
        identity: Hashable | None = None,
    ) -> None:
        self.volume = volume
        self.key = key
        self.identity = identity  # of the object in the store; None: the store knows names only
        self.lock = threading.Lock()
        self.versions = Versions(self, version)
        self._aside_lock = threading.Lock()
        self._limits_lock = threading.Lock()  # held while limits are read and passed to CORE: the newest win
        self.backend_file: BackendFile | None = backend_file
        self._seen_limits: BackendLimits = self.limits()
        super().__init__(volume.native, size, self._limits(self._seen_limits))
        self.read_into: Any = None
        self.write_from: Any = None
        self.bound_commit: Any = None
        self.bind_calls()

    # Entered from C
    fill = reader.fill
    read_aside = reader.read_aside
    write = issuer.write
    write_met = issuer.write_met
    written = issuer.written
    write_units = issuer.write_units
    commit = issuer.commit
    commit_here = issuer.commit_here
    commit_met = issuer.commit_met
    committed = issuer.committed
    outlast_refusal = reader.outlast_refusal
    room = throttle.room
    write_through = issuer.write_through
    truncate = sizes.truncate
    punch = sizes.punch
    drop_local = sizes.drop_local
    cut_views = sizes.cut_views
    direct_read = direct.direct_read
    direct_write = direct.direct_write

    lose_direct = direct.lose

    def read_staged(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self.staging.read(offset, buffers)

    # -- parts that trouble makes. Each is made once, by any thread and with any lock held: `setdefault` is atomic.

    def disputed(self) -> Dispute:
        return self._part("dispute", Dispute)

    def committing(self) -> Commits:
        return self._part("commits", Commits)

    def failing(self) -> Failures:
        return self._part("failures", Failures)

    def loses(self) -> threading.Lock:
        """Return the lock that is held while bytes are given up and their loss is recorded: no sync ends then."""
        return self._part("losing", threading.Lock, trouble=False)

    def _part(self, name: str, make: Callable[[], P], *, trouble: bool = True) -> P:
        """`trouble`: a file that has it is looked at before each call."""
        part: P | None = self.__dict__.get(name)
        if part is None:
            part = self.__dict__.setdefault(name, make())
            if trouble:
                self.write_from = self.bound_commit = None  # last: see `bind_calls`
        return part

    def journal(self) -> Journaled:
        owner = self.volume.journal
        assert owner is not None
        return self._part("journaled", lambda: Journaled(self, owner), trouble=False)

    def confirm_saved(self) -> None:
        """Record in the journal that the store has the file."""
        if self.volume.journal is not None:
            self.volume.journal.confirm_file(self)

    def staged(self) -> Staging:
        return self._part("staging", lambda: Staging(self), trouble=False)

    def owe(self, step: Debt, *, first: bool = False) -> None:
        """Add a call that must precede any other call on the file."""
        self._part("owed", lambda: Owed(self)).add(step, first=first)

    def owe_instead(self, steps: Iterable[Debt] = (), *, keep: Collection[str] = ()) -> tuple[Debt, ...]:
        return self._part("owed", lambda: Owed(self)).replace(steps, keep=keep)

    # -- the backend's file

    def use(self, backend_file: BackendFile | None, seen: tuple[int, object] | None = None) -> None:
        """Direct calls to this file from now on; None: it is closed until the object is opened again, and `last_seen`
        becomes `seen`. A file that was cut off stays so.
        """
        self.owed.forget(FOLLOWING)
        self.versions.may_be_copied(False)
        if seen is not None:
            self.last_seen = seen
        with self.lock:
            if type(self.backend_file) is not GoneFile:
                self.backend_file = backend_file
            self._hold()
        self.bind()

    def replace_by(self, fresh: BackendFile) -> None:
        """Direct calls to a file opened anew. Reads may still run in the old one: it is closed with this object."""
        with self.lock:  # an operation in old hands may replace it beside a new one
            self.replace_locked(fresh)
        self.bind()

    def replace_locked(self, fresh: BackendFile) -> None:
        """Do the first part of `replace_by`: the lock is held, and `bind` comes after it."""
        if self.backend_file is not None:
            self.retired = (*self.retired, self.backend_file)
        self.backend_file = fresh
        self._hold()

    def lose_name(self) -> None:
        """Record that the object has lost its last name. If the backend finds it by its name, no call reaches the
        backend from now on, and answers of running reads are dropped.
        """
        if self.finds_by_name():
            self.lose_object()
        self.set_aside(removed=True)
        self.journaled.removed()  # last: an fsync beside it would describe the file anew

    def lose_object(self) -> None:
        """Record that no call can reach the object any longer; `set_aside` follows."""
        if len(self.owed):
            self.owe_instead()
        self.replace_by(GoneFile(self.limits(), self, self.key))
        if self.is_cut_off():
            self.volume.cut_off.add(self)
            self.volume.kept.add(self)
        self.read_anew()  # last: a read that began before may run in the old file

    def lose_version(self, version: str | None) -> None:
        """Record that another version has the name of this whole object: uncached bytes can be read no longer, and
        nothing is published.
        """
        with self.lock:
            self.disputed().lose_base(version)
        self.set_aside(removed=True)

    def is_cut_off(self) -> bool:
        """Return whether nothing of the object leaves memory any longer: it is in place, and has lost the name by which
        the backend finds it.
        """
        return type(self.backend_file) is GoneFile and not self.limits().commit_on_close

    def take_files(self) -> tuple[BackendFile, ...]:
        """Take the files of the backend, retired ones included; the caller closes them."""
        with self.lock:
            files = self.retired if self.backend_file is None else (*self.retired, self.backend_file)
            self.retired, self.backend_file = (), None
            self._hold()
        if not self.freed:
            self.bind_calls()
        return files

    def hold(self) -> None:
        """Have the volume hold the current files of the backend, from now on."""
        with self.lock:
            self.holds = True
            self._hold()

    # -- the disk tier

    def settled_version(self, backend_file: BackendFile) -> str | None:
        """Return the version, `labelled`, that every byte has that a read of this file delivers; None: unknown."""
        with self.lock:  # another base comes with another file
            known = self.is_named() and not self.is_stale() and self.versions.announced is None
            known = known and self.backend_file is backend_file
            version = self.versions.base if known else None
        return None if version is None else self.labelled(version)

    def labelled(self, version: str) -> str:
        """Return a version with the identity of the object: another object may get its name, and have this version."""
        identity = self.volume.lasting_identity(self.identity)
        return version if identity is None else f"{version} {identity}"

    def is_named(self) -> bool:
        """Return whether the object has its name, and no call of this cache changes that."""
        return not self.is_renamed()

    def is_called(self) -> bool:
        """Return whether a call runs that may change its stored object, or can still land."""
        return self.in_old_hands() or self.storage_busy() or self.owed.is_paying()

    def about_to_commit(self) -> None:
        """Let the journal know that a commit of a whole object begins."""
        if self.volume.journal is not None and self.volume.journal.is_used():
            self.journal().saving()

    def has_committed(self, version: str | None, backend_file: BackendFile) -> None:
        """Take the version that a commit of this file has made: reads return its bytes from now on. Let the journal
        know it.
        """
        with self.lock:
            if isinstance(version, str) and self.uses(backend_file):
                self.versions.make(version)
        if self.journaled is not NOT_JOURNALED:
            self.journaled.stored(version, backend_file)

    def uses(self, backend_file: BackendFile) -> bool:
        """Return whether calls go to this file of the backend, and no abort has come after which a success does not
        count: a reconnect compares versions.
        """
        return self.backend_file is backend_file and (self.volume.left or not self.volume.aborted)

    def doubt_copy(self, pos: int, end: int) -> None:
        """Let the disk tier know that another program may have changed bytes."""
        backend_file = self.backend_file
        if type(backend_file) is TieredFile:
            backend_file.forget(pos, end)

    def invalidate_range(self, pos: int, end: int) -> bool:
        self.doubt_copy(pos, end)
        return super().invalidate_range(pos, end)

    def _hold(self) -> None:
        """The lock is held."""
        if self.holds:
            self.volume.held.set_files(self, *self.retired, self.backend_file)

    def bind(self) -> None:
        """Take functions and limits from the backend's current file."""
        self.bind_calls()
        with self.lock:
            backend_file = self.backend_file
        if backend_file is not None:
            self.refresh_limits()

    def bind_calls(self) -> None:
        """Set the functions that C calls for a fill, a write request and a commit: the backend's methods, unless a
        check must come first, and None for a write or commit of a file that has met trouble. Each change of the checks
        binds again. Atomic, or a call that looked before a change could bind after the call of that change.
        """
        whole = self.limits().commit_on_close
        with self.lock:
            if type(self.backend_file) is TieredFile:
                self.backend_file.follow(self)
            if self.backend_file is None:
                self.read_into = self._closed
            elif self.dispute.base_lost or (whole and self.conflict is not None and not self._forced_reads):
                self.read_into = self._refuse_read
            elif self.unnaming is not None and not whole:
                self.read_into = self._refuse_beside_names
            elif self.owed.reads_wait():
                self.read_into = self._read_later
            else:
                self.read_into = self.backend_file.read_into
            backend_file = self.backend_file
            self.write_from = self.bound_commit = None
            if backend_file is None or self._checks_writes():
                return
            self.write_from = backend_file.write_from
            if not whole:  # the commit of a whole object is a publication of its name
                self.bound_commit = backend_file.commit
            if self._checks_writes():  # a part was made in between, without the lock
                self.write_from = self.bound_commit = None

    def _checks_writes(self) -> bool:
        """Return whether a write request needs a look at the state of the file. Whatever makes this true sets
        `write_from` and `bound_commit` to None afterwards.
        """
        return (
            self.is_troubled()
            or self.abandoned
            or self.failures is not NO_FAILURES
            or (self.owed is not NOTHING_OWED and len(self.owed) > 0)
            or self.volume.mirror is not None
        )

    def rename(self, key: Key) -> None:
        """Set the name in calls of the backend and in reports; the backend has renamed the object."""
        self.key = key
        self.journaled.renamed(key)

    def set_copy(self, copy: Copy) -> None:
        self.copy = copy

    def give_up_copy(self, why: str) -> None:
        """Let the mirror have no copy of the object before that is created or emptied."""
        if self.volume.mirror is not None:
            self.volume.mirror.give_up(self.copy, why)

    def identify(self, identity: Hashable | None) -> None:
        self.identity = identity

    def free(self) -> bool:
        if not self.destroy():
            return False
        self.let_go()
        self.journaled.freed()
        return True

    def let_go(self) -> None:
        """Let go of the spool: its volume ends, or its part of CORE."""
        self.staging = NOTHING_STAGED

    @contextmanager
    def forcing(self) -> Iterator[None]:
        """Context in which reads return the bytes below the cached version, to bring all of them into memory, whatever
        is stored.
        """
        with self.lock:
            self._forced_reads += 1
        try:
            self.bind_calls()
            yield
        finally:
            with self.lock:
                self._forced_reads -= 1
            self.bind_calls()

    def _read_later(self, offset: int, buffers: Any) -> int:
        self.owed.pay()
        return self.opened().read_into(offset, buffers)

    def _refuse_read(self, offset: int, buffers: object) -> int:
        """Refuse a read in place of read_into, while the base version cannot be read, or must not be."""
        raise self.conflict_error()

    def _refuse_beside_names(self, offset: int, buffers: object) -> int:
        """Refuse a read while the name changes that the backend finds the object by; it is made again afterwards."""
        raise reader.ReadAgainError(errno.ESTALE, "the name of the object is being changed", self.key)

    def _closed(self, offset: int, buffers: object) -> int:
        raise ShutdownError("the object is not open in the backend", self.key)

    def opened(self) -> BackendFile:
        """Return the backend's file for a call, opened by its present name."""
        if self.owed is not NOTHING_OWED and self.owed.owes(FOLLOWING):
            self.owed.pay()
        return self.still_opened()

    def still_opened(self) -> BackendFile:
        """Return the backend's file as it was opened last."""
        if self.backend_file is None:
            raise ShutdownError("the object is not open in the backend", self.key)
        return self.backend_file

    def stat_open(self) -> ObjectStat | None:
        """Return the backend's status of its open file; None: it has no file open. A file without handles may be closed
        concurrently, so a result counts only if the file is still in use afterwards.
        """
        while (backend_file := self.backend_file) is not None:
            try:
                found = backend_file.stat()
            except Exception:
                if self.backend_file is backend_file:
                    raise
            else:
                if self.backend_file is backend_file:
                    return found
        return None

    def limits(self) -> BackendLimits:
        return getattr(self.backend_file, "limits", None) or self.volume.backend.limits

    def is_changing(self) -> bool:
        """Return whether a write, truncate or hole of a caller runs, or waits for the inode lock."""
        return self.lock_busy() or bool(self.direct_count())

    def durable(self) -> bool:
        """Return whether bytes that the backend acknowledges now need no commit; CORE uses this value too."""
        undone = self.undone()
        return self.limits().durable_writes and undone["lowest"] == END and not undone["created"]

    def refresh_limits(self) -> None:
        """Read the limits before a pass: a backend may change them at any time. On return CORE has them."""
        if (getattr(self.backend_file, "limits", None) or self.volume.backend.limits) is not self._seen_limits:
            self.apply_limits()

    def lower_max_write(self, most: int) -> None:
        self._max_write = max(1, most)
        self.apply_limits()

    def max_write(self) -> int:
        most = int(self.limits().max_write)
        return most if self._max_write is None else min(most, self._max_write)

    def apply_limits(self) -> None:
        with self._limits_lock:
            limits = self.limits()
            self.set_limits(self._limits(limits))
            self._seen_limits = limits  # last: a thread that sees it starts a pass at once

    def _limits(self, limits: BackendLimits) -> dict[str, int]:
        stages = limits.commit_on_close and self.volume.spool is not None
        return limits_of(limits, self._max_write, stages=stages)

    # -- flags

    @property
    def conflict(self) -> tuple[str | None, str | None] | None:
        """The versions of an unsettled conflict: the base, and the stored one."""
        return self.dispute.versions

    def set_aside(
        self, *, removed: bool | None = None, abandoned: bool | None = None, withheld: bool | None = None
    ) -> None:
        """Set flags that exclude the file from syncs or write-back, and bind its calls. CORE counts such files
        apart.
        """
        with self._aside_lock:
            if removed is not None:
                self.removed = removed
            if abandoned is not None:
                self.abandoned = abandoned
            if withheld is not None:
                self.withheld = withheld
                if withheld:
                    self.volume.kept.add(self)
            unsynced = self.removed or self.is_given_up()
            self.count_aside(unsynced=unsynced, kept_back=self.is_kept_back())
        self.bind_calls()

    def is_kept_back(self) -> bool:
        """Return whether neither age nor pressure writes it back."""
        return self.is_given_up() or self.is_found_elsewhere()

    def is_given_up(self) -> bool:
        """Return whether no sync writes it back either."""
        return self.abandoned or self.withheld or self.is_cut_off()

    def is_troubled(self) -> bool:
        """Return whether anything may keep write-back or commits from beginning: a lost name or one that changes, a
        foreign version, a failed commit.
        """
        return (
            self.removed
            or self.unnaming is not None
            or self.dispute is not NO_DISPUTE
            or self.commits is not NO_COMMITS
            or type(self.backend_file) is GoneFile
        )

    def finds_by_name(self) -> bool:
        """Return whether the backend finds the object by its name at each call, or at its commit. Then only the volume
        changes its names.
        """
        return self.identity is None or self.limits().commit_on_close

    def is_unpublishable(self) -> bool:
        """Return whether it has lost the name under which a commit would store it."""
        return self.removed and self.finds_by_name()

    def set_recovering(self, recovering: bool) -> None:
        self.recovering = recovering

    def set_unclosed(self, unclosed: bool) -> None:
        self.unclosed = unclosed

    @contextmanager
    def publishing(self) -> Iterator[bool]:
        """Context of a call that stores a `commit_on_close` object under its name. False: it must not begin. The
        changes are abandoned, the name is removed, or a call that removes it runs.
        """
        call = object()
        try:
            with self.lock:
                allowed = not (self.removed or self.abandoned) and self.unnaming is None
                if allowed:
                    self.publications |= {call}
            yield allowed
        finally:
            with self.lock:
                self.publications -= {call}
            if self.unnaming is not None:
                self.wake()

    def begin_unnaming(self, call: object) -> None:
        """Record that a call removes or changes the name, until `end_unnaming`; its caller has the token. No
        publication begins; running ones are in `publications`. If the backend finds the object by its name at each
        call, no read begins either, and answers of running ones are dropped.
        """
        with self.lock:
            self.unnaming = call
        self._bind_beside_names()

    def is_renamed(self) -> bool:
        """Return whether this volume has removed the name, or a call changes it: a version that is not found by the
        name is no other writer's change then.
        """
        return self.removed or self.unnaming is not None

    def is_found_elsewhere(self) -> bool:
        """Return whether the backend may find the object by another name than its file has: a call changes it."""
        return self.unnaming is not None and not self.limits().commit_on_close

    def end_unnaming(self, call: object) -> None:
        """Record that the call is over, unless a fence has ended it already."""
        with self.lock:
            if self.unnaming is not call:
                return
            self.unnaming = None
        self._bind_beside_names()
        self.wake()
        self.settle_due()

    def settle_due(self) -> None:
        """Take a version that was due while the name was changing, or the volume was aborted."""
        if self.dispute.take_due:
            self.settle(partial(remote.take_due, self))

    def _bind_beside_names(self) -> None:
        self.set_aside()
        self.read_anew()

    def fence_names(self) -> None:
        """Record that calls of the earlier backend, for publications and names, can no longer change the store."""
        with self.lock:
            self.publications, self.unnaming = frozenset(), None
        self.set_aside()

    @contextmanager
    def keeping_reads_back(self) -> Iterator[None]:
        """Context in which reads that return wait until the cache has forgotten what the backend forgets; the token is
        held.
        """
        self.forgetting = True
        try:
            yield
        finally:
            self.forgetting = False
            self.wake()

    # -- waits

    def check_here(self, holds: int) -> None:
        """Raise DeadlockError if a call of this thread has one of these holds, or waits for it: a signal handler must
        not wait for that.
        """
        if self.holds_here(holds):
            raise DeadlockError("this call could only wait for the one that a signal handler made it in", self.key)

    def outlast(self, busy: Callable[[], object], what: str, tries: Attempts | None = None) -> None:
        """Wait while the file is `busy`, until the deadline of `tries`. The end of `what` wakes it.

        Raises:
            ShutdownError: the volume was aborted. TimeoutError: the deadline passed.
        """
        volume, since = self.volume, self.volume.reconnects
        deadline = NEVER if tries is None else tries.deadline

        def sleep() -> None:
            while True:
                seq = self.event_seq()
                if tries is not None:
                    tries.alive(since)  # first: a reconnect, which settles the call, has ended what was busy
                if not busy():
                    return
                volume.check_alive(self.key)
                volume.park.wait("inode", self.address, seq, min(deadline.left(), SLICE))

        if busy():
            during(of_file(self, what), sleep)

    # -- write-back

    def flush_start(self, stamp: int, pos: int = 0, end: int = END) -> int:
        """Begin a pass, unless only an explicit call may save the file."""
        return 0 if self._waits_for_call() else super().flush_start(stamp, pos, end)

    def start_commit(self, stamp: int = 0) -> None:
        if not self._waits_for_call():
            super().start_commit(stamp)

    def _waits_for_call(self) -> bool:
        return self.withheld and self.conflict is None  # a conflict sends nothing: it marks bytes as failed

    def begin_hand_over(self, start: int, end: int) -> None:
        """Start write-back of a range's dirty bytes, without waiting. Not if a commit makes bytes visible: age and
        hints do not count there (contract 2.11).
        """
        if self.volume.aborted or self.conflict is not None or self.limits().commit_on_close:
            return
        self.refresh_limits()
        self.flush_start(STAMP_MAX, start, end)

    def resume_parked(self) -> None:
        """Resume parked data with a new write, at most once per max_delay."""
        now = self.volume.clock.now()
        with self.lock:
            if now - self._resumed < self.volume.retry.max_delay:
                return
            self._resumed = now
        failures.resume(self)

    def overdue_since(self) -> float | None:
        """Return the time of the first failed commit or refused save, if its data is still not saved."""
        return self.commits.failing_since if overdue.stands(self) else None

    def note_sent(self, stamp: int) -> None:
        """Record that write-back of the changes up to `stamp` begins by age. If earlier ones are still not
        acknowledged, their time stays.
        """
        before = self.sent_before
        if before is None or not self.flush_pending(before[0]):
            self.sent_before = stamp, self.number("dirtied") / 1e9

    # -- engine work that needs the token, without a waiter

    def settle(self, job: Callable[[], object]) -> bool:
        """Run a job under the token, on a thread of the volume, once the token is free. False: the file was freed."""
        jobs = self._part("settling", lambda: deque[Callable[[], object]](), trouble=False)
        added = self.volume.add_job(self, jobs, job)
        if added:
            self.settle_start()
        return added

    def settled(self, job: Callable[[], T], tries: Attempts | None = None) -> T:
        """Run a job like `settle`, and return its result; as a part of a call with a deadline."""
        self.volume.check_reentry("settling a conflict", self.key)
        since = self.volume.reconnects
        alive = partial(self.volume.check_alive, self.key, since)

        def run() -> T:
            alive()  # it may have taken its backend before
            return job()

        work = Job(run, what="work under the token", key=self.key, file=self.id)
        work.volume = self.volume.native
        if not self.settle(work.run):
            raise os_error(errno.ESTALE, self.key)  # nobody would run it
        if tries is not None:
            return work.wait(partial(tries.alive, since), tries.deadline)
        return work.wait(alive)

    def run_settling(self) -> bool:
        """Run the requested jobs, with the token held; False: there were none."""
        ran = False
        while self.settling:
            ran = True
            try:
                self.settling.popleft()()
            except Exception:
                fault("%s: %r: work under the file's token failed", self.volume.name, self.key)
        self.volume.settling.discard(self)
        if self.settling:  # added in between
            self.volume.settling.add(self)
        return ran

    def holding(self, op: Op, call: Callable[[], None]) -> None:
        """Run a call that needs the held locks."""
        call()

    def lending(self, op: Op, call: Callable[..., None] | tuple[Op, Callable[..., None]]) -> None:
        """Lend the token to a call on another thread, by `op.call`. With the token of another file: a pair."""
        if isinstance(call, tuple):
            call[1](op, call[0])
        else:
            call(op)

    # -- changes

    @contextmanager
    def rebasing(self) -> Iterator[None]:
        """Context in which another version becomes the base, with its size; the token is held. The journal takes
        nothing in it, and what it has is out of date afterwards.
        """
        self.rebases += 1
        try:
            yield
        finally:
            self.journaled.outdate()
            self.rebases += 1
            if self.journaled.is_live():
                self.journaled.save_soon()

    def lie_over(self, stored: int | None) -> None:
        """Record that the backend has forgotten its acknowledged changes, and has `stored` bytes (None: unknown, so the
        size is owed too): all of them are dirty again, and truncates and holes are owed. The token is held.
        """
        self.lose_direct(forget=True)
        self.staging.forgotten()
        undone, staged_end = self.undone(), self.staged_end()
        size, lowest = self.size, undone["lowest"]
        steps: list[Step] = []
        if stored is None or lowest < stored:
            steps += [Step("truncate", (length,)) for length in sorted({min(lowest, size), size})]
            end = size
        else:
            end = max(stored, staged_end)
            steps += [Step("truncate", (end,))] * (stored < end)
        steps += [Step("punch_hole", (pos, min(stop, end) - pos)) for pos, stop in self.commits.holes if pos < end]
        if stored is None:
            steps.insert(0, Step("rollback", ()))
            self.set_uncommitted(lowest=min(lowest, size))
        for step in steps:
            self.owe(step)
        self.rebase(end, not steps)
        if undone["created"]:
            self.set_uncommitted(created=True)  # other openers do not see it yet, and closing publishes it

    def drop(self, start: int, end: int, *, taken: bool = False) -> list[LostRange]:
        """Drop local data of a range, and return the losses; the token is held. `taken`: all, for another version."""
        with self.lock:
            error = failures.worst(self)
        ranges = self.journaled.dropping(start, end, lambda: self.discard(start, end), taken=taken)
        self.staging.cut(start, end)
        if ranges:
            self.give_up_copy("local data was given up")
        with self.lock:
            failures.follow(self, start, end)
        code = error.errno if error else 0
        return [LostRange(self.key, pos, length, code, self.volume.name) for pos, length in ranges]

    def is_synced(self, stamp: int) -> bool:
        """Return whether everything up to the stamp is committed; losses of other bytes are recorded by then."""
        return stamp <= self.synced or (self.sync_done(stamp) and not self.losing.locked())  # in this order

    def note_synced(self, stamp: int) -> None:
        """Record that a sync has seen that everything up to the stamp is committed."""
        self.synced = max(self.synced, stamp)

    def report_to_handles(self, lost: list[LostRange], *, seen: bool = False) -> None:
        """Report a loss to each handle. `seen`: a caller has requested it."""

    def report_loss(self, lost: list[LostRange], why: str) -> None:
        """Report an unrequested loss, in the log and once per handle."""
        if not lost:
            return
        ranges = [(entry.offset, entry.length) for entry in lost]
        what = f"{why}; {spans(ranges)} given up, {sum(entry.length for entry in lost)} bytes"
        self.volume.say(
            logging.ERROR, "data that was given up", what, "each handle raises DataLossError once", self.key
        )
        self.report_to_handles(lost)

    def conflict_error(self) -> ConflictError:
        base, remote = self.conflict or (self.versions.base, self.dispute.remote)
        doubtful, how = self.dispute.doubtful
        what = "the stored object is another version than the one below the unsaved bytes"
        what += how if remote is not None and remote == doubtful else ""
        return ConflictError(what, self.key, base=base, remote=remote, ranges=self.local_ranges())
