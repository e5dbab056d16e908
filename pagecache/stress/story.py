"""Describe a failure to a person: the wrong bytes, expected and found values, their writers, and earlier events.

    file 1, bytes 8704 to 9216: wrong
      seen by: writer 3, pread of [8192, 12288) through a buffered handle (called at 830, returned at 841)
      should be of: writer 5, write 14: pwrite [8192, 12288), called at 812, returned at 815
      are of: writer 2, write 9: pwrite [8192, 12288), called at 640, returned at 655, replaced since
      expected hex 17 ab 02 ..., found zeros
      these bytes before: ...

Times are those of the logical clock: smaller is earlier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pagecache.stress.content import decode
from pagecache.stress.history import RUNNING, Write

if TYPE_CHECKING:
    from pagecache.stress.oracle import Observation

__all__ = ["Finding", "describe_finding", "explain", "worker_name"]

SHOWN = 4  # ranges, and writes, in one story
VALUES = 16  # bytes of a range whose values are shown


@dataclass(frozen=True, slots=True)
class Finding:
    """The wrong bytes of an observation."""

    observation: Observation
    got: bytes
    ranges: list[tuple[int, int]]
    length: str | None


def worker_name(worker: int) -> str:
    """Return the name of a worker."""
    return f"writer {worker}" if worker else "the beginning"


def describe(write: Write) -> str:
    """Describe a write: kind, range and times."""
    if write.kind == "zeros":
        return "zeros, never written"
    if not write.worker:
        return "the content that the file began with"
    ended = "still running" if write.ended == RUNNING else f"returned at {write.ended}"
    sure = "" if write.certain else ", which failed"
    way = f" ({write.way})" if write.way else ""
    return (
        f"{worker_name(write.worker)}, write {write.sequence}: {write!r}{way}, called at {write.begun}, {ended}{sure}"
    )


def describe_finding(finding: Finding) -> str:
    """Return the whole story, in a few lines."""
    observation = finding.observation
    lines = []
    if finding.length is not None:
        lines.append(f"file {observation.model.number}: {finding.length}")
    for low, high in finding.ranges[:SHOWN]:
        part = finding.got[low - observation.start : high - observation.start]
        lines.append(f"file {observation.model.number}, bytes {low} to {high}: wrong")
        wanted = {one: None for a, b, found in observation.segments(low, high) for one in found}
        should = "should be of" if len(wanted) == 1 else "should be one of"
        lines += [f"  {should}: {describe(write)}" for write in list(wanted)[:SHOWN]]
        lines.append(f"  are: {explain(observation, low, part)}")
        lines.append(f"  {_difference(observation, low, high, part)}")
        lines += [f"  before: {describe(write)}" for write in _before(observation, low, high, set(wanted))]
    if len(finding.ranges) > SHOWN:
        lines.append(f"and {len(finding.ranges) - SHOWN} ranges more, up to byte {finding.ranges[-1][1]}")
    span = f"[{observation.start}, {observation.end})" if observation.end < 1 << 60 else f"from {observation.start} on"
    observer = f"{worker_name(observation.worker)}, " if observation.worker else ""
    lines.append(
        f"seen by: {observer}{observation.what} {span}, called at {observation.begun}, returned at {observation.ended}"
    )
    return "\n".join(lines)


def _difference(observation: Observation, low: int, high: int, part: bytes) -> str:
    """Return the first values of a range: as expected, if known, and as found."""
    wanted: dict[bytes, None] = {}
    for a, b, found in observation.segments(low, min(high, low + VALUES)):
        for write in found:
            known = write.resolved and not write.wild
            wanted |= dict.fromkeys(write.possible(a, b) if known else ())
        part = part[: b - low]
        break
    expected = " or ".join(map(values, list(wanted)[:SHOWN])) or "one of several contents"
    return f"expected {expected}, found {values(part)}" + (", ..." if high - low > len(part) else "")


def values(data: bytes) -> str:
    """Format some bytes, with the base of the digits."""
    if not any(data):
        return "zeros" if len(data) > 1 else "zero"
    return f"0x{data[0]:02x} ({data[0]})" if len(data) == 1 else f"hex {data.hex(' ')}"


def _before(observation: Observation, low: int, high: int, known: set[Write]) -> list[Write]:
    """Describe the last writes of these bytes."""
    with observation.model.lock:
        ended = list(observation.model.ended)
    near = [one for one in ended if one not in known and one.start < high and one.end > low]
    return near[-SHOWN:]


def explain(observation: Observation, offset: int, part: bytes) -> str:
    """Explain the origin of bytes that were found in a wrong place."""
    model = observation.model
    if not any(part):
        return f"{len(part)} zeros"
    origin = decode(part, offset, model.number)
    with model.lock:
        known = [*model.ended, *model.running]
    if origin is None:
        return _compare(known, offset, part)
    name = f"{worker_name(origin.worker)}, write {origin.sequence}"
    if origin.file != model.number:
        return f"of file {origin.file}: {name}"
    if origin.appended:
        found = [one for one in known if (one.worker, one.sequence) == (origin.worker, origin.sequence)]
        return f"of an append: {describe(found[0]) if found else name}, from its byte {origin.offset} on"
    for one in known:
        if (one.worker, one.sequence) == (origin.worker, origin.sequence):
            place = "" if one.start <= offset < one.end else ", at the wrong place"
            return f"of {describe(one)}{place}"
    return f"of {name}, long ago" if origin.worker else f"{name}'s content"


def _compare(known: list[Write], offset: int, part: bytes) -> str:
    """Too few bytes to decode: list the writes of this place that they fit."""
    end = offset + len(part)
    fits = [one for one in known if 0 <= one.start <= offset and end <= one.end and part in one.possible(offset, end)]
    if not fits:
        return f"{len(part)} bytes of no write that is remembered"
    chance = "" if len(part) > 3 else f" (or by chance, 1 in {256 ** len(part)}: too few bytes to be sure)"
    return f"of {describe(fits[-1])}{chance}"
