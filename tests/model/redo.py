"""A model of the journal of a disk tier: a log, a store, commits, power cuts, failing syncs, and recovery.

A breadth-first search visits every order of a few writes, fsyncs, saves and power cuts for one file of two bytes. Each
guard is a rule of `pagecache/disk`; a search without it has to find a broken promise.

    log      segments of two records; a segment opens with the last earlier record that counts, and with the file's
             state. The device may lose any unconfirmed record, and any removal that the folder's sync did not confirm
    store    one object with a version, and the mark of the commit that made it
    promise  the content of the last fsync, and every content in the store, come back: as a whole state that the file
             had then or later, never a mixture

Recovery is a function of the log, and a power cut right after it is a power cut of the same log: it is repeated by a
second power cut before the first new record is confirmed. The model has no names, damage or sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import NamedTuple, TypeVar

from .checker import Bad, Found, Graph
from .state import put

__all__ = ["GUARDS", "runs"]

GUARDS = {
    "sync": "fsync returns when the device has confirmed the record",
    "gap": "the log ends at a missing record",
    "void": "a new segment names the last earlier record that counts",
    "poison": "after a failed sync nothing unconfirmed counts; its bytes are written anew",
    "carry": "each segment begins with the file's state",
    "mark": "a commit begins when its SAVING record is confirmed",
    "order": "SAVED is appended after the commit",
    "bound": "SAVED covers the records up to the beginning of its commit",
    "live": "a segment is removed when all its records are saved",
    "confirmed": "a segment is removed when the SAVED record is confirmed",
    "folder": "the folder is synced before the next segment is removed",
}
PER_SEGMENT = 2
Content = tuple[int, int]
T = TypeVar("T")


class Record(NamedTuple):
    lsn: int
    kind: str  # data, saving, saved
    value: tuple[int, int]  # byte and value; covered LSN and version


class Segment(NamedTuple):
    number: int
    counted: int  # the last earlier record that counts
    first: int  # LSN of its first record
    state: tuple[int, int] | None  # version of the base and LSN up to which it covers the file; None: not written
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    segments: tuple[Segment, ...] = ()
    removed: tuple[Segment, ...] = ()  # the folder's sync has not confirmed it
    lsn: int = 0  # the last one
    confirmed: int = 0
    dropped: frozenset[int] = frozenset()  # records of failed syncs: a later sync does not write them
    content: Content = (0, 0)
    history: tuple[tuple[int, Content], ...] = ((0, (0, 0)),)
    promised: int = 0  # LSN of the content that fsync promised
    base: int = 0
    saved: int = 0  # LSN that the base covers
    saved_at: int = 0  # LSN of that SAVED record
    store: tuple[int, Content, int] = (0, (0, 0), 0)  # version, content, mark
    save: tuple[str, int, Content] = ("", 0, (0, 0))
    writes: int = 2
    saves: int = 1
    cuts: int = 2
    failures: int = 1
    next_segment: int = 1


Guards = frozenset[str]


def appended(s: State, kind: str, value: tuple[int, int], on: Guards) -> State:
    """Append a record, in a new segment if the last one is full."""
    segments = s.segments
    if not segments or len(segments[-1].records) == PER_SEGMENT:
        first = s.next_segment == 1
        state = (s.base, s.saved) if first or "carry" in on else None
        segments = (*segments, Segment(s.next_segment, s.lsn, s.lsn + 1, state))
        s = replace(s, next_segment=s.next_segment + 1)
    last = segments[-1]
    last = last._replace(records=(*last.records, Record(s.lsn + 1, kind, value)))
    return replace(s, segments=(*segments[:-1], last), lsn=s.lsn + 1)


def written(s: State, byte: int, value: int, on: Guards) -> State:
    content = put(s.content, byte, value)
    s = appended(s, "data", (byte, value), on)
    return replace(s, content=content, history=(*s.history, (s.lsn, content)))


def opened_anew(s: State, counted: int, on: Guards) -> State:
    """Begin a segment after which only the records up to `counted` of earlier ones count."""
    segment = Segment(s.next_segment, counted if "void" in on else s.lsn, s.lsn + 1, (s.base, s.saved))
    return replace(s, segments=(*s.segments, segment), next_segment=s.next_segment + 1)


def content_at(s: State, lsn: int) -> Content:
    return max(((at, content) for at, content in s.history if at <= lsn), default=s.history[0])[1]


def last_record(s: State) -> int:
    return s.segments[-1].records[-1].lsn if s.segments and s.segments[-1].records else s.confirmed


def failed(s: State, on: Guards) -> State:
    lost = frozenset(r.lsn for seg in s.segments for r in seg.records if r.lsn > s.confirmed)
    s = replace(s, dropped=s.dropped | lost, failures=s.failures - 1)
    if "poison" not in on:
        return s
    s = replace(opened_anew(s, s.confirmed, on), saved_at=0)
    if s.save[0] == "begun":
        s = replace(s, save=("", 0, (0, 0)))  # its SAVING record is void: the save begins anew
    saved, before = content_at(s, s.saved), content_at(s, s.confirmed)
    # Until all are written anew, a power cut leaves some of them: no state that the file had, but none is older.
    for byte in (0, 1):
        if s.content[byte] != saved[byte]:
            s = appended(s, "data", (byte, s.content[byte]), on)
            before = put(before, byte, s.content[byte])
            s = replace(s, history=(*s.history, (s.lsn, before)))
    return s


def read(segments: tuple[Segment, ...], on: Guards) -> tuple[int, int, list[Record], list[Record], int]:
    """Return version of the base, LSN that it covers, data after that, SAVING records, and the last LSN."""
    base, saved, end = -1, -1, segments[0].counted if segments else 0
    data: list[Record] = []
    saving: list[Record] = []
    for place, segment in enumerate(segments):
        limit = min((later.counted for later in segments[place + 1 :]), default=1 << 30)
        if segment.first > limit:
            continue
        if end < segment.counted and "gap" in on:
            break  # records are missing that counted
        if segment.state is not None and segment.state[1] > saved:
            base, saved = segment.state
        expected = segment.first
        for record in segment.records:
            if record.lsn > limit:
                break
            if record.lsn != expected and "gap" in on:
                break
            end = record.lsn
            expected = end + 1
            if record.kind == "data":
                data.append(record)
            elif record.kind == "saving":
                saving.append(record)
            else:
                saved, base = record.value
    return base, saved, [r for r in data if r.lsn > saved], saving, end


def survivors(s: State) -> Iterator[tuple[Segment, ...]]:
    """Every log that a power cut may leave."""
    at_risk = [r.lsn for seg in s.segments for r in seg.records if r.lsn > s.confirmed or r.lsn in s.dropped]
    for back in subsets(s.removed):
        for lost in subsets(at_risk):
            kept = [g._replace(records=tuple(r for r in g.records if r.lsn not in lost)) for g in s.segments]
            yield tuple(sorted([*back, *kept]))


def subsets(items: Sequence[T]) -> Iterator[tuple[T, ...]]:
    for size in range(len(items) + 1):
        yield from combinations(items, size)


def recovered(s: State, segments: tuple[Segment, ...], on: Guards) -> State:
    """Return the state after recovery, which has checked the promises."""
    base, saved, data, saving, end = read(segments, on)
    version, content, mark = s.store
    if data and base < 0:
        raise Bad("bytes of an unknown file")
    if not data:
        base, saved = version, end
    elif base != version:
        ours = [r for r in saving if r.value[0] == mark]
        if not ours:
            raise Bad("our commit is taken for a foreign version")
        base, saved = version, mark
        data = [r for r in data if r.lsn > saved]
    for record in data:
        byte, value = record.value
        content = put(content, byte, value)
    states = [lsn for lsn, known in s.history if known == content]
    if not states:
        raise Bad("the content is no state that the file had")
    if max(states) < s.promised:
        raise Bad("promised bytes are lost")
    if any(new < old for new, old in zip(content, s.store[1], strict=True)):
        raise Bad("older bytes would be saved over newer ones")
    lsn = max([s.lsn, *(r.lsn for seg in segments for r in seg.records)])
    after = State(
        segments=segments,
        lsn=lsn,
        confirmed=end,
        content=content,
        history=((end, content),),
        promised=end,
        base=base,
        saved=saved,
        store=s.store,
        writes=s.writes,
        saves=s.saves,
        cuts=s.cuts - 1,
        failures=s.failures,
        next_segment=s.next_segment,
    )
    after = opened_anew(after, end, on)
    if saved > end or not data:
        return replace(after, saved=max(saved, end))
    return after


def steps(s: State, on: Guards) -> Iterator[tuple[str, State]]:
    if s.writes:
        for byte in (0, 1):
            yield f"write byte {byte}", replace(written(s, byte, 4 - s.writes, on), writes=s.writes - 1)
    if s.confirmed < last_record(s):
        # All records are confirmed but those of a failed sync, which the kernel has dropped.
        yield "fsync", replace(s, confirmed=last_record(s), promised=s.history[-1][0])
        if s.failures:
            yield "fsync fails", failed(s, on)
    if "sync" not in on and s.promised < s.history[-1][0]:
        yield "fsync without a sync", replace(s, promised=s.history[-1][0])
    yield from saves(s, on)
    yield from removals(s, on)
    if s.removed:
        yield "sync the folder", replace(s, removed=())
    if s.cuts:
        for segments in survivors(s):
            yield "power cut", recovered(s, segments, on)


def saves(s: State, on: Guards) -> Iterator[tuple[str, State]]:
    at, mark, content = s.save
    covered = s.lsn if "bound" not in on else mark
    if at == "" and s.saves and s.history[-1][0] > s.saved:
        begun = appended(s, "saving", (s.lsn, s.base), on)
        yield "append SAVING", replace(begun, save=("begun", s.lsn, s.content), saves=s.saves - 1)
    elif at == "begun":
        if s.confirmed >= mark + 1 or "mark" not in on:
            stored = replace(s, store=(s.store[0] + 1, content, mark), save=("stored", mark, content))
            yield "commit", stored
        if "order" not in on:
            early = appended(s, "saved", (covered, s.store[0] + 1), on)
            yield "SAVED before the commit", replace(early, save=("early", mark, content))
    elif at == "early":
        yield "commit", replace(s, store=(s.store[0] + 1, content, mark), save=("stored", mark, content))
    elif at == "stored":
        version = s.store[0]
        done = appended(s, "saved", (covered, version), on)
        yield "append SAVED", replace(done, base=version, saved=covered, saved_at=done.lsn, save=("", 0, (0, 0)))


def removals(s: State, on: Guards) -> Iterator[tuple[str, State]]:
    """The oldest segment goes, never the last one."""
    if len(s.segments) < 2 or (s.removed and "folder" in on):
        return
    first = s.segments[0]
    data = [r.lsn for r in first.records if r.kind == "data" and r.lsn <= s.segments[1].counted]
    if "live" in on and data and max(data) > s.saved:
        return
    if "confirmed" in on and (s.saved_at > s.confirmed or s.saved_at in s.dropped):
        return
    yield "remove a segment", replace(s, segments=s.segments[1:], removed=(*s.removed, first))


def runs(on: Guards) -> Iterator[tuple[str, Callable[[], Found]]]:
    """Yield the name of the search, and the search."""
    yield "journal", lambda: Graph(State(), partial(steps, on=on)).found
