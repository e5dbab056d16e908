"""The model of the names that all workers share: which objects each name may have had at a time.

    Binding    the new value of one name by one call: from its call (`begun`) to its return (`ended`)
    Names      for each name, its bindings since the last rest
    Sight      the names as a call may find them, from its begin to a later time

A value is the number of an object, or None: no object. The rule is that of bytes (history.py): a call finds the value
of binding W if W began before the call returned, and no other binding of this name began after the end of W and ended
before the call began. A rename binds its new name to whatever its source has while it runs, so its value is a set.

Not checked: which values of several names belong together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pagecache.stress.history import RUNNING, Clock
from pagecache.stress.oracle import worker_name

SHOWN = 8  # bindings in a story

Value = int | str | None
"""The number of an object; the name that a symbolic link leads to; None: neither."""


@dataclass(eq=False, slots=True)
class Binding:
    """The new value of a name.

    Attributes:
        name: the bound name.
        what: the call, for reports.
        values: possible values.
        source: of a rename: the name whose object it moves; then `values` are known when it has ended.
        over: of the source of a rename: its new name. If both have one object, the rename changes nothing.
        takes: an object that had the name loses it.
        links: an object gets one more name.
        foreign: another program makes the call.
        certain: it was carried out if it has ended. False for a call that failed.
    """

    name: str
    what: str
    worker: int
    values: frozenset[Value] = frozenset()
    source: str = ""
    over: str = ""
    takes: bool = False
    links: bool = False
    foreign: bool = False
    begun: float = 0
    ended: float = RUNNING
    certain: bool = True

    def __str__(self) -> str:
        ended = "still running" if self.ended == RUNNING else f"returned at {self.ended}"
        sure = "" if self.certain else ", whose result is not certain"
        who = worker_name(self.worker)
        return f"{who}, {self.what}: {described(self.values)}, called at {self.begun}, {ended}{sure}"


def described(values: Iterable[Value]) -> str:
    """Describe values."""
    numbers = sorted(value for value in values if isinstance(value, int))
    found = [f"object {number}" for number in numbers[-SHOWN:]]
    found += [f"a link to {value}" for value in sorted(value for value in values if isinstance(value, str))]
    found += ["no object"] * (None in set(values))
    found[:0] = [f"one of {len(numbers) - SHOWN} older objects"] * (len(numbers) > SHOWN)
    return " or ".join(found) or "not known yet"


class Sight:
    """The names from the begin of a call on."""

    def __init__(self, names: Names) -> None:
        self._names, self.begun = names, names.clock.tick()

    def of(self, name: str, without: Sequence[Binding] = ()) -> frozenset[Value]:
        """Return the values that the call may have found until now; `without`: its own bindings."""
        names = self._names
        with names.lock:
            return names.seen(name, self.begun, names.clock.tick(), without)

    def leading(self, name: str) -> frozenset[Value]:
        """Return what an open of the name may have found until now, links followed: a link is among the values only if
        it may lead to itself.
        """
        found: set[Value] = set()
        names, links = {name: None}, [name]
        while links:
            values = self.of(links.pop())
            found.update(value for value in values if not isinstance(value, str))
            for value in sorted(value for value in values if isinstance(value, str)):
                if value in names:
                    found.add(value)
                else:
                    names[value] = None
                    links.append(value)
        return frozenset(found)


class Names:
    """The shared names. `lock` protects all of it."""

    def __init__(self, names: Iterable[str], clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.linked = False  # objects may have several names
        self._bindings: dict[str, list[Binding]] = {
            name: [Binding(name, "the beginning", 0, frozenset({None}), ended=0)] for name in names
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._bindings)

    def begin(self, bindings: Iterable[Binding]) -> None:
        """Record that a call begins to bind names."""
        with self.lock:
            begun = self.clock.tick()
            for one in bindings:
                one.begun = begun
                self.linked |= one.links
                self._bindings[one.name].append(one)

    def finish(self, bindings: Sequence[Binding], *, certain: bool = True) -> None:
        """Record that the call has returned; not `certain`: it failed, and may have been carried out."""
        with self.lock:
            ended = self.clock.tick()
            for one in bindings:
                if one.source:
                    one.values = self.seen(one.source, one.begun, ended, bindings) - {None}
                if one.over and self.linked:
                    old, new = (self.seen(name, one.begun, ended, bindings) for name in (one.name, one.over))
                    one.values |= (old & new) - {None}
            for one in bindings:
                one.ended, one.certain = ended, certain

    def cancel(self, bindings: Iterable[Binding]) -> None:
        """Record that the call has changed nothing."""
        with self.lock:
            for one in bindings:
                self._bindings[one.name].remove(one)

    def settle(self, name: str, values: frozenset[Value]) -> None:
        """Fix the found values of a name while nothing runs."""
        with self.lock:
            now = self.clock.tick()
            self._bindings[name] = [Binding(name, "a rest", 0, values, begun=now, ended=now)]

    def is_foreign_since(self, name: str, time: float) -> bool:
        """Return whether since a time only other programs have changed a name, or may have."""
        with self.lock:
            return all(one.foreign for one in self._bindings[name] if one.ended > time)

    def running(self) -> list[Binding]:
        """Return the bindings of calls that run; the lock is held."""
        return [one for found in self._bindings.values() for one in found if one.ended == RUNNING]

    def seen(self, name: str, begun: float, ended: float, without: Sequence[Binding] = ()) -> frozenset[Value]:
        """Return the values that a call from `begun` to `ended` may find; the lock is held. A running rename has those
        of its source since its begin, each rename once: renames may run in circles.
        """
        found: set[Value] = set()
        met, todo = set(without), [(name, begun)]
        while todo:
            name, begun = todo.pop()
            here = [one for one in self._bindings[name] if one.begun < ended and one not in met]
            newest = max((one.begun for one in here if one.certain and one.ended < begun), default=0)
            for one in here:
                if one.ended < newest:
                    continue
                found |= one.values
                if one.source and one.ended == RUNNING:
                    met.add(one)
                    todo.append((one.source, one.begun))
        return frozenset(found)

    def story(self, name: str) -> str:
        """Return the last bindings of a name, a line for each."""
        with self.lock:
            return "".join(f"\n  before: {one}" for one in self._bindings[name][-SHOWN:])
