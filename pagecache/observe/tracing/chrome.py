"""The file: Chrome's trace event format, as Perfetto and chrome://tracing read it.

Records are read once, in their order, and each becomes its events at once, so the file may be much larger than memory.

    X         a slice: a call, a wait, a backend call, a commit, work of the engine
    b, e      an interval without a thread: a request from its creation to its end, a pass of a file
    i         a moment: eviction, copy on conflict, truncate, abort
    s, t, f   an arrow between slices: the way of a write's bytes (flows.py)
    M         names of the process and its tracks

Slices of one thread are nested as its calls were. An interval that begins and ends in different threads, or has other
tasks in between, goes to a lane: a separate track, on which no two slices overlap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from ...native.recording import CALLS, Fate, Flag, Kind, Record, Recorder, Taken, names_of, text_of, threads
from .flows import Flows, Point

__all__ = ["Writer"]

LANES = 1 << 24
"""The first track that is not a thread."""

VERBS, WAITS = names_of("PC_CALL_"), names_of("PC_WAIT_")
IOS = {**names_of("PC_IO_"), 0: "read_into", 1: "read_into past the cache", 2: "write_from", 5: "copy to the mirror"}
CLASSES = names_of("PC_WORK_")
STATES = names_of("PC_T_")
ENGINE = {0: "flusher turn", 1: "job", 2: "throttle pause"}
REQUESTS = {1: "fill", 2: "write request", 3: "mirror request"}
CHANGE = next(number for number, name in VERBS.items() if name == "change")
REASON = next(number for number, name in WAITS.items() if name == "reason")


class Lanes:
    """Tracks for intervals without a thread, as few as keep slices apart."""

    def __init__(self) -> None:
        self._free: dict[str, list[int]] = {}  # of a group: when the last slice of each lane ended
        self._tracks: dict[tuple[str, int], int] = {}
        self.names: dict[int, str] = {}

    def track(self, group: str, began: int, ended: int) -> int:
        lanes = self._free.setdefault(group, [])
        k = next((k for k, end in enumerate(lanes) if end <= began), len(lanes))
        lanes[k : k + 1] = [ended]
        track = self._tracks.setdefault((group, k), LANES + len(self._tracks))
        self.names.setdefault(track, f"{group} {k + 1}")
        return track


class Writer:
    """Turns the records of one trace into events.

    Args:
        out: An open text file.
        recorder: Has the names that records give as numbers.
        pid: Of the process. page: bytes of a page.
        start: Ns of the clock that become time 0; end: when the trace was stopped.
    """

    def __init__(self, out: TextIO, recorder: Recorder, *, pid: int, page: int, start: int, end: int) -> None:
        self._out = out
        self._recorder = recorder
        self._pid = pid
        self._page = page
        self._start, self._end = start, end
        self._texts = {number: text for text, number in recorder.texts.items()}
        self._names: dict[int, str] = {}
        self._lanes = Lanes()
        self._awaited: dict[int, int] = {}  # lanes of calls that wrote and were awaited
        self._begun: dict[tuple[int, int, int], Record] = {}
        self._passes: dict[int, int] = {}  # the tracks on which they began
        self._requests: dict[int, tuple[str, int]] = {}
        self._arrows = 0
        self._met: set[int] = set()
        self._separator = "\n"
        self.flows = Flows(self._track_of_call, self._arrow)
        self._kinds: dict[int, Callable[[Record], None]] = {
            Kind.CALL: self._call,
            Kind.WAIT: self._wait,
            Kind.IO: self._io,
            Kind.COMMIT: self._commit,
            Kind.ENGINE: self._engine,
            Kind.WROTE: self._wrote,
            Kind.REQUEST: self._request,
            Kind.ISSUED: self._issued,
            Kind.ACKED: self._acked,
            Kind.AGAIN: self._again,
            Kind.BACK: self._back,
            Kind.GONE: self._gone,
            Kind.DONE: self._done,
            Kind.STATE: self._state,
        }

    # -- the document

    def write(self, records: Iterable[Record], process: str, other: dict[str, Any]) -> None:
        """Write the whole file."""
        head = json.dumps({"displayTimeUnit": "ms", "otherData": other})
        self._out.write(head[:-1] + ', "traceEvents": [')
        self._meta("process_name", 0, {"name": text_of(process)})
        for record in records:
            self._kinds[record[10]](record)
        self._unfinished()
        self.flows.finish()
        for track in sorted(self._met):
            name = self._lanes.names.get(track) or threads.names.get(track, f"thread {track}")
            self._meta("thread_name", track, {"name": text_of(name)})
            self._meta("thread_sort_index", track, {"sort_index": track})
        self._out.write("\n]}\n")

    def _put(self, event: str) -> None:
        self._out.write(self._separator)
        self._out.write(event)
        self._separator = ",\n"

    def _meta(self, name: str, track: int, args: dict[str, Any]) -> None:
        self._put(f'{{"ph":"M","name":"{name}","pid":{self._pid},"tid":{track},"ts":0,"args":{json.dumps(args)}}}')

    def _time(self, at: int) -> str:
        """Return microseconds since the start, exact to the nanosecond."""
        ns = max(0, at - self._start)
        return f"{ns // 1000}.{ns % 1000:03d}"

    def _event(self, phase: str, name: str, category: str, track: int, at: int, more: str, args: str) -> None:
        self._met.add(track)
        self._put(
            f'{{"ph":"{phase}","name":"{name}","cat":"{category}","pid":{self._pid},"tid":{track},'
            f'"ts":{self._time(at)}{more},"args":{{{args}}}}}'
        )

    def _file(self, number: int) -> str:
        """Return `"file":...,"volume":...` of a file, as JSON."""
        found = self._names.get(number)
        if found is None:
            volume, key = self._recorder.files.get(number, ("?", f"file {number}"))
            found = f'"file":{json.dumps(text_of(key))},"volume":{json.dumps(text_of(volume))}'
            self._names[number] = found
        return found

    def _where(self, record: Record) -> str:
        _, _, _, file, pos, length, _, _, _, _, _, _ = record
        text = self._file(file) if file else ""
        if length:
            text += f'{"," if text else ""}"offset":{pos},"length":{length if length < 1 << 62 else -1}'
        return text

    # -- slices

    def _track(self, record: Record, group: str) -> int:
        if record[11] & (Flag.AWAITED | Flag.ELSEWHERE):
            return self._lanes.track(group, record[2], record[1])
        return record[8]

    def _slice(self, record: Record, name: str, category: str, group: str, args: str) -> Point:
        """Write a slice, and return the point in its middle."""
        track = self._track(record, group)
        at, began = record[1], record[2]
        took = max(at - began, 1)
        where = self._where(record)
        if record[11] & Flag.FAILED:
            args += ',"failed":true' if args else '"failed":true'
        both = f"{where},{args}" if where and args else where + args
        self._event("X", name, category, track, began, f',"dur":{took // 1000}.{took % 1000:03d}', both)
        return Point(track, began + took // 2)

    def _begins(self, record: Record) -> bool:
        """Return whether a record is the beginning of a slice, which is then kept until the end comes."""
        key = (record[10], record[8], record[2])
        if record[11] & Flag.BEGINS:
            self._begun[key] = record
            return True
        if self._begun:
            self._begun.pop(key, None)
        return False

    def _call(self, record: Record) -> None:
        if self._begins(record):
            return
        _, at, began, file, _, _, id, value, _, what, _, flags = record
        name = VERBS[what]
        if what == CHANGE:
            name, args = json.dumps(self._texts.get(value, "?"))[1:-1], ""
        elif what in CALLS.values():
            args = f'"epoch":{value}'
        else:
            args = f'"result":{value if value < 1 << 63 else value - (1 << 64)}'
        point = self._slice(record, name, "call", "awaited calls", args)
        if flags & (Flag.AWAITED | Flag.ELSEWHERE) and self.flows.is_writer(id):
            self._awaited[id] = point.track
        if what == CALLS["fsync"] and not flags & Flag.FAILED:
            self.flows.synced(file, value, began, Point(point.track, max(began, at - 1)))
        self.flows.call_ended(id, point.track)

    def _track_of_call(self, call: int) -> int | None:
        """Return the track of a call; calls that were not awaited are on the thread of their id."""
        if call in self._awaited:
            return self._awaited[call]
        return None if self.flows.is_writer(call) else call >> 40

    def _wait(self, record: Record) -> None:
        if not self._begins(record):
            self._slice(record, self._wait_name(record), "wait", "waits", "")

    def _wait_name(self, record: Record) -> str:
        name = WAITS[record[9]].replace("_", " ")
        return "wait: " + (name if record[9] != REASON else json.dumps(self._texts.get(record[7], "?"))[1:-1])

    def _io(self, record: Record) -> None:
        if self._begins(record):
            return
        number, value = record[6], record[7]
        args = f'"request":{number},"result":{value if value < 1 << 63 else value - (1 << 64)}'
        point = self._slice(record, IOS[record[9]], "backend", "backend calls on the loop", args)
        self.flows.called(number, point)

    def _commit(self, record: Record) -> None:
        if self._begins(record):
            return
        _, at, _, file, _, _, id, _, _, what, _, flags = record
        args = f'"number":{id}' + (',"kept":true' if flags & Flag.KEPT else "")
        point = self._slice(record, "commit" if what else "work under the token", "commit", "commits", args)
        if not flags & Flag.FAILED:
            self.flows.committed(file, point, at)

    def _engine(self, record: Record) -> None:
        if self._begins(record):
            return
        what, text = record[9], self._texts.get(record[7], "")
        args = f'"what":{json.dumps(text_of(text))}' if what == 1 else ""
        name = json.dumps(text_of(text.partition(" ")[0]))[1:-1] if what == 1 else ENGINE[what]
        self._slice(record, name, "engine", "engine", args)

    # -- bytes

    def _wrote(self, record: Record) -> None:
        _, at, _, file, pos, length, id, value, _, _, _, _ = record
        self.flows.wrote(file, pos, length, id, value, at)

    def _request(self, record: Record) -> None:
        _, at, _, file, _, _, id, value, track, what, _, _ = record
        name = REQUESTS[what]
        self._requests[id] = (name, track)
        args = f'{self._where(record)},"request":{id},"class":"{CLASSES.get(value, "?")}"'
        self._event("b", name, "request", track, at, f',"id":"0x{id:x}"', args)
        if what == 2:
            self.flows.request(id, file)

    def _issued(self, record: Record) -> None:
        self.flows.issued(record[6], record[3], record[4], record[5])

    def _acked(self, record: Record) -> None:
        _, at, _, _, pos, length, id, _, _, what, _, _ = record
        self.flows.acked(id, pos, length, at, durable=what == Fate.DURABLE)

    def _again(self, record: Record) -> None:
        _, at, _, file, pos, length, id, _, track, what, _, _ = record
        self.flows.again(id, pos, length)
        name = "failed for good" if what == Fate.FAILED else "dirty again"
        args = f'{self._file(file)},"offset":{pos},"length":{length},"request":{id}'
        self._event("i", name, "bytes", track, at, ',"s":"t"', args)

    def _back(self, record: Record) -> None:
        self.flows.back(record[3], record[4], record[5])

    def _gone(self, record: Record) -> None:
        self.flows.gone(record[3], record[4], record[5])

    def _done(self, record: Record) -> None:
        id, at = record[6], record[1]
        begun, request = self._requests.pop(id, None), self.flows.done(id)
        if begun is None:
            return
        args = ""
        if request is not None:
            args = f'"attempt":{request.attempt},"acknowledged":{request.acked},"dirty again":{request.again}'
        self._event("e", begun[0], "request", begun[1], at, f',"id":"0x{id:x}"', args)

    def _state(self, record: Record) -> None:
        _, at, _, file, page, _, _, value, track, what, _, _ = record
        if what in (Taken.PASS, Taken.PASS_END):
            self._pass(file, track, at, begins=what == Taken.PASS)
            return
        name = STATES[what]
        args = self._file(file) if file else ""
        if name == "truncate":
            args += f',"size":{page},"before":{value}'
        elif file:
            args += f',"offset":{page * self._page}'
        self._event("i", name, "state", track, at, ',"s":"t"', args)

    def _pass(self, file: int, track: int, at: int, *, begins: bool) -> None:
        if begins == (file in self._passes):
            return
        track = track if begins else self._passes.pop(file)
        if begins:
            self._passes[file] = track
        phase = "b" if begins else "e"
        self._event(phase, "pass", "pass", track, at, f',"id":"0x{file:x}"', self._file(file))

    # -- arrows, and unfinished slices

    def _arrow(self, way: list[Point]) -> None:
        self._arrows += 1
        for k, point in enumerate(way):
            phase = "s" if k == 0 else "f" if k == len(way) - 1 else "t"
            self._event(phase, "bytes", "flow", point.track, point.at, f',"id":{self._arrows},"bp":"e"', "")

    def _unfinished(self) -> None:
        """Write slices, up to the end of the trace, for calls and waits that have not ended."""
        known = {record[6] for record in self._begun.values() if record[10] == Kind.CALL}
        for record in sorted(self._begun.values(), key=lambda record: record[2]):
            flags = record[11] & ~Flag.BEGINS
            ended = (record[0], self._end, *record[2:11], flags)
            self._unended(ended)
        for call, at in self.flows.unfinished():
            if call not in known:
                track = call >> 40
                took = max(self._end - at, 1)
                more = f',"dur":{took // 1000}.{took % 1000:03d}'
                self._event("X", "write", "call", track, at, more, '"unfinished":true')
                self.flows.call_ended(call, track)
        for id, (name, track) in self._requests.items():
            self._event("e", name, "request", track, self._end, f',"id":"0x{id:x}"', '"unfinished":true')
        for file, track in self._passes.items():
            self._event("e", "pass", "pass", track, self._end, f',"id":"0x{file:x}"', '"unfinished":true')

    def _unended(self, record: Record) -> None:
        kind, what = record[10], record[9]
        names = {Kind.CALL: VERBS, Kind.IO: IOS, Kind.ENGINE: ENGINE}.get(kind, {})
        name = "commit" if kind == Kind.COMMIT else names.get(what, "?")
        if kind == Kind.CALL and what == CHANGE:
            name = json.dumps(self._texts.get(record[7], "?"))[1:-1]
        name = self._wait_name(record) if kind == Kind.WAIT else name
        point = self._slice(record, name, "unfinished", "unfinished", '"unfinished":true')
        if kind == Kind.CALL:
            self.flows.call_ended(record[6], point.track)
        elif kind == Kind.IO:
            self.flows.called(record[6], point)
