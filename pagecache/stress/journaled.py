"""Models that record their changes in a journal, and the replay of a journal into other models.

    one process                                              another
    Steps ── begin, finish, ... ──▶ JournaledModel ─ journal ─▶ JournalReplay ── begin, finish, ... ──▶ Model
    verbs ── fsync, publish, ... ─▶ JournaledKeeper                    ── saving, named, ... ──▶ Durable

The records of one call lie before its begin and after its return. So the models of the other process have a true
history, even if this process is killed in between; a begin without an end was running at that time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from pagecache.stress.durable import Durable, Mark
from pagecache.stress.history import Clock, Model, Write
from pagecache.stress.journal import Journal
from pagecache.stress.profiles import Operation
from pagecache.stress.world import Activity, World

__all__ = ["JournalReplay", "JournaledKeeper", "JournaledModel", "JournaledWorld"]

FIELDS = ("kind", "way", "worker", "sequence", "file", "tag", "start", "length")


class JournaledModel(Model):
    """A model of this process that records the changes of its workers in the journal."""

    def __init__(self, number: int, first: Write, clock: Clock, journal: Journal) -> None:
        super().__init__(number, first, clock)
        self._journal = journal
        self._numbers = itertools.count()
        self._known: dict[int, int] = {}  # id of a running write -> its number in the journal

    def _journal_change(self, what: str, write: Write, *more: Any) -> None:
        self._journal.put(what, self.number, self._known[id(write)], *more)

    def begin(self, write: Write) -> None:
        number = self._known[id(write)] = next(self._numbers)
        fields = tuple(getattr(write, name) for name in FIELDS)
        self._journal.put("begin", self.number, number, fields, write.size, write.zero)
        super().begin(write)

    def finish(self, write: Write, *, certain: bool = True) -> None:
        self._journal_change("finish", write, certain, write.literal, write.wild)
        super().finish(write, certain=certain)
        del self._known[id(write)]

    def cancel(self, write: Write) -> None:
        self._journal_change("cancel", write)
        super().cancel(write)
        del self._known[id(write)]

    def place(self, write: Write, offset: int, done: int | None = None) -> Write | None:
        number = None if done is None else next(self._numbers)
        self._journal_change("place", write, offset, done, number)
        rest = self._placed(write, offset, done)
        if rest is not None and number is not None:
            self._known[id(rest)] = number
        return rest

    def _placed(self, write: Write, offset: int, done: int | None) -> Write | None:
        return super().place(write, offset, done)

    def lose(self, write: Write) -> None:
        self._journal_change("lose", write)
        super().lose(write)
        del self._known[id(write)]

    def resolve(self, write: Write) -> None:
        self._journal_change("resolve", write, write.literal, write.wild)
        super().resolve(write)

    def split(self, write: Write, length: int) -> Write:
        rest = super().split(write, length)
        number = self._known[id(rest)] = next(self._numbers)
        self._journal_change("split", write, length, number)
        return rest


class JournaledWorld(World):
    """A world of this process that records the begin and end of operations in the journal."""

    __slots__ = ("journal",)
    journal: Journal

    def entered(self, now: Activity) -> None:
        self.journal.note("enter", now.worker, now.operation, now.file, now.start, now.end)
        super().entered(now)

    def leave(self, worker: int) -> None:
        activity = self.active.get(worker)
        super().leave(worker)
        if activity is not None:
            self.journal.note("leave", worker, activity.errors)


class JournaledKeeper:
    """A recording keeper; see `recorded.Keeper`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._numbers = itertools.count()

    def _new(self, what: str, *more: Any) -> int:
        number = next(self._numbers)
        self._journal.put(what, number, *more)
        return number

    def saving(self, file: int | None) -> int:
        return self._new("saving", file)

    def saved(self, mark: int) -> None:
        self._journal.put("saved", mark)

    def failed(self, mark: int) -> None:
        self._journal.put("not saved", mark)

    def naming(self, verb: str, arguments: tuple[Any, ...]) -> int:
        return self._new("naming", verb, arguments)

    def named(self, mark: int) -> None:
        self._journal.put("named", mark)


class JournalReplay:
    """A replay of one journal, in order; of several processes one each, into one world."""

    def __init__(self, world: World, durable: Durable | None = None) -> None:
        self._world = world
        self._models = world.models
        self._durable = durable
        self._writes: dict[tuple[int, int], Write] = {}
        self._marks: dict[int, Mark] = {}
        self._names: dict[int, list[str]] = {}

    def apply(self, record: tuple[Any, ...]) -> bool:
        """Replay one record. False: it is of another kind."""
        what, *rest = record
        change: Callable[..., None] | None = getattr(self, "_" + what.replace(" ", "_"), None)
        if change is None:
            return False
        change(*rest)
        return True

    def _enter(self, worker: int, operation: Operation, file: int | None, start: int, end: int) -> None:
        now = Activity(worker, operation, file, time.monotonic(), start, end, self._world.clock.tick())
        self._world.entered(now)

    def _leave(self, worker: int, errors: list[str]) -> None:
        if (activity := self._world.active.get(worker)) is not None:
            activity.errors += errors
        self._world.leave(worker)

    def _begin(self, file: int, number: int, fields: tuple[Any, ...], size: int | None, zero: bool) -> None:
        write = Write(*fields, size=size, zero=zero)
        self._writes[file, number] = write
        self._models[file].begin(write)
        if (activity := self._world.active.get(write.worker)) is not None:
            activity.writes.append(write)

    def _finish(self, file: int, number: int, certain: bool, literal: Any, wild: bool) -> None:
        write = self._writes.pop((file, number))
        write.literal, write.wild = literal, wild
        self._models[file].finish(write, certain=certain)

    def _cancel(self, file: int, number: int) -> None:
        self._models[file].cancel(self._writes.pop((file, number)))

    def _place(self, file: int, number: int, offset: int, done: int | None, rest: int | None) -> None:
        part = self._models[file].place(self._writes[file, number], offset, done)
        if part is not None and rest is not None:
            self._writes[file, rest] = part

    def _lose(self, file: int, number: int) -> None:
        self._models[file].lose(self._writes.pop((file, number)))

    def _resolve(self, file: int, number: int, literal: Any, wild: bool) -> None:
        write = self._writes[file, number]
        write.literal, write.wild = literal, wild
        self._models[file].resolve(write)

    def _split(self, file: int, number: int, length: int, rest: int) -> None:
        self._writes[file, rest] = self._models[file].split(self._writes[file, number], length)

    def _saving(self, number: int, file: int | None) -> None:
        if self._durable is not None:
            self._marks[number] = self._durable.saving(file)

    def _saved(self, number: int) -> None:
        if self._durable is not None:
            self._durable.saved(self._marks.pop(number))

    def _not_saved(self, number: int) -> None:
        if self._durable is not None:
            self._durable.failed(self._marks.pop(number))

    def _naming(self, number: int, verb: str, arguments: tuple[Any, ...]) -> None:
        if self._durable is not None:
            self._names[number] = self._durable.naming(verb, arguments)

    def _named(self, number: int) -> None:
        if self._durable is not None:
            self._durable.named(self._names.pop(number))
