"""The states that a crash may leave after the operations of a round: files byte by byte, names one by one [I-18, I-21].

    call of fsync ── t ──────── its return           crash
                     │ any valid value of a byte at t   │
                     └────── any write begun since ─────┘      all that may be found afterwards

A successful fsync, sync or ticket moves t to the time of its call. So a byte is the last one known to be durable, or
one of a write that began later, whether that returned or not; never older, never anything else. Sizes follow this rule
too.

A name has its state of the last successful sync or ticket, or any state that it was given since. The object under it is
whole unless its content was being changed since then: an object that was written, saved, and only then renamed exists
whole or not at all. Otherwise each byte is zero, or from one of the contents. One whose bytes were on disk alone loses
them with its name: a store in place that undoes a removal or rename has what was sent to it.

Not checked: which states of several bytes, or names, belong together.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pagecache.stress.history import FOREVER, Broken, Extents, Model, Piece, Write
from pagecache.stress.oracle import Observation, at_rest, fit, settled, verdict

CRASH = "the store after a crash"
SAVING = frozenset({"fsync", "sync", "ticket"})
NAMING = frozenset({"publish", "rename", "remove"})
LOSSY = ("direct", "parallel")
"""Ways to write whose bytes a lost store takes with it; the cache reports their loss (contract 2.17)."""


@dataclass(slots=True, eq=False)
class State:
    """A state that a name may have. `torn`: any part of the content; `done`: the call that made it has returned."""

    content: bytes | None
    torn: bool = False
    done: bool = False


def states_of(verb: str, arguments: tuple[object, ...]) -> dict[str, list[State | str]]:
    """Return the states that a verb gives to names, or the names whose states they take over."""
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
        old, new = arguments[:2]
        return {str(new): [str(old)], str(old): [State(None)]}
    return {str(arguments[0]): [State(None)]}


class Durable:
    """The durable states of the files and names of a round, since they were made or since a crash."""

    def __init__(
        self, models: Iterable[Model], names: dict[str, bytes] | None = None, *, gives_up: bool = False
    ) -> None:
        """`gives_up`: unsaved bytes are on disk for the latest name of their object, and the store may undo changes of
        names.
        """
        self.models, self._gives_up = list(models), gives_up
        self._lock = threading.Lock()
        self._observations = [Observation(model, 0, FOREVER, 0, CRASH, store=True) for model in self.models]
        # The states of each name, oldest first; the first is known to be durable.
        self._names = {name: [State(content, done=True)] for name, content in (names or {}).items()}

    # -- calls

    @contextmanager
    def recording(self, verb: str, arguments: Sequence[Any]) -> Iterator[None]:
        """Record a call of a target, if it makes state durable, or changes names."""
        if verb in SAVING:
            with self._saving(arguments[0] if verb == "fsync" else None, names="disk" not in arguments):
                yield
        elif verb in NAMING:
            names = self._naming(verb, tuple(arguments))
            yield
            with self._lock:  # the last state of each name exists
                for name in names:
                    self._names[name][-1].done = True
        else:
            yield

    @contextmanager
    def _saving(self, file: int | None, *, names: bool) -> Iterator[None]:
        """Make durable, if the call succeeds: a file, or all files and, unless they are on the disk alone, `names`."""
        models = self.models if file is None else self.models[file : file + 1]
        with self._lock:
            named: dict[str, State] = {}  # the last state of each name whose call has returned
            for name, states in self._names.items() if names and file is None else ():
                named[name] = next((state for state in reversed(states) if state.done), states[0])
        saved = [Observation(model, 0, FOREVER, 0, CRASH, store=True) for model in models]
        yield
        with self._lock:
            for observation in saved:
                number = self.models.index(observation.model)
                if observation.begun > self._observations[number].begun:
                    self._observations[number] = observation
            for name, state in named.items():
                # A name that was replaced or removed in the meantime may have lost its bytes, and come back without
                # them.
                if self._names[name][-1] is state:
                    state.torn, self._names[name] = False, [state]

    # -- names

    def _naming(self, verb: str, arguments: tuple[object, ...]) -> list[str]:
        """Add the states that a call may give to names; return these names."""
        with self._lock:
            changed = states_of(verb, arguments)
            if self._gives_up:  # the object of this name is removed or replaced, or written in place
                lost = {state.content for state in self._of(str(arguments[verb == "rename"]))}
                for one in itertools.chain.from_iterable(self._names.values()):
                    one.torn |= one.content is not None and one.content in lost
            for name, what in changed.items():
                for state in what:
                    if isinstance(state, State):
                        self._of(name).append(state)
                    else:
                        self._of(name).extend([replace(one, done=False) for one in self._of(state)])
                        for one in self._of(state):
                            one.torn |= self._gives_up
            return list(changed)

    def _of(self, name: str) -> list[State]:
        return self._names.setdefault(name, [State(None, done=True)])

    def judge_name(self, name: str, found: bytes | None) -> None:
        """Check a name after a crash."""
        with self._lock:
            states = list(self._of(name))
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

    def names(self) -> list[str]:
        """Return all names that were ever given."""
        with self._lock:
            return list(self._names)

    # -- after the crash

    def judge(self, file: int, got: bytes | None) -> None:
        """Check a file after a crash. All workers have stopped."""
        observation = self._ended(file)
        if got is None:
            raise Broken(f"file {file}: {CRASH} has no such object", "crash")
        try:
            doubt = verdict(observation, got, store=True)
        except Broken as error:
            raise Broken(str(error), "crash") from None
        assert doubt is None, doubt

    def judge_part(self, file: int, start: int, got: bytes) -> None:
        """Check bytes of a file after a crash."""
        observation = self._ended(file)
        for low, high, found in observation.segments(start, start + len(got)):
            if fit(low, high, found, got[low - start : high - start], first=True)[1]:
                raise Broken(f"file {file}, bytes {low} to {high}: {CRASH} has others than were saved on disk", "crash")

    def survived(self, file: int, got: bytes, reported: list[tuple[int, int]]) -> list[Piece]:
        """Return the content of a file seen through a cache that outlived its store: all of it, except direct writes
        and holes that were `reported` to be lost; Broken: other bytes are missing.
        """
        before = self._ended(file)
        observation = at_rest(self.models[file], "read again after the store came back,")
        pieces = Extents(Write("zeros", "", 0, 0, file, 0, 0, FOREVER, zero=True))
        pieces.assign(0, FOREVER, observation.pieces)
        lossy = [one for one in before.beside if one.way in LOSSY or one.kind in ("punch", "zero")]
        for start, end in [(max(one.start, a), min(one.end, b, FOREVER)) for one in lossy for a, b in reported]:
            older = Extents(Write("zeros", "", 0, 0, file, 0, 0, FOREVER, zero=True))
            older.assign(start, end, before.segments(start, end))
            pieces.assign(start, end, _joined(pieces.pieces(start, end), older))
        observation.pieces = list(pieces.pieces(0, FOREVER))
        return settled(observation, got, store=True)

    def _ended(self, file: int) -> Observation:
        observation = self._observations[file]
        observation.model.strand()
        observation.returned()
        return observation


def _joined(pieces: Iterable[Piece], older: Extents) -> list[Piece]:
    joined: list[Piece] = []
    for low, high, found in pieces:
        for a, b, before in older.pieces(low, high):
            joined.append((a, b, (*found, *(one for one in before if one not in found))))
    return joined


def after_crash(file: int, tag: int, content: bytes, clock_of: Model) -> Model:
    """Return a model of a file that a crash has left with this content."""
    first = Write("found after the crash", "", 0, 0, file, tag, 0, len(content))
    first.literal = [(0, (content,))] if content else []
    model = Model(file, first, clock_of.clock)
    model.loses_past = clock_of.loses_past
    return model
