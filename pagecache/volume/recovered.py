"""Files that an earlier process has left in the disk tier: bytes that are in its journal, and not in the store.

    attach                      finds them
    first call for its key,
    or open of its object, or
    a thread that resumes       has the bytes laid over the stored object: they are local, and unsaved like any others
    a save                      the journal forgets them

Before it has been laid nothing of a file changes, so a crash at any moment leaves what there was. How it is laid:
`laying.py`. A call of an ended volume that still runs on the object returns first: it may land over later bytes.

No call gets an open file of the object before its bytes are laid, by whatever name: they are laid beside no others. A
call for the name of a gone object, or an open by another one, looks again; without identities its bytes are given up
when a call of this cache gives that away. If no look tells which object a file belongs to, all that are opened for
writing are noted: bytes are laid over none of these, unless a program resumes them by name. A thread of its own lays
each file, and callers wait for that: no deadline or interrupt of theirs strikes in the middle.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from bisect import bisect_left
from collections.abc import Hashable
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from ..engine.attempts import Attempts
from ..engine.foreign import as_os_error, named
from ..engine.park import SLICE, Deadline, deadline_error, start_thread
from ..engine.report.notices import cause, spans
from ..engine.report.reason import Reason, during
from ..engine.retryer import is_transient
from ..engine.runner import Job
from ..engine.volume import threads_of
from ..errors import Key, LostRange, ShutdownError
from ..stats import RecoveredFile
from .keys import is_below
from .laying import GONE, Left, canonical, end_hold, journal_of, lay_readable, room_to_lay, take_back, written

if TYPE_CHECKING:
    from ..disk.records import FileState
    from ..disk.recovery import Unsaved
    from ..disk.tier import Tier
    from ..engine.file import EngineFile
    from .inode import Inode
    from .volume import Volume

    Known = dict[int, tuple[int, Unsaved | None]]
    """Files by number, as they were read: with the number of `Journal.unsaved`; None: they cannot be read."""
    Found = dict[int, Unsaved | None]

AGAIN = 5.0
"""Seconds between two tries."""
PAUSE = 1.0
"""Most seconds after the attach, in which a program can look at the files that were found."""
VISIT = 1.0
"""Most seconds that the thread waits for one file before it begins the next one."""
LOOKS = 8
"""Maximum failed looks that a round makes again."""
TICK = 0.02
"""Seconds between two checks whether all is laid."""

_taking = threading.RLock()
"""Guards the bytes that recoveries withhold; held briefly, as `Recovery._starting`."""


def _after_fork() -> None:
    """Forget in a child a lock that a thread of the parent may have had."""
    global _taking
    _taking = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class Awaited:
    """A file that is laid for a sync: that is over, or fails, after this was made; or the volume is about to end."""

    def __init__(self, left: Left, stop: threading.Event) -> None:
        self._left, self.before, self._asked = left, left.laying_error, left.asked
        self.key, self._stop = left.key, stop
        self._error: OSError | None = None

    def error(self) -> OSError | None:
        failed = self._left.laying_error
        if self._error is None and not self._left.over:
            if failed is not None and failed is not self.before and failed[0] >= self._asked:  # not before a resume
                self._error = named(as_os_error(failed[1], self.key), self.key)
            elif self._stop.is_set() and self._left.waits():  # nothing is laid any longer
                self._error = ShutdownError("the volume is being detached", self.key)
        return self._error

    def waits(self) -> bool:
        return self._left.waits() and self.error() is None

    def inode(self) -> Inode | None:
        """Return its object, whose bytes are local; None: there are none."""
        return self._left.inode

    def late(self, what: str) -> TimeoutError:
        return deadline_error(what, self.key, then="recovered bytes are laid over the object")


class Recovery:
    """The files that were left for one volume."""

    def __init__(self, volume: Volume, tier: Tier, volume_id: str, left: list[Left]) -> None:
        self._volume, self._tier, self._volume_id = volume, tier, volume_id
        self._left = left
        self._names: dict[Key, list[Left]] = {}
        self._objects: dict[Hashable | None, list[Left]] = {}  # by identity
        self._unseen: dict[Left, int] = {}  # those without one, and failed looks: `_see` asks for that of this process
        self._see_at, self._seen = 0.0, volume.engine.reconnects  # when it goes on; by which backend
        self._written: dict[Hashable, int] = {}  # objects opened for writing while looks were left; `_resumes` then
        self._written_before: int | None = None  # the last one by an earlier backend
        self._resumes = 0  # of names
        for each in left:
            if each.unsaved.state.identity is not None:
                self._objects.setdefault(each.unsaved.state.identity, []).append(each)
            else:
                self._unseen[each] = each.resumed = 0
            renaming = each.unsaved.state.renaming
            for name in (each.key,) if renaming is None else (each.key, canonical(volume, renaming)):
                self._names.setdefault(name, []).append(each)
        self._sorted = sorted(name for name in self._names if isinstance(name, str))
        self._laid: dict[EngineFile, Left] = {}
        self._lost: dict[Key, list[LostRange]] = {}  # given up of gone objects, by names: the next opener reports it
        self._withheld: list[Left] = []  # files that were laid, and are held
        self._starting = threading.RLock()  # held briefly; signal handlers may make calls in between
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._hurry = threading.Event()  # ends a pause of the thread
        self._said = False  # the thread has logged an error

    # -- what there is

    def files(self) -> list[RecoveredFile]:
        for each in self._left:
            if each.inode is not None:
                each.inode.journaled.settle()
        unsaved = set(self._tier.unsaved(self._volume_id))
        return [_described(each) for each in self._left if each.unsaved.number in unsaved]

    def kept(self) -> list[RecoveredFile]:
        """Return the files that only the tier has and nothing saves: held, or not laid. Does not wait for the disk."""
        left = [each for each in self._left if (not each.over if each.inode is None else each.inode.withheld)]
        unsaved = self._tier.unsaved_now(self._volume_id) if left else {}
        return [_described(each) for each in left if unsaved is None or each.unsaved.number in unsaved]

    def begun(self) -> list[tuple[int, Inode]]:
        """Return the files that are being laid, or were, as numbers in the journal and objects."""
        return [(each.unsaved.number, each.begun) for each in self._left if each.begun is not None]

    def size(self, name: Key, identity: Hashable | None) -> int | None:
        """Return the size of an object with bytes that are to be laid; None: it has none."""
        known = (None, self._volume.engine.lasting_identity(identity)) if name in self._names else ()
        waiting = (each for each in self._names.get(name, ()) if each.key == name and not each.over)
        return next((each.unsaved.state.size for each in waiting if each.unsaved.state.identity in known), None)

    def below(self, prefix: str) -> dict[str, FileState]:
        """Return what is to be laid of objects whose names start with `prefix`, by name; an object that is laid since
        is among those with local bytes.
        """
        names = takewhile(lambda each: each.startswith(prefix), self._sorted[bisect_left(self._sorted, prefix) :])
        files = ((name, each) for name in names for each in self._names[name])
        return {name: each.unsaved.state for name, each in files if each.key == name and not each.over}

    def has_draft(self, key: Key) -> bool:
        """Return whether a new object has a name, and is to be laid: a store has nothing of it before a commit."""
        name, whole = canonical(self._volume, key), self._volume.engine.backend.limits.commit_on_close
        drafts = (each for each in self._names.get(name, ()) if each.key == name and each.unsaved.state.created)
        return bool(whole) and not all(each.over for each in drafts)

    def has_other(self, state: FileState) -> bool:
        """Return whether another file was left of the name: a rename, of which the store has no trace, gave it that."""
        name = canonical(self._volume, state.key)
        return any(each.key == name and each.unsaved.state is not state for each in self._names.get(name, ()))

    # -- before other calls

    def first(self, tries: Attempts, *names: Key, tree: bool = False) -> None:
        """Lay the bytes that were left of the objects of these canonical names, before a call for them and within its
        deadline; `tree`: and of those below them.
        """
        for name in names:
            for each in self._names.get(name, ()):
                self._lay(each, tries)
            if tree and isinstance(name, str):
                for below in self._below(name):
                    for each in self._names[below]:
                        self._lay(each, tries)

    def opened(self, name: Key, inode: Inode, tries: Attempts) -> None:
        """Lay the bytes that were left of an object before its handle is used: it has come back, or has other names."""
        self._check_backend()
        if self._unseen and inode.identity is not None:
            self._see(tries)
        identity = self._volume.engine.lasting_identity(inode.identity) if self._objects else None
        objects = [each for one in {identity, inode.identity} for each in self._objects.get(one, ())]
        for each in dict.fromkeys((*self._names.get(name, ()), *objects)):
            if each.unsaved.state.identity in (None, identity):
                each.link = None if each.unsaved.state.identity is None else name
                if self._lay(each, tries) and not each.over:  # it has looked before this open
                    self._lay(each, tries)
        if name in self._lost:
            with self._volume.inodes_lock:
                inode.record_loss(self._lost.get(name, []), seen=False)
                self._lost.pop(name, None)

    def _check_backend(self) -> None:
        """After a reconnect look at objects anew, and take any for one that was written: identities may be others."""
        if self._seen != self._volume.engine.reconnects:
            self._unseen |= {each: 0 for each in self._left if each.unsaved.state.identity is None}
            self._written_before = max(list(self._written.values()), default=self._written_before)
            self._seen = self._volume.engine.reconnects

    def _see(self, tries: Attempts) -> None:
        """Note the objects of files without a lasting identity, once: opens by other names find their bytes. If a look
        fails it is made again by an open some seconds later, behind those of others, a few at a time. A transient error
        ends the round: a dead server costs one wait.
        """
        engine, fails = self._volume.engine, False
        if (now := engine.clock.now()) < self._see_at:
            return
        unseen = sorted(self._unseen.items(), key=lambda one: one[1])
        first = sum(not failed for _, failed in unseen)
        if not first:  # all have failed: no open beside this makes the looks again, too
            self._see_at = now + AGAIN
        for each, failed in unseen[: first + LOOKS]:
            state, seen = each.unsaved.state, True
            for name in () if each.over else dict.fromkeys((state.key, state.renaming or state.key)):
                found = None
                try:
                    found = tries.repeated(partial(engine.backend.stat, name), again=False).identity
                except OSError as error:
                    if isinstance(error, ShutdownError) or tries.deadline.passed():
                        raise
                    if error.errno not in GONE:
                        seen, self._unseen[each] = False, failed + 1
                        if is_transient(error):
                            self._see_at = engine.clock.now() + AGAIN
                            return
                if found is not None and each not in (known := self._objects.setdefault(found, [])):
                    known.append(each)
            if seen:
                self._unseen.pop(each, None)
            fails |= not seen
        if fails:  # at the end: an open beside the first looks makes them, too
            self._see_at = engine.clock.now() + AGAIN

    def _below(self, name: str) -> list[str]:
        begin = bisect_left(self._sorted, name.rstrip("/") + "/")
        return [*takewhile(lambda each: is_below(each, name), self._sorted[begin:])]

    def hurry(self) -> list[Awaited]:
        """Have the thread lay all files not held, for a sync; none for that of the end. BlockingIOError: no thread."""
        if self._stop.is_set() and (turn := self._volume.turn) is not None and turn[0] == threading.get_ident():
            return []
        stop = self._stop
        laying = [Awaited(each, stop) for each in self._left if each.waits()]  # first: a failure after this counts
        if laying:
            self.start()
            self._hurry.set()
        return laying

    def outlast(self, deadline: Deadline, *, again: bool = True) -> list[OSError]:
        """Wait until all files that are not held are laid, or have failed; return the errors. Not `again`: those that
        have failed before are tried in the background.
        """
        engine = self._volume.engine
        try:
            laying = [] if engine.aborted else self.hurry()
        except OSError as error:
            return [error]
        laying = [each for each in laying if again or each.before is None]

        def waits() -> bool:
            return not engine.aborted and any(each.waits() for each in laying)

        def wait() -> None:
            while waits() and not deadline.passed():
                engine.park.wait("volume", engine.native.address, engine.native.event_seq(), min(deadline.left(), TICK))

        if waits():
            during(Reason("the recovery of objects", engine.native), wait)
        late = next((each.late("detach") for each in laying if each.waits()), None) if waits() else None
        return [error for error in (late, *(each.error() for each in laying)) if error is not None]

    def _tries(self, each: Left, timeout: float | None = None) -> Attempts:
        return self._volume._attempts("open", each.key, timeout)

    def _lay(self, each: Left, tries: Attempts) -> bool:
        """Have a file laid, and wait for that within the deadline of a call. Return whether another call began it."""
        if each.over:
            return False
        with self._starting:
            joins = (job := each.laying) is not None and not job.finished()
            if job is None or not joins:
                each.tried, each.since = each.asked, self._volume.engine.reconnects
                job = each.laying = Job(partial(self._lay_or_miss, each), key=each.key)
                thread = threading.Thread(target=job.run, name="pagecache-laying", daemon=True)
                start_thread(thread, f"that recovers files of {self._volume.name!r}")
            tried, since = each.tried, each.since
        if not self._outlast(job, each, tries):
            with self._starting:
                each.laying = None if each.laying is job else each.laying
            return self._lay(each, tries)
        reconnected = isinstance(job.error, ShutdownError) and since != self._volume.engine.reconnects
        if job.error is not None and (reconnected or tried != each.asked):  # resumed
            tries.alive()
            return self._lay(each, tries)
        if job.error is not None:
            raise job.error
        return joins

    def _outlast(self, job: Job[None], each: Left, tries: Attempts) -> bool:
        """Wait for a laying. False: its thread was not started, by an error or an interrupt, and it will not begin."""

        def wait() -> bool:
            while not job.join(min(SLICE, tries.deadline.left())):
                tries.alive()
                if job.cancel():
                    return False
            return True

        return during(Reason("the recovery of the object", self._volume.engine.native, key=each.key), wait)

    def _lay_or_miss(self, each: Left) -> None:
        if each.over:
            return
        while self._tier.is_left_busy(each.unsaved.number):
            self._volume._check_alive(each.key)
            if self._stop.wait(SLICE):
                raise _busy_error(each)
        try:
            self._check_room(each)
            each.tries = Attempts(self._volume.engine, "open", each.key)
            each.inode = lay_readable(self._volume, each, each.tries)
            if each.inode is not None:
                self._laid[each.inode] = each
                each.held &= not each.inode.writers  # by another name
                self._tier.errors += len(each.unsaved.damaged)
                if not each.held:
                    _release(each.inode)
            each.over = True  # last: a sync waits for what is not over
        except ShutdownError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) or error.errno not in GONE:
                self._failed(each, error)
                raise
            if not each.gone:
                what = f"the object below recovered bytes is gone; they stay in the disk tier: {cause(error)}"
                next = "discard gives them up, resume looks again"
                self._volume.engine.say(logging.ERROR, "recovered bytes", what, next, each.key)
            each.gone, each.missed = True, each.tried

    def _failed(self, each: Left, error: Exception) -> None:
        """Tell the syncs that wait for a file. The laying does that: the thread may have left it for the next file."""
        if not each.waits():
            return
        each.laying_error = (each.tried, error)
        if not self._said:
            self._said = True
            what = f"recovered bytes could not be laid over the object: {cause(error)}"
            next = "they stay in the disk tier, and are tried again"
            self._volume.engine.say(logging.WARNING, "recovered bytes", what, next, each.key)

    def _check_room(self, each: Left) -> None:
        """Take memory for bytes that nothing writes back, as a part of the volume's share of the dirty limit."""
        if not each.held:
            return
        cache, engine = self._volume.cache, self._volume.engine
        others = [other.recovery for other in cache.volumes() if other.recovery not in (None, self)]
        with _taking:
            taken = self._count(each) + sum(recovery._count() for recovery in others if recovery is not None)
            room = max(0, cache.limits.dirty_limit // 2 - taken)
            if each.memory > room:
                text = f"{each.memory} recovered bytes are held, and memory has room for {room}: resume them"
                raise OSError(errno.ENOBUFS, text, each.key)
            self._withheld.append(each)
            engine.withheld_bytes += each.memory
        cache._divide_limit()

    def _count(self, but: Left | None = None) -> int:
        """Count the bytes of held files. Saved files, and those that were not laid, have none. `_taking` is held."""
        self._withheld = [one for one in self._withheld if one is not but and one.has_memory()]
        self._volume.engine.withheld_bytes = sum(one.memory for one in self._withheld)
        return self._volume.engine.withheld_bytes

    def forget(self, name: Key) -> list[LostRange]:
        """Give up the bytes of an object that were not laid; return the losses."""
        lost: list[LostRange] = []
        for each in self._named(name):
            if self._tier.is_left_busy(each.unsaved.number):
                raise _busy_error(each)
            settled = False
            while not settled:
                if (job := each.laying) is not None:
                    self._outlast(job, each, self._tries(each))
                with self._starting:
                    if settled := job is each.laying:
                        over, each.over = each.over, True  # none begins
            try:
                if each.inode is None and each.begun is not None and not each.begun.freed:
                    take_back(self._volume, each, each.begun)
                lost += self._forget(each)
            except BaseException:
                each.over = over
                raise
        return lost

    def _forget(self, each: Left) -> list[LostRange]:
        if each.inode is not None or each.unsaved.number not in self._tier.unsaved(self._volume_id):
            return []
        journal_of(self._volume).forget(each.unsaved.number)
        ranges = each.unsaved.ranges or [(each.unsaved.state.size, 0)]
        return [LostRange(each.key, begin, length, 0, self._volume.name) for begin, length in ranges]

    def give_up(self, key: Key, *, tree: bool = False, by: Attempts | None = None) -> None:
        """Give up the bytes of an object that was gone, in a store without identities: its name leads to another one,
        and is busy. `tree`: and those below it. `by`: not those whose laying this is: it makes their object again.
        Takes no lock: what lays them waits for the name, and looks again.
        """
        name = canonical(self._volume, key)
        names = (name, *(self._below(name) if tree and isinstance(name, str) else ()))
        for at, each in [(known, left) for known in names for left in self._names.get(known, ())]:
            if not each.gone or each.tries is by or each.unsaved.state.identity is not None:
                continue
            each.over = True
            try:
                lost = self._forget(each)
            except OSError as error:  # of the disk, and no error of the call: a next start looks again
                journal_of(self._volume).failed(error)
                continue
            if lost:
                self._lost[at] = [*self._lost.get(at, ()), *lost]
                ranges = tuple((entry.offset, entry.length) for entry in lost)
                what = f"recovered bytes at {spans(ranges)} given up: its name is that of another object"
                next = "the next opener raises DataLossError once"
                self._volume.engine.say(logging.ERROR, "data that was given up", what, next, each.key)
                gone = OSError(errno.ENOENT, what, each.key)
                self._volume.engine.emit("disk", each.key, ranges, gone, what, next)

    def _named(self, name: Key) -> list[Left]:
        """Return the files that were left for an object; the store has the name of one with an unrecorded rename."""
        found = self._names.get(name, [])
        for each in [each for each in found if each.unsaved.state.renaming is not None]:
            self._lay(each, self._tries(each))
            if name != (each.key if each.inode is None else each.inode.key):
                found = [other for other in found if other is not each]
        return found

    def opened_for_writing(self, inode: Inode, tries: Attempts) -> None:
        """End the hold of a file, before a handle can change it: so no file that is held has unsaved changes. Nothing
        is laid later over the object of one that was not found.
        """
        if inode.identity is not None:
            if self._unseen or not all(each.over for each in self._objects.get(inode.identity, ())):
                self._written[inode.identity] = self._resumes  # first: a laying looks at it after `has_begun`
            for left in self._objects.get(inode.identity, ()):
                if left.begun is inode:
                    self._lay(left, tries)
        if (each := self._laid.get(inode)) is not None and each.held:
            each.held = False
            inode.set_aside(withheld=False)
            with _taking:
                self._count()

    def discarded(self, inode: Inode) -> None:
        """End the hold of a file of which a discard has left no bytes."""
        if (each := self._laid.get(inode)) is not None and each.held and not inode.unsaved():
            end_hold(self._volume, each, inode, self._tries(each))
            with _taking:
                self._count()

    def has_newer(self, each: Left, inode: Inode) -> bool:
        """Return whether the object that a laying has opened may have newer bytes than a file, by another name, or may
        get some meanwhile: handles from before ask nobody.
        """
        self._check_backend()
        written = self._written.get(inode.identity, self._written_before)
        if written is None or each.resumed is None:
            return False
        if inode.has_writer():
            each.resumed = 0  # what they write counts as newer
        return written >= each.resumed

    def has_begun(self, each: Left, inode: Inode) -> None:
        """Note the object that a file is laid over: that was a look, too."""
        if each in self._unseen and inode.identity is not None:
            self._objects.setdefault(inode.identity, []).append(each)
            self._unseen.pop(each, None)

    # -- in the background

    def resume(self, name: Key | None) -> bool:
        """Return whether a file that was left has the name, or had it."""
        found = self._left
        if name is not None:
            self._resumes += 1
            for each in self._names.get(name, ()):
                each.resumed = None if each.resumed is None else self._resumes
            found = [each for each in self._named(name) if each.inode is None or each.inode.key == name]
            if (inode := self._volume.inodes.get(name)) in self._laid:  # it had another name
                found.append(self._laid[inode])
        for each in found:
            each.held, each.asked = False, each.asked + 1  # first: what lays it looks at the end
            if each.inode is not None:
                _release(each.inode)
        with _taking:
            self._count()
        self.start()
        return bool(found) or name in self._names or any(each.inode and each.inode.key == name for each in self._left)

    def start(self) -> None:
        """Have a thread lay the files that are not held."""
        with self._starting:
            waiting = any(each.waits() for each in self._left)
            if waiting and self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._run, name="pagecache-recovery", daemon=True)
                start_thread(thread, f"that recovers files of {self._volume.name!r}")
                self._thread = thread

    def stop(self, deadline: Deadline) -> None:
        """Let the thread end after the file that it visits, and wait for all that are laid. One that is not, at the
        deadline, stays in the journal.
        """
        self._stop.set()
        self._hurry.set()
        while (thread := self._thread) is not None and thread.is_alive() and not deadline.passed():
            thread.join(min(SLICE, deadline.left()))
        for job in [each.laying for each in self._left if each.laying is not None]:
            while not (job.join(min(SLICE, deadline.left())) or deadline.passed() or job.cancel()):
                pass

    def go_on(self) -> None:
        """Begin again after `stop`: the volume has not ended."""
        self._stop.clear()
        self.start_again()

    def start_again(self) -> None:
        """Start where no caller could use an error: if there is no thread now, a sync or `resume` starts one."""
        with suppress(BlockingIOError):
            self.start()

    def _stops(self) -> bool:
        """Return whether the thread ends. Takes no lock: a handler may end the volume on a thread that has one."""
        if not self._stop.is_set():
            return False
        self._thread = None
        if not self._stop.is_set():  # `go_on` came in between, and found this thread
            self.start_again()
        return True

    def _run(self) -> None:
        self._said = False
        slow: dict[Job[None], Left] = {}  # layings that have outlasted a visit
        self._hurry.wait(min(PAUSE, self._volume.cache.config.flush_interval))
        while True:
            self._hurry.clear()
            failed, called = False, list[int]()
            for each in self._left:
                if self._stops():
                    return
                if not each.waits():
                    continue
                slow = {job: other for job, other in slow.items() if not job.finished()}
                try:
                    if self._tier.is_left_busy(each.unsaved.number):
                        called.append(each.unsaved.number)
                        failed = True
                    elif each.laying in slow or not self._has_room(each, slow):
                        failed = True
                    else:
                        self._lay(each, self._tries(each, VISIT))
                except ShutdownError as error:
                    with self._starting:
                        if self._volume.engine.aborted or self._volume.detached:
                            self._thread = None  # a reconnect starts another one
                            return
                    failed, each.laying_error = True, (each.tried, error)
                except Exception as error:
                    failed, job = True, each.laying
                    if isinstance(error, TimeoutError):  # of the visit, or of the job, which has told it
                        if job is not None and job.began and not job.finished():
                            slow[job] = each
                    elif each.laying_error is None or each.laying_error[1] is not error:
                        self._failed(each, error)
            with self._starting:
                if not failed and not any(each.waits() for each in self._left):
                    self._thread = None
                    return
            self._pause(called)

    def _pause(self, called: list[int]) -> None:
        """Wait until files are tried again: at once if a call of an ended volume on one of those that are `called`
        returns.
        """
        clock = self._volume.engine.clock
        until = clock.now() + AGAIN
        while not self._hurry.wait(SLICE if called else AGAIN) and called and clock.now() < until:
            if not all(map(self._tier.is_left_busy, called)):
                return

    def _has_room(self, each: Left, slow: dict[Job[None], Left]) -> bool:
        """Return whether the thread may lay a file beside slow ones: they take no more than a half of the volume's
        threads, and those with bytes that nothing writes back share the memory for one.
        """
        if not slow:
            return True
        room = room_to_lay(self._volume)
        taken = [other.memory for other in (each, *slow.values()) if other.memory <= room]
        return len(slow) < threads_of(self._volume.engine.backend) // 2 and sum(taken) <= room


def read(tier: Tier, volume_id: str, known: Known) -> Known:
    """Read what was left for a volume, unless that is `known`. It takes as long as the disk."""
    claimed = _claimed(tier)
    numbers = {number: changed for number, changed in tier.unsaved(volume_id).items() if number not in claimed}
    if _are_known(numbers, known):
        return known
    opened = tier.journal()
    # What the start has found is true until a record is appended; its states are those that appends change.
    found = opened.recovered if opened.last == opened.recovered.end else opened.read()
    if not set(opened.recovered.lost).issuperset(found.lost):
        tier.tell_lost()
    files = {unsaved.number: unsaved for unsaved in found.files}
    return {number: (changed, files.get(number)) for number, changed in numbers.items()}


def still_left(tier: Tier, volume_id: str, known: Known) -> Found | None:
    """Return which known files are left now; None: others may be, or they have changed. Does not wait for the disk."""
    claimed = _claimed(tier)  # first: a file with records that did not change since has the volume that it had
    if (unsaved := tier.unsaved_now(volume_id)) is None:
        return None
    numbers = {number: changed for number, changed in unsaved.items() if number not in claimed}
    return {number: known[number][1] for number in numbers} if _are_known(numbers, known) else None


def _claimed(tier: Tier) -> set[int]:
    """Return the files of attached volumes."""
    claimed = set[int]()
    for other in tier.volumes():
        if (journal := getattr(other, "journal", None)) is not None:
            claimed |= journal.numbers
    return claimed


def _are_known(numbers: dict[int, int], known: Known) -> bool:
    return all(number in known and known[number][0] == changed for number, changed in numbers.items())


def find(volume: Volume, tier: Tier, volume_id: str, found: Found, *, hold: bool) -> Recovery | None:
    """Return the recovery of the files that were left for a volume; None: there are none."""
    hold |= (reads := volume._is_read_only())
    if not found:
        return None
    left = [
        Left(volume, replace(unsaved, state=_state(volume, unsaved)), canonical(volume, unsaved.state.key), held=hold)
        for unsaved in found.values()
        if unsaved is not None
    ]
    if len(left) < len(found):
        what = f"{len(found) - len(left)} files in the disk tier cannot be read"
        volume.engine.say(logging.ERROR, "recovered bytes", what, "they stay there")
    if volume.engine.journal is not None:
        volume.engine.journal.numbers |= found.keys()
    total = sum(end - begin for each in left for begin, end in written(each.unsaved, each.unsaved.base_size))
    then = "they wait for Volume.resume" if hold else "they are saved in the background"
    then = "they wait for a volume that may write" if reads else then
    what = f"{len(left)} files with {total} bytes that the store does not have were found in the disk tier"
    volume.engine.say(logging.WARNING, "recovered bytes", what, then)
    return Recovery(volume, tier, volume_id, left)


def _state(volume: Volume, unsaved: Unsaved) -> FileState:
    """Return a copy. A new object that was stored since is new no longer."""
    state = deepcopy(unsaved.state)
    state.created &= not (state.base and volume.engine.backend.limits.commit_on_close)
    return state


def _busy_error(each: Left) -> OSError:
    return OSError(errno.EBUSY, "a call of a volume that has ended still runs on the object", each.key)


def _described(left: Left) -> RecoveredFile:
    unsaved, state = left.unsaved, left.unsaved.state
    ranges = tuple((begin, end - begin) for begin, end in written(unsaved, unsaved.base_size) if begin < end)
    key = state.key if left.inode is None else left.inode.key
    return RecoveredFile(key=key, size=state.size, ranges=ranges, base=state.base, created=state.created)


def _release(inode: Inode) -> None:
    """Let the bytes of a file be saved."""
    inode.set_aside(withheld=False)
    inode.journaled.save_soon()
