"""From a write to the commit that made it durable, exactly.

Records come in the order of what happened to each byte (see `_native/state/record.c`), so this is a matter of
bookkeeping: where each byte is, and whose it is.

    WROTE       the bytes are the call's, whoever had them before
    HANDED      what is dirty of the range goes into the request
    AGAIN       ... and back, where nothing newer was written meanwhile
    ACKED       ... and on: to be committed (or durable at once)
    BACK        a commit failed: dirty again
    COMMIT      what was acknowledged is durable: an arrow from each call through each request that carried its bytes
    GONE        truncated, punched, given up: nobody's

A byte belongs to the last call that wrote it. What was written before the trace began belongs to nobody.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Flows", "Point"]

DURABLE_MAX = 1024
"""Commits of a file that a sync can be tied to."""

OPEN_MAX = 4096


class Point(NamedTuple):
    """Where an arrow touches a slice: its track and a time within it, in ns."""

    track: int
    at: int


@dataclass(eq=False, slots=True)
class Step:
    """A call, or a request that carried on what another step had: a way of bytes, from its last station."""

    before: Step | None
    request: Request | None = None
    call: int = 0
    at: int = 0
    stamp: int = 0
    depth: int = 0
    told: bool = False  # another step goes on from here, or an arrow ends here


@dataclass(eq=False, slots=True)
class Request:
    """A write request: what it carries, and where its last backend call is shown."""

    number: int
    file: int
    point: Point | None = None
    flight: list[tuple[int, int, Step]] = field(default_factory=list)
    attempt: int = 1
    acked: int = 0
    again: int = 0


class Extents:
    """Disjoint ranges of bytes, each with the step that it comes from."""

    __slots__ = ("_ends", "_starts", "_steps")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._steps: list[Step] = []

    def take(self, start: int, end: int) -> list[tuple[int, int, Step]]:
        """Remove [start, end); returns what was there."""
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return []
        found = list(zip(self._starts[first:last], self._ends[first:last], self._steps[first:last], strict=True))
        left = [(s, min(e, start), step) for s, e, step in found[:1] if s < start]
        left += [(max(s, end), e, step) for s, e, step in found[-1:] if e > end]
        self._starts[first:last] = [s for s, _, _ in left]
        self._ends[first:last] = [e for _, e, _ in left]
        self._steps[first:last] = [step for _, _, step in left]
        return [(max(s, start), min(e, end), step) for s, e, step in found]

    def put(self, start: int, end: int, step: Step) -> None:
        """[start, end) comes from this step now."""
        self.take(start, end)
        k = bisect_left(self._starts, start)
        self._starts.insert(k, start)
        self._ends.insert(k, end)
        self._steps.insert(k, step)

    def put_under(self, start: int, end: int, step: Step) -> None:
        """The same for what of it is not there."""
        k = bisect_right(self._ends, start)
        while start < end:
            stop = min(self._starts[k], end) if k < len(self._starts) else end
            if start < stop:
                self._starts.insert(k, start)
                self._ends.insert(k, stop)
                self._steps.insert(k, step)
                k += 1
            if k < len(self._starts):
                start = max(stop, self._ends[k])
            else:
                start = stop
            k += 1

    def clear(self) -> list[Step]:
        """Remove everything; returns the steps."""
        steps = list(dict.fromkeys(self._steps))
        for column in (self._starts, self._ends, self._steps):
            column.clear()
        return steps


@dataclass(eq=False, slots=True)
class File:
    dirty: Extents = field(default_factory=Extents)
    acked: Extents = field(default_factory=Extents)
    durable: deque[tuple[Point, int, int]] = field(default_factory=lambda: deque(maxlen=DURABLE_MAX))
    """What made bytes durable: where it is shown, when it ended, the oldest stamp of what it covered."""


Arrow = Callable[[list[Point]], None]


class Flows:
    """Where the bytes are. `arrow` gets the stations of each way when it is known, in the order of time."""

    def __init__(self, track_of: Callable[[int], int | None], arrow: Arrow) -> None:
        """`track_of`: of a call, by its id; None: it is not known yet."""
        self._track_of = track_of
        self._arrow = arrow
        self._files: dict[int, File] = {}
        self._calls: dict[int, Step] = {}
        self.requests: dict[int, Request] = {}
        self._open: list[Step] = []
        self._enough = OPEN_MAX
        self._waiting: dict[int, list[list[Point]]] = {}

    def _file(self, number: int) -> File:
        found = self._files.get(number)
        if found is None:
            found = self._files[number] = File()
        return found

    # -- calls

    def wrote(self, file: int, start: int, length: int, call: int, stamp: int, at: int) -> None:
        step = self._calls.get(call)
        if step is None:
            step = Step(None, call=call, at=at, stamp=stamp)
            if call:
                self._calls[call] = step
        self._file(file).dirty.put(start, start + length, step)

    def call_ended(self, call: int, track: int) -> None:
        self._calls.pop(call, None)
        for way in self._waiting.pop(call, ()):
            way[0] = Point(track, way[0].at)
            self._arrow(way)

    def is_writer(self, call: int) -> bool:
        """Whether it has written and has not ended."""
        return call in self._calls

    def unfinished(self) -> Iterator[tuple[int, int]]:
        """Calls that wrote and have not ended: id, and when they first wrote."""
        return iter([(call, step.at) for call, step in self._calls.items()])

    # -- requests

    def request(self, number: int, file: int) -> None:
        self.requests[number] = Request(number, file)

    def handed(self, number: int, file: int, start: int, length: int) -> None:
        request = self.requests.get(number)
        if request is None:
            request = self.requests[number] = Request(number, file)
        made: dict[int, Step] = {}
        for s, e, step in self._file(file).dirty.take(start, start + length):
            carried = made.get(id(step))
            if carried is None:
                carried = Step(step, request, step.call, step.at, step.stamp, step.depth + 1)
                made[id(step)] = carried
                step.told = True
                self._open.append(carried)
                request.attempt = max(request.attempt, carried.depth)
            request.flight.append((s, e, carried))
        if len(self._open) > self._enough:
            self._open = [step for step in self._open if not step.told]
            self._enough = 2 * len(self._open) + OPEN_MAX

    def called(self, number: int, point: Point) -> None:
        """The request has a backend call, shown there."""
        request = self.requests.get(number)
        if request is not None:
            request.point = point

    def _land(self, request: Request, start: int, end: int) -> Iterator[tuple[int, int, Step]]:
        """What was in flight of a range is not any more."""
        left = []
        for s, e, step in request.flight:
            if s < end and e > start:
                yield max(s, start), min(e, end), step
                left += [(s, start, step)] if s < start else []
                left += [(end, e, step)] if e > end else []
            else:
                left.append((s, e, step))
        request.flight = left

    def acked(self, number: int, start: int, length: int, at: int, *, durable: bool) -> None:
        request = self.requests.get(number)
        if request is None:
            return
        request.acked += length
        file = self._file(request.file)
        landed = list(self._land(request, start, start + length))
        if durable:
            self._made_durable(file, list(dict.fromkeys(step for _, _, step in landed)), request.point, at, None)
            return
        for s, e, step in landed:
            file.acked.put(s, e, step)

    def again(self, number: int, start: int, length: int) -> None:
        request = self.requests.get(number)
        if request is None:
            return
        request.again += length
        dirty = self._file(request.file).dirty
        for s, e, step in list(self._land(request, start, start + length)):
            dirty.put_under(s, e, step)

    def done(self, number: int) -> Request | None:
        return self.requests.pop(number, None)

    # -- files

    def back(self, number: int, start: int, length: int) -> None:
        file = self._file(number)
        for s, e, step in file.acked.take(start, start + length):
            file.dirty.put_under(s, e, step)

    def gone(self, number: int, start: int, length: int) -> None:
        file = self._file(number)
        file.acked.take(start, start + length)
        file.dirty.take(start, start + length)

    def committed(self, number: int, point: Point, at: int) -> None:
        file = self._file(number)
        self._made_durable(file, file.acked.clear(), point, at, point)

    def _made_durable(self, file: File, steps: list[Step], shown: Point | None, at: int, end: Point | None) -> None:
        """`end`: where the arrows go to, if not to the request itself."""
        for step in steps:
            self._tell(step, end)
        if steps and shown is not None:
            file.durable.append((shown, at, min(step.stamp for step in steps)))

    def synced(self, number: int, stamp: int, began: int, point: Point) -> None:
        """A sync has succeeded: what became durable while it ran, and had bytes that it had to wait for."""
        for shown, at, oldest in self._file(number).durable:
            if at >= began and oldest <= stamp:
                self._arrow([shown, point])

    # -- arrows

    def _tell(self, step: Step, end: Point | None) -> None:
        step.told = True
        way = [] if end is None else [end]
        last: Step | None = step
        while last is not None and last.request is not None:
            if last.request.point is not None:
                way.append(last.request.point)
            last = last.before
        if not step.call or not way:
            return
        way.append(Point(0, step.at))
        way.reverse()
        track = self._track_of(step.call)
        if track is None:
            self._waiting.setdefault(step.call, []).append(way)
        else:
            way[0] = Point(track, step.at)
            self._arrow(way)

    def finish(self) -> None:
        """The trace ends: what was carried and is not durable has an arrow as far as it came."""
        for step in self._open:
            if not step.told:
                self._tell(step, None)
