"""A trace as a reader of the format sees it: its errors, and the slices that its arrows connect."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]
PHASES = {"X", "b", "e", "i", "s", "t", "f", "M"}


@dataclass(eq=False)
class Slice:
    """A slice of a track; times in ns."""

    name: str
    track: int
    start: int
    end: int
    args: dict[str, Any]
    category: str
    following: list[list[Slice]] = field(default_factory=list)  # arrows that begin here


def ns(microseconds: float) -> int:
    return round(microseconds * 1000)


class TraceFile:
    """A trace that was read; `faults` lists the violations of the format."""

    def __init__(self, path: Path | str) -> None:
        with open(path, encoding="utf-8") as text:
            document = json.load(text)
        assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
        self.other: dict[str, Any] = document["otherData"]
        self.events: list[Event] = document["traceEvents"]
        self.tracks: dict[int, str] = {}
        self.slices: list[Slice] = []
        self.ways: list[list[Slice]] = []
        self.requests: dict[int, dict[str, Any]] = {}
        self.faults: list[str] = []
        self._by_track: dict[int, list[Slice]] = defaultdict(list)
        self._read()

    def _read(self) -> None:
        open_spans: Counter[tuple[str, str, str]] = Counter()
        flows: dict[int, list[Event]] = defaultdict(list)
        for event in self.events:
            self._check(event)
            phase = event["ph"]
            if phase == "M" and event["name"] == "thread_name":
                self.tracks[event["tid"]] = event["args"]["name"]
            elif phase == "X":
                start = ns(event["ts"])
                found = Slice(event["name"], event["tid"], start, start + ns(event["dur"]), event["args"], event["cat"])
                self.slices.append(found)
                self._by_track[found.track].append(found)
            elif phase in ("b", "e"):
                if phase == "b" and event["cat"] == "request":
                    self.requests[event["args"]["request"]] = event["args"]
                key = (event["cat"], event["id"], event["name"])
                open_spans[key] += 1 if phase == "b" else -1
                if open_spans[key] not in (0, 1):
                    self.faults.append(f"{key}: {phase} where it is {open_spans[key]}")
            elif phase in ("s", "t", "f"):
                flows[event["id"]].append(event)
        self.faults += [f"{key} has no end" for key, count in open_spans.items() if count]
        self._check_nesting()
        for number, events in flows.items():
            self._tie(number, events)
        self.faults += [f"track {s.track} has no name" for s in self.slices if s.track not in self.tracks]

    def _check(self, event: Event) -> None:
        for name in ("ph", "ts", "pid", "tid", "name"):
            if name not in event:
                self.faults.append(f"{event}: no {name}")
        if event["ph"] not in PHASES or event["pid"] != os.getpid() or event["ts"] < 0:
            self.faults.append(f"{event}: phase, process or time")
        if event["ph"] == "X" and not event["dur"] > 0:
            self.faults.append(f"{event}: no duration")

    def _check_nesting(self) -> None:
        """Check that slices of one track lie within each other or apart."""
        for track, slices in self._by_track.items():
            stack: list[Slice] = []
            for one in sorted(slices, key=lambda s: (s.start, -s.end)):
                while stack and stack[-1].end <= one.start:
                    stack.pop()
                if stack and one.end > stack[-1].end:
                    self.faults.append(f"track {track}: {one.name} at {one.start} sticks out of {stack[-1].name}")
                stack.append(one)

    def at(self, track: int, time: int) -> Slice | None:
        """The innermost slice there, to which an arrow with bp "e" is attached."""
        around = [s for s in self._by_track[track] if s.start <= time <= s.end]
        return max(around, key=lambda s: (s.start, -s.end), default=None)

    def _tie(self, number: int, events: list[Event]) -> None:
        phases = "".join(event["ph"] for event in events)
        if phases != "s" + "t" * (len(events) - 2) + "f" or len(events) < 2:
            self.faults.append(f"arrow {number}: {phases}")
        if [e["ts"] for e in events] != sorted(e["ts"] for e in events):
            self.faults.append(f"arrow {number} goes back in time")
        way = [self.at(event["tid"], ns(event["ts"])) for event in events]
        met = [one for one in way if one is not None]
        if len(met) < len(way):
            self.faults.append(f"arrow {number} ends in nothing")
            return
        self.ways.append(met)
        met[0].following.append(met)

    # -- queries

    def named(self, name: str, **args: Any) -> list[Slice]:
        """Slices with this name and these arguments, in the order of time."""
        found = [s for s in self.slices if s.name == name and args.items() <= s.args.items()]
        return sorted(found, key=lambda s: s.start)

    def only(self, name: str, **args: Any) -> Slice:
        (found,) = self.named(name, **args)
        return found

    def stations(self, write: Slice) -> list[list[str]]:
        """The paths of its bytes, as names."""
        return [[one.name for one in way[1:]] for way in write.following]
