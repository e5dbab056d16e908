"""The way of each byte from a write to the commit that made it durable, exactly.

Records come in the order of each byte's history (see `_native/state/record.c`), so this is bookkeeping: the place of
each byte, and the call that owns it.

    WROTE       the call owns the bytes
    ISSUED      the dirty bytes of the range move into the request
    AGAIN       ... and back, unless newer bytes were written in between
    ACKED       ... and on: they wait for a commit (or are durable at once)
    BACK        a commit failed: dirty again
    COMMIT      acknowledged bytes are durable: an arrow from each call through each request that carried its bytes
    GONE        truncated, punched, given up: no owner

The last call that wrote a byte owns it. Bytes written before the trace began have no owner.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Flows", "Point"]

DURABLE_MAX = 1024
"""Number of commits of a file that are kept for syncs."""

OPEN_MAX = 4096


class Point(NamedTuple):
    """A point at which an arrow touches a slice: its track and a time within it, in ns."""

    track: int
    at: int


@dataclass(eq=False, slots=True)
class Step:
    """A station of bytes on their way: a call, or a request that took them from another step."""

    before: Step | None
    request: Request | None = None
    call: int = 0
    at: int = 0
    stamp: int = 0
    depth: int = 0
    drawn: bool = False  # another step continues from here, or an arrow ends here


@dataclass(eq=False, slots=True)
class Request:
    """A write request: its bytes, and the point of its last backend call."""

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
        """Remove [start, end); return the removed pieces."""
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
        """Set the step of [start, end)."""
        self.take(start, end)
        k = bisect_left(self._starts, start)
        self._starts.insert(k, start)
        self._ends.insert(k, end)
        self._steps.insert(k, step)

    def put_under(self, start: int, end: int, step: Step) -> None:
        """Set the step of the parts of [start, end) that have none."""
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
        """Remove everything; return the steps."""
        steps = list(dict.fromkeys(self._steps))
        for column in (self._starts, self._ends, self._steps):
            column.clear()
        return steps


@dataclass(eq=False, slots=True)
class File:
    dirty: Extents = field(default_factory=Extents)
    acked: Extents = field(default_factory=Extents)
    durable: deque[tuple[Point, int, int]] = field(default_factory=lambda: deque(maxlen=DURABLE_MAX))
    """A commit that made bytes durable: its point, its end, and the oldest stamp of the bytes that it covered."""


Arrow = Callable[[list[Point]], None]


class Flows:
    """The places of all bytes. `arrow` gets the stations of each complete way, in the order of time."""

    def __init__(self, track_of: Callable[[int], int | None], arrow: Arrow) -> None:
        """`track_of`: return the track of a call by its id; None: not known yet."""
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
        """Return whether a call has written and has not ended."""
        return call in self._calls

    def unfinished(self) -> Iterator[tuple[int, int]]:
        """Yield the calls that wrote and have not ended: id, and the time of their first write."""
        return iter([(call, step.at) for call, step in self._calls.items()])

    # -- requests

    def request(self, number: int, file: int) -> None:
        self.requests[number] = Request(number, file)

    def issued(self, number: int, file: int, start: int, length: int) -> None:
        request = self.requests.get(number)
        if request is None:
            request = self.requests[number] = Request(number, file)
        made: dict[int, Step] = {}
        for s, e, step in self._file(file).dirty.take(start, start + length):
            carried = made.get(id(step))
            if carried is None:
                carried = Step(step, request, step.call, step.at, step.stamp, step.depth + 1)
                made[id(step)] = carried
                step.drawn = True
                self._open.append(carried)
                request.attempt = max(request.attempt, carried.depth)
            request.flight.append((s, e, carried))
        if len(self._open) > self._enough:
            self._open = [step for step in self._open if not step.drawn]
            self._enough = 2 * len(self._open) + OPEN_MAX

    def called(self, number: int, point: Point) -> None:
        """Set the point of a request's backend call."""
        request = self.requests.get(number)
        if request is not None:
            request.point = point

    def _land(self, request: Request, start: int, end: int) -> Iterator[tuple[int, int, Step]]:
        """Remove a range from the bytes in flight of a request; yield the removed pieces."""
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
        """`end`: the end of the arrows, if it is not the request itself."""
        for step in steps:
            self._draw(step, end)
        if steps and shown is not None:
            file.durable.append((shown, at, min(step.stamp for step in steps)))

    def synced(self, number: int, stamp: int, began: int, point: Point) -> None:
        """Draw arrows to a successful sync from the commits that ran during it and had bytes that it waited for."""
        for shown, at, oldest in self._file(number).durable:
            if at >= began and oldest <= stamp:
                self._arrow([shown, point])

    # -- arrows

    def _draw(self, step: Step, end: Point | None) -> None:
        step.drawn = True
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
        """End the trace: bytes that are not durable have an arrow to their last station."""
        for step in self._open:
            if not step.drawn:
                self._draw(step, None)
