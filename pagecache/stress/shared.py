"""The names and objects that all workers share: their model, open handles, and checks at rest.

    names      bindings.py: which objects each name may have had
    models     number of an object -> its bytes, as for a numbered file (history.py)
    grips      (worker, slot) -> a handle that stays open from operation to operation, with its object

The first HEADER bytes of an object are written once, with its first write, and never changed or cut off. They encode
its number, so each open finds out which object it got. An object without them is being made; it is `bare`.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pagecache.errors import ConflictError, DataLossError, LostRange
from pagecache.stress.bindings import Binding, Names, Sight, Value, described
from pagecache.stress.content import decode
from pagecache.stress.history import Broken, Model, Write
from pagecache.stress.oracle import at_rest, settle, verdict
from pagecache.stress.profiles import CROSSING, KINDS, shared_names
from pagecache.stress.targets import READ_ALL

if TYPE_CHECKING:
    from pagecache.stress.world import Activity, World

T = TypeVar("T")

HEADER = 64  # bytes of an object that never change
FIRST = 2048  # number of the first object: above all numbers of files
LAST = (1 << 15) - 1  # of a round: content.py has so many numbers
SETTLES = 10  # conflicts of a rest are settled at most so often


@dataclass(frozen=True, slots=True)
class Grip:
    """An open handle on a shared object."""

    handle: Any
    model: Model
    way: str


def name_beside(number: int) -> str:
    """Return the name under which an object is made that is renamed over a shared name."""
    return f"shared-new{number}"


class Shared:
    """The shared names and objects of a round; see the top of this file. `_lock` protects the numbers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.names = Names(shared_names(), world.clock)
        self.models: dict[int, Model] = {}
        self.bare: set[int] = set()
        self.grips: dict[tuple[int, int], Grip] = {}
        self._lost: set[Value] = set()  # objects and links that may have lost a name to a remove or a rename over it
        self._next = FIRST
        self._contested: set[int] = set()  # objects under whose names another program may have changed the store
        self._stored_over: dict[int, Binding] = {}  # object -> such a change, of the only name that it had
        self._wrote: dict[int, float] = {}  # object -> begin of its last write by a handle that stays open
        self._saved: dict[int, float] = {}  # object -> begin of its last save
        self._lock = threading.Lock()

    @property
    def used(self) -> bool:
        """Return whether there ever was an object."""
        return self._next > FIRST

    def make(self) -> Model | None:
        """Return the model of a new, empty object; None: all numbers are used."""
        world = self._world
        with self._lock:
            number, self._next = self._next, self._next + 1
        if number > LAST:
            return None
        model = Model(number, Write("content", "", 0, 0, number, world.tag, 0, 0), world.clock)
        model.loses_past = world.target.loses_direct
        self.models[number] = model
        self.bare.add(number)
        return model

    def endanger(self, values: Collection[Value]) -> None:
        """Record that objects and links may lose a name: a store that finds objects by name may not find them."""
        self._lost.update(value for value in values if value is not None)

    def explains(self, error: OSError, activity: Activity) -> bool:
        """Return whether the names, or another program, explain an error of a shared operation."""
        if error.errno == errno.ESTALE and activity.file is None:
            return KINDS[activity.operation.kind] in CROSSING and bool(self.contested())
        return self.leaves_unsaved(error) if activity.file is None else self.is_gone(error, activity.file)

    def leaves_unsaved(self, error: OSError) -> bool:
        """Return whether a sync may raise this: it saves no object whose remove or rename had no answer."""
        errors = getattr(error, "exceptions", None) or [error]
        return bool(self._lost and self._world.target.explained) and all(map(self._is_of_a_lost_name, errors))

    def is_gone(self, error: OSError, number: int) -> bool:
        """Return whether an error says that an object has lost its name, if that is possible."""
        if error.errno == errno.ESTALE:
            return number in self.contested()
        return self._is_of_a_lost_name(error) and self.may_be_lost(number)

    def _is_of_a_lost_name(self, error: OSError) -> bool:
        target = self._world.target
        lost = target.loses_direct  # a reconnect finds no object without a name
        ways = {errno.ENOENT: target.by_name or lost, errno.ESHUTDOWN: lost}
        return ways.get(error.errno or 0, False)

    def may_be_lost(self, value: Value) -> bool:
        """Return whether an object or a link may have lost a name until now."""
        now = self._world.clock.tick()
        with self.names.lock:
            for one in self.names.running():
                if one.takes:
                    self.endanger(self.names.seen(one.name, one.begun, now, (one,)))
        return value in self._lost

    # -- another program, in a store of whole objects

    def contest(self, bindings: Collection[Binding]) -> None:
        """Record that another program changes names, or has: the objects that have them may be in conflict. The lock of
        the names is held.
        """
        for one in bindings:
            if one.foreign and self._world.target.withholds:
                found = self.names.seen(one.name, one.begun, self._world.clock.tick(), tuple(bindings))
                self._contested.update(value for value in found if isinstance(value, int))

    def contend(self, bindings: Collection[Binding]) -> None:
        """Record that objects that were made under names may be in conflict with those that the store has there."""
        self._world.target.may_conflict()
        with self.names.lock:
            self._contested.update(value for one in bindings for value in one.values if isinstance(value, int))

    def contested(self) -> frozenset[int]:
        """Return the objects that may be in conflict."""
        with self.names.lock:
            for one in self.names.running():
                self.contest([one])
            return frozenset(self._contested)

    def store_over(self, binding: Binding) -> None:
        """Record that another program has stored an object under a name, by a call that has returned."""
        with self.names.lock:
            found = self.names.seen(binding.name, binding.begun, binding.ended, (binding,))
        if len(found) == 1:
            self._stored_over.update((value, binding) for value in found if isinstance(value, int))

    def outlasting(self, compared: bool) -> frozenset[int]:
        """Return the objects that an open may find though another program has replaced them: beside changes of the
        cache it takes them as they are. `compared`: none ran before it and after it.
        """
        # Of an object without unsaved changes the cache changes nothing.
        return frozenset(
            number
            for number in self.contested()
            if not compared or number in self.bare or self.models[number].changed_since(self._saved.get(number, 0))
        )

    def wrote(self, write: Write) -> None:
        """Record a write that has returned."""
        self._wrote[write.file] = write.begun

    def saves(self, number: int, begun: float) -> None:
        """Record that a save of an object has returned, which began at a time."""
        self._saved[number] = max(begun, self._saved.get(number, 0))

    def lost_before_writes(self, number: int) -> str:
        """Return the name under which another program has stored a version before the last write of an object, and
        that only other programs have changed since; "": there is none.
        """
        over = self._stored_over.get(number)
        if over is None or self._wrote.get(number, 0) < over.ended:
            return ""
        return over.name if self.names.is_foreign_since(over.name, over.ended) else ""

    def settle(self) -> None:
        """Give up what is unsaved over versions of another program, and close its handles. Nothing runs or fails."""
        contested, target = self.contested(), self._world.target
        for left in reversed(range(SETTLES if target.withholds and "others" in target.ways else 0)):
            for name in self.names:
                self._world.insisting(partial(target.settle, name))
            try:
                self._world.insisting(target.sync)
                break
            except ConflictError:  # an open beside write-back has not compared, and this commit was refused
                if not left:
                    raise
        for place, grip in list(self.grips.items()):
            if grip.model.number in contested:  # it may show the version of another program now
                del self.grips[place]
                with suppress(OSError):
                    target.act(grip.handle, "close")
        for known in (self._contested, self._stored_over, self._wrote):
            known.clear()

    # -- objects

    def lost(self, lost: LostRange) -> bool:
        """Return whether faults explain a loss under a shared name or one beside it: bytes that went past the cache."""
        key, end = self._world.target.key, lost.offset + lost.length
        named = any(key(name) == lost.key for name in self.names)
        models = [
            model for number, model in self.models.copy().items() if named or key(name_beside(number)) == lost.key
        ]
        return any(model.loose or model.went_past(lost.offset, end) for model in models)

    def unmade(self, found: frozenset[Value]) -> bool:
        """Return whether a name may have an object that is being made."""
        return not self.bare.isdisjoint(found)

    def which(self, name: str, header: bytes, found: frozenset[Value], what: str, *, unmade: bool) -> Model | None:
        """Return the object that bytes found under a name belong to; None: an object that is being made. `unmade`: the
        name may have had one before the bytes were read; Broken: the name cannot have had it.
        """
        number = self.number_of(header)
        if number is not None and number in found:
            return self.models[number]
        if number is None and unmade:
            return None
        has = f"an object of {len(header)} bytes without a number" if number is None else f"object {number}"
        raise Broken(f"{name}: {what} found {has}, should be {self.story(name, found)}")

    def check_found(self, name: str, got: bytes | None, found: frozenset[Value], what: str) -> Model | None:
        """Return the object that bytes found under a name belong to; None: no object, or one that was never made. No
        object that may have the name is being made; Broken: the name cannot have had it.
        """
        if got is None:
            self.absent(name, found, what)
            return None
        return self.which(name, got, found, what, unmade=self.unmade(found))

    def number_of(self, got: bytes | None) -> int | None:
        """Return the number of the object that begins with these bytes; None: they have none."""
        if got is None or len(got) < HEADER:
            return None
        origin = decode(got[:HEADER], 0, FIRST)
        return None if origin is None or origin.tag != self._world.tag else origin.file

    # -- at rest

    def agree(self, when: str) -> None:
        """Check that each name has the last object that was bound to it, with all its bytes, and that each open handle
        shows its object. Nothing runs.
        """
        world, sight = self._world, Sight(self.names)
        for name in self.names:
            what = f"a look {when}"
            if (link := world.insisting(partial(world.target.link_of, name))) is not None:
                if link not in sight.of(name):
                    raise Broken(f"{name}: {what} found a link to {link}, should be {self.story(name, sight.of(name))}")
                self.names.settle(name, frozenset({link}))
                continue
            got = self._told(partial(world.target.look, name))
            model = self.check_found(name, got, sight.of(name), what)
            if got is None:
                self.names.settle(name, frozenset({None}))
            elif model is not None:
                self.names.settle(name, frozenset({model.number}))
                settle(model, f"{name}, {when},", got)
        for place, grip in list(self.grips.items()):
            try:
                got = self._told(partial(world.target.act, grip.handle, "pread", READ_ALL, 0))
            except OSError as error:
                if not self.is_gone(error, grip.model.number):
                    raise
                with suppress(OSError):  # what it has lost with its name
                    world.target.act(grip.handle, "close")
                del self.grips[place]
            else:
                settle(grip.model, f"an open {grip.way or 'buffered'} handle, {when},", got)

    def _told(self, call: Callable[[], T]) -> T:
        """Return the result of a call, which may report a loss before."""
        try:
            return self._world.insisting(call)
        except DataLossError as loss:
            self._world.excuse(loss, "look", 0)
            return self._world.insisting(call)

    def absent(self, name: str, found: frozenset[Value], what: str) -> None:
        """Check that a name may be free."""
        if None not in found:
            raise Broken(f"{name}: {what} found no object, should be {self.story(name, found)}")

    def story(self, name: str, found: frozenset[Value]) -> str:
        """Describe the possible values of a name, and the calls that bound it and the names that it leads to."""
        links = sorted(value for value in found if isinstance(value, str))
        return described(found) + "".join(self.names.story(each) for each in dict.fromkeys((name, *links)))

    def story_of(self, error: OSError) -> str:
        """Return the calls that bound the name that an error names; "": it names none."""
        key, keys = error.filename, {self._world.target.key(name): name for name in self.names}
        return self.names.story(keys[key]) if self.used and key in keys else ""

    def stored(self, what: str) -> None:
        """Check that the store has the objects and bytes that `agree` found. Nothing runs."""
        sight = Sight(self.names)
        for name in self.names:
            if any(isinstance(value, str) for value in sight.of(name)):
                continue
            got = self._world.target.store(name)
            model = self.check_found(name, got, sight.of(name), what)
            if got is not None and model is not None:
                verdict(at_rest(model, what), got)

    def drop(self) -> None:
        """Drop the cached bytes of all objects that have a name. Nothing runs."""
        for name in self.names:
            try:
                self._world.target.invalidate(name, 0, READ_ALL)
            except OSError as error:
                self._world.excuse(error, "invalidate", 0)

    def forget(self) -> None:
        """Drop the models of objects without a name and a handle. Nothing runs."""
        sight = Sight(self.names)
        living = {value for name in self.names for value in sight.of(name)}
        living |= {grip.model.number for grip in self.grips.values()}
        self.models = {number: model for number, model in self.models.items() if number in living}
        self.bare.intersection_update(living)
        self._lost.intersection_update(living)

    def end(self) -> None:
        """Close all handles. Nothing runs."""
        for grip in self.grips.values():
            try:
                self._world.target.act(grip.handle, "close")
            except OSError as error:
                self._world.excuse(error, "held_close", 0)
        self.grips.clear()
