"""One cached object of CORE."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

from .cache import NativeVolume
from .extension import END, STATES, extension, ffi, fields, lib, ranges, read_counters, read_usage

__all__ = ["Events", "NativeInode", "TooManyViews"]

NUMBERS = ("dirty", "cached", "failed", "unstable", "age", "hits", "unstored", "taken")
SLICE_RUNS = 256


class TooManyViews(OSError):
    """ENOMEM: views hold as much as they may."""


def _collecting(call: Callable[[], int]) -> int:
    """Make a call; if its result is -ENOMEM, collect garbage, which may hold views, and make it once more."""
    err = call()
    if err == -errno.ENOMEM:
        gc.collect()
        err = call()
    return err


class Events:
    """The events of many inodes, and which of them have moved since the last look."""

    def __init__(self) -> None:
        self._used = 0
        self._arrays = self._made(16)  # addresses, what was seen, room for an answer

    def add(self, inode: NativeInode) -> int:
        """Watch an inode, which counts as moved. Returns its number."""
        number = self._used
        if number == len(self._arrays[0]):
            more = self._made(2 * number)
            for old, new in zip(self._arrays, more, strict=True):
                ffi.memmove(new, old, ffi.sizeof(old))
            self._arrays = more  # at once: an interrupt may come at any point
        inodes, seen, _ = self._arrays
        inodes[number] = inode.address
        seen[number] = (lib.pc_inode_event_seq(inode._i) - 1) & 0xFFFFFFFF
        self._used += 1
        return number

    @staticmethod
    def _made(room: int) -> tuple[Any, Any, Any]:
        return ffi.new("uintptr_t[]", room), ffi.new("uint32_t[]", room), ffi.new("uint32_t[]", room)

    def drop(self, number: int) -> None:
        """Watch the inode of this number no longer."""
        self._arrays[0][number] = 0

    def moved(self) -> list[int]:
        """Return the numbers of the inodes whose events have moved."""
        inodes, seen, moved = self._arrays
        found = lib.pc_events_moved(inodes, seen, self._used, moved)
        return ffi.unpack(moved, found) if found else []


class NativeInode:
    """One `struct pc_inode`. `user` is the object whose methods C calls: fill, write, commit, room, ..."""

    __slots__ = ("_i", "address", "core", "id", "volume")

    def __init__(self, volume: NativeVolume, size: int, limits: dict[str, int]) -> None:
        out = ffi.new("struct pc_inode **")
        if err := lib.pc_inode_create(volume._v, size, ffi.new("struct pc_limits *", limits), True, out):
            raise OSError(-err, os.strerror(-err))
        self._i = out[0]
        self.volume = volume
        self.core = volume.cache.core
        self.address = int(ffi.cast("uintptr_t", out[0]))
        self.id = int(lib.pc_inode_id(out[0]))

    def set_user(self, user: object) -> None:
        """The object is borrowed: it must live until `destroy`."""
        lib.pc_inode_set_user(self._i, id(user))

    def destroy(self) -> bool:
        """Free it, with what is clean; False while anything is local or somebody is at work."""
        return int(lib.pc_inode_destroy(self._i)) == 0

    # sizes, limits, numbers
    @property
    def size(self) -> int:
        return int(lib.pc_inode_size(self._i))

    @property
    def remote_size(self) -> int:
        return int(lib.pc_inode_remote_size(self._i))

    def set_sizes(self, size: int, remote_size: int) -> bool:
        """False: something is local, and nothing has changed."""
        return bool(lib.pc_inode_set_sizes(self._i, size, remote_size))

    def set_limits(self, limits: dict[str, int]) -> None:
        lib.pc_inode_set_limits(self._i, ffi.new("struct pc_limits *", limits))

    def usage(self) -> dict[str, int]:
        counters, usage = ffi.new("struct pc_counters *"), ffi.new("struct pc_usage *")
        lib.pc_inode_usage(self._i, usage, counters)
        return read_usage(usage) | read_counters(counters)

    def number(self, name: str) -> int:
        """One of NUMBERS, without the cost of all of `usage`; 0 when the inode is gone."""
        return int(lib.pc_show_number(self._i, self.id, NUMBERS.index(name)))

    def states(self, pos: int, end: int, most: int) -> tuple[list[tuple[int, int, str]], int, int]:
        """The states of the pages that meet [pos, end), looked at in slices, so that the file's lock is never held for
        long.

        Returns: runs (position, bytes, one of STATES), ascending, at most `most`, of what is cached; how many folios
        that was; where it stopped, `end` when that is all. Of an inode that is gone: nothing.
        """
        out, found = ffi.new("struct pc_shown *"), ffi.new("uint64_t[]", 3 * SLICE_RUNS)
        runs: list[tuple[int, int, str]] = []
        folios = 0
        while pos < end:
            room = min(SLICE_RUNS, most - len(runs))
            if not room or not lib.pc_show_states(self._i, self.id, pos, end, found, room, out):
                break
            for k in range(0, 3 * out.runs, 3):
                at, length, state = int(found[k]), int(found[k + 1]), STATES[found[k + 2]]
                if runs and runs[-1][2] == state and runs[-1][0] + runs[-1][1] == at:
                    at, length = runs[-1][0], runs.pop()[1] + length
                runs.append((at, length, state))
            folios += out.folios
            pos = int(out.next)
        return runs, folios, pos

    def event_seq(self) -> int:
        return int(lib.pc_inode_event_seq(self._i))

    def wake(self) -> None:
        lib.pc_inode_wake(self._i)

    def fail_seq(self) -> int:
        return int(lib.pc_inode_fail_seq(self._i))

    def commit_seq(self) -> int:
        return int(lib.pc_inode_commit_seq(self._i))

    def dirtied(self) -> float:
        """When the oldest dirty byte was written, on the cache's clock; 0.0 when nothing is dirty."""
        return int(lib.pc_inode_dirtied_ns(self._i)) / 1e9

    def age_anew(self) -> None:
        """The dirty bytes count as written now."""
        lib.pc_inode_age_anew(self._i)

    def set_unused(self, unused: bool) -> None:
        """Say whether any handle has the object open. Does nothing when the inode is gone."""
        lib.pc_inode_set_unused(self._i, self.id, unused)

    def set_aside(self, *, unsynced: bool, kept_back: bool) -> None:
        """Leave the object out of syncs, or out of write-back by age and pressure. Does nothing when the inode is
        gone.
        """
        aside = lib.PC_ASIDE_UNSYNCED * unsynced | lib.PC_ASIDE_KEPT_BACK * kept_back
        lib.pc_inode_set_aside(self._i, self.id, aside)

    def forget_cuts(self) -> None:
        """Truncates that are not known to be committed are no longer to be made again."""
        lib.pc_inode_forget_cuts(self._i)

    def set_uncommitted(self, created: bool = False, lowest: int = END) -> None:
        """Something that is no folio waits for a commit; `lowest`: a size that storage was or will be cut to."""
        lib.pc_inode_set_uncommitted(self._i, created, lowest)

    def undone(self) -> dict[str, int]:
        """What is uncommitted and is no folio: lowest (END: none), hole_pos, hole_end, gone_end,
        created, resized.
        """
        out = ffi.new("struct pc_undone_report *")
        lib.pc_inode_undone(self._i, out)
        return fields(out[0])

    def forget_holes(self) -> None:
        lib.pc_inode_forget_holes(self._i)

    def note_hole(self, start: int, end: int) -> None:
        """A hole that is owed, and waits for a commit."""
        lib.pc_inode_note_hole(self._i, start, end)

    def forget_uncommitted(self) -> None:
        """No commit has to come for what is no byte; under the token."""
        lib.pc_inode_forget_uncommitted(self._i)

    def is_changing(self) -> bool:
        """Whether somebody has the inode lock, or stands in line for it."""
        return bool(lib.pc_inode_lock_busy(self._i))

    def locks(self) -> dict[str, int]:
        """Which logical locks are held at this moment."""
        out = ffi.new("struct pc_locks *")
        lib.pc_inode_locks(self._i, out)
        return fields(out[0])

    def in_old_hands(self) -> bool:
        """Whether a call that an abort, an interrupt or a deadline left behind still runs on the file."""
        return bool(lib.pc_inode_in_old_hands(self._i))

    def fence(self) -> None:
        """Calls left behind can no longer land: they hold up nobody."""
        lib.pc_inode_fence(self._i)

    def has_local(self) -> bool:
        return bool(lib.pc_inode_has_local(self._i))

    def unsaved(self) -> int:
        """Bytes that are local or staged, an upper bound by page."""
        usage = self.usage()
        return usage["local"] + usage["staged"]

    def unsaved_up_to(self, stamp: int) -> tuple[int, int]:
        """Bytes written up to the stamp that are not committed, and how many of them the backend has not acknowledged:
        upper bounds by folio.
        """
        unsent = ffi.new("uint64_t *")
        return int(lib.pc_unsaved_bytes(self._i, stamp, unsent)), int(unsent[0])

    def count_throttled(self, seconds: float) -> None:
        lib.pc_count_throttled(self._i, int(seconds * 1e9))

    def count_retry(self) -> None:
        lib.pc_count_retry(self._i)

    # dirty budget, for the writer who owns the place (an address of C)
    def room_take(self, place: int, paused: bool = False) -> bool:
        """Whether what the place asks for is reserved now; `paused`: its writer needs no grant."""
        return bool(lib.pc_room_take(self._i, ffi.cast("struct pc_place *", place), paused))

    def room_fits(self, place: int) -> bool:
        """Whether only a grant is missing: there is room below the limits and nobody stands in line."""
        return bool(lib.pc_room_fits(self._i, ffi.cast("struct pc_place *", place)))

    def line_first(self, place: int) -> bool:
        """Stand in line; whether nobody is before this writer."""
        return bool(lib.pc_line_first(self._i, ffi.cast("struct pc_place *", place)))

    # write-back
    def flush_start(self, stamp: int, pos: int = 0, end: int = END) -> int:
        return int(lib.pc_flush_start(self._i, stamp, pos, end))

    def flush_pending(self, stamp: int, pos: int = 0, end: int = END, cursor: Any = None) -> int:
        return int(lib.pc_flush_pending(self._i, stamp, pos, end, ffi.NULL if cursor is None else cursor))

    @staticmethod
    def cursor() -> Any:
        """Where a walk of `flush_pending` goes on."""
        return ffi.new("uint64_t[2]")

    def pass_background(self, budget: int) -> bool:
        return bool(lib.pc_pass_background(self._i, budget))

    def pass_partial(self, budget: int) -> bool:
        """The same, and write units that are not wholly dirty too, where a commit is what makes bytes visible."""
        return bool(lib.pc_pass_partial(self._i, budget))

    def pass_idle(self) -> bool:
        return bool(lib.pc_pass_idle(self._i))

    def pass_ending(self) -> bool:
        """Whether all of a pass is answered, and it has the token still."""
        return bool(lib.pc_pass_ending(self._i))

    def commit_needed(self, stamp: int) -> bool:
        return bool(lib.pc_commit_needed(self._i, stamp))

    def storage_busy(self) -> bool:
        """Whether something of ours changes what is stored, or may."""
        return bool(lib.pc_storage_busy(self._i))

    def commit_running(self) -> bool:
        return bool(lib.pc_commit_running(self._i))

    def generation(self) -> int:
        """A number that stands until the volume is aborted."""
        return int(lib.pc_inode_generation(self._i))

    def commit_found(self, generation: int) -> bool:
        """The commit that failed was carried out, and nothing was sent since. False: the volume was aborted since."""
        return bool(lib.pc_commit_found(self._i, generation))

    def sync_done(self, stamp: int) -> bool:
        """Whether nothing up to the stamp is dirty, in flight or uncommitted, seen at one moment."""
        return bool(lib.pc_sync_done(self._i, stamp))

    def start_commit(self, stamp: int = 0) -> None:
        """Have what is acknowledged committed, unless anything dirtied up to the stamp is dirty again by then."""
        lib.pc_commit_start(self._i, stamp)

    def commit_due(self) -> bool:
        """Whether `user.commit` was entered for a commit, and not only for work under the token."""
        return bool(lib.pc_commit_due(self._i))

    def settle_start(self) -> None:
        """Have `user.commit` entered under the token, though there may be nothing to commit."""
        lib.pc_settle_start(self._i)

    def uncommit(self) -> None:
        lib.pc_uncommit(self._i)

    def is_staged(self, pos: int) -> bool:
        return bool(lib.pc_staged_has(self._i, pos))

    def staged_recall(self, skip: int, skip_end: int) -> list[tuple[int, int]]:
        """What is staged is dirty where it is in memory; what is not has to be read first: (offset, length) pairs."""
        return ranges(lib.pc_staged_recall, self._i, skip, skip_end)

    def acknowledged(self, pos: int, end: int) -> bool:
        """Whether the backend may have something of the range that is local or staged, and not committed."""
        return bool(lib.pc_acknowledged(self._i, pos, end))

    def staged_from(self, pos: int) -> tuple[int, int] | None:
        """The first staged bytes at `pos` or behind it, [start, end)."""
        found = ffi.new("uint64_t[2]")
        return (int(found[0]), int(found[1])) if lib.pc_staged_find(self._i, pos, found, found + 1) else None

    def staged_ranges(self) -> list[tuple[int, int]]:
        """All of what is staged, [start, end), ascending; the token keeps it as it is."""
        found, pos = [], 0
        while (extent := self.staged_from(pos)) is not None:
            found.append(extent)
            pos = extent[1]
        return found

    def staged_lost(self, stored: int, committing: bool) -> list[tuple[int, int]] | None:
        """What was staged is gone: the ranges that memory has not. None: a commit runs that is not the caller's."""
        room = 1 << 16
        pairs = ffi.new("uint64_t[]", room * 2)
        found = int(lib.pc_staged_lost(self._i, stored, committing, pairs, room))
        return None if found < 0 else [(int(pairs[2 * k]), int(pairs[2 * k + 1])) for k in range(min(room, found))]

    def retry(self, pos: int = 0, end: int = END, failed_too: bool = False) -> int:
        return int(lib.pc_retry(self._i, pos, end, failed_too))

    def mirror_spoiled(self) -> bool:
        """Whether bytes changed in place under a request of the mirror since this was last asked."""
        return bool(lib.pc_mirror_spoiled(self._i))

    def aborted(self) -> None:
        lib.pc_inode_aborted(self._i)

    def local_ranges(self) -> list[tuple[int, int]]:
        return ranges(lib.pc_ranges_local, self._i)

    def local_end(self) -> int:
        """The end of the last local or staged byte; 0 when there is none."""
        return max((pos + length for pos, length in self.local_ranges()), default=0)

    def failed_ranges(self) -> list[tuple[int, int]]:
        return ranges(lib.pc_ranges_failed, self._i)

    # direct I/O
    def staged(self) -> int:
        """Bytes that the backend keeps until a commit."""
        return int(lib.pc_inode_staged(self._i))

    def direct_may_share(self, pos: int, end: int) -> bool:
        """Whether [pos, end) extends nothing and nothing of the file is local."""
        return bool(lib.pc_direct_may_share(self._i, pos, end))

    def range_local(self, pos: int, end: int) -> int:
        """Which of DIRTY, WRITEBACK and UNSTABLE there is in the pages of a range."""
        return int(lib.pc_range_local(self._i, pos, end))

    def direct_split(self, pos: int, end: int) -> tuple[int, int]:
        """What a direct read does first: up to the first number bytes are local, up to the second the backend's."""
        out = ffi.new("uint64_t[2]")
        lib.pc_direct_split(self._i, pos, end, out, out + 1)
        return int(out[0]), int(out[1])

    def read(self, pos: int, buffer: memoryview) -> int:
        """Copy what is valid from `pos` on; without the interpreter lock."""
        need = ffi.new("struct pc_need *")
        return int(lib.pc_read(self._i, pos, ffi.from_buffer(buffer), len(buffer), need))

    def holds_memory(self, buffer: memoryview, pos: int) -> bool:
        """Whether a buffer lies in the memory that caches as many bytes from `pos` on."""
        address = int(ffi.cast("uintptr_t", ffi.from_buffer(buffer)))
        return bool(lib.pc_memory_of_range(self._i, address, buffer.nbytes, pos, pos + buffer.nbytes))

    def storage_seen(self) -> int:
        """The same number before and after a call where no truncate or hole came between; 0 while there is one."""
        return int(lib.pc_storage_seen(self._i))

    def tail_left(self) -> None:
        """A direct write that runs may leave bytes behind the end, and nobody waits for it."""
        lib.pc_tail_left(self._i)

    def tail(self) -> int:
        """The latest tail for which no cut is owed; 0: there is none."""
        return int(lib.pc_tail(self._i))

    def tail_owed(self, tail: int) -> None:
        """The cut of all tails up to this one is owed; under the token."""
        lib.pc_tail_owed(self._i, tail)

    def direct_count(self) -> int:
        """Direct writes that run."""
        return int(lib.pc_direct_count(self._i))

    def direct_ranges(self, everything: bool = True) -> list[tuple[int, int]]:
        """Direct writes that no commit covers, (offset, length); not `everything`: those whose loss was not told."""
        return ranges(lib.pc_direct_ranges, self._i, more=(everything,))

    def direct_told(self, forget: bool = False) -> None:
        """Their loss was told; `forget`: what had stored them is gone."""
        lib.pc_direct_told(self._i, forget)

    # what holds logical locks
    def run(self, holds: int, method: str, argument: object, deadline: float | None = None) -> None:
        """`user.<method>(op, argument)` with the locks `holds`, taken in order and released whatever happens."""
        until = -1 if deadline is None else int(deadline * 1e9)
        extension.run(self.core, self.address, holds, until, method, argument)

    def run_owning(self, method: str, argument: object) -> None:
        """`user.<method>(op, argument)`; what it takes is given back whatever happens."""
        extension.run_owning(self.core, self.address, method, argument)

    def run_both(self, other: NativeInode, method: str, argument: object, deadline: float | None = None) -> None:
        """`user.<method>(op, (op of the other, argument))` with the tokens of both inodes, taken in their order."""
        until = -1 if deadline is None else int(deadline * 1e9)
        extension.run_both(self.core, self.address, other.address, until, method, argument)

    def range_busy(self, pos: int, end: int = END) -> bool:
        """Whether a fill owns a folio of the range; under the invalidate lock."""
        return bool(lib.pc_range_busy(self._i, pos, end, ffi.new("struct pc_need *")))

    def settle_fills(self, pos: int, end: int = END) -> None:
        """Wait until no fill owns a folio of the range; under the invalidate lock none starts meanwhile."""
        extension.settle_fills(self.core, self.address, pos, end)

    def truncate(self, size: int, uncommitted: bool) -> None:
        lib.pc_truncate(self._i, size, uncommitted)

    def punch(self, pos: int, end: int, uncommitted: bool) -> None:
        lib.pc_punch(self._i, pos, end, uncommitted)

    def discard(self, pos: int = 0, end: int = END, cut_size: bool = True) -> list[tuple[int, int]]:
        usage = self.usage()
        room = 64 + 9 * usage["folios"] + usage["local"] // 4096  # a folio has eight extents besides its blocks
        pairs = ffi.new("uint64_t[]", room * 2)
        found = min(room, int(lib.pc_discard(self._i, pos, end, pairs, room, cut_size)))
        return [(int(pairs[2 * k]), int(pairs[2 * k + 1])) for k in range(found)]

    def base_asked(self) -> None:
        """Storage is about to be asked for the size that `rebase` takes."""
        lib.pc_base_asked(self._i)

    def rebase(self, remote_size: int, forgotten: bool) -> None:
        """What is local lies over another version from here on; under the token."""
        lib.pc_rebase(self._i, remote_size, forgotten)

    def dirty_all(self, staged: bool) -> bool:
        """Every byte is to be handed over; False: not all of them are cached. Under the token."""
        return bool(lib.pc_dirty_all(self._i, staged))

    def drop_clean(self, pos: int = 0, end: int = END) -> int:
        return int(lib.pc_drop_clean(self._i, pos, end))

    def invalidate_range(self, pos: int, end: int) -> bool:
        """Drop what is clean; False: local bytes are left."""
        return int(lib.pc_invalidate_range(self._i, pos, end)) == 0

    def invalidate_remote(self, pos: int, end: int) -> None:
        lib.pc_invalidate_remote(self._i, pos, end)

    def prefetch(self, pos: int, end: int) -> None:
        """Queue fills for the range, as far as memory goes."""
        extension.prefetch(self.core, self.address, pos, end, False)

    def fill(self, pos: int, length: int) -> None:
        """Fill what is missing of the range, here and now."""
        extension.prefetch(self.core, self.address, pos, pos + length, True)

    def pin(self, pos: int, length: int, writable: bool) -> list[Any]:
        """Exporters of the pinned memory, ascending; fills what is missing. `writable`: under the inode lock."""
        try:
            return cast("list[Any]", extension.pin(self.core, self.address, pos, length, writable))
        except TooManyViews:
            pass
        gc.collect()  # views in reference cycles count until they are collected
        return cast("list[Any]", extension.pin(self.core, self.address, pos, length, writable))

    def cut_views(self, pos: int = 0, end: int = END, *, parts: bool = False) -> None:
        """Writable views of the range lose the file, which goes on in a copy; `parts`: only where a part of a folio
        stays local while the rest is given up. Under the token.

        Raises:
            OSError: ENOMEM, there is no memory for a copy. Some may be cut.
        """
        while err := _collecting(lambda: int(lib.pc_views_cut(self._i, pos, end, parts))):
            if err != -errno.EBUSY:
                raise OSError(-err, "no memory for a copy of what writable views hold")
            self.settle_fills(pos, end)

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """The file may be cut to `size` in here without asking for memory. Under the inode lock and the token.

        Raises:
            OSError: ENOMEM, nothing has changed.
        """
        if err := _collecting(lambda: int(lib.pc_views_reserve(self._i, size))):
            raise OSError(-err, "no memory for a copy of what writable views hold")
        try:
            yield
        finally:
            lib.pc_views_unreserve(self._i)
