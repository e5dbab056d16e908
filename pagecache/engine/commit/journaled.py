"""Unsaved bytes of files in the journal of the disk tier: fsync at "disk".

    fsync        append what the journal lacks, and confirm: one sync of the device for all that wait
    truncate, hole, discard, rename, remove      append, if the journal has unsaved records of the file
    commit of a whole object      before: what the journal lacks, if little; SAVING, confirmed: a version that recovery
                 finds may be this one; and after it the version that it has made
    saved        once the store has all that was local at a *mark*: SAVED, with the LSN of that mark

The journal lacks bytes that were written since the last append, while it has unsaved records of the file: CORE keeps
these ranges (`unlogged`). Otherwise it lacks all written bytes that are not committed: a file without records is
described anew, and so is each file after a sync of the device that failed.

What cannot be appended is saved in the store by that fsync (contract D5). So is, until nothing of it is unsaved, a file
whose records are *out of date*: other bytes were stored directly, or another version lies below.

    beside an append           the append
    write, truncate, hole      waits: both have the inode lock
    discard, commit            waits for the lock of the file's part, or the other way round
    write-back                 goes on: bytes are read from memory, whatever their state

Locks: `Journaled._lock` guards its fields, and is held over appends; `VolumeJournal._lock` guards its table.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ...backends.spool import Ranges
from ...disk import records
from ...native import DIRTY, END, LOCK, WRITEBACK
from ..park import NEVER, SLICE, Deadline, deadline_error, start_thread
from ..report.notices import cause
from ..runner import Job
from .staging import NotStagedError

if TYPE_CHECKING:
    from ...backends.protocol import BackendFile
    from ...disk.journal import Journal
    from ...disk.records import FileState, Record
    from ...errors import Key
    from ..file import EngineFile
    from ..volume import EngineVolume

TURN = 64
"""Files of one check by the flusher."""
AGAIN = 5.0
"""Seconds between two tries to save files that could not be saved, or to record what was."""
GRACE = 0.01
"""Seconds in which a sync waits for files that calls hold, before threads wait for these."""
SAVING_MAX = 64
"""Running saves. Objects that hang keep no other one waiting below that."""


class _Mark(NamedTuple):
    """Everything that was local up to the epoch `stamp` is in the journal up to `lsn`."""

    stamp: int
    lsn: int
    syncs: int
    """Epochs of the volume before it that are none of a mark: equal if no sync has begun between two marks."""


class VolumeJournal:
    """The journal as one volume uses it.

    Attributes:
        numbers: of its files in the journal that have unsaved records.
        ended: it appends nothing more: the next volume may have these files by now.
    """

    def __init__(
        self,
        volume: EngineVolume,
        open_journal: Callable[[], Journal],
        refused: Callable[[BaseException | None], object],
        volume_id: str,
        begin_saving: Callable[[list[EngineFile]], Any],
    ) -> None:
        self.volume, self.volume_id, self.begin_saving = volume, volume_id, begin_saving
        self._open, self._refuses = open_journal, refused
        self._journal: Journal | None = None
        self.numbers: set[int] = set()
        self.ended = False
        self._marked = 0  # epochs of marks
        self.freed = 0  # LSN of the last record of a file that was freed
        self._refused: set[Journaled] = set()  # freed files of which the disk took no record that they are saved
        self._lock = threading.RLock()  # a signal handler may discard what its thread appends
        self._waiting: dict[Journaled, None] = {}
        self._turn: deque[Journaled] = deque()
        self._later: dict[EngineFile, Job[list[EngineFile]]] = {}  # that wait for the inode lock
        self._saving: dict[Any, list[Journaled]] = {}  # running tickets
        self._not_before = self._confirm_at = -1.0  # when the store, and the disk, is tried again

    def journal(self) -> Journal:
        """Return the journal; the first call has CORE keep the ranges that are written from now on."""
        if self._journal is None:
            journal = self._open()
            self.volume.native.set_logged()  # first: files that are local before are appended as a whole
            self._journal = journal
        return self._journal

    def end(self) -> None:
        """Record what was saved, and append nothing more, not even for a call that the volume has left behind."""
        if self.volume.left or not self.volume.aborted:  # after another abort the disk may hang
            for file in list(self._waiting):
                file.settle()
        self.ended = True

    def forget(self, number: int) -> None:
        """Give up the unsaved bytes of a recovered file."""
        self.journal().forget(number, self)

    def identified(self, state: FileState, identity: str | None) -> None:
        """Record the identity of a recovered file's object; None: it is found by its name. An error of the disk is
        none of the laying.
        """
        journal, names = self.journal(), {"renaming": state.renaming, "removing": state.removing}
        parts: dict[str, Any] = {"created": state.created, "size": state.size, "identity": identity, **names}
        record = records.file(state.number, self.volume_id, state.key, state.base, **parts)
        if journal.unsaved_size(state.number) is not None:  # else it was given up meanwhile
            self._tried(lambda: journal.confirm(journal.append(record, by=self)))

    def is_used(self) -> bool:
        """Return whether any call has asked for "disk"."""
        return self._journal is not None

    def may_leave(self) -> bool:
        """Return whether the journal may keep bytes when the volume ends."""
        return self.volume.durability == "disk" or self.is_used() or bool(self.numbers)

    def note_freed(self, file: Journaled, *, recorded: bool) -> None:
        """Note the records of a file that was freed: its object may have another file by now."""
        with self._lock:
            self.freed = max(self.freed, file._last)
            (self._refused.discard if recorded else self._refused.add)(file)

    def add(self, file: Journaled) -> None:
        with self._lock:
            self._waiting[file] = None

    def drop(self, file: Journaled) -> None:
        with self._lock:
            self._waiting.pop(file, None)

    def mark(self, lsn: int) -> _Mark:
        """Return a mark of now: the journal has up to `lsn` what a sync that begins later saves."""
        with self._lock:
            stamp = self.volume.native.take_epoch()
            self._marked += 1
            return _Mark(stamp, lsn, stamp - self._marked)

    def failed(self, error: BaseException) -> None:
        """Report that bytes are saved in the store because the journal cannot take them."""
        what = f"the journal took nothing more: {cause(error)}"
        self.volume.say(logging.WARNING, "the journal", what, "fsync saves in the store for a while")
        self._refuses(error)

    # -- fsync

    def append(
        self, files: Iterable[EngineFile], until: float | None = None, busy: list[EngineFile] | None = None
    ) -> list[EngineFile]:
        """Append what the journal lacks of files, and wait for the device once. Return those that are to be saved in
        the store. `busy`: is given those that a call holds, for which nothing waits then; the others are all with
        records: of some a commit ends, or has ended.
        """
        if busy is not None:
            until = time.monotonic() + GRACE
            files = dict.fromkeys([*files, *self.files()])
        done: list[tuple[EngineFile, int]] = []
        left: list[EngineFile] = []
        clean: list[EngineFile] = []
        for file in files:
            if file.freed or file.removed or file.abandoned:
                if file.freed:
                    file.journaled.settle(NEVER)
                continue
            if file.recovering:  # it has no marks yet
                left.append(file)
                continue
            if not (file.has_local() or file.journaled.is_live()):
                clean.append(file)
                continue
            try:
                generation = file.journal().begin(until)
            except TimeoutError:
                if busy is None:
                    raise
                busy.append(file)
                continue
            if generation is None:
                left.append(file)
            else:
                done.append((file, generation))
        if (journal := self._journal) is not None:  # also that older records of clean files are settled
            error = self.confirm_all() if clean else self.settle_refused() or self.confirm(journal.last)
            left += [file for file, generation in done if error or generation != journal.generation]
            left += clean if error else []
        return [file for file in left if not (file.withheld and file.journaled.has_all())]  # what was recovered

    def append_later(self, file: EngineFile) -> Job[list[EngineFile]]:
        """Do `append` once the call that holds a file has ended, on a thread. BlockingIOError: there is none."""
        with self._lock:
            job = self._later.get(file)
            if job is None:
                job = Job(partial(self._append_later, file), key=file.key, then=self.volume.cache.native.wake_all)
                thread = threading.Thread(target=job.run, name="pagecache-journal", daemon=True)
                start_thread(thread, f"that waits for {file.key!r}")
                self._later[file] = job  # last: an interrupt leaves none that does not run
        return job

    def _append_later(self, file: EngineFile) -> list[EngineFile]:
        try:
            file.run(LOCK, "holding", lambda: self.volume.check_alive(file.key))
        finally:
            with self._lock:
                self._later.pop(file, None)  # first: a later sync is perhaps about later bytes
        return self.append([file])

    def confirm(self, lsn: int) -> OSError | None:
        """Wait until the device has all records up to this one; return the error that keeps it from that."""
        return self._tried(lambda: self.journal().confirm(lsn))

    def _tried(self, call: Callable[[], object]) -> OSError | None:
        try:
            call()
        except OSError as error:
            self.failed(error)
            return error
        self._refuses(None)
        return None

    def lacks_saved(self) -> bool:
        """Return whether `record_saved` has anything to do."""
        journal = self._journal
        return journal is not None and (journal.is_behind() or any(file.is_saved() for file in list(self._waiting)))

    def record_saved(self) -> OSError | None:
        """Record what the store has, and wait for the device: a crash must not bring bytes back that were saved since.
        Return the error.
        """
        for file in list(self._waiting):
            if (error := file.settle(NEVER)) is not None:
                return error
        return self.confirm_all()

    def confirm_all(self) -> OSError | None:
        """Wait until the device has all records, and return its error."""
        journal = self._journal
        if (error := self.settle_refused()) is not None:
            return error
        if journal is not None and journal.lacks() and (error := self._tried(journal.restate)) is not None:
            return error
        return None if journal is None else self._tried(lambda: self.confirm_saved(journal.last))

    def confirm_saved(self, lsn: int) -> None:
        """Wait until the device has what was recorded of saved files, up to this record. OSError: of the disk."""
        journal = self.journal()
        if not (owes := journal.owes()):
            with contextlib.suppress(OSError):
                journal.confirm(lsn)
                return
        journal.restate()
        if owes or journal.owes():  # else all was stated anew and confirmed after a sync that failed
            journal.confirm(journal.last)

    def confirm_file(self, file: EngineFile) -> None:
        """Record that the store has a file, and wait for the device: a crash must bring no older bytes back. OSError:
        the disk fails, and it might.
        """
        try:
            file.journaled.confirm_saved()
            if (error := self.settle_refused()) is not None:
                raise error
            if (journal := self._journal) is not None:
                self.confirm_saved(journal.last if journal.owes() else self.freed)
        except OSError:
            if self.ended:  # a commit on the thread of its caller has outlasted the volume
                self.volume.check_alive(file.key)
            raise

    def settle_refused(self) -> OSError | None:
        """Record that freed files are saved of which the disk took no record; return its error."""
        errors = (former.freed() for former in list(self._refused))
        return next((error for error in errors if error is not None), None)

    # -- saving in the background, on the flusher

    def poll(self, now: float) -> float:
        """Record what was saved, of some files; begin to save those that are due. Return seconds to the next check."""
        journal = self._journal
        delay = self._save_due(now)
        if journal is None or not journal.lacks():
            return delay
        if now >= self._confirm_at and self.confirm_all() is not None:
            self._confirm_at = now + AGAIN
        return min(delay, AGAIN)

    def _save_due(self, now: float) -> float:
        for ticket in [each for each in self._saving if each.done()]:
            for file in self._saving.pop(ticket):
                file.set_sent(False)
            if ticket.errors:
                self._not_before = now + AGAIN
        if not self._waiting:
            return AGAIN if self._saving else float("inf")
        if not self._turn:
            with self._lock:
                self._turn = deque(self._waiting)
        expire, journal = self.volume.cache.config.dirty_expire, self._journal
        crowded = journal is not None and journal.bytes > journal.limit // 2
        due: list[Journaled] = []
        delay = expire
        for _ in range(min(TURN, len(self._turn))):
            file = self._turn.popleft()
            if now >= self._confirm_at and file.settle() is not None:
                self._confirm_at = now + AGAIN
            if file.is_live():
                left = file.due + expire - now
                if left <= 0 or crowded:
                    due.append(file)
                else:
                    delay = min(delay, left)
        if self._turn:
            delay = 0.0
        ready = [file for file in due if file.may_be_saved()]
        if ready and now < self._not_before:
            return min(delay, self._not_before - now)
        if ready and len(self._saving) < SAVING_MAX:
            for file in ready:
                file.set_sent(True)
            self._saving[self.begin_saving([file.file for file in ready])] = ready
        return min(delay, AGAIN) if due or self._saving else delay

    def files(self) -> list[EngineFile]:
        """Return the files with records that may be unsaved."""
        return [each.file for each in list(self._waiting)]


class Journaled:
    """What the journal has of one file. Made with its first append."""

    def __init__(self, file: EngineFile, owner: VolumeJournal) -> None:
        self.file, self._owner = file, owner
        self._lock = threading.RLock()  # a signal handler may discard what its thread appends
        self._number = 0
        self._generation = -1
        self._whole = True  # the next append describes the file anew
        self._marks: deque[_Mark] = deque()  # oldest first: of what the next SAVED is about
        self._sent: _Mark | None = None  # the oldest mark when the running save began
        self._last = self._content = 0  # LSNs of its last record, and of the last one of its content
        self._size = 0  # to which its records lead
        self._known: str | None = None  # the version below, as the journal has it
        self._naming: tuple[str | bytes | None, bool] = None, False  # `renaming` and `removing` of a call for its name
        self._begins_cut = False  # its description has cuts or holes, which may stop to count before what follows
        self._cut = False  # records have cut or punched it since nothing of it was unsaved
        self._lacks = False  # it has less than was changed, or is out of date
        self._appended_to = False  # by another program, before its bytes were laid: all is saved before the next append
        self._failed = False  # the last append of what a start lays: the disk may have it as a whole
        self._committing = False  # a commit of the whole object may be in the store, with a version that is not known
        self._acknowledged = 0  # bytes that the store had taken of it before its first record
        self.due = 0.0
        """When its oldest unsaved record was appended."""
        self.asked = 0
        """The epoch up to which its writer has saved it: the last fsync that the journal took."""

    # -- append

    def begin(self, until: float | None = None) -> int | None:
        """Append what the journal lacks; the caller confirms it. Return the generation of the journal in which that
        counts; None: it is to be saved in the store. TimeoutError: the inode lock was not free `until` then.
        """
        done: list[int | None] = []
        self.file.run(LOCK, "holding", lambda: done.append(self._append()), until)
        return done[0]

    def _append(self, *, asked: bool = True) -> int | None:
        """The inode lock is held. `asked`: by the writer; else only what a commit is about to store."""
        file = self.file
        with self._lock:
            try:
                journal = self._owner.journal()
                generation = journal.generation  # first: what an earlier one has may stop to count at any moment
                self._settle(journal)
                if not (asked or self._foresees(journal)):
                    return None
                if not self.is_live():
                    self._lacks = False  # all may have been saved just as a direct write passed by
                if not (file.has_local() or self.is_live()):
                    file.cut_unlogged()
                    return generation
                if not self._counts():
                    self._whole = True
                    self._lacks |= self._cut or (self._begins_cut and journal.unsaved_size(self._number) is not None)
                self._generation = generation
                rebases = self.file.rebases
                if not self._may_append():
                    return None
                self._append_changes(journal)
                if self.file.rebases != rebases:  # it may be of two versions
                    self._lacks = True
                    return None
                if asked:
                    self._add_asked_mark()
                return generation
            except NotStagedError:
                return None
            except (OSError, ValueError) as error:
                self._owner.failed(error)
                return None
            finally:
                self._add_mark()

    def _foresees(self, journal: Journal) -> bool:
        """Return whether the journal lacks little, and a commit that begins now stores just what is local."""
        file, at, left = self.file, 0, journal.segment // 4
        if not self._marks or self._whole or not self._counts() or file.unlogged() != 1:
            return False
        if file.staged_bytes() or len(file.owed) or file.range_next(0, END, DIRTY | WRITEBACK) != END:
            return False
        while left >= 0 and (found := file.unlogged_from(at)) is not None:
            at, left = found[1], left - (found[1] - found[0])
        return left >= 0

    def _may_append(self) -> bool:
        file = self.file
        given_up = file.abandoned or file.is_cut_off() or (file.withheld and not self._marks)
        if self._lacks or self._appended_to or file.removed or given_up or file.conflict is not None:
            return False
        if not file.has_local() or file.rebases % 2:
            return False  # a commit ends: until that is noted, older records lie over what it has stored
        if file.withheld and file.changed_since(self.asked):
            return False  # only its writer publishes that
        if not isinstance(file.key, str | bytes):
            return False
        if not self._marks and file.undone()["hole_end"] and not hasattr(file.backend_file, "rollback"):
            return False  # holes that the store has and did not commit: of such a store nothing lists them
        return not (file.number("write_pinned") or file.direct_ranges() or file.direct_count())

    def _append_changes(self, journal: Journal) -> None:
        file = self.file
        if not self._number or not self._marks or file.unlogged() > 1:
            self._whole = True
        if self._whole:
            self._describe(journal)
        else:
            at = 0
            while (found := file.unlogged_from(at)) is not None:
                begin, at = found
                self._bytes(journal, begin, min(at, file.size))
                file.cut_unlogged(begin, at)
        if self._size != file.size:
            self._put(journal, records.size(self._number, file.size))
        self._note_base(journal)

    def _note_base(self, journal: Journal) -> None:
        """Record that the unsaved bytes lie over another version than before: after a rename, or a settled conflict."""
        file, base = self.file, self.file.versions.base
        known = base == self._known or file.versions.stale or file.versions.copied
        if known or self._lacks or self._naming != (None, False) or not file.limits().commit_on_close:
            return
        self._put(journal, records.renamed(self._number, self._key(), base))
        self._known = base

    def _key(self) -> str | bytes:
        key = self.file.key
        assert isinstance(key, str | bytes)
        return key

    def _describe(self, journal: Journal) -> None:
        """Append the file as the store has it, and all that was written since."""
        acknowledged = self.file.number("acknowledged")
        file = self.file
        ranges = file.written_ranges()  # first: bytes that a commit saves later are in it, or in the size below
        undone = file.undone()
        if not self._number:
            self._number = journal.number()
            self._owner.numbers.add(self._number)
        before = journal.unsaved_size(self._number)  # None: all that was appended is saved, or does not count
        if before is None:
            self._acknowledged = acknowledged
        elif self._acknowledged != file.number("acknowledged"):
            raise NotStagedError  # it may have saved bytes that are newer than earlier records
        created, lowest = bool(undone["created"]), int(undone["lowest"])
        base = None if created else self.file.versions.base
        size = 0 if created else min(file.remote_size, lowest)
        self._begins_cut = lowest != END or file.size < size or bool(file.commits.holes)
        self._put(journal, self._state(base, size, created=created))
        self._known = base if before is None else self._known
        self._size = size if before is None else before
        # A cut is a change, also if nothing else is. It comes last if earlier records have bytes that follow anew.
        if file.size < self._size or (lowest != END and before is None):
            self._put(journal, records.size(self._number, min(file.size, self._size)))
        # Never zeros over bytes that were written: earlier records may have them, confirmed.
        zeros = Ranges()
        for begin, end in (
            *file.commits.holes,
            *([(lowest, file.size)] if before is not None and lowest < file.size else []),
        ):
            zeros.add(begin, min(end, file.size))
        for begin, length in ranges:
            zeros.cut(begin, begin + length)
        for begin, end, inside in list(zeros.pieces(0, file.size)):
            if inside:
                self._put(journal, records.hole(self._number, begin, end - begin))
        file.cut_unlogged()
        try:
            for begin, length in ranges:
                self._bytes(journal, begin, min(begin + length, file.size))
        except BaseException:
            file.count_unlogged()
            raise
        if self._committing:  # behind what its version may have
            self._put(journal, self._attempt(self._number))
        self._whole = False

    def _state(self, base: str | None, size: int, *, created: bool) -> Record:
        (renaming, removing), volume = self._naming, self._owner.volume
        names: dict[str, Any] = {"renaming": renaming, "removing": removing, "created": created}
        identity = volume.lasting_identity(self.file.identity)
        key, number = self._key(), self._number
        return records.file(number, self._owner.volume_id, key, base, size=size, identity=identity, **names)

    def _bytes(self, journal: Journal, begin: int, end: int) -> None:
        """Append bytes of the file: those of the memory, or else of the spool, which may have older ones as well."""
        file = self.file
        while begin < end:
            room = bytearray(min(end - begin, records.DATA_MAX, journal.segment // 4))
            with memoryview(room) as data:
                stop, valid = 0, file.read_valid(begin, room)
                while (at := valid.find(0, stop)) >= 0:
                    stop = valid.find(1, at) % (len(room) + 1)  # -1: none follows
                    while at < stop:
                        at += file.read_staged(begin + at, [data[at:stop]])
                self._put(journal, records.data(self._number, begin, len(room)), [data])
            begin += len(room)

    def _put(self, journal: Journal, record: Record, buffers: list[memoryview] | None = None) -> None:
        self._failed |= record.kind in records.LAID  # until it is appended
        self._last = journal.append(record, buffers or (), self._owner)
        self._failed = False
        self._content = self._last if record.kind in records.CONTENT else self._content
        self._size = records.size_after(record, self._size)

    def _add_mark(self) -> None:
        """Mark what was appended since the last mark, even by a call that an interrupt has ended."""
        written = self._owner.journal().written(self._number) if self._number else 0
        if written <= (self._marks[-1].lsn if self._marks else 0):
            return
        mark = self._owner.mark(max(written, self._last))
        if not self._marks:
            self.due = self._owner.volume.clock.now()
            self._marks.append(mark)
            self._owner.add(self)
        elif len(self._marks) > 1 and self._marks[-1].syncs == mark.syncs:
            self._marks[-1] = mark
        else:  # a sync between the two may save bytes that no record has, over records of the first mark alone
            self._marks.append(mark)

    def _add_asked_mark(self) -> None:
        self._add_mark()
        self.asked = self._marks[-1].stamp if self._marks else 0

    # -- saved

    def settle(self, deadline: Deadline | None = None) -> OSError | None:
        """Record what the store has, and return the error of the disk. Without a deadline, an append that runs is left
        to do so itself.
        """
        if not self._marks:
            return None
        if self.file.freed:
            return self.freed()
        while not self._lock.acquire(timeout=0.0 if deadline is None else min(SLICE, deadline.left())):
            if deadline is None:
                return None
            if deadline.passed():
                return deadline_error("sync", self.file.key, then="the disk tier is busy")
        try:
            if not self.file.freed:
                self._settle(self._owner.journal())
        except OSError as error:
            self._owner.failed(error)
            return error
        finally:
            self._lock.release()
        return None

    def _settle(self, journal: Journal) -> None:
        if self._marks and self.file.is_synced(self._marks[0].stamp):
            journal.change(partial(self._settle_saved, journal))  # a signal handler might do it within the append

    def _settle_saved(self, journal: Journal) -> None:
        """The lock is held."""
        while self._marks and self.file.is_synced(self._marks[0].stamp):
            while len(self._marks) > 1 and self.file.is_synced(self._marks[1].stamp):
                self._marks.popleft()
            self._saved(journal)

    def _saved(self, journal: Journal) -> None:
        self._add_mark()
        mark = self._marks[0]
        version = None if self.file.versions.stale else self.file.versions.base
        stored = self.file.number("saved_size")
        size = (stored - 1,) if stored else ()
        self._last = journal.append(records.saved(self._number, mark.lsn, version, *size), by=self._owner)
        self._marks.popleft()
        self.due = self._owner.volume.clock.now()
        if not self._marks:
            self._end(journal)

    def _end(self, journal: Journal) -> None:
        """The journal has nothing unsaved of the file."""
        self._owner.drop(self)
        self._owner.numbers.discard(self._number)
        journal.release(self._number)
        self._marks.clear()
        self._number, self._whole, self._known = 0, True, None
        self._cut = self._lacks = self._appended_to = False

    def confirm_saved(self) -> None:
        """Do `VolumeJournal.confirm_file`, of this file alone."""
        if self._last or self._failed:
            journal = self._owner.journal()
            with self._lock:
                self._settle(journal)
            self._void_failed()
            self._owner.confirm_saved(self._last)

    def _void_failed(self) -> None:
        """Let a record that could not be appended return in no start."""
        if self._failed and (journal := self._owner.journal()).lacks():
            journal.restate()

    def freed(self) -> OSError | None:
        """Record that nothing of the file is unsaved: CORE has freed it. Return the error of the disk."""
        refused: OSError | None = None
        with self._lock:
            try:
                if self._marks:
                    self._owner.journal().change(self._settle_freed)
                self._void_failed()
            except OSError as error:
                refused = error
                self._owner.failed(error)
            if self._last or self._failed:
                self._owner.note_freed(self, recorded=refused is None)
        return refused

    def _settle_freed(self) -> None:
        while self._marks:
            while len(self._marks) > 1:
                self._marks.popleft()
            self._saved(self._owner.journal())

    # -- beside it

    def is_live(self) -> bool:
        """Return whether the journal has unsaved records of the file."""
        return len(self._marks) > 0

    def is_saved(self) -> bool:
        """Return whether the store has what its next SAVED is about."""
        oldest = self._mark(0)
        return oldest is not None and (self.file.freed or self.file.is_synced(oldest.stamp))

    def has_all(self, deadline: Deadline | None = None) -> bool:
        """Return whether the journal has all that is local, as it is now; not while an append hangs. A call with a
        deadline waits for that.
        """
        if not self._marks:
            return False
        while not self._lock.acquire(timeout=SLICE):
            if deadline is None or deadline.passed():
                return False
        try:
            lacks = self._whole or self._lacks or self.file.unlogged() > 0
            return bool(self._marks) and not lacks and self._counts()
        finally:
            self._lock.release()

    def _counts(self) -> bool:
        """Return whether each of its records counts, as no sync of the device has failed that was about one."""
        journal, last = self._owner.journal(), self._marks[-1].lsn if self._marks else self._last
        # One of its content may have stopped to count before it was marked.
        return journal.generation == self._generation or not journal.has_void(max(last, self._content))

    def note(self, make: Callable[[int], Record], *, confirm: bool = False) -> bool:
        """Append a record of something that has happened, or with `confirm` is about to happen, to the file. False: the
        disk does not take it.
        """
        with self._lock:
            if not self._marks:
                return True
            record = make(self._number)
            changes = record.kind in records.CONTENT
            self._cut |= changes
            try:
                self._put(self._owner.journal(), record)
                if changes:
                    self._add_mark()
                if confirm:
                    self._owner.journal().confirm(self._last)
            except OSError as error:
                self._whole = True
                self._lacks |= changes
                self._owner.failed(error)
                self._owner.volume.cache.flusher.wake()
                return False
            return True

    def cut(self, size: int) -> None:
        """Record a truncate. The inode lock is held."""
        self._change(lambda number: records.size(number, size), min(size, END - 1), END)

    def punched(self, begin: int, end: int, views: bool) -> None:
        """Record a hole. `views`: writable ones have perhaps stored to it since. The inode lock is held."""
        self._whole |= views and self.is_live()
        self._change(lambda number: records.hole(number, begin, end - begin), begin, end)

    def _change(self, make: Callable[[int], Record], begin: int, end: int) -> None:
        """Record a change that leaves no bytes in a range."""
        if self._lacks or self._appended_to:  # its offsets are those of other content than the records lead to
            self.outdate()
            return
        self.note(make)
        if self._marks:
            self.file.cut_unlogged(begin, end)

    def dropping(
        self, begin: int, end: int, drop: Callable[[], list[tuple[int, int]]], *, taken: bool
    ) -> list[tuple[int, int]]:
        """Give bytes up by a call of `drop`, and record it. It may drop more, to the bounds of a block. `taken`: and
        all else that was not saved, for another version.
        """
        with self._lock:
            dropped = drop()
            if dropped:
                begin, end = min(begin, dropped[0][0]), max(end, sum(dropped[-1]))
            if self._marks:
                if self.file.has_local() and not taken:  # perhaps bytes of this range that are written beside it
                    self.note(lambda number: records.dropped(number, begin, min(end, END // 2) - begin))
                    if self.file.size < self._size:
                        self.note(lambda number: records.size(number, self.file.size))
                    if not self.file.withheld or self.file.changed_since(self.asked):  # not what is recovered and held
                        self.outdate()
                elif self.note(lambda number: records.discarded(number, self.file.size)):
                    self._end(self._owner.journal())
            return dropped

    def given_up(self) -> None:
        """Record that nothing of it will be saved, its creation and size included: the volume ends."""
        with self._lock:
            if self._marks and self.note(lambda number: records.discarded(number, self.file.size)):
                self._end(self._owner.journal())

    def confirm_dropped(self) -> None:
        """Wait for the device: a crash must not bring back what was given up. The journal owes what is refused."""
        owner = self._owner
        if (self._last or self._failed) and owner._tried(self.confirm_saved) is not None:
            owner.volume.cache.flusher.wake()

    def leave(self) -> None:
        """Leave to the next attach what is unsaved: nothing that becomes of the file is recorded any longer."""
        with self._lock:
            self.settle()
            self._marks.clear()

    def saving(self) -> None:
        """Record that a commit of a whole object is about to begin, and first what it stores: a start knows it by that.
        Not beside a call that holds the file. The token is held.
        """
        with self._lock:
            self._committing = True
            if self._marks:
                self.file.run_if_free(LOCK, "holding", partial(self._append, asked=False))
            self.note(self._attempt, confirm=True)

    def _attempt(self, number: int) -> Record:
        """Return SAVING, for all of its content that the journal has now."""
        return records.saving(number, self._owner.journal().written(number))

    def stored(self, version: object, backend_file: BackendFile) -> None:
        """Record the version that the commit has made: unsaved bytes lie over that one from now on. If the file has
        another one of the backend by now, they lie over what a later commit has made.
        """
        with self._lock:
            if self._owner.ended or not self.file.uses(backend_file):
                return
            self._committing = False
            if isinstance(version, str) and not self._lacks and self._naming == (None, False):
                self._known = version
                self.note(lambda number: records.renamed(number, self._key(), version), confirm=True)

    def renaming(self, key: Key) -> None:
        """Record that a call is about to change its name; `VolumeJournal.confirm_all` follows."""
        if isinstance(key, str | bytes):
            with self._lock:
                self._naming = key, False
                self.note(lambda number: records.renaming(number, key))

    def removing(self, by: Key | None = None) -> None:
        """Record that a call is about to take its name, for the stored object that has the name `by`."""
        source = by if isinstance(by, str | bytes) else None
        with self._lock:
            self._naming = source, True
            self.note(lambda number: records.removing(number, source))

    def renamed(self, key: Key) -> None:
        """Record its name, after a call that might have changed it."""
        with self._lock:
            self._naming = None, False
            if isinstance(key, str | bytes):
                base = () if self._lacks else (None,)  # records of another version are laid over none
                self._known = self._known if self._lacks else None
                self.note(lambda number: records.renamed(number, key, *base))

    def kept_name(self, key: Key) -> None:
        """Record that a call has changed neither its name nor the version below."""
        with self._lock:
            self._naming = None, False
            if isinstance(key, str | bytes):
                self.note(lambda number: records.renamed(number, key))

    def outdate(self) -> None:
        """Record that its records are out of date. Takes no lock."""
        self._lacks |= self.is_live()

    def identified(self) -> None:
        """Record the identity that the object has in another backend, or was made again with."""
        created = bool(self._marks and self.file.undone()["created"])
        self.note(lambda _: self._state(self._known, self._size, created=created))

    def follows(self) -> None:
        """Record which version its name has led to since a rename: its next commit replaces that one."""
        with self._lock:
            if self._marks:
                try:
                    self._note_base(self._owner.journal())
                except OSError as error:
                    self._whole = True
                    self._owner.failed(error)

    def removed(self) -> None:
        """Record that it has lost its last name. What the disk refuses the journal owes."""
        with self._lock:
            if self._marks:
                self.note(records.removed, confirm=True)
                self._end(self._owner.journal())

    def adopt(self, number: int, lsn: int, state: FileState) -> None:
        """Take over what an earlier process has left of the file, whose bytes are local now."""
        with self._lock:
            journal = self._owner.journal()
            self._number, self._last, self._size, self._known = number, lsn, state.size, state.base
            generation = journal.generation  # first: a sync may fail beside this, as it may have since the reading
            self._generation = -1 if journal.is_void(lsn) else generation
            self._content, self._cut = lsn, True
            self._whole = journal.unsaved_size(number) is None  # a discard was refused: the journal owes it
            self._appended_to = self.file.size != state.size
            self.file.cut_unlogged()
            self._add_asked_mark()
            if state.renaming is not None or state.removing:  # whether that was done is known now
                self._known = self.file.versions.base
                self.note(lambda number: records.renamed(number, self._key(), self._known), confirm=True)

    @property
    def number(self) -> int:
        """The file of the journal; 0: none."""
        return self._number

    def may_be_saved(self) -> bool:
        """Return whether a save may begin of what is unsaved: none runs, and nothing forbids it. It would publish what
        a writer has not saved yet of a whole object (contract 2.22).
        """
        file = self.file
        if self._sent is self._mark(0) or file.freed or file.is_given_up():
            return False
        newest = self._mark(-1)  # if the store has that, only the disk lacks a record
        unsaved = file.limits().commit_on_close and file.changed_since(self.asked)
        return newest is not None and not (unsaved or file.is_synced(newest.stamp))

    def set_sent(self, sent: bool) -> None:
        """Record that a save of it runs, or has ended."""
        self._sent = self._mark(0) if sent else None

    def _mark(self, index: int) -> _Mark | None:
        with contextlib.suppress(IndexError):
            return self._marks[index]
        return None

    def save_soon(self) -> None:
        """Let the flusher save it in its next turn."""
        self.due = float("-inf")
        self._owner.volume.cache.flusher.wake()


NOT_JOURNALED = Journaled(cast("EngineFile", None), cast(VolumeJournal, None))
"""The part of every file that the journal has had nothing of: no method changes it, or looks at a file or a journal."""
NOT_JOURNALED._lock = cast(Any, contextlib.nullcontext())
