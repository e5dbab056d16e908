"""The stored version below the cached bytes of a file, and the count of this cache's own changes.

The count answers whether a stored version that was read earlier may include a later change of this cache: it is read
before the call that finds the version, and again when the version is used. `stale` means that this cache has changed
the stored object since `base` was read, so another version in storage is no foreign change.

A foreign version becomes the base together with its size. One that was announced for an object that is stored in place
is kept as `announced` until then: the next open that compares takes its size, also if writes of this cache have made
another version of it.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from ...native import NAMES
from ..runner import Job
from .owed import NOTHING_OWED

if TYPE_CHECKING:
    from ...errors import Key
    from ..file import EngineFile


class Distrusted(Enum):
    """In place of a name, none of which led to the base."""

    DISTRUSTED = 0


DISTRUSTED = Distrusted.DISTRUSTED
KEPT = 4


class Versions:
    """The versions of one file. Part of every file.

    CORE has the count, and whether the base is stale: it makes most of the calls.

    Lock: `EngineFile.lock`. A method takes it unless its description says that the caller holds it; a single field may
    be read without it. A change is counted before its call begins.
    """

    __slots__ = ("_file", "announced", "base", "committed", "copied", "discarded", "looked", "unanswered", "untold")

    def __init__(self, file: EngineFile, base: str | None) -> None:
        self._file = file
        self.base = base
        self.looked: tuple[Key | Distrusted, float] = DISTRUSTED, -math.inf
        """The name under which the base was found to be stored last, and the time before that look; or the time since
        when another version may be stored."""
        self.announced: str | None = None
        self.committed = -math.inf
        """The time of the last successful commit, set before the bytes are clean."""
        self.copied = False
        """A rename may have made another version of a whole object, which only its present backend file has."""
        self.discarded = False
        """A program has discarded bytes of a whole object after a commit of unknown result."""
        self.untold = False
        """A commit has succeeded and has not told the version that it made, which `base` is not."""
        self.unanswered: tuple[object, ...] = ()
        """`BackendFile.unanswered` of the last backend files with a commit of unknown result, at most `KEPT`."""

    @property
    def stale(self) -> bool:
        """Whether this cache has changed the stored object since the base was read."""
        return self._file.is_stale()

    def about_to_change(self) -> None:
        """Announce a call: whatever its result, another stored version may come from this cache. On commit_on_close
        backends only a commit makes one: `doubt`.
        """
        with self._file.lock:
            self._file.change_begins(not self._file.limits().commit_on_close)

    def doubt(self) -> None:
        """Record a commit of unknown result: another stored version may come from it."""
        with self._file.lock:
            self._file.change_begins(True)

    def take(self, base: str | None, *, stale: bool = False) -> None:
        """Make a version the base. The lock is held."""
        self.base, self.copied, self.untold, self.discarded = base, False, False, False
        self._file.set_stale(stale)
        if not stale:
            self.unanswered = ()

    def may_be_copied(self, copied: bool) -> None:
        """Record a rename of a whole object whose new version is not known yet; False: no file has it any longer."""
        self.copied = copied

    def find_unanswered(self) -> tuple[object, ...]:
        """Return what the next backend file needs to recognise commits of unknown result, and the copy of a rename."""
        if self.stale or self.copied or self._file.publications:
            own = getattr(self._file.backend_file, "unanswered", None)
            if own is not None:
                self.unanswered = (own, *(one for one in self.unanswered if one is not own))[:KEPT]
        return self.unanswered

    def make(self, base: str) -> None:
        """Make the version that a commit has made the base; `commit` or `doubt` follows. The lock is held."""
        self.base = base

    def commit(self, base: str | None, changes: int | None) -> None:
        """Make the version that a commit has made the base; None: it is not known. `changes`: those that had begun
        before the call; None: some may have run beside it, and may have made another version since. The lock is held.
        """
        stale = self._file.commit_changed(changes, base is not None)
        self.committed = now = self._file.volume.clock.now()
        self.untold, self.discarded = base is None, False
        if base is None:
            return
        self.base, self.copied = base, False
        if not stale:
            self.unanswered = ()
        seen, when = self.looked
        if seen is not DISTRUSTED or when == -math.inf:  # otherwise announced beside the commit, perhaps
            self.looked = self._file.key, now

    def is_recent(self, name: Key, age: float) -> bool:
        """Return whether the name led to this file, and to its base, at most `age` seconds ago; an infinite age needs
        no look at all.
        """
        seen, when = self.looked
        return age == math.inf or (age > 0 and seen == name and self._file.volume.clock.now() - when < age)

    def confirm(self, name: Key, version: str | None, when: float | None) -> None:
        """Record that this version was found under a name, by a look that began at that time; None: by none."""
        with self._file.lock:
            if when is None or version != self.base or self._file.is_stale() or self.announced is not None:
                return
            seen, before = self.looked
            if when >= before or seen is not DISTRUSTED or before == -math.inf:  # otherwise announced since that look
                self.looked = name, when

    def distrust(self) -> None:
        """Record that another version may be stored: the next open looks."""
        with self._file.lock:
            self.looked = DISTRUSTED, self._file.volume.clock.now()

    def announce(self, version: str) -> None:
        """Keep an announced version until its size is taken."""
        with self._file.lock:
            self.announced = version

    def sized(self) -> None:
        """Record that the size of the stored version was taken. The lock is held."""
        self.announced = None

    def replace(self, base: str | None, *, stale: bool | None = None) -> None:
        """Make a version the base; `stale`: None leaves it as it is."""
        with self._file.lock:
            self.take(base, stale=self.stale if stale is None else stale)

    def follow(self, before: str | None, after: str | None) -> None:
        """Make `after` the base, if `before` is the base now: this cache has changed the stored object itself."""
        with self._file.lock:
            if before == self.base and not self.stale:
                self.base = after
            self.copied = False

    def is_base(self, version: str | None) -> bool:
        """Return whether this stored version is known to be the base."""
        return version is not None and version == self.base and not self.stale

    def note_discard(self) -> None:
        """Record that bytes were discarded. The token is held."""
        with self._file.lock:
            self.discarded = self.stale and not self.untold and bool(self._file.limits().commit_on_close)

    def is_given_up(self) -> bool:
        """Return whether all bytes of a commit of unknown result were discarded. If it has stored them, they are a
        version like another writer's.
        """
        file = self._file
        return self.discarded and self.stale and not file.has_local() and not file.storage_busy()

    def quiet(self) -> int | None:
        """Return a number that changes with each change of storage by this cache; None while one is about to begin."""
        file = self._file
        changes = file.quiet()  # first: a change that begins after this changes the number
        if changes is None:
            changes = file.changes()
            if not self.is_given_up():
                return None
        if file.owed is not NOTHING_OWED and len(file.owed):
            return None  # work under the token alone announces its changes: `about_to_change`
        return changes

    def start_reading(self, *, here: bool = False) -> Job[None] | None:
        """Read the stored version after writes of this cache, on a thread of the volume. None: it was read on this
        thread (`here`), or cannot be. An error leaves it unknown.

        On commit_on_close backends acknowledgements change no version, and a commit returns its own (contract 2.19).
        """
        file = self._file
        if file.bound_commit is None and (file.backend_file is None or file.limits().commit_on_close):
            return None
        if here:
            try:
                file.volume.call_here("stat", file.key, self._read)
            except Exception:
                pass  # the next look reads it
            return None
        job = Job(self._read, what="stat", key=file.key, then=file.wake)
        return file.volume.runner.submit(NAMES, job)

    def _read(self) -> None:
        """Record the stored version as this cache's own, if no change overlapped the read."""
        file, volume = self._file, self._file.volume
        changes, began = file.changes(), volume.reconnects
        if file.storage_busy() or (file.owed is not NOTHING_OWED and len(file.owed)):
            return  # the call after the end of that change reads it
        version = file.opened().stat().version
        with file.lock:
            if volume.aborted or volume.reconnects != began:
                return  # it is the version of an earlier backend
            before = self.base
            self.base = version  # first: no reader finds a base that is not stale, and older
            if not file.settle_version(changes):
                self.base = before
                return
            self.copied, self.unanswered = False, ()
