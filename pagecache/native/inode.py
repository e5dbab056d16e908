"""One cached object of CORE."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from .cache import NativeVolume
from .extension import COUNTERS, END, NUMBERS, _core, ffi, fields, lib, ranges, read_counters, read_usage

SIZE, REMOTE_SIZE, QUIET, UNCHANGED = (NUMBERS[name] for name in ("size", "remote_size", "quiet", "unchanged"))
AT_REST = NUMBERS["at_rest"]
FORGET_CUTS, FORGET_HOLES = int(lib.PC_FORGET_CUTS), int(lib.PC_FORGET_HOLES)
SPILL_RUNS = 1024
"""Ranges of `spillable_from`: more than a folio has."""


def _number(name: str) -> Callable[[NativeInode], int]:
    """Return a method that reads one of NUMBERS."""
    which = NUMBERS[name]
    return lambda self: int(lib.pc_inode_number(self._i, which))


def _flag(name: str) -> Callable[[NativeInode], bool]:
    """Return a method that reads one of NUMBERS that is 1 or 0."""
    which = NUMBERS[name]
    return lambda self: bool(lib.pc_inode_number(self._i, which))


def _call(name: str) -> Callable[[NativeInode], None]:
    """Return a method that makes a call of C."""
    call = getattr(lib, f"pc_{name}")
    return lambda self: call(self._i)


class TooManyViews(OSError):
    """ENOMEM: views hold their maximum."""


def _collecting(call: Callable[[], int]) -> int:
    """Make a call; if its result is -ENOMEM, collect garbage, which may hold views, and repeat it."""
    err = call()
    if err == -errno.ENOMEM:
        gc.collect()
        err = call()
    return err


class Events:
    """The events of many inodes, and those that have moved since the last check."""

    def __init__(self) -> None:
        self._used = 0
        self._arrays = self._made(16)  # addresses, seen values, room for a result

    def add(self, inode: NativeInode) -> int:
        """Watch an inode, which counts as moved; return its number."""
        number = self._used
        if number == len(self._arrays[0]):
            more = self._made(2 * number)
            for old, new in zip(self._arrays, more, strict=True):
                ffi.memmove(new, old, ffi.sizeof(old))
            self._arrays = more  # at once: an interrupt may come at any point
        inodes, seen, _ = self._arrays
        inodes[number] = inode.address
        seen[number] = (inode.event_seq() - 1) & 0xFFFFFFFF
        self._used += 1
        return number

    @staticmethod
    def _made(room: int) -> tuple[Any, Any, Any]:
        return ffi.new("uintptr_t[]", room), ffi.new("uint32_t[]", room), ffi.new("uint32_t[]", room)

    def drop(self, number: int) -> None:
        """Stop watching the inode of this number."""
        self._arrays[0][number] = 0

    def moved(self) -> list[int]:
        """Return the numbers of the inodes whose events have moved."""
        inodes, seen, moved = self._arrays
        found = lib.pc_events_moved(inodes, seen, self._used, moved)
        return ffi.unpack(moved, found) if found else []


class NativeInode:
    """One `struct pc_inode`, and the object whose methods C calls: fill, write, commit, room, ..."""

    __slots__ = ("_i", "_volume", "address", "core", "id")

    def __init__(self, volume: NativeVolume, size: int, limits: dict[str, int]) -> None:
        self._volume = volume
        self.core = volume.cache.core
        out = ffi.new("struct pc_inode **")
        if err := lib.pc_inode_create(volume._v, size, ffi.new("struct pc_limits *", limits), out):
            raise OSError(-err, os.strerror(-err))
        self._i = out[0]
        self.address = int(ffi.cast("uintptr_t", out[0]))
        self.id = int(lib.pc_inode_id(out[0]))
        lib.pc_inode_set_user(out[0], id(self))  # borrowed: until `__del__`

    def destroy(self) -> bool:
        """Free the inode, with its clean pages; False while local data exists or an operation uses it."""
        return int(lib.pc_inode_destroy(self._i)) == 0

    @property
    def freed(self) -> bool:
        """Whether CORE has no such inode any longer."""
        return not lib.pc_inode_id(self._i)

    def __del__(self) -> None:
        """Free the memory of a freed inode, or of one of an ended volume: no handle, view or operation of a caller
        refers to it any longer. May run in any thread, inside any call; takes leaf locks only.
        """
        if hasattr(self, "address") and (self.freed or self._volume.ended):
            _core.end_inode(self.core, self.address)

    # sizes, limits, numbers
    @property
    def size(self) -> int:
        return int(lib.pc_inode_number(self._i, SIZE))

    @property
    def remote_size(self) -> int:
        return int(lib.pc_inode_number(self._i, REMOTE_SIZE))

    def set_sizes(self, size: int, remote_size: int) -> bool:
        """Set the sizes. False: local data exists, and nothing has changed."""
        return bool(lib.pc_inode_set_sizes(self._i, size, remote_size))

    def set_limits(self, limits: dict[str, int]) -> None:
        lib.pc_inode_set_limits(self._i, ffi.new("struct pc_limits *", limits))

    def usage(self) -> dict[str, int]:
        counters, usage = ffi.new("struct pc_counters *"), ffi.new("struct pc_usage *")
        lib.pc_inode_usage(self._i, usage, counters)
        return read_usage(usage) | read_counters(counters)

    def number(self, name: str) -> int:
        """Return one of NUMBERS, without the cost of all of `usage`."""
        return int(lib.pc_inode_number(self._i, NUMBERS[name]))

    event_seq = _number("event")

    wake = _call("inode_wake")

    age_anew = _call("inode_age_anew")
    """Let the dirty bytes count as written now."""

    def set_unused(self, unused: bool) -> None:
        """Set whether any handle has the object open."""
        lib.pc_inode_set_unused(self._i, unused)

    def count_aside(self, *, unsynced: bool, kept_back: bool) -> None:
        """Exclude the object from syncs, or from write-back by age and pressure."""
        aside = lib.PC_ASIDE_UNSYNCED * unsynced | lib.PC_ASIDE_KEPT_BACK * kept_back
        lib.pc_inode_set_aside(self._i, aside)

    def set_uncommitted(self, created: bool = False, lowest: int = END, hole: tuple[int, int] = (0, 0)) -> None:
        """Record an uncommitted change other than bytes; `lowest`: a size that storage was or will be cut to; `hole`:
        an owed one, [start, end), which waits for a commit.
        """
        lib.pc_inode_set_uncommitted(self._i, created, lowest, *hole)

    def cut_paid(self, size: int) -> None:
        """Record that a cut to this size, which was owed, was made: a running commit covers it, or the next one."""
        lib.pc_inode_cut_paid(self._i, size)

    def undone(self) -> dict[str, int]:
        """Return uncommitted changes other than bytes, as `struct pc_undone` has them; lowest END: none."""
        out = ffi.new("struct pc_undone *")
        lib.pc_inode_undone(self._i, out)
        return fields(out[0])

    def forget_uncommitted(self, what: int = lib.PC_FORGET_ALL) -> None:
        """Forget uncommitted changes other than bytes, or FORGET_HOLES, or FORGET_CUTS: truncates that would be
        repeated because they are not known to be committed. Under the token.
        """
        lib.pc_inode_forget(self._i, what)

    lock_busy = _flag("changing")
    """Return whether the inode lock is held or awaited."""

    in_old_hands = _flag("old_hands")
    """Return whether a call that an abort, an interrupt or a deadline abandoned still runs on the file."""

    fence = _call("inode_fence")
    """Record that abandoned calls can no longer land: nothing waits for them."""

    has_local = _flag("unsaved")

    def unsaved(self) -> int:
        """Return the bytes that are local or staged, an upper bound by page."""
        usage = self.usage()
        return usage["local"] + usage["staged"]

    def unsaved_up_to(self, stamp: int) -> tuple[int, int]:
        """Return the uncommitted bytes written up to the stamp, and how many of them the backend has not acknowledged:
        upper bounds by folio.
        """
        unsent = ffi.new("uint64_t *")
        return int(lib.pc_unsaved_bytes(self._i, stamp, unsent)), int(unsent[0])

    # the stored version
    def change_begins(self, another_version: bool) -> None:
        """Count a change of the stored object, before its call; it may make another version."""
        lib.pc_change_begins(self._i, another_version)

    changes = _number("changes")

    is_stale = _flag("stale")
    """Return whether a change may have made another version than the known one."""

    def set_stale(self, stale: bool) -> None:
        lib.pc_version_known(self._i, not stale)

    def commit_changed(self, changes: int | None, known: bool) -> bool:
        """Count a commit that has ended; `known`: with the version that it has made. Return whether that is stale:
        there were other changes since `changes`, or may have been (None).
        """
        return bool(lib.pc_version_committed(self._i, END if changes is None else changes, known))

    def settle_version(self, changes: int) -> bool:
        """Record that a version is known that was read after so many changes; False: there were others since."""
        return bool(lib.pc_version_settle(self._i, changes))

    def quiet(self) -> int | None:
        """Return the number of changes; None: the version is not known, or a pass or commit runs or is about to."""
        found = lib.pc_inode_number(self._i, QUIET)
        return int(found) - 1 if found else None

    def count(self, name: str, n: int = 1) -> None:
        """Add to one of COUNTERS."""
        lib.pc_counter_add(self._i, COUNTERS[name], n)

    # dirty budget, for the writer of the place (an address of C)
    def room_take(self, place: int, paused: bool = False) -> bool:
        """Return whether the place has its reservation now; `paused`: its writer needs no grant."""
        return bool(lib.pc_room_take(self._i, ffi.cast("struct pc_place *", place), paused))

    def room_fits(self, place: int) -> bool:
        """Return whether only a grant is missing: there is room below the limits and the queue is empty."""
        return bool(lib.pc_room_fits(self._i, ffi.cast("struct pc_place *", place)))

    def line_first(self, place: int) -> bool:
        """Join the queue; return whether this writer is first."""
        return bool(lib.pc_line_first(self._i, ffi.cast("struct pc_place *", place)))

    # write-back
    def flush_start(self, stamp: int, pos: int = 0, end: int = END) -> int:
        return int(lib.pc_flush_start(self._i, stamp, pos, end))

    def begin_sync(
        self, stamp: int | None, pos: int, end: int, *, flush: bool, commit: bool, version: bool, unasked: bool
    ) -> tuple[Any, bool]:
        """Return the state of a sync, for `advance`: see `struct pc_sync`; and whether bytes have failed. `stamp`: None
        takes an epoch.
        """
        state = ffi.new("struct pc_sync *", (stamp or 0, pos, end, flush, commit, unasked, version))
        return state, bool(lib.pc_sync_begin(self._i, state))

    def advance(self, sync: Any, allowed: int, here: int, what: str | None = None) -> int:
        """Go on with a sync, without waiting. Return SYNC_DONE, SYNC_COMMIT_FAILED, SYNC_FAILED, or what may not begin;
        any other number: it waits for the inode's event.

        Args:
            sync: its state.
            allowed: 1 << SEND | 1 << COMMIT: what may begin.
            here: what this thread then does itself. It raises what a signal handler raises; other threads do the rest.
            what: words for the wait in reports, of a caller without a deadline: it goes on until it has to wait. None:
                the wait is on record.
        """
        return int(_core.sync(self.core, self.address, int(ffi.cast("uintptr_t", sync)), allowed, here, what))

    def flush_pending(self, stamp: int, pos: int = 0, end: int = END) -> int:
        return int(lib.pc_flush_pending(self._i, stamp, pos, end, ffi.NULL))

    def pass_background(self, budget: int, partial: bool = False) -> bool:
        """Start a pass; `partial`: including partly dirty write units, if a commit makes bytes visible."""
        return bool(lib.pc_pass_background(self._i, budget, partial))

    pass_idle = _flag("pass_idle")

    def extent(self) -> tuple[int, int, bool]:
        """Return the size, the cached bytes, and whether anything is local now."""
        return self.size, self.number("cached"), self.has_local()

    def at_rest(self) -> int:
        """Return a number as `quiet` does, while the store has the object as readers see it; otherwise 0."""
        return int(lib.pc_inode_number(self._i, AT_REST))

    def unchanged(self) -> int | None:
        """Return the cached bytes; None: some are local, or the backend may not have them."""
        cached = int(lib.pc_inode_number(self._i, UNCHANGED))
        return None if cached == END else cached

    def commit_needed(self, stamp: int) -> bool:
        return bool(lib.pc_commit_needed(self._i, stamp))

    storage_busy = _flag("storage_busy")
    """Return whether this cache changes the stored object, or may."""

    commit_running = _flag("committing")

    commit_asked = _number("commit_asked")
    """Return the largest epoch that a caller wanted of the last commit; 0: it began without a caller."""

    def changed_since(self, stamp: int) -> bool:
        """Return whether a write, truncate or hole came after the epoch, or a writable view exists."""
        return bool(lib.pc_changed_since(self._i, stamp))

    def sync_done(self, stamp: int) -> bool:
        """Return whether nothing up to the stamp is dirty, in flight or uncommitted, seen at one moment."""
        return bool(lib.pc_sync_done(self._i, stamp))

    def start_commit(self, stamp: int = 0) -> None:
        """Commit acknowledged bytes. With a stamp no caller waits: unless bytes up to it are dirty again by then, or a
        whole object has changed since.
        """
        (lib.pc_commit_try if stamp else lib.pc_commit_start)(self._i, stamp)

    commit_due = _flag("commit_due")
    """Return whether `self.commit` was entered for a commit, and not only for work under the token."""

    settle_start = _call("settle_start")
    """Enter `self.commit` under the token, even with nothing to commit."""

    uncommit = _call("uncommit")

    def acknowledged(self, pos: int, end: int) -> bool:
        """Return whether the backend may have uncommitted bytes of the range's local or staged ones."""
        return bool(lib.pc_acknowledged(self._i, pos, end))

    def _found(self, find: Callable[..., int], *where: int) -> tuple[int, int] | None:
        found = ffi.new("uint64_t[2]")
        return (int(found[0]), int(found[1])) if find(self._i, *where, found, found + 1) else None

    def staged_from(self, pos: int) -> tuple[int, int] | None:
        """Return the first staged range at or after `pos`, [start, end)."""
        return self._found(lib.pc_bytes_find, False, pos)

    def spillable_from(self, pos: int, most: int, *, sending: bool) -> list[tuple[int, int]]:
        """Return the first ranges at or after `pos` that `spilled` may take, [start, end), little more than `most`."""
        found = ffi.new("uint64_t[]", 2 * SPILL_RUNS)
        edges = list(map(int, found[0 : 2 * lib.pc_spill_find(self._i, pos, most, sending, found, SPILL_RUNS)]))
        return list(zip(edges[::2], edges[1::2], strict=True))

    def spilled(self, runs: Sequence[tuple[int, int]], *, sending: bool) -> int:
        """Record that the spool has these bytes; return how many of them are staged now. The inode lock is held.
        `sending`: a commit that runs does nothing but send and commit before this returns.
        """
        return int(lib.pc_spill(self._i, [edge for run in runs for edge in run], len(runs), sending))

    unlogged = _number("unlogged")
    """Return 0 if the journal has all local bytes as they are now, 1 if not those of some ranges, 2 if none."""

    def unlogged_from(self, pos: int) -> tuple[int, int] | None:
        """Return the first range at or after `pos` that was written since it was last appended, [start, end)."""
        return self._found(lib.pc_bytes_find, True, pos)

    def cut_unlogged(self, pos: int = 0, end: int = END) -> None:
        """Record that the journal has these bytes, or what became of them."""
        lib.pc_unlogged_cut(self._i, pos, end)

    count_unlogged = _call("unlogged_all")
    """Count all local bytes as unlogged."""

    staged_end = _number("staged_end")
    """Return the end of the last staged byte; 0: there is none."""

    def retry(self, pos: int = 0, end: int = END, failed_too: bool = False) -> int:
        return int(lib.pc_retry(self._i, pos, end, failed_too))

    def range_next(self, pos: int, end: int, which: int) -> int:
        """Return the first position of [pos, end) in a block of `which`; END: none.

        `which`: of DIRTY, WRITEBACK, BACKOFF (dirty, and waits for a retry or is parked) and FAILED (parked).
        """
        return int(lib.pc_range_next(self._i, pos, end, which))

    aborted = _call("inode_aborted")

    def local_ranges(self) -> list[tuple[int, int]]:
        return ranges(lib.pc_ranges, self._i, lib.PC_RANGES_LOCAL)

    def failed_ranges(self) -> list[tuple[int, int]]:
        return ranges(lib.pc_ranges, self._i, lib.PC_RANGES_FAILED)

    # direct I/O
    staged_bytes = _number("staged")
    """Return the bytes that the spool has until a commit."""

    def direct_may_share(self, pos: int, end: int) -> bool:
        """Return whether [pos, end) extends nothing and nothing of the file is local."""
        return bool(lib.pc_direct_may_share(self._i, pos, end))

    def range_local(self, pos: int, end: int) -> int:
        """Return which of DIRTY, WRITEBACK and UNSTABLE occur in the pages of a range."""
        return int(lib.pc_range_local(self._i, pos, end))

    def direct_split(self, pos: int, end: int) -> tuple[int, int]:
        """Return the first parts of a direct read: up to the first number bytes are local, up to the second the
        backend's.
        """
        out = ffi.new("uint64_t[2]")
        lib.pc_direct_split(self._i, pos, end, out, out + 1)
        return int(out[0]), int(out[1])

    def read(self, pos: int, buffer: memoryview) -> int:
        """Copy valid bytes from `pos` on; without the interpreter lock."""
        need = ffi.new("struct pc_need *")
        return int(lib.pc_read(self._i, pos, ffi.from_buffer(buffer), len(buffer), need))

    def read_local(self, pos: int, buffer: bytearray) -> int:
        """Copy all valid bytes of [pos, pos + len(buffer)), and leave other bytes as they are; return their number."""
        return int(lib.pc_read_local(self._i, pos, ffi.from_buffer(buffer), len(buffer), ffi.NULL))

    def read_valid(self, pos: int, buffer: bytearray) -> bytearray:
        """Do `read_local`, and return a byte for each one of the buffer: 1 if it was copied."""
        valid = bytearray(len(buffer))
        lib.pc_read_local(self._i, pos, ffi.from_buffer(buffer), len(buffer), ffi.from_buffer("uint8_t[]", valid))
        return valid

    storage_seen = _number("storage_seen")
    """Return a number that is equal before and after a call if no truncate or hole came between; 0 during one."""

    tail_left = _call("tail_left")
    """Record that a running direct write may leave bytes past the end, and has no waiter."""

    tail = _number("tail")
    """Return the latest tail for which no cut is owed; 0: there is none."""

    def tail_owed(self, tail: int) -> None:
        """Record that the cut of all tails up to this one is owed; under the token."""
        lib.pc_tail_owed(self._i, tail)

    def close_gate(self) -> bool:
        """Let no direct write begin until the token, which the caller holds, is released. Return whether some run that
        can still change what the present backend has.
        """
        return bool(lib.pc_gate_close(self._i))

    gate_closed = _flag("gate_closed")
    """Return whether a direct write has to wait for the end of work under the token."""

    direct_count = _number("direct")
    """Return the number of running direct writes."""

    def holds_here(self, holds: int) -> bool:
        """Return whether an operation of this thread has one of these holds, or waits for it: in a signal handler the
        thread must not wait for that.
        """
        return bool(_core.holds_here(self.address, holds))

    def direct_ranges(self) -> list[tuple[int, int]]:
        """Return uncommitted direct writes as (offset, length)."""
        return ranges(lib.pc_direct_ranges, self._i)

    def direct_lost(self, forget: bool = False) -> list[tuple[int, int]]:
        """Take those whose loss is unreported, which the caller reports; those that end later are sent again. `forget`:
        their store is gone.
        """
        return ranges(lib.pc_direct_lost, self._i, more=(forget,))

    # calls with logical locks
    def run(self, holds: int, method: str, argument: object, deadline: float | None = None) -> None:
        """Call `self.<method>(op, argument)` with the locks `holds`, taken in order and released in any case."""
        until = -1 if deadline is None else int(deadline * 1e9)
        _core.run(self.core, self.address, holds, until, method, argument)

    def run_if_free(self, holds: int, method: str, argument: object) -> bool:
        """Call `self.<method>(op, argument)` with one lock, from inside a call of the backend, too; False: it is not
        free.
        """
        try:
            self.run(holds, method, argument, 0)
        except TimeoutError:
            return False
        return True

    def run_owning(self, method: str, argument: object) -> None:
        """Call `self.<method>(op, argument)`; locks that it takes are released in any case."""
        _core.run_owning(self.core, self.address, method, argument)

    def run_both(self, other: NativeInode, method: str, argument: object, deadline: float | None = None) -> None:
        """Call `self.<method>(op, (op of the other, argument))` with the tokens of both inodes, taken in a fixed
        order.
        """
        until = -1 if deadline is None else int(deadline * 1e9)
        _core.run_both(self.core, self.address, other.address, until, method, argument)

    def range_busy(self, pos: int, end: int = END) -> bool:
        """Return whether a fill owns a folio of the range; under the invalidate lock."""
        return bool(lib.pc_range_busy(self._i, pos, end, ffi.new("struct pc_need *")))

    def settle_fills(self, pos: int, end: int = END) -> None:
        """Wait until no fill owns a folio of the range; under the invalidate lock none starts in that time."""
        _core.settle_fills(self.core, self.address, pos, end)

    def truncate_cached(self, size: int, uncommitted: bool) -> None:
        lib.pc_truncate(self._i, size, uncommitted)

    def punch_cached(self, pos: int, end: int, uncommitted: bool) -> None:
        lib.pc_punch(self._i, pos, end, uncommitted)

    def discard(self, pos: int = 0, end: int = END, cut_size: bool = True) -> list[tuple[int, int]]:
        """Give local bytes up, and return all that were since the last list."""
        lib.pc_discard(self._i, pos, end, cut_size)
        return ranges(lib.pc_discarded, self._i)

    base_requested = _call("base_requested")
    """Announce a read of the size that `rebase` takes."""

    def rebase(self, remote_size: int, forgotten: bool) -> None:
        """Lay local data over another version; under the token."""
        lib.pc_rebase(self._i, remote_size, forgotten)

    def written_ranges(self) -> list[tuple[int, int]]:
        """Return the local bytes that this program has written since the last commit, as (offset, length) pairs."""
        return ranges(lib.pc_ranges, self._i, lib.PC_RANGES_WRITTEN)

    def borrowed_ranges(self) -> list[tuple[int, int]]:
        """Return the other valid bytes of dirty pages: they are those of the version below."""
        return ranges(lib.pc_ranges, self._i, lib.PC_RANGES_BORROWED)

    def put_borrowed(self, pos: int, page: bytes) -> bool:
        """Replace the borrowed bytes of the page at `pos`; False: a fill has it, so wait for that. Under the token."""
        return int(lib.pc_borrowed_put(self._i, pos, ffi.from_buffer(page))) == 0

    end_at_written = _call("end_at_written")
    """End the file with the version below or the last written byte; under the token."""

    staged_keep_written = _call("staged_keep_written")
    """Read staged bytes that this program has not written from the version below again; under the token."""

    own_all = _call("own_all")
    """Count all local bytes as written by this program; under the token."""

    def dirty_all(self) -> bool:
        """Make every byte in memory dirty; False: some are neither in memory nor staged. Under the token."""
        return bool(lib.pc_dirty_all(self._i))

    def drop_clean(self, pos: int = 0, end: int = END) -> int:
        return int(lib.pc_drop_clean(self._i, pos, end))

    def invalidate_range(self, pos: int, end: int) -> bool:
        """Drop clean bytes; False: local bytes are left."""
        return int(lib.pc_invalidate_range(self._i, pos, end)) == 0

    read_anew = _call("read_anew")
    """Drop the answers of running reads; valid bytes stay."""

    def prefetch(self, pos: int, end: int) -> None:
        """Queue fills for the range, within the available memory."""
        _core.prefetch(self.core, self.address, pos, end, False)

    def fill_missing(self, pos: int, length: int) -> None:
        """Fill missing bytes of the range on this thread."""
        _core.prefetch(self.core, self.address, pos, pos + length, True)

    def pin(self, pos: int, length: int, writable: bool) -> list[Any]:
        """Return exporters of the pinned memory, ascending; fills missing bytes. `writable`: under the inode lock."""
        try:
            return cast("list[Any]", _core.pin(self.core, self.address, pos, length, writable))
        except TooManyViews:
            pass
        gc.collect()  # views in reference cycles count until they are collected
        return cast("list[Any]", _core.pin(self.core, self.address, pos, length, writable))

    def detach_views(self, pos: int = 0, end: int = END, *, parts: bool = False) -> None:
        """Detach writable views of the range from the file, which continues in a copy; `parts`: only if a part of a
        folio stays local while its other part is dropped. Under the token.

        Raises:
            OSError: ENOMEM: there is no memory for a copy. Some views may be detached.
        """
        while err := _collecting(lambda: int(lib.pc_views_cut(self._i, pos, end, parts))):
            if err != -errno.EBUSY:
                raise OSError(-err, "no memory for a copy of what writable views hold")
            self.settle_fills(pos, end)

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Context in which the file may be cut to `size` without allocating memory. Under the inode lock and the token.

        Raises:
            OSError: ENOMEM: nothing has changed.
        """
        if err := _collecting(lambda: int(lib.pc_views_reserve(self._i, size))):
            raise OSError(-err, "no memory for a copy of what writable views hold")
        try:
            yield
        finally:
            lib.pc_views_unreserve(self._i)
