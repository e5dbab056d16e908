"""Each operation as a generator that yields verbs, and updates the models with their results.

    step = Steps(world, worker).conduct(operation)
    verb = next(step)                       ("write", 0, "direct", 4096, b"...", 17)
    verb = step.send(answer)                or step.throw(error), until StopIteration

One verb is for the player, not for the target: ("pause",), a moment in which others run.

So threads and tasks play the operations in common code, and the models get each call right
before and right after it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from pagecache import Advice
from pagecache.stress.content import APPENDED, made
from pagecache.stress.crossing import Crossing
from pagecache.stress.history import FOREVER, PAST, Broken, Model, Write
from pagecache.stress.oracle import Observation, copied, worker_name
from pagecache.stress.own_objects import OwnObjects
from pagecache.stress.profiles import CROSSING, IO, KINDS, Operation, other
from pagecache.stress.targets import Held, Verb
from pagecache.stress.world import World

Step = Generator[Verb, Any, None]
ADVICES = list(Advice)
APPEND_KEY = 20  # bytes of an append that suffice to find its place


class Steps:
    """The operations of one worker."""

    def __init__(self, world: World, worker: int) -> None:
        self.world = world
        self.worker = worker
        self._sequence = 0
        self._own = OwnObjects(world, worker, self._next_number)
        self._crossing = Crossing(self)

    def _next_number(self) -> int:
        self._sequence += 1
        return self._sequence

    def conduct(self, operation: Operation) -> Step:
        """Yield the verbs of an operation; Broken: an observation is impossible."""
        world, kind = self.world, operation.kind
        if kind in world.unsupported:
            return
        if KINDS[kind] in CROSSING:
            yield from self._crossing.conduct(operation)
            return
        model = world.models[world.special.get(KINDS[kind], operation.file % world.plan.files)]
        start, end = operation.range(model.largest(), world.reach)
        if model.loose and kind not in ("read", "readv") and operation.way in PAST:
            operation = replace(operation, way="buffered")  # a discard may truncate the file under a direct write
        if operation.way in PAST and world.target.direct_unit > 1:
            unit = world.target.direct_unit
            start -= start % unit
            end += -end % unit
        world.enter(self.worker, operation, start, end)
        try:
            play = getattr(self._own, kind) if KINDS[kind] == "names" else getattr(self, f"_{kind}")
            yield from play(operation, model, start, end)
        finally:
            world.leave(self.worker)

    def recall(self, found: Callable[[str], bytes | None]) -> None:
        """After a crash, set the worker's own names to the contents that `found` returns."""
        self._own.recall(found)

    # -- shared steps

    def observe(self, model: Model, start: int, end: int, what: str, *, store: bool = False) -> Observation:
        return Observation(model, start, end, self.worker, what, store=store)

    def new(self, model: Model, kind: str, way: str, start: int, length: int, **fields: Any) -> Write:
        write = Write(
            kind, way, self.worker, self._next_number(), model.number, self.world.tag, start, length, **fields
        )
        self.world.active[self.worker].writes.append(write)
        return write

    def calling(self, kind: str, verb: Verb) -> Generator[Verb, Any, Any]:
        """Make a call that the model does not see; return its result, None if it failed."""
        try:
            result = yield verb
        except OSError as error:
            self.world.excuse(error, kind, self.worker)
            return None
        return True if result is None else result

    def reading(self, observation: Observation, kind: str, verb: Verb) -> Step:
        """Make a call that reads, and judge its bytes; None: it had none, and that is no failure."""
        try:
            got = yield verb
        except OSError as error:
            self.world.excuse(error, kind, self.worker)
            got = None
        finally:
            observation.returned()
        if got is not None:
            self.world.judge(observation, got)

    def changing(self, model: Model, write: Write, kind: str, verb: Verb) -> Generator[Verb, Any, bool]:
        """Make a call that changes all or a part of its range; return whether it changed all."""
        model.begin(write)
        try:
            yield verb
        except OSError as error:
            self._failed(model, write, error)
            self.world.excuse(error, kind, self.worker)
            return False
        model.finish(write)
        return True

    def _exact(self, write: Write) -> bool:
        """Return whether a failed write did exactly the part that its error reports."""
        return self.world.target.exact and write.way in ("buffered", "")

    def _failed(self, model: Model, write: Write, error: OSError) -> None:
        """Record a failed write: it did the reported part; a direct write perhaps more."""
        done = getattr(error, "characters_written", None)
        exact = self._exact(write) and write.size is None
        if done is None or (write.size is not None and write.size >= 0):
            model.finish(write, certain=False)
        elif exact and not done:
            model.cancel(write)
        else:
            rest = model.split(write, done)
            model.finish(write)
            if exact:
                model.cancel(rest)
            else:
                model.finish(rest, certain=False)

    # -- reading

    def _read(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        kind, way, plan = operation.kind, operation.way, self.world.plan
        observation = self.observe(model, start, end, f"{kind} ({way})")
        verb = kind
        if kind == "read" and other(operation.extra) % 4 == 1 and 0 < self.worker - plan.threads <= plan.tasks:
            verb = "read_cancelled"
            self.world.count("reads that a task cancels")
        yield from self.reading(observation, kind, (verb, operation.file, way, start, end - start, operation.extra))

    _readv = _read

    def _try_read(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        observation = self.observe(model, start, end, "try_read")
        way = self._by("try_read", operation, model) if self.world.target.direct_unit == 1 else "buffered"
        yield from self.reading(observation, "try_read", ("try_read", operation.file, way, end - start, start))

    def _reopen(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        direct = bool(operation.extra % 2) and "direct" in self.world.target.ways
        observation = self.observe(model, start, end, "read by a new handle")
        yield from self.reading(observation, "reopen", ("reopen", operation.file, start, end - start, direct))

    def _view(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        end = min(end, model.largest())
        if start >= end:
            return
        times = 3 if other(operation.extra) % 4 == 1 else 1
        observations = [self.observe(model, start, end, "a view") for _ in range(times)]  # each is judged once
        held = yield from self._held(observations[0], operation, writable=False)
        if held is None:
            return
        got = [held.tobytes()]
        for _ in observations[1:]:  # others change the bytes
            yield ("pause",)
            got.append(held.tobytes())
            self.world.count("views read again")
        held.release()
        for observation, one in zip(observations, got, strict=True):
            observation.returned()
            self.world.judge(observation, one, short=True)

    def _held(
        self, observation: Observation, operation: Operation, *, writable: bool
    ) -> Generator[Verb, Any, Held | None]:
        """Return a view; None: there is no memory for it, or the file was truncated concurrently."""
        try:
            length = observation.end - observation.start
            held: Held = yield ("view", operation.file, observation.start, length, writable)
        except OSError as error:
            self.world.excuse(error, "view", self.worker)
            return None
        except ValueError as error:
            observation.returned()
            if observation.sizes_meanwhile()[0] >= observation.end:
                raise Broken(f"view of {worker_name(self.worker)} in a file that was long enough: {error}") from error
            return None
        return held

    # -- writing

    def _write(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        write = self.new(model, operation.kind, operation.way, start, end - start)
        data = write.data(start, end)
        verb = (operation.kind, operation.file, operation.way, start, data, operation.extra)
        if operation.way == "through" and self.world.target.shows:
            yield from self._through(operation, model, write, verb)
        else:
            yield from self.changing(model, write, operation.kind, verb)

    _writev = _write

    def _through(self, operation: Operation, model: Model, write: Write, verb: Verb) -> Step:
        """Check that a write-through is stored when the call returns [T-36]."""
        observation = self.observe(model, write.start, write.end, f"the store after {operation.kind} (through)")
        if (yield from self.changing(model, write, operation.kind, verb)):
            got = yield ("store", model.number)
            observation.returned()
            if not model.loose:
                observation.covered(write)
            if got is None:
                raise Broken(f"file {model.number}: the store after {write!r} (through) has no such object")
            self.world.judge(observation, got[write.start : write.end], store=True)

    def _tear(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        """Write from memory that ends in the middle: an error, and the bytes before the gap may be stored [K11]."""
        write = self.new(model, "write of memory that ends", "buffered", start, end - start)
        model.begin(write)
        try:
            yield ("tear", operation.file, start, write.data(start, end))
        except OSError as error:
            self._failed(model, write, error)
            if error.errno != errno.EFAULT:
                self.world.excuse(error, "tear", self.worker)
        else:
            raise Broken(f"{write!r} of {worker_name(self.worker)} raised nothing", "error")

    def _try_write(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        write = self.new(model, "try_write", "buffered", start, end - start)
        model.begin(write)
        try:
            done = yield ("try_write", operation.file, "buffered", write.data(start, end), start)
        except OSError as error:
            self._failed(model, write, error)
            self.world.excuse(error, "try_write", self.worker)
        else:
            model.cancel(write) if done is None else model.finish(write)

    def _append(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        length = end - start
        if model.largest() + length > self.world.reach:
            return
        verb = ("append", operation.file, operation.way)
        read = ("read", operation.file, "buffered", 0, self.world.reach * 2, 0)
        yield from self.appending(operation, model, length, verb, read)

    def appending(self, operation: Operation, model: Model, length: int, verb: Verb, read: Verb) -> Step:
        """Append by a call; `read` is one of the whole file."""
        write = self.new(model, "append", operation.way, -1, length)
        data = made(write.tag, write.file | APPENDED, write.worker, write.sequence, 0, length)
        model.begin(write)
        try:
            offset = yield (*verb, data)
        except OSError as error:
            yield from self._find_append(model, write, data, error, read)
            self.world.excuse(error, operation.kind, self.worker)
        else:
            model.place(write, offset)
            model.finish(write)
        self.world.recheck()

    def _find_append(self, model: Model, write: Write, data: bytes, error: OSError, read: Verb) -> Step:
        """Find the place of an append that failed after storing a part without reporting where."""
        done = getattr(error, "characters_written", None)
        if done == 0 and self._exact(write):
            model.cancel(write)
            return
        try:
            got = yield read
        except OSError:
            got = b""
        part = data[: done or 1 << 30]
        at = got.find(part, write.floor)
        if len(part) < APPEND_KEY or at < 0 or got.find(part, at + 1) >= 0:
            model.lose(write)
            return
        rest = model.place(write, at, done)
        model.finish(write)
        if rest is not None and self._exact(write):
            model.cancel(rest)
        elif rest is not None:
            model.finish(rest, certain=False)

    def _store(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        end = min(end, model.largest())
        if start >= end:
            return
        observation = self.observe(model, start, end, "a writable view")
        held = yield from self._held(observation, operation, writable=True)
        if held is None:
            return
        taken = self.world.clock.tick()
        if operation.extra % 4 == 1:  # others have time to truncate it
            yield from self.calling("flush", ("flush", operation.file))
        elif operation.extra % 16 == 2 and self.world.target.detaches and "truncate" not in self.world.unsupported:
            yield from self._truncate(operation, model, (start + end) // 2, end)
        observation.returned()
        self._stored(operation, model, observation, held, taken)
        if operation.extra % 8 == 0 and "fsync" not in self.world.unsupported:
            yield from self._fsync(operation, model, start, end)
        held.release()

    def _stored(self, operation: Operation, model: Model, observation: Observation, held: Held, taken: int) -> None:
        """Store to a view that was taken earlier. Stores after a truncate that cut the view off are lost [T-47,
        I-9].
        """
        attached = not held.detached
        cut = observation.cut_since(taken) if self.world.target.detaches else None
        write = self.new(model, "store", "view", observation.start, observation.end - observation.start, size=-1)
        model.begin(write)
        held.store(0, write.data(observation.start, observation.end))
        model.finish(write, certain=attached and not held.detached)
        if attached and cut is not None:
            what = f"file {operation.file}: a view of [{observation.start}, {observation.end})"
            raise Broken(f"{what} is not cut off by {cut!r} of {worker_name(cut.worker)}, which ended before")

    def _copy(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        """Copy from one place of the file to another, out of the file's own memory."""
        end = min(end, model.largest())
        if start >= end:
            return
        shift = operation.extra % (2 * (end - start) + 1) - (end - start)
        shift = max(-start, min(shift, self.world.reach - end))
        if not self.world.target.moves and abs(shift) < end - start:
            shift = end - start
            if end + shift > self.world.reach:
                return
        way = ("buffered", "direct")[operation.extra % 2]
        if way not in self.world.target.ways or self.world.target.direct_unit > 1:
            way = "buffered"
        elif way == "buffered":
            way = self._by("copy", operation, model)
        observation = self.observe(model, start, end, "a view to copy from")
        held = yield from self._held(observation, operation, writable=False)
        if held is None:
            return
        write = self.new(model, "copy", way, start + shift, end - start)
        model.begin(write)
        failed: OSError | None = None
        try:
            yield ("copy", operation.file, write.way, held, write.start)
        except OSError as error:
            failed = error
        observation.returned()
        write.literal = copied(observation, write, shift)
        write.wild = write.literal is None
        self.world.counters["copies of unknown bytes"] += write.wild
        held.release()
        if failed is not None:
            model.resolve(write)
            self._failed(model, write, failed)
            self.world.excuse(failed, "copy", self.worker)
        else:
            model.finish(write)
        self.world.recheck()

    # -- size and space

    def _by(self, kind: str, operation: Operation, model: Model) -> str:
        """Return the way of the handle to call."""
        way = ("buffered", *IO)[other(operation.extra) // 4 % 8 % 5]
        # Handles of a loose file report its losses at the rest; each reports them once.
        if way == "buffered" or model.loose or way not in self.world.target.ways:
            return "buffered"
        self.world.count(f"{kind} by a {way} handle")
        return way

    def _truncate(self, operation: Operation, model: Model, start: int, _end: int) -> Step:
        write = self.new(model, "truncate", "", start, FOREVER - start, size=start, zero=True)
        verb = ("truncate", operation.file, self._by("truncate", operation, model), start)
        yield from self.changing(model, write, "truncate", verb)

    def _punch(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        kind = operation.kind
        write = self.new(model, kind, "", start, end - start, size=-1, zero=True)
        verb = (kind, operation.file, self._by(kind, operation, model), start, end - start)
        yield from self.changing(model, write, kind, verb)

    _zero = _punch

    # -- durability

    def _fsync(self, operation: Operation, model: Model, _start: int, _end: int) -> Step:
        level = self.world.target.level(operation.extra)
        verb = ("fsync", operation.file, self._by("fsync", operation, model), *level)
        yield from self._saving("fsync", verb, [model])

    def _sync(self, operation: Operation, _model: Model, _start: int, _end: int) -> Step:
        verb = (operation.kind, *self.world.target.level(operation.extra))
        yield from self._saving(operation.kind, verb, self.world.models)

    _ticket = _sync

    def _saving(self, kind: str, verb: Verb, models: list[Model]) -> Step:
        """Check that earlier writes are stored when the call returns [I-18, I-19]; if they may be on the disk alone, a
        crash does (durable.py).
        """
        if verb[-1] == "disk":
            self.world.count(f"{kind} at disk")
            yield from self.calling(kind, verb)
            return
        observations = [self.observe(model, 0, FOREVER, f"the store after {kind}", store=True) for model in models]
        names = self._own.contents()
        try:
            yield verb
        except OSError as error:
            self.world.excuse(error, kind, self.worker)
            return
        for observation in observations:
            got = yield ("store", observation.model.number)
            observation.returned()
            if got is None:
                raise Broken(f"file {observation.model.number}: the store after {kind} has no such object")
            self.world.judge(observation, got, store=True)
        if kind != "fsync":
            yield from self._own.saved(names)

    # -- calls that change nothing

    def _call(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        kind, extra, length = operation.kind, operation.extra, end - start
        verb: Verb = (kind, operation.file, start, length)
        if kind == "drop" and other(extra) % 4 == 1:
            self.world.count("drops of all files")
            verb = ("drop_all",)
        elif kind not in ("drop", "invalidate"):
            arguments: dict[str, tuple[Any, ...]] = {
                "flush": (),
                "sync_range": (start, length),
                "prefetch": (start, length, bool(extra % 2)),
                "advise": (ADVICES[extra % len(ADVICES)], start, length),
            }
            verb = (kind, operation.file, self._by(kind, operation, model), *arguments[kind])
        yield from self.calling(kind, verb)

    _flush = _sync_range = _drop = _invalidate = _prefetch = _advise = _call

    # -- below the cache: foreign changes of the store, and unsaved data that is given up
    #
    # With losses and rivals the model cannot decide, while workers run, which bytes written since the last rest are
    # present: each of them may be (`Model.loose`). At rest, memory and store must agree for each handle and byte, and
    # each handle must have reported the discarded ranges (world.py).

    def _watch(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        """Read the file that a foreign writer changes."""
        observation = self.observe(model, start, end, "read of a file with foreign changes")
        verb = ("read", model.number, "buffered", start, end - start, operation.extra)
        yield from self.reading(observation, "watch", verb)

    def _change(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        """Change whole units in the store behind the cache; then invalidate the cache, or let it find out [2.19]."""
        unit, size = self.world.target.store_unit, model.largest()
        start, end = start - start % unit, min(end + -end % unit, size)
        if start < end:
            write = self.new(model, "foreign change", "", start, end - start, size=-1)
            verb = ("change", model.number, start, write.data(start, end), operation.extra)
            yield from self.changing(model, write, "change", verb)

    def _lose(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        """Discard unsaved bytes of a range, or from an offset on [2.18]."""
        write = self.new(model, "loss", "", 0, FOREVER, size=0, zero=True)
        model.begin(write)
        try:
            lost = yield ("lose", model.number, start, None if operation.extra % 2 else end - start)
        except OSError as error:
            self.world.excuse(error, "lose", self.worker)
        else:
            with self.world.lock:
                self.world.given_up += lost
        finally:
            model.finish(write, certain=False)
            model.shrink(write)

    def _contest(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        """Write, read or save; nothing else changes the size, so the local content has its own end."""
        turn = operation.extra % 8
        kind = "read" if turn < 2 else "fsync" if turn == 2 else "sync_range" if turn == 3 else "write"
        way = "buffered" if kind in ("read", "write") else ""
        same = replace(operation, kind=kind, file=model.number, way=way)
        yield from getattr(self, f"_{kind}")(same, model, start, end)

    def _replace(self, _operation: Operation, model: Model, start: int, _end: int) -> Step:
        """Replace the object by other bytes of another length; then invalidate the cache, and lay local data over
        them or give it up [2.19].
        """
        unit = self.world.target.store_unit
        length = start // 2 + unit - start // 2 % unit
        write = self.new(model, "foreign replacement", "", 0, length)
        rest = self.new(model, "end of a foreign replacement", "", length, FOREVER, size=length, zero=True)
        model.begin(write)
        model.begin(rest)
        try:
            yield ("replace", model.number, write.data(0, length))
        except OSError as error:
            self.world.excuse(error, "replace", self.worker)
        finally:
            model.finish(write, certain=False)
            model.finish(rest, certain=False)
