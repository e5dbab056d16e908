"""Operations on names and objects that all workers share. As in steps.py, each is a generator that yields verbs.

    name_*    change or open a name, beside the same of other workers
    held_*    use a handle that an earlier operation has opened, whatever became of its name; first open one if needed

A worker has two slots for handles. The model of the names and objects is in shared.py.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pagecache.stress.bindings import Binding, Sight, Value
from pagecache.stress.history import FOREVER, Broken, Model
from pagecache.stress.profiles import Operation, other, shared_names
from pagecache.stress.shared import HEADER, Grip, name_beside
from pagecache.stress.targets import READ_ALL, Verb

if TYPE_CHECKING:
    from pagecache.stress.steps import Step, Steps

NAMES = shared_names()
SLOTS = 2


class Crossing:
    """The operations of one worker on shared names and objects."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._world = steps.world
        self._shared = steps.world.shared
        self._worker = steps.worker

    def conduct(self, operation: Operation) -> Step:
        """Yield the verbs of an operation; Broken: an observation is impossible."""
        kind, grip = operation.kind, self._shared.grips.get(self._place(operation))
        start, end = self._range(operation, grip)
        held = kind.startswith("held_") and grip is not None
        self._world.enter(self._worker, operation, start, end, grip.model.number if held and grip else None)
        try:
            if kind == "held_close":
                yield from self._close(operation, self._place(operation))
            elif not kind.startswith("held_"):
                yield from getattr(self, f"_{kind}")(operation)
            else:
                grip = grip or (yield from self._name_open(operation))
                if grip is not None:
                    self._world.active[self._worker].file = grip.model.number
                    yield from getattr(self, f"_{kind}")(operation, grip)
        finally:
            self._world.leave(self._worker)

    def _place(self, operation: Operation) -> tuple[int, int]:
        return self._worker, operation.extra % SLOTS

    def _range(self, operation: Operation, grip: Grip | None) -> tuple[int, int]:
        """Return the range of an operation, behind the header."""
        most = self._world.plan.size_bytes
        start, end = operation.range(HEADER if grip is None else grip.model.largest(), most)
        return max(HEADER, start), max(HEADER + 1, end)

    @staticmethod
    def _name(operation: Operation) -> str:
        return NAMES[operation.file]

    @staticmethod
    def _other_name(operation: Operation) -> str:
        distance = 1 + other(operation.extra) % (len(NAMES) - 1)
        return NAMES[(operation.file + distance) % len(NAMES)]

    # -- names

    def _binding(self, operation: Operation, name: str, *values: Value, source: str = "", **fields: Any) -> Binding:
        what = operation.kind.removeprefix("name_") + (f" of {source}" if source else "")
        return Binding(name, what, self._worker, frozenset(values), source, **fields)

    def _naming(
        self, operation: Operation, verb: Verb, bindings: list[Binding], *, source: str = "", free: str = ""
    ) -> Generator[Verb, Any, Any]:
        """Change names; return the result of the verb, None if it failed. `source`: the name that has to have an
        object; `free`: the name that must have none.
        """
        names, kind = self._shared.names, operation.kind
        names.begin(bindings)
        sight = Sight(names)
        try:
            result = yield verb
            self._endanger(bindings)
            had = sight.of(source, bindings) if source else frozenset()
            was = sight.of(free, bindings) if free else frozenset({None})
            # A lost answer and a missing source look like a call that was carried out [2.14].
            doubtful = bool(source and None in had and self._world.target.explained)
            unasked = self._world.target.creates_unasked and was != {None}  # another object may be stored
            names.finish(bindings, certain=not (doubtful or unasked))
            if unasked:
                self._shared.contend(bindings)
        except FileNotFoundError as error:
            if not source:
                name = bindings[0].name
                raise Broken(f"{name}: {kind} raised {error}{names.story(name)}", "error") from error
            found = sight.of(source, bindings)
            names.cancel(bindings)
            if kind != "name_link" or not any(
                map(self._shared.may_be_lost, found)
            ):  # Linux finds no object to link then
                self._shared.absent(source, found, kind)
            return None
        except FileExistsError as error:
            found = sight.of(free, bindings) if free else frozenset({None})
            names.cancel(bindings)
            if found == {None}:
                raise Broken(f"{free}: {kind} raised {error}, should be free{names.story(free)}", "error") from error
            return None
        except OSError as error:
            self._endanger(bindings)
            names.finish(bindings, certain=False)
            self._world.excuse(error, kind, self._worker)
            return None
        if had == {None} and not doubtful:
            raise Broken(f"{source}: {kind} succeeded, should be no object{names.story(source)}")
        if None not in was and not unasked:
            raise Broken(f"{free}: {kind} succeeded, should be {self._shared.story(free, was)}")
        return True if result is None else result

    def _endanger(self, bindings: list[Binding]) -> None:
        names = self._shared.names
        with names.lock:
            for one in bindings:
                if one.takes:
                    self._shared.endanger(names.seen(one.name, one.begun, names.clock.tick(), tuple(bindings)))
            self._shared.contest(bindings)

    def _name_create(self, operation: Operation) -> Step:
        """Make an object under a free name, or beside and then rename it over the name."""
        model = self._shared.make()
        if model is None:
            return
        name, number, extra = self._name(operation), model.number, operation.extra
        beside = "" if other(extra) % 2 else name_beside(number)
        if beside:
            handle = yield from self._steps.calling(operation.kind, ("enter", beside, operation.way, "w+b"))
        else:
            binding = self._binding(operation, name, number)
            handle = yield from self._naming(operation, ("enter", name, operation.way, "x+b"), [binding], free=name)
        if handle is None:
            return
        self._world.active[self._worker].file = number
        grip = Grip(handle, model, operation.way)
        yield from self._first(operation, grip)
        early = bool(other(extra) & 2)
        if extra & 2:
            yield from self._steps.calling(operation.kind, ("act", handle, "fsync"))
        if not early:
            yield from self._keep(operation, grip)
        if beside:
            verb = ("rename", beside, name)
            yield from self._naming(operation, verb, [self._binding(operation, name, number, takes=True)])
        if early:
            yield from self._keep(operation, grip)

    def _first(self, operation: Operation, grip: Grip) -> Step:
        """Write the first bytes of an object, with its header."""
        model = grip.model
        length = HEADER + operation.length % self._world.plan.size_bytes
        write = self._steps.new(model, "first write", operation.way, 0, length)
        done = yield from self._steps.changing(
            model, write, operation.kind, ("act", grip.handle, "pwrite", write.data(0, length), 0)
        )
        if done:
            self._shared.bare.discard(model.number)

    def _keep(self, operation: Operation, grip: Grip) -> Step:
        """Put a handle into its slot, or close it."""
        place = self._place(operation)
        if operation.extra & 4:
            yield from self._close(operation, place)
            self._shared.grips[place] = grip
        else:
            yield from self._steps.calling(operation.kind, ("act", grip.handle, "close"))

    def _name_open(self, operation: Operation) -> Generator[Verb, Any, Grip | None]:
        """Open a name, and find out which object it has; return the handle, which is kept."""
        place, name = self._place(operation), self._name(operation)
        yield from self._close(operation, place)
        sight = Sight(self._shared.names)
        try:
            handle = yield ("enter", name, operation.way, "r+b")
            found = sight.leading(name)
            found |= self._shared.outlasting(self._world.target.has_compared(handle))
        except FileNotFoundError:
            self._shared.absent(name, sight.leading(name), "open")
            return None
        except OSError as error:
            if error.errno == errno.ELOOP and any(isinstance(value, str) for value in sight.leading(name)):
                return None
            self._world.excuse(error, operation.kind, self._worker)
            return None
        model, unmade = None, self._shared.unmade(found)
        try:
            header = yield ("act", handle, "pread", HEADER, 0)
        except OSError as error:
            if not any(self._shared.is_gone(error, number) for number in found if isinstance(number, int)):
                self._world.excuse(error, operation.kind, self._worker)
        else:
            model = self._shared.which(name, header, found, "open", unmade=unmade)
        if model is None:
            yield from self._steps.calling(operation.kind, ("act", handle, "close"))
            return None
        grip = self._shared.grips[place] = Grip(handle, model, operation.way)
        return grip

    def _name_rename(self, operation: Operation) -> Step:
        old, new = self._name(operation), self._other_name(operation)
        moved = self._binding(operation, new, source=old, takes=True)
        bindings = [self._binding(operation, old, None, over=new), moved]
        yield from self._naming(operation, ("rename", old, new), bindings, source=old)

    def _name_link(self, operation: Operation) -> Step:
        old, new = self._name(operation), self._other_name(operation)
        binding = self._binding(operation, new, source=old, links=True)
        yield from self._naming(operation, ("link", old, new), [binding], source=old, free=new)

    def _name_symlink(self, operation: Operation) -> Step:
        target, name = self._name(operation), self._other_name(operation)
        binding = self._binding(operation, name, target)
        yield from self._naming(operation, ("symlink", target, name), [binding], free=name)

    def _name_remove(self, operation: Operation) -> Step:
        name = self._name(operation)
        binding = self._binding(operation, name, None, takes=True)
        yield from self._naming(operation, ("remove", name), [binding], source=name)

    def _name_sync(self, operation: Operation) -> Step:
        yield from self._saving(operation, ("sync",), None)

    # -- another program

    def _elsewhere(self, operation: Operation, change: str, bindings: list[Binding], *arguments: Any) -> Step:
        if change != "put" and self._world.target.withholds:  # a moved version has the number of the cached object
            return self._world.idle(self._worker, operation.kind)
        for one in bindings:
            one.what, one.foreign = f"{change} of another program", True
        source = "" if change == "put" else self._name(operation)
        verb = ("elsewhere", change, self._name(operation), *arguments)
        done = yield from self._naming(operation, verb, bindings, source=source)
        if done and change == "put" and self._world.target.withholds:
            self._shared.store_over(bindings[0])

    def _name_put(self, operation: Operation) -> Step:
        """Store a new object."""
        model = self._shared.make()
        if model is None:
            return
        length = HEADER + operation.length % self._world.plan.size_bytes
        write = self._steps.new(model, "write of another program", "", 0, length)
        model.begin(write)
        model.finish(write)
        self._shared.bare.discard(model.number)
        self._shared.saves(model.number, self._world.clock.tick())
        binding = self._binding(operation, self._name(operation), model.number, takes=True)
        yield from self._elsewhere(operation, "put", [binding], write.data(0, length), f"shared-other{model.number}")

    def _name_move(self, operation: Operation) -> Step:
        old, new = self._name(operation), self._other_name(operation)
        moved = self._binding(operation, new, source=old, takes=True)
        yield from self._elsewhere(operation, "rename", [self._binding(operation, old, None, over=new), moved], new)

    def _name_drop(self, operation: Operation) -> Step:
        bindings = [self._binding(operation, self._name(operation), None, takes=True)]
        yield from self._elsewhere(operation, "remove", bindings)

    # -- handles

    def _close(self, operation: Operation, place: tuple[int, int]) -> Step:
        grip = self._shared.grips.pop(place, None)
        if grip is None:
            return
        activity = self._world.active[self._worker]
        file, activity.file = activity.file, grip.model.number
        yield from self._steps.calling(operation.kind, ("act", grip.handle, "close"))
        activity.file = file

    def _held_read(self, operation: Operation, grip: Grip) -> Step:
        start, end = self._range(operation, grip)
        start -= HEADER
        observation = self._steps.observe(grip.model, start, end, f"read of a shared object ({grip.way or 'buffered'})")
        verb = ("act", grip.handle, "pread", end - start, start)
        yield from self._steps.reading(observation, operation.kind, verb)

    def _held_write(self, operation: Operation, grip: Grip) -> Step:
        start, end = self._range(operation, grip)
        write = self._steps.new(grip.model, operation.kind, grip.way, start, end - start)
        verb = ("act", grip.handle, "pwrite", write.data(start, end), start)
        if (yield from self._steps.changing(grip.model, write, operation.kind, verb)):
            self._shared.wrote(write)

    def _held_append(self, operation: Operation, grip: Grip) -> Step:
        model, length = grip.model, operation.length
        if model.largest() + length > self._world.plan.size_bytes:
            return
        verb, read = ("act", grip.handle, "append"), ("act", grip.handle, "pread", READ_ALL, 0)
        yield from self._steps.appending(replace(operation, way=grip.way), model, length, verb, read)

    def _held_truncate(self, operation: Operation, grip: Grip) -> Step:
        start, _end = self._range(operation, grip)
        write = self._steps.new(grip.model, "truncate", "", start, FOREVER - start, size=start, zero=True)
        yield from self._steps.changing(grip.model, write, operation.kind, ("act", grip.handle, "truncate", start))

    def _held_fsync(self, operation: Operation, grip: Grip) -> Step:
        verb = ("save", grip.handle, *self._world.target.level(operation.extra))
        yield from self._saving(operation, verb, grip.model)

    def _saving(self, operation: Operation, verb: Verb, only: Model | None) -> Step:
        """Check that the store has the earlier writes of an object, or of all objects that have a name, under each name
        that it had all the time; in place also under other names, if the store has it there [I-18, I-19]. A success is
        wrong if another program has taken the name of the object before its last write [2.19].
        """
        if verb[-1] == "disk":
            yield from self._steps.calling(operation.kind, verb)
            return
        shared, what = self._shared, f"the store after {operation.kind}"
        sight = Sight(shared.names)
        living = {value for name in NAMES for value in sight.of(name) if isinstance(value, int)}
        unmade = shared.unmade(frozenset(living))
        lost = "" if only is None else shared.lost_before_writes(only.number)
        models = [only] if only is not None else [shared.models[number] for number in sorted(living)]
        saved = {model.number: self._steps.observe(model, 0, FOREVER, what, store=True) for model in models}
        done = yield from self._steps.calling(operation.kind, verb)
        if done is None:
            return
        for model in models:
            shared.saves(model.number, sight.begun)
        if only is not None and lost and shared.lost_before_writes(only.number) == lost:
            raise Broken(f"{lost}: {what} of object {only.number}, should be a conflict{shared.names.story(lost)}")
        for name in NAMES:
            if not any(value in saved for value in sight.leading(name)):
                continue
            try:
                got = yield ("store", name)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                continue
            found = sight.leading(name)  # `store` has followed the links
            if len(found) == 1 and found <= {None, *saved} and not unmade:  # not one that a refused rename has spared
                shared.check_found(name, got, found, what)
            number = shared.number_of(got)
            if self._world.target.withholds and found != {number}:
                continue  # the store keeps the replaced object until the commit of the one that has its name
            if got is not None and number in saved:
                self._world.judge(saved[number].until_now(), got, store=True)
