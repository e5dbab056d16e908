"""An application over a journal and a store, and what a power cut may leave of its files.

`World` plays steps, such as ("write", "a", 0, 100) or ("save", "a"), as the engine does. It notes, at the number of
device calls made so far, each state of the files that a record leads to, each promise of an fsync, and each change of
the store. `check` compares a recovery with them:

    there is one state, from the last promise to the last record begun, that all files have: a file that the journal
    lists as its base with the recovered ranges laid over it, another file as the store has it
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import Any

from pagecache.disk import records
from pagecache.disk.journal import STATED, Journal, JournalFull
from pagecache.disk.recovery import Recovered, Unsaved, recover
from pagecache.testing.disk import PowerCut, SimulatedDisk

FOLDER = "journal"
PIECE = 1000
NAMING = (records.Kind.FILE, records.Kind.RENAMING, records.Kind.RENAMED)


@dataclass(frozen=True, slots=True)
class FileView:
    key: str
    content: bytes
    renaming: str | None = None
    is_removed: bool = False


View = dict[int, FileView]


@dataclass(slots=True)
class Store:
    versions: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, content: bytes) -> str:
        version = f"v{len(self.versions) + 1}"
        self.versions[version] = content
        self.objects[key] = version
        return version


def changed(content: bytes, step: tuple[Any, ...], fill: int) -> bytes:
    """Return content after a write, truncate or hole."""
    kind = step[0]
    if kind == "truncate":
        size: int = step[1]
        return content[:size].ljust(size, b"\0")
    offset, length = int(step[1]), int(step[2])
    if kind == "punch":
        length = max(0, min(length, len(content) - offset))
        return content[:offset] + bytes(length) + content[offset + length :]
    return content.ljust(offset, b"\0")[:offset] + bytes([fill]) * length + content[offset + length :]


class World:
    """Two files, `a` stored and `b` new, unless a recovery is given to go on with."""

    def __init__(self, disk: SimulatedDisk, *, segment: int = 4096, limit: int = 1 << 20) -> None:
        self.disk = disk
        self.settings: dict[str, Any] = {"segment": segment, "limit": limit}
        self.store = Store()
        self.memory: View = {}
        self.logged: View = {}  # as the records that count lead to
        self.views: list[View] = [{}]
        self.issued: list[tuple[int, int]] = [(0, 0)]
        self.promises: list[tuple[int, int]] = [(0, 0)]
        self.stores: list[tuple[int, Store]] = []
        self.numbers: dict[str, int] = {}
        self.bases: dict[int, str | None] = {}
        self.last: dict[int, int] = {}  # LSN
        self.failures: list[int] = []  # failed syncs
        self.content: dict[int, list[int]] = {}  # LSNs of bytes and sizes
        self.appended: list[tuple[int, int]] = []  # LSN and index of its view
        self.saved: dict[int, int] = {}
        self.names: dict[int, tuple[str, str | None]] = {}  # as the last record says, whether or not it counts
        self.fill = 0
        self.errors: list[OSError] = []

    # ------------------------------------------------------------------------------------------------ notes

    def begin(self) -> None:
        self.journal = Journal(FOLDER, device=self.disk, **self.settings)
        self.generation = self.journal.generation
        self.note_store()

    def note_store(self) -> None:
        self.stores.append((len(self.disk.calls), deepcopy(self.store)))

    def note_view(self, number: int, view: FileView) -> None:
        """A record that leads to this view is about to be appended."""
        self.logged = {**self.logged, number: view}
        self.views.append(self.logged)
        self.issued.append((len(self.disk.calls), len(self.views) - 1))

    def append(self, number: int, record: records.Record, view: FileView | None = None, data: bytes = b"") -> int:
        before = self.logged
        if view is not None:
            self.note_view(number, view)
        try:
            lsn = self.journal.append(record, [data] if data else [])
        except OSError:
            if record.kind in STATED:  # the next segment says it
                self.note_names(number, record, view)
                self.failures.append(len(self.disk.calls))
            elif record.kind == records.Kind.SAVING and view is not None and self.journal._files[number].is_live():
                self.appended.append((self.journal.last, len(self.views) - 1))  # its restated FILE counts
                self.go_back(self.logged)
            else:
                self.go_back(before)
            raise
        self.note_names(number, record, view)
        self.last[number] = lsn
        self.appended.append((lsn, len(self.views) - 1))
        if record.kind in records.CONTENT:
            self.content.setdefault(number, []).append(lsn)
        return lsn

    def note_names(self, number: int, record: records.Record, view: FileView | None) -> None:
        if record.kind in NAMING and view is not None:
            self.names[number] = view.key, view.renaming

    def go_back(self, before: View) -> None:
        """An append failed, or a sync: the records that count lead to an earlier view."""
        if self.generation != self.journal.generation:
            self.generation = self.journal.generation
            confirmed = self.journal._confirmed
            self.failures.append(len(self.disk.calls))
            self.content = {n: [at for at in c if at <= self.journal._confirmed] for n, c in self.content.items()}
            before = self.views[max((at for at in self.appended if at[0] <= confirmed), default=(0, 0))[1]]
            self.appended = [at for at in self.appended if at[0] <= confirmed]
            self.stale = True
            for number, view in before.items():
                if number in self.journal._files:
                    # The next segment restates the names of today, and which files are saved.
                    view = replace(view, key=self.names[number][0], renaming=self.names[number][1])
                    if not self.is_unsaved(number) and (base := self.bases[number]) is not None:
                        view = replace(view, content=self.store.versions[base])
                    before = {**before, number: view}
        self.logged = before
        self.views.append(before)
        self.issued.append((len(self.disk.calls), len(self.views) - 1))

    def is_unsaved(self, number: int) -> bool:
        """Return whether a recovery lists the file."""
        file = self.journal._files.get(number)
        if file is None:
            return False
        return file.state.created or any(lsn > file.state.saved for lsn in self.content.get(number, ()))

    def refresh(self) -> None:
        if self.stale or self.generation != self.journal.generation:
            self.append_anew()

    # ------------------------------------------------------------------------------------------------ steps

    def play(self, steps: Iterable[tuple[Any, ...]]) -> None:
        """Play steps. After a failed sync, or an append that failed, the next fsync appends all unsaved bytes."""
        for step in steps:
            try:
                getattr(self, f"do_{step[0]}")(*step[1:])
            except JournalFull as error:
                self.errors.append(error)
                self.stale = True
                self.make_room()
            except OSError as error:
                self.errors.append(error)
                self.stale = True
                if error.errno == NO_SPACE:
                    self.make_room()

    stale = False
    """The journal does not have all that memory has."""

    def make_room(self) -> None:
        """Save the files that keep the oldest segment."""
        for number in self.journal.oldest():
            try:
                self.save(number)
            except OSError as error:
                self.errors.append(error)

    def do_open(self, name: str, size: int | None) -> None:
        """Open an object, or create one (None)."""
        number = self.numbers[name] = self.journal.number()
        self.fill += 1
        content = bytes([self.fill]) * (size or 0)
        self.bases[number] = None if size is None else self.store.put(name, content)
        self.note_store()
        self.saved[number] = 0
        self.memory[number] = FileView(name, content)
        self.state_file(number)

    def state_file(self, number: int) -> None:
        view, base = self.memory[number], self.bases[number]
        size = len(self.store.versions[base]) if base else 0
        record = records.file(number, "store:", view.key, base, created=base is None, size=size)
        file = self.journal._files.get(number)
        known = self.logged.get(number)
        if known is None or file is None or not file.is_live():
            known = FileView(view.key, self.store.versions[base] if base else b"")
        self.append(number, record, replace(known, key=view.key, renaming=None, is_removed=False))

    def change(self, name: str, step: tuple[Any, ...]) -> None:
        number = self.numbers[name]
        self.fill += 1
        self.memory[number] = replace(
            self.memory[number], content=changed(self.memory[number].content, step, self.fill)
        )
        if self.stale:
            return  # the next fsync appends it
        view = self.with_content(number, step)
        kind, *rest = step
        if kind == "write":
            self.append(number, records.data(number, *rest), view, bytes([self.fill]) * rest[1])
        elif kind == "truncate":
            self.append(number, records.size(number, rest[0]), view)
        else:
            self.append(number, records.hole(number, *rest), view)

    def do_write(self, name: str, offset: int, length: int) -> None:
        self.change(name, ("write", offset, length))

    def do_truncate(self, name: str, size: int) -> None:
        self.change(name, ("truncate", size))

    def do_punch(self, name: str, offset: int, length: int) -> None:
        self.change(name, ("punch", offset, length))

    def do_fsync(self) -> None:
        self.refresh()
        lsn = max(self.last.values())
        self.confirm(lsn)
        assert self.logged == self.memory

    def confirm(self, lsn: int) -> None:
        try:
            self.journal.confirm(lsn)
        except OSError:
            self.go_back(self.logged)
            raise
        self.promises.append((len(self.disk.calls), len(self.views) - 1))

    def with_content(self, number: int, step: tuple[Any, ...]) -> FileView:
        return replace(self.logged[number], content=changed(self.logged[number].content, step, self.fill))

    def append_anew(self) -> None:
        self.generation = self.journal.generation
        for number, view in self.memory.items():
            if view.is_removed:
                if not self.logged.get(number, view).is_removed:
                    self.append(number, records.removed(number), view)
                continue
            self.state_file(number)
            if view.renaming is not None:
                renaming = replace(self.logged[number], renaming=view.renaming)
                self.append(number, records.renaming(number, view.renaming), renaming)
            size = len(view.content)
            self.append(number, records.size(number, size), self.with_content(number, ("truncate", size)))
            for at in range(0, size, PIECE):
                part = view.content[at : at + PIECE]
                logged = self.logged[number]
                content = logged.content[:at] + part + logged.content[at + len(part) :]
                self.append(number, records.data(number, at, len(part)), replace(logged, content=content), part)
        self.stale = False

    def do_save(self, name: str) -> None:
        if self.numbers[name] in self.names:  # else the journal has nothing of it
            self.save(self.numbers[name])

    def save(self, number: int) -> None:
        """Save what memory has, which may be more than the journal has: it may be full."""
        view, upto = self.memory[number], self.last.get(number, 0)
        # If a failed sync took its FILE record, the journal restates it, with the names of today.
        key, renaming = self.names[number]
        content = b"" if self.bases[number] is None else view.content
        restated = None if number in self.logged else FileView(key, content, renaming)
        self.confirm(self.append(number, records.saving(number, upto, f"mark {upto}".encode()), restated))
        self.bases[number] = self.store.put(view.key, view.content)
        self.note_store()
        if not self.is_unsaved(number):  # its last bytes were never in the journal
            self.note_view(number, replace(self.logged.get(number, view), content=view.content))
        self.append(number, records.saved(number, upto, self.bases[number]), view)

    def do_rename(self, name: str, key: str) -> None:
        self.refresh()
        number = self.numbers[name]
        renaming = replace(self.memory[number], renaming=key)
        self.memory[number] = renaming
        self.confirm(self.append(number, records.renaming(number, key), replace(self.logged[number], renaming=key)))
        old = renaming.key
        if old in self.store.objects:
            self.store.objects[key] = self.store.objects.pop(old)
        self.note_store()
        self.memory[number] = replace(renaming, key=key, renaming=None)
        self.append(number, records.renamed(number, key), replace(self.logged[number], key=key, renaming=None))

    def do_remove(self, name: str) -> None:
        self.refresh()
        number = self.numbers[name]
        self.confirm(self.append(number, records.removing(number)))
        self.store.objects.pop(self.memory[number].key, None)
        self.note_store()
        self.memory[number] = replace(self.memory[number], is_removed=True)
        self.append(number, records.removed(number), self.memory[number])

    def do_close(self) -> None:
        self.journal.close()

    # ------------------------------------------------------------------------------------------------ oracle

    def check(self, found: Recovered, at: int) -> str:
        """Return a broken promise after a power cut behind so many device calls, or an empty string."""
        if found.lost:
            return f"records are reported as lost: {found.lost}"
        if any(file.damaged for file in found.files):
            return "bytes are reported as damaged"
        promised = max(index for calls, index in self.promises if calls <= at)
        issued = max(index for calls, index in self.issued if calls <= at)
        store = [store for calls, store in self.stores if calls <= at][-1] if self.stores else Store()
        listed = {file.number: file for file in found.files}
        reasons = []
        for index in range(promised, issued + 1):
            view = self.views[index]
            # The first segment after a failed sync has the names of that time, and other segments the bytes.
            begin, end = (promised, issued) if any(calls <= at for calls in self.failures) else (index, index)
            names = {n: {(v[n].key, v[n].renaming) for v in self.views[begin : end + 1] if n in v} for n in view}
            reason = next((r for n in view if (r := differs(view[n], listed.get(n), store, names[n]))), "")
            if not reason and set(listed) - set(self.views[index]):
                reason = "a file is listed that is not there"
            if not reason:
                return ""
            reasons.append(reason)
        return f"no state from {promised} to {issued} fits: {reasons[-1]}"


def differs(view: FileView, file: Unsaved | None, store: Store, names: set[tuple[str, str | None]]) -> str:
    """Compare a file after recovery with one of its states, and with its possible names."""
    if view.is_removed:
        return "" if file is None else "a removed file is listed"
    if file is None:
        for key in {key for pair in names for key in pair}:
            if key in store.objects and store.versions[store.objects[key]] == view.content:
                return ""
        return f"{view.key!r}: not listed, and the store has other bytes"
    if (file.state.key, file.state.renaming) not in names:
        return f"{view.key!r}: another name, {file.state.key!r}, {file.state.renaming!r}"
    return "" if overlaid(file, store) == view.content else f"{view.key}: other bytes"


def overlaid(file: Unsaved, store: Store) -> bytes:
    """Return the content of a recovered file."""
    base = store.versions[file.state.base] if file.state.base else b""
    content = bytearray(base[: file.base_size].ljust(file.state.size, b"\0")[: file.state.size])
    for offset, length in file.ranges:
        content[offset : offset + length] = file.read(offset, length)
    return bytes(content)


def summary(found: Recovered) -> Any:
    """Return all that two recoveries have to agree on."""
    return [(f.state, f.pieces, f.base_size, f.suspect) for f in found.files], found.lost, found.end, found.last


def disks(cut: PowerCut, most: int, rng: random.Random) -> Iterator[SimulatedDisk]:
    """Return each disk that a power cut may leave if there are at most `most`; else both extremes, and others by
    chance.
    """
    choices: list[int] = []

    def first(states: int) -> int:
        choices.append(states)
        return 0

    cut.disk(first)
    if prod(choices) <= most:
        for chosen in product(*map(range, choices)):
            rest = iter(chosen)
            yield cut.disk(lambda n, rest=rest: next(rest))  # type: ignore[misc]
        return
    yield cut.disk(lambda n: 0)
    yield cut.disk(lambda n: n - 1)
    for _ in range(most - 2):
        # Each probability of a survivor: losses of one sector and of all but one have to come.
        share = rng.random()
        yield cut.disk(lambda n, share=share: rng.randrange(1, n) if rng.random() < share else 0)  # type: ignore[misc]


def recovered(disk: SimulatedDisk) -> Recovered:
    return recover(FOLDER, disk)


NO_SPACE, IO_ERROR = errno.ENOSPC, errno.EIO
