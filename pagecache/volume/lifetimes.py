"""Lifetimes of handles, names, inodes and backend files.

An inode without handles keeps its pages and, for a while, its backend file; a removed one is an orphan that is buried
with its last handle, silently. An inode is never freed while an operation uses it: the flusher repeats the burial
later. Only a close waits here: work that needs the token or a call of the backend is left to the volume's threads.

An abandoned inode keeps its names and its place in the table. It has no writer, and none of its bytes is written back
or published. Under its token it goes back to the version that is below its local bytes, and an open that finds it waits
for that. It is removed instead if nothing is below them, or if the backend cannot forget what it was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..engine.attempts import Attempts
from ..engine.commit import remote
from ..engine.gone import GoneFile
from ..engine.io import barrier
from ..engine.io.sizes import Record
from ..engine.report.notices import cause, spans
from ..errors import LostRange
from ..native import END, TOKEN, Op
from .inode import Inode

if TYPE_CHECKING:
    from .volume import Volume

OBJECT_BYTES = 4 << 10
"""Memory of an object without pages: an inode in C and Python, and its file of the backend."""
HOLLOW_MIN, HOLLOW_PART = 4096, 64
"""Hollow objects that a cache keeps: a minimum, or one part in so many of its capacity."""
PRUNED, PRUNED_BY_FLUSHER = 4, 256
"""Maximum hollow objects that a close, or a turn of the flusher, frees."""


def check(volume: Volume) -> str | None:
    """Return how the counts of handles differ (I-30); None: they do not."""
    with volume.inodes_lock:
        inodes = {*volume.inodes.objects.values(), *volume.orphans}
        total = sum(inode.handles for inode in inodes)
        return None if volume.handles == total else f"{volume!r} counts {volume.handles} handles, its objects {total}"


def check_names(volume: Volume) -> str | None:
    """Return how the names of a volume's objects and their identities differ (I-31); None: they do not."""
    with volume.inodes_lock:
        wrong = volume.inodes.check() or next((i for i in volume.orphans if volume.inodes.knows(i)), None)
        for inode in (*volume.inodes.objects.values(), *volume.orphans):
            if inode.removed != (inode in volume.orphans) or (inode.abandoned and inode.writers):
                wrong = inode
        return None if wrong is None else f"{volume!r} has a wrong name or identity of {wrong.key!r}"


@dataclass(slots=True, eq=False)
class Use:
    """One use of an object, from the look-up of its open to the end of its handle; counted as a handle.

    A signal handler may raise at the start of a function and after a call in C. So a count changes together with the
    field that says so, without a call in between, and `release` may be repeated. The flusher releases a use that was
    not released when nothing refers to it any longer.
    """

    inode: Inode
    counted: bool = False
    writable: bool = False  # counted as a writer, too
    opening: bool = False  # it may be given up, and publishes nothing then: a close beside it does
    left: bool = True  # nothing is left to be released

    def begin(self) -> None:
        """Count a handle. `inodes_lock` held."""
        inode, volume = self.inode, self.inode.owner
        volume.engine.held.keep()
        inode.handles += 1
        volume.handles += 1
        self.counted, self.left = True, False

    def write(self) -> None:
        """Count a writer. `inodes_lock` held."""
        self.inode.writers += 1
        self.inode.opening += 1
        self.writable = self.opening = True

    def opened(self) -> None:
        """Record that its close is to publish what it finds. `inodes_lock` held."""
        self.inode.opening -= self.opening
        self.opening = False

    def end_writing(self) -> bool:
        """Count the writer no longer, and return whether it was the last one. `inodes_lock` held."""
        self.opened()
        last = self.writable and self.inode.writers == 1
        self.inode.writers -= self.writable
        self.writable = False
        return last

    def end(self) -> None:
        """Count nothing of it any longer. `inodes_lock` held."""
        inode, volume = self.inode, self.inode.owner
        inode.handles -= self.counted
        volume.handles -= self.counted
        inode.writers -= self.writable
        inode.opening -= self.opening
        self.counted = self.writable = self.opening = False

    def leave(self) -> None:
        """Record that the release is complete."""
        self.left = True

    def __del__(self) -> None:
        """May run in any thread, even inside the cache's own code."""
        volume = self.inode.owner
        if not self.left and not volume.cache.native.forked and not volume.detached:
            volume.engine.cache.flusher.defer(partial(release, self))


def release(use: Use) -> None:
    """Release a handle: an inode without handles keeps its pages, and its backend file for a while. A second call
    completes one that was interrupted.
    """
    inode, volume = use.inode, use.inode.owner
    if use.left:
        return
    if use.opening and inode.given_up:
        _end_given_up(use)
    with volume.inodes_lock:
        use.end()
        used, doomed = inode.handles > 0, inode in volume.orphans
        if not used and not doomed and volume.inodes.knows(inode):
            volume.engine.mark_idle(inode)
    if not used and doomed:
        bury(volume, inode)
    elif not used:
        volume.engine.close_idle()
        prune(volume)
    use.left = True


@contextmanager
def using(inodes: Iterable[Inode]) -> Iterator[list[Inode]]:
    """Context in which those of the inodes that are not being freed are in use: their files stay open."""
    uses = [Use(inode) for inode in inodes]
    try:
        for use in uses:
            with use.inode.owner.inodes_lock:
                if use.inode.handles or use.inode.owner.inodes.knows(use.inode):
                    use.begin()
                    use.inode.owner.engine.keep(use.inode)
        yield [use.inode for use in uses if use.counted]
    finally:
        for use in uses:
            release(use)


def opened(use: Use) -> None:
    """Record that an open returns its handle to a program, which closes it."""
    if use.opening:
        with use.inode.owner.inodes_lock:
            use.inode.given_up = False  # what was abandoned beside it is its own now
            use.opened()


def close_handle(use: Use, *, changed: bool, timeout: float | None = None) -> None:
    """Close a handle. The last writable handle flushes, and commits if the volume's options say so; the handle is
    closed in any case. `changed`: it has made changes. `timeout`: of the commit.
    """
    inode, volume = use.inode, use.inode.owner
    try:
        with volume.inodes_lock:  # of two concurrent closes, one finds that it was the last
            if inode.collected:
                _end_collected(inode)
            if changed or (use.writable and inode.writers == 1):
                inode.keep_changes()  # first: the next handle may be abandoned before the end of the commit
            writable, last = use.writable, use.end_writing()
            # Opens that are given up publish nothing; one that returns publishes what it changes.
            last |= writable and inode.writers == inode.opening and inode.keeps_changes()
        if last and inode not in volume.orphans and not volume.detached:
            limits = inode.limits()
            commit = limits.commit_on_close if volume.options.sync_on_close is None else volume.options.sync_on_close
            on_disk = volume.engine.durability == "disk" and volume.options.sync_on_close is not False
            if inode.conflict is not None:
                raise inode.conflict_error()
            if inode.withheld:
                inode.set_aside(withheld=False)
            if inode.unclosed:
                inode.set_unclosed(False)
            unsaved = inode.has_local() or inode.journaled.is_live()
            if on_disk and unsaved:
                barrier.save(inode, timeout)
                if inode.journaled.is_live():
                    inode.journaled.save_soon()
            elif commit and unsaved:
                barrier.fsync(inode, timeout)
            elif not limits.commit_on_close and (inode.has_local() or inode.is_stale()):
                barrier.flush(inode, version=True)
            if on_disk:
                inode.confirm_saved()  # a crash must not bring back what was replaced since
            elif commit:
                inode.journaled.confirm_saved()
        if inode.losing.locked() and not volume.detached:  # bytes have gone, and this handle is to raise their loss
            barrier.drive(barrier.FileSync(inode, commit=False), timeout, "close")
    finally:
        release(use)


def abandon_handle(use: Use, cut_off: tuple[LostRange, ...], *, changed: bool) -> None:
    """Abandon a handle without waiting: uncommitted data is dropped once the file's token is free. No handle is made
    before.

    Unsaved changes of closed handles stay, with those of this one (`changed`): they cannot be told apart.
    `cut_off`: unsaved bytes that its open has cut off. They are a loss if that is given up.
    """
    inode, volume = use.inode, use.inode.owner
    local = _may_be_local(inode)
    with volume.inodes_lock:
        _end_collected(inode)
        inode.cut_off += cut_off
        writes = use.writable
        last = use.end_writing()
        if writes and local and inode.writers == inode.opening:
            if not inode.keeps_changes():
                inode.given_up = True  # and dropped now, or with the last open that is given up
            elif last and changed:
                inode.set_unclosed(True)  # only an explicit call publishes it
    _end_given_up(use)
    release(use)


def _may_be_local(inode: Inode) -> bool:
    """Return whether there is local data, or the holder of the file's lock may still make some."""
    return inode.lock_busy() or inode.has_local()  # in this order: bytes are local before their writer lets the lock go


def _end_given_up(use: Use) -> None:
    """Count a writer no longer; drop what was given up if it was the last one."""
    inode, volume = use.inode, use.inode.owner
    local = _may_be_local(inode)
    with volume.inodes_lock:
        use.end_writing()
        dropped = inode.given_up and not inode.writers and local and not (inode.removed or inode.keeps_changes())
        if dropped:
            inode.set_aside(abandoned=True)  # from now on none of it is written back
            cut_off, inode.cut_off, inode.given_up = list(inode.cut_off), (), False
    if dropped:
        inode.report_loss(cut_off, "an open that was given up had emptied the object")
        inode.settle(partial(_go_back, inode))
        inode.give_up_copy("the file was abandoned")


def settle_abandoned(inode: Inode, tries: Attempts) -> None:
    """Wait until an abandoned file has gone back, as a part of a call with a deadline."""
    while inode.abandoned and not inode.removed:
        inode.outlast(inode.is_changing, "a change that was abandoned", tries)
        inode.settled(partial(_go_back, inode), tries)


def _go_back(inode: Inode) -> None:
    """Drop the local data of an abandoned file, and make it a file like any other again, or a removed one. The token is
    held, on a thread of the volume. While a change that its handles have begun goes on, this is repeated.
    """
    volume = inode.owner
    if inode.removed:
        _drop(inode)
    elif inode.abandoned:
        with inode.keeping_reads_back():
            changing = inode.is_changing()  # first: one that ends beside the drop leaves bytes
            inode.drop(0, END)  # a change that goes on may wait for memory
            stands = not changing and _is_rolled_back(inode)
        if changing:
            volume.engine.cache.flusher.defer_again(partial(inode.settle, partial(_go_back, inode)))
        elif stands:
            inode.set_unclosed(False)
            inode.set_aside(abandoned=False, withheld=False)
        else:
            inode.forget_uncommitted()
            inode.replaced()
            unname(volume, inode)


def _is_rolled_back(inode: Inode) -> bool:
    """Roll an abandoned file back. False: it is of no further use, since nothing is below its local data, or since its
    file of the backend may have other bytes than the version below.
    """
    volume = inode.owner
    whole = inode.limits().commit_on_close
    created = whole and bool(inode.undone()["created"])
    try:
        return inode.backend_file is not None and remote.go_back(inode) and not created
    except Exception as error:
        what = f"rolling back abandoned bytes failed: {cause(error)}"
        volume.engine.say(logging.WARNING, "the volume", what, "uploaded bytes may stay behind", inode.key)
        return not whole


def _end_collected(inode: Inode) -> None:
    """Count the handles that were collected unclosed no longer as writers. `inodes_lock` held."""
    while inode.collected:
        use, changed = inode.collected[0]
        if use.writable and inode.has_local():
            inode.set_unclosed(True)
        if changed:
            inode.keep_changes()
        use.end_writing()
        inode.collected.pop(0)


def close_collected(use: Use, *, loss_cursor: int) -> None:
    """Complete, on the flusher, the close of a handle that was collected unclosed: pages stay dirty, nothing is
    published; unreported losses go to the log, and to the next opener if no other handle reports them.
    """
    inode, volume = use.inode, use.inode.owner
    with volume.inodes_lock:
        _end_collected(inode)
        inode.open_handles.pop(id(use), None)
        lost = inode.losses_since(loss_cursor)
        reported = not inode.has_unreported_loss()
    if lost:
        what = f"{spans([(entry.offset, entry.length) for entry in lost])} is lost, and the handle was not closed"
        next = "other handles report it" if reported else "the next opener reports it"
        volume.engine.say(logging.ERROR, "data that was given up", what, next, inode.key)
    release(use)


def withhold(volume: Volume) -> list[Inode]:
    """Withhold objects that only their writers may publish, and have not: the handle is open, or was collected
    unclosed. From now on no other call publishes them (contract 2.22).
    """
    with volume.inodes_lock:  # to the end: a close counts its writer no longer, then looks at the mark
        inodes = [i for i in volume.inodes.objects.values() if i.has_writer() or i.unclosed]
        found = [i for i in inodes if i.limits().commit_on_close and i.has_local()]
        for inode in found:
            inode.set_aside(withheld=True)
        if (withheld := volume.cache.spared) is not None:
            withheld.update(found)
    return found


def withhold_again(volume: Volume) -> None:
    """Withhold such objects if an end of the cache does: their writers may have begun since it looked."""
    if (since := volume.cache.spared) is not None:
        found = withhold(volume)
        if volume.cache.spared is not since:  # that end is over, and may not have seen them
            for inode in found:
                inode.set_aside(withheld=False)


def forsake(volume: Volume, inode: Inode, report: Record) -> None:
    """Drop the local data of an object that cannot be published any longer, also what was uploaded: `roll_back`
    follows. What the journal has stays. `report` gets the losses before a call of the backend that may hang or fail.
    """
    inode.set_aside(abandoned=True)
    rolls_back = hasattr(inode.backend_file, "rollback")
    inode.run(TOKEN, "holding", inode.journaled.leave)  # after a commit that runs, which may have saved it
    reported: list[list[LostRange]] = []

    def record(lost: list[LostRange]) -> None:
        reported.append(lost)
        report(lost)

    def drop(op: Op) -> None:
        inode.drop_local(op, (0, END, record, not rolls_back, rolls_back))
        inode.forget_uncommitted()  # the end of the cache may be repeated

    inode.run(TOKEN, "lending", drop)
    if not reported:
        report([])


def roll_back(volume: Volume, inode: Inode) -> None:
    """Have the backend forget what it was sent of an object that was forsaken."""
    rollback: Any = getattr(inode.backend_file, "rollback", None)
    if rollback is not None:
        try:
            volume.engine.call(rollback, "rollback", inode.key)
        except Exception as error:
            what = f"rolling back bytes that were given up failed: {cause(error)}"
            volume.engine.say(logging.WARNING, "the volume", what, "uploaded bytes may stay behind", inode.key)


def bury(volume: Volume, inode: Inode) -> None:
    """Bury an inode without name and handles: local data is dropped, silently, once its token is free. Never waits."""
    if inode.has_local() and not volume.engine.aborted and not inode.abandoned:
        inode.set_aside(abandoned=True)
        called = hasattr(inode.backend_file, "rollback") and type(inode.backend_file) is not GoneFile
        if called or not inode.run_if_free(TOKEN, "holding", partial(_drop, inode)):  # here if that is quick
            inode.settle(partial(_drop, inode))
    destroy(volume, inode)


def _drop(inode: Inode) -> None:
    """Drop the local data of a removed file; the token is held, on a thread of the volume."""
    try:
        rollback: Any = getattr(inode.backend_file, "rollback", None)
        if rollback is not None:
            rollback()
    finally:
        inode.drop(0, END)
        inode.forget_uncommitted()


def destroy(volume: Volume, inode: Inode) -> None:
    """Free an inode without name and handles; while an operation uses it, the flusher or a reconnect repeats this."""
    if volume.detached or inode.handles:
        return
    if volume.engine.free(inode):
        forget(volume, inode)
    elif not volume.engine.aborted:
        if inode.has_local() and not inode.settling:
            inode.settle(partial(_drop, inode))  # an operation that was changing it went on
        volume.engine.cache.flusher.defer_again(lambda: destroy(volume, inode))


def forget(volume: Volume, inode: Inode) -> None:
    """Remove an inode that CORE has freed."""
    for backend_file in inode.take_files():
        volume.engine.close_later(backend_file, inode.key)
    with volume.inodes_lock:
        volume.orphans.pop(inode, None)
        volume.inodes.remove(inode)


def let_go(volume: Volume) -> None:
    """Drop the global reference to a backend that no handle and no unsaved byte needs."""
    with volume.inodes_lock:
        if not volume.handles and not volume.engine.native.dirty_inodes(1):
            volume.engine.held.let_go()


def hollow_max(capacity: int) -> int:
    """Return how many hollow inodes a cache of this capacity keeps."""
    return max(HOLLOW_MIN, capacity // (HOLLOW_PART * OBJECT_BYTES))


def prune(volume: Volume, most: int = PRUNED) -> bool:
    """Free the oldest hollow inodes, at most `most`, while the cache has too many of them.

    CORE lists them: no handle, no page, no unsaved data. An inode with an unreported loss or a busy name stays, or one
    that an operation uses, and other inodes have the next turn. Return whether the cache still has too many.
    """
    hollow = volume.engine.cache.native.hollow()
    excess = hollow and hollow - hollow_max(volume.cache.capacity)
    if excess <= 0:
        return False
    for file in volume.engine.files_at(volume.engine.native.some_hollow(min(most, excess))):
        with volume.inodes_lock:
            inode = volume.inodes.of_file(file)
            if inode is None or inode.handles or inode.has_unreported_loss() or inode.key in volume.busy:
                continue
            try:
                freed = not inode.has_local() and volume.engine.free(inode)
                if freed:
                    volume.inodes.remove(inode)
            except BaseException:  # an interrupt: no name may lead to it
                if inode.freed:
                    volume.inodes.remove(inode)
                    volume.engine.cache.flusher.defer(partial(destroy, volume, inode))
                raise
        if freed:
            forget(volume, inode)
    return excess > most


def unname(volume: Volume, inode: Inode) -> None:
    """Record that an object has lost its last name: open handles keep it, otherwise it is freed."""
    if take_name(volume, inode, inode.lose_name):
        remote.unnamed(inode)


def take_name(volume: Volume, inode: Inode, record: Callable[[], None]) -> bool:
    """Take the name from a file, and record why. Return whether handles use it still; otherwise it is freed."""
    use = Use(inode)
    try:
        with volume.inodes_lock:
            if not volume.inodes.knows(inode):
                return False
            use.begin()
            volume.orphans[inode] = None  # first: also after an interrupt, the last release buries it
            volume.inodes.lose(inode)
            record()
            inode.wake()  # an fsync of an object that is found by its name is done
            volume.engine.keep(inode)
            used = inode.handles > 1
        inode.give_up_copy("the object has lost its name")  # unless it is the one that the mirror has
    finally:
        release(use)
    return used


def drop_local(
    volume: Volume, inode: Inode, start: int, end: int, record: Record = lambda lost: None, *, cut: bool = True
) -> None:
    """Drop local data. `cut`: also in the backend, for a tail that it may have stored in part."""
    inode.run(TOKEN, "drop_local", (start, end, record, cut, False))
