"""Listings of a store of objects that answer lookups for a while.

    lookup "a/1"     one page of the listing of "a/" is fetched
    lookup "a/2"...  answered by it, also that there is no such name, or that "a" is a directory

A listing knows the state of the store at its begin. So no answer comes from it about a name that this mount has changed
since: the mark is made when the change is over, on the listings that are being fetched, too. Names with unsaved bytes
are marked from the beginning.

Bounds: `ENTRIES_MAX` entries; a page for each lifetime and directory. Lookups in a directory with more than a page ask
the store for each name, but for those of the page.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..backends.protocol import ObjectStat

PAGE = 1000
"""Objects of one request of a listing."""
ENTRIES_MAX = 1 << 16
MARKS_MAX = 1 << 12
"""Marks after which a listing is forgotten."""
LARGE_S = 60.0
"""Seconds after which a directory with more than a page is tried again."""


@dataclass(eq=False, slots=True)
class Answer:
    """One listing of a directory.

    Attributes:
        began: before the request, by time.monotonic.
        clock: the same, by the clock of the volume.
        entries: objects and directories, by their keys.
        complete: the directory has no others.
        changed: keys that this mount has changed since.
    """

    began: float
    clock: float
    entries: dict[str, ObjectStat] = field(default_factory=dict)
    complete: bool = False
    changed: set[str] = field(default_factory=set)


class Remembered:
    """The listings of a mount, by directory. Thread-safe; makes no calls."""

    def __init__(self) -> None:
        self.lifetime_s = 0.0  # 0: nothing is remembered
        self._lock = threading.Lock()  # guards the fields below; held briefly
        self._answers: dict[str, Answer] = {}  # the oldest first
        self._pending: dict[str, Answer] = {}
        self._large: dict[str, float] = {}  # directories that are not listed for lookups, and until when

    def find(self, key: str) -> Answer | None:
        """Return a listing that answers for a key; None: the store must be asked."""
        now = time.monotonic()
        with self._lock:
            answer = self._answers.get(_above(key))
            if answer is None or now - answer.began >= self.lifetime_s or key in answer.changed:
                return None
            return answer if answer.complete or key in answer.entries else None

    def wants(self, key: str) -> bool:
        """Return whether a page of a listing is to be fetched for the lookup of a key that no listing answers."""
        directory, now = _above(key), time.monotonic()
        with self._lock:
            if self._large.get(directory, 0.0) > now or directory in self._pending:
                return False
            answer = self._answers.get(directory)
            return answer is None or now - answer.began >= self.lifetime_s  # else this mount has changed the name

    def is_directory(self, key: str) -> bool | None:
        """Return whether a listing has objects below a key; None: one had, and is too old."""
        with self._lock:
            answer = self._answers.get(key)
            if answer is None or not answer.entries:
                return False
            if time.monotonic() - answer.began < self.lifetime_s:
                return True
            return False if key in self._pending else None

    def begin(self, directory: str, clock: float) -> Answer:
        """Return a listing that is about to be fetched."""
        answer = Answer(time.monotonic(), clock)
        with self._lock:
            self._pending[directory] = answer
        return answer

    def end(self, directory: str, answer: Answer, found: Iterable[tuple[str, ObjectStat]], *, complete: bool) -> None:
        """Record the objects below a directory, by their keys."""
        start, entries = len(directory) + 1 if directory else 0, answer.entries
        for key, entry in found:
            name, slash, _ = key[start:].partition("/")
            if name and not (slash and key[:start] + name in entries):
                entries[key[:start] + name] = ObjectStat(size=0, kind="dir") if slash else entry
            if len(entries) > ENTRIES_MAX:  # it is not kept
                break
        answer.complete = complete
        with self._lock:
            self._answers.pop(directory, None)
            if self._pending.get(directory) is answer:
                del self._pending[directory]
                if len(entries) <= ENTRIES_MAX and len(answer.changed) <= MARKS_MAX:
                    self._answers[directory] = answer
            if not complete:
                self._avoid(directory)
            total = sum(len(each.entries) for each in self._answers.values())
            while total > ENTRIES_MAX or len(self._answers) > PAGE:
                total -= len(self._answers.pop(next(iter(self._answers))).entries)

    def leave(self, directory: str, answer: Answer) -> None:
        """Forget a listing that could not be fetched: names are asked for one by one for a while."""
        with self._lock:
            if self._pending.get(directory) is answer:
                del self._pending[directory]
            self._avoid(directory)

    def _avoid(self, directory: str) -> None:
        self._large.pop(directory, None)
        self._large[directory] = time.monotonic() + LARGE_S
        if len(self._large) > PAGE:
            del self._large[next(iter(self._large))]

    def clear(self) -> None:
        """Forget all, also what is being fetched: another backend answers from now on."""
        with self._lock:
            self._answers.clear()
            self._pending.clear()
            self._large.clear()

    def mark(self, *keys: str) -> None:
        """Record that this mount has changed names, or may have."""
        if not self.lifetime_s:
            return
        with self._lock:
            for key in keys:
                directory = _above(key)
                self._answers.pop(key, None)  # it may be no directory any longer
                self._pending.pop(key, None)
                for answers in (self._answers, self._pending):
                    answer = answers.get(directory)
                    if answer is not None:
                        answer.changed.add(str(key))
                        if len(answer.changed) > MARKS_MAX:
                            del answers[directory]


def _above(key: str) -> str:
    return key.rpartition("/")[0]
