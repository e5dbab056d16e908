"""What a crash may leave of everything that was done: files byte by byte, names one by one [I-18, I-21].

    call of fsync ── t ──────── its return           crash
                     │ what each byte may be at t       │
                     └────── any write begun since ─────┘      all that may be found afterwards

A successful fsync, sync or ticket moves t to where it was called. So a byte is the last one that is known to be
durable, or one of a write that began later, whether that returned or not; never older, never anything else. The same
for sizes.

A name has what it had at the last successful sync or ticket, or any state that it was given since. The object under it
is whole where a change of its content was not under way since: one that was written and saved, and only then renamed,
is there as a whole or not at all. Elsewhere each byte is zero, or that of one of the contents.

Not looked at: how bytes, or names, belong together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pagecache.stress.history import FOREVER, Broken, Extents, Model, Piece, Write
from pagecache.stress.oracle import Look, fit, verdict

__all__ = ["CRASH", "Durable", "Mark", "after_crash", "states_of"]

CRASH = "the store after a crash"
LOSSY = ("direct", "parallel")
"""Ways to write that a store which is gone takes with it, and says so (contract 2.17)."""


@dataclass(frozen=True, slots=True)
class State:
    """What a name may have. `torn`: any part of the content; `done`: the call that made it so has returned."""

    content: bytes | None
    torn: bool = False
    done: bool = False


@dataclass(slots=True)
class Name:
    """The states of one name, oldest first; the first is what is known to be durable. `dropped`: so many before it."""

    states: list[State]
    dropped: int = 0


@dataclass(slots=True)
class Mark:
    """A call that makes durable, while it runs."""

    looks: list[Look]
    names: dict[str, int]


def states_of(verb: str, arguments: tuple[object, ...]) -> dict[str, list[State | str]]:
    """What a verb that changes names makes of them: states, or names whose states they take over."""
    if verb == "publish":
        name, data, extra = arguments
        assert isinstance(name, str)
        assert isinstance(data, bytes)
        assert isinstance(extra, int)
        if extra % 2:
            return {name: [State(data, torn=True)]}
        beside = f"{name}-new"
        found: list[State | str] = [State(data)] if extra % 4 else [beside, State(data, torn=True)]
        return {name: found, beside: [State(data, torn=True), State(None)]}
    if verb == "rename":
        old, new = arguments
        return {str(new): [str(old)], str(old): [State(None)]}
    return {str(arguments[0]): [State(None)]}


class Durable:
    """Of the files and names of a round, since they were made or a crash."""

    def __init__(self, models: Iterable[Model], names: dict[str, bytes] | None = None) -> None:
        self.models = list(models)
        self._lock = threading.Lock()
        self._looks = [Look(model, 0, FOREVER, 0, CRASH, store=True) for model in self.models]
        self._names = {name: Name([State(content, done=True)]) for name, content in (names or {}).items()}

    # -- calls that make durable

    def saving(self, file: int | None) -> Mark:
        """A call begins: an fsync of a file, or one for all files and names."""
        models = self.models if file is None else self.models[file : file + 1]
        with self._lock:
            names = {} if file is not None else {name: _settled(found) for name, found in self._names.items()}
        return Mark([Look(model, 0, FOREVER, 0, CRASH, store=True) for model in models], names)

    def saved(self, mark: Mark) -> None:
        """It has succeeded."""
        for look in mark.looks:
            number = self.models.index(look.model)
            with self._lock:
                if look.begun > self._looks[number].begun:
                    look, self._looks[number] = self._looks[number], look
            look.returned()
        with self._lock:
            for name, number in mark.names.items():
                found = self._names[name]
                # One that was replaced or removed meanwhile may have taken its bytes with it, and come back without.
                if number == found.dropped + len(found.states) - 1:
                    found.states = [replace(found.states[-1], torn=False)]
                    found.dropped = number

    @staticmethod
    def failed(mark: Mark) -> None:
        """It has not."""
        for look in mark.looks:
            look.returned()

    # -- names

    def naming(self, verb: str, arguments: tuple[object, ...]) -> list[str]:
        """A call begins that changes names; returns which."""
        with self._lock:
            changed = states_of(verb, arguments)
            for name, what in changed.items():
                for state in what:
                    if isinstance(state, State):
                        self._of(name).states.append(state)
                    else:
                        self._of(name).states += [replace(one, done=False) for one in self._of(state).states]
            return list(changed)

    def _of(self, name: str) -> Name:
        return self._names.setdefault(name, Name([State(None, done=True)]))

    def named(self, names: list[str]) -> None:
        """It has succeeded: the last state of each is there."""
        with self._lock:
            for name in names:
                states = self._names[name].states
                states[-1] = replace(states[-1], done=True)

    def judge_name(self, name: str, found: bytes | None) -> None:
        """What a crash has left of a name.

        Raises:
            Broken: it cannot be.
        """
        with self._lock:
            states = list(self._of(name).states)
        if any(state.content == found for state in states):
            return
        contents = [state.content for state in states if state.content is not None]
        if found is not None and any(state.torn for state in states):
            if len(found) <= max(map(len, contents)) and not any(
                byte and all(at >= len(content) or content[at] != byte for content in contents)
                for at, byte in enumerate(found)
            ):
                return
        has = "nothing" if found is None else f"an object of {len(found)} bytes"
        may = ", ".join("nothing" if one.content is None else f"{len(one.content)} bytes" for one in states)
        raise Broken(f"{name}: {CRASH} has {has}; it may have, since it was last saved: {may}", "crash")

    def seen(self) -> None:
        """What outlives whoever did it needs no sync: the last states whose calls have returned are there."""
        with self._lock:
            for found in self._names.values():
                number = _settled(found) - found.dropped
                found.states = [replace(found.states[number], torn=False), *found.states[number + 1 :]]

    def names(self) -> list[str]:
        """All that were ever given."""
        with self._lock:
            return list(self._names)

    # -- after the crash

    def judge(self, file: int, got: bytes | None) -> None:
        """What a crash has left of a file. Everybody has stopped.

        Raises:
            Broken: it cannot be.
        """
        look = self._ended(file)
        if got is None:
            raise Broken(f"file {file}: {CRASH} has no such object", "crash")
        try:
            doubt = verdict(look, got, store=True)
        except Broken as error:
            raise Broken(str(error), "crash") from None
        assert doubt is None, doubt

    def lossy(self, file: int) -> list[tuple[int, int]]:
        """Ranges that a cache which survived may have lost with the store, and says so: direct writes and holes."""
        look = self._ended(file)
        return [
            (write.start, min(write.end, FOREVER))
            for write in look.beside
            if write.way in LOSSY or write.kind in ("punch", "zero")
        ]

    def survived(self, file: int, got: bytes, told: list[tuple[int, int]]) -> list[Piece]:
        """What a file is, seen through a cache that has outlived its store: what it was, but for what is lossy and was
        `told` to be lost.

        Raises:
            Broken: it is not.
        """
        model, before = self.models[file], self._ended(file)
        look = Look(model, 0, FOREVER, 0, "read again after the store came back,")
        look.returned()
        pieces = Extents(Write("zeros", "", 0, 0, file, 0, 0, FOREVER, zero=True))
        pieces.assign(0, FOREVER, look.pieces)
        lost = [(max(a, low), min(b, high)) for a, b in self.lossy(file) for low, high in told if a < high and low < b]
        for start, end in lost:
            older = Extents(Write("zeros", "", 0, 0, file, 0, 0, FOREVER, zero=True))
            older.assign(start, end, before.segments(start, end))
            pieces.assign(start, end, _joined(pieces.pieces(start, end), older))
        look.pieces = list(pieces.pieces(0, FOREVER))
        verdict(look, got, store=True)
        return _pieces(look, got)

    def _ended(self, file: int) -> Look:
        look = self._looks[file]
        look.model.strand()
        look.returned()
        return look

    def end(self) -> None:
        """Nobody asks any more."""
        for look in self._looks:
            look.returned()


def _settled(found: Name) -> int:
    """The last state whose call has returned, counted from the first that there ever was."""
    last = max((number for number, state in enumerate(found.states) if state.done), default=0)
    return found.dropped + last


def _joined(pieces: Iterable[Piece], older: Extents) -> list[Piece]:
    joined: list[Piece] = []
    for low, high, found in pieces:
        for a, b, before in older.pieces(low, high):
            joined.append((a, b, (*found, *(one for one in before if one not in found))))
    return joined


def _pieces(look: Look, got: bytes) -> list[Piece]:
    """Each byte of those writes that it fits."""
    pieces: list[Piece] = []
    for low, high, found in look.segments(0, len(got)):
        part = got[low:high]
        wild = next((write for write in found if write.wild), None)
        pieces += fit(low, high, found, part)[0] if wild is None else [(low, high, (wild.known(low, part),))]
    return pieces


def after_crash(file: int, tag: int, content: bytes, clock_of: Model) -> Model:
    """The model of a file that a crash has left like this."""
    first = Write("found after the crash", "", 0, 0, file, tag, 0, len(content))
    first.literal = [(0, (content,))] if content else []
    model = Model(file, first, clock_of.clock)
    model.loses_past = clock_of.loses_past
    return model
