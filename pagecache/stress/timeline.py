"""The events that concern the wrong bytes, in order: for the page, for programs, and as a few sentences.

    {"file": 0, "ranges": [[8192, 8704]], "length": null, "clock": [640, 841],
     "look": {"worker": 4, "what": "the store after fsync", "begun": 830, "ended": 841},
     "bytes": [{"offset": 8176, "seen": "c0ec...", "expected": "17ab...", "wrong": [[8192, 8272]]}],
     "lanes": [{"worker": 3, "name": "writer 3", "bars": [
         {"kind": "write", "sort": "write", "start": 8192, "end": 12288, "begun": 812, "ended": 815, "errors": [],
          "text": "wrote 4096 bytes at 8192 of file 0 (buffered)", "marked": false}]}]}

Without wrong bytes (an error, a hang) it has the last operations of all workers. Times are those of the round's
clock.
"""

from __future__ import annotations

from typing import Any

from pagecache.stress.history import FOREVER
from pagecache.stress.profiles import CROSSING, KINDS, shared_names
from pagecache.stress.story import Finding, worker_name
from pagecache.stress.world import CRASH, SYNCS, Activity, Failure, World

__all__ = ["narrative", "sentence", "timeline"]

BARS = 300  # bars of a timeline; the newest
SENTENCES = 24
RANGES = 4
AROUND = 16  # bytes before and after a wrong range
SHOWN = 128  # bytes of a range

READS = {"read", "readv", "try_read", "view", "reopen", "look", "watch", "held_read", "name_open"}
SAVES = {"fsync", "sync", "ticket", "flush", "sync_range", "name_sync", "held_fsync", "held_close"}
CUTS = {"truncate", "punch", "zero", "lose", "held_truncate", "name_remove"}
EVERYWHERE = {"fsync", "sync", "ticket", "flush", "name_sync", "held_fsync", "held_close"}

VERBS = {
    "read": "read",
    "readv": "read in two pieces",
    "try_read": "tried to read",
    "view": "looked through a view at",
    "write": "wrote",
    "writev": "wrote in two pieces",
    "try_write": "tried to write",
    "append": "appended",
    "store": "stored through a view",
    "copy": "copied",
    "punch": "punched a hole of",
    "zero": "zeroed",
    "sync_range": "synced",
    "drop": "dropped",
    "invalidate": "invalidated",
    "prefetch": "prefetched",
    "advise": "gave advice on",
    "reopen": "read through a new handle",
    "tear": "wrote from memory that ends",
    "change": "changed, as a foreign writer,",
    "watch": "read, with foreign changes,",
    "lose": "discarded unsaved bytes of",
    "contest": "wrote, read or saved, with foreign replacements,",
    "replace": "replaced, as a foreign writer,",
    "held_read": "read",
    "held_write": "wrote",
    "held_append": "appended",
}


def sort(kind: str) -> str:
    """Return the category of a kind of operation in the picture."""
    for name, kinds in (("read", READS), ("save", SAVES), ("cut", CUTS), ("crash", {CRASH})):
        if kind in kinds:
            return name
    if kind in ("write", "writev", "try_write", "append", "store", "copy", "tear", "change", "contest", "replace"):
        return "write"
    if kind in ("held_write", "held_append", "name_create"):
        return "write"
    return "other"


def place(activity: Activity) -> tuple[int, int]:
    """Return the range of an operation: of a change as its call reported, of others as planned."""
    known = [write for write in activity.writes if write.start >= 0 and write.end > write.start]
    if not known:
        return activity.start, activity.end
    return min(write.start for write in known), max(write.end for write in known)


def sentence(activity: Activity) -> str:
    """Describe an operation, without its worker."""
    operation, kind, file = activity.operation, activity.operation.kind, activity.file
    start, end = place(activity)
    way = f" ({operation.way})" if operation.way else ""
    if kind == CRASH:
        text = "crashed the tested system, and checked the remains"
    elif KINDS.get(kind) in CROSSING and (file is None or kind not in VERBS):
        name = shared_names()[operation.file]
        text = f"{kind} of {name}" if file is None else f"{kind} of object {file}"
    elif file is None:
        text = f"{kind} of a name of its own"
    elif kind in SYNCS:
        text = "synced everything" + (" by a ticket" if kind == "ticket" else "")
    elif kind in EVERYWHERE:
        text = f"called {kind} of file {file}"
    elif kind == "touch":
        text = f"stored, as a foreign writer, file {file} once more"
    elif kind == "truncate":
        text = f"truncated file {file} to {activity.start}"
    elif end >= FOREVER:
        text = f"{VERBS[kind]} file {file} from {start} on{way}"
    else:
        text = f"{VERBS[kind]} {end - start} bytes at {start} of file {file}{way}"
    if activity.errors:
        text += f", which raised {', '.join(activity.errors)}"
    return text if activity.ended is not None else f"{text}, still running"


def timeline(world: World, failure: Failure) -> dict[str, Any]:
    """Return the timeline of a failure; see the top of the file."""
    finding = failure.finding
    bars = met(world, finding)
    observation: dict[str, Any] | None = None
    document: dict[str, Any] = {"file": None, "ranges": [], "length": None, "bytes": []}
    if finding is not None:
        seen = finding.observation
        observation = {
            "worker": seen.worker,
            "what": seen.what,
            "begun": seen.begun,
            "ended": seen.ended if seen.ended < FOREVER else seen.begun,
        }
        document |= {
            "file": seen.model.number,
            "ranges": [list(each) for each in finding.ranges],
            "length": finding.length,
            "bytes": [shown(finding, low, high) for low, high in finding.ranges[:RANGES]],
        }
    times = [bar.begun for bar in bars] + [bar.ended for bar in bars if bar.ended is not None]
    times += [observation["begun"], observation["ended"]] if observation is not None else []
    lanes: dict[int, list[dict[str, Any]]] = {}
    for activity in bars:
        lanes.setdefault(activity.worker, []).append(bar_of(activity, observation))
    if observation is not None and not any(bar["marked"] for lane in lanes.values() for bar in lane):
        lanes.setdefault(observation["worker"], []).append(bar_of_observation(observation, document))
    return document | {
        "look": observation,
        "clock": [min(times, default=0), max(times, default=0)],
        "lanes": [
            {"worker": worker, "name": worker_name(worker) if worker else "the tester", "bars": lanes[worker]}
            for worker in sorted(lanes)
        ],
    }


def met(world: World, finding: Finding | None) -> list[Activity]:
    """Return the operations that touched the wrong bytes, sorted by their begin; without wrong bytes, all
    operations.
    """
    activities = [*list(world.past), *list(world.active.values())]
    if finding is not None:
        activities = [one for one in activities if touches(one, finding)]
    return sorted(activities, key=lambda one: one.begun)[-BARS:]


def touches(activity: Activity, finding: Finding) -> bool:
    """Return whether an operation concerns these bytes, or the length of the file."""
    kind = activity.operation.kind
    if kind == CRASH:
        return activity.begun <= finding.observation.ended
    if activity.file is None:
        return False
    if activity.file != finding.observation.model.number and kind not in SYNCS:
        return False
    if activity.begun > finding.observation.ended:
        return False
    if finding.length is not None or kind in EVERYWHERE:
        return True
    start, end = place(activity)
    return any(low < end and start < high for low, high in finding.ranges)


def bar_of(activity: Activity, observation: dict[str, Any] | None) -> dict[str, Any]:
    """Return a bar of a lane. `marked`: the call that found the wrong bytes."""
    start, end = place(activity)
    marked = (
        observation is not None
        and activity.worker == observation["worker"]
        and activity.begun <= observation["begun"]
        and (activity.ended is None or observation["begun"] <= activity.ended)
    )
    return {
        "kind": activity.operation.kind,
        "sort": sort(activity.operation.kind),
        "way": activity.operation.way,
        "file": activity.file,
        "start": start,
        "end": min(end, FOREVER),
        "begun": activity.begun,
        "ended": activity.ended,
        "errors": list(activity.errors),
        "text": sentence(activity),
        "marked": marked,
    }


def bar_of_observation(observation: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return a bar for an observation of the tester itself, at rest."""
    return {
        "kind": "look",
        "sort": "read",
        "way": "",
        "file": document["file"],
        "start": document["ranges"][0][0] if document["ranges"] else 0,
        "end": document["ranges"][-1][1] if document["ranges"] else 0,
        "begun": observation["begun"],
        "ended": observation["ended"],
        "errors": [],
        "text": f"looked at {observation['what'].rstrip(',')}",
        "marked": True,
    }


def shown(finding: Finding, low: int, high: int) -> dict[str, Any]:
    """Return bytes around a range: as found, and as expected if that is unique."""
    observation = finding.observation
    start = max(observation.start, (low - AROUND) // 16 * 16)
    end = min(observation.start + len(finding.got), high + AROUND, start + SHOWN)
    seen = finding.got[start - observation.start : end - observation.start]
    expected = bytearray(seen)
    for a, b in ((max(low, start), min(high, end)) for low, high in finding.ranges):
        for c, d, found in observation.segments(a, b) if a < b else ():
            known = [write for write in found if write.resolved and not write.wild]
            data = known[-1].possible(c, d)[0] if known else b""
            if len(data) == d - c:
                expected[c - start : d - start] = data
    return {
        "offset": start,
        "seen": seen.hex(),
        "expected": expected.hex(),
        "wrong": [[max(a, start), min(b, end)] for a, b in finding.ranges if a < end and start < b],
    }


def narrative(document: dict[str, Any]) -> list[str]:
    """Return a timeline as sentences, sorted by their begin."""
    bars = sorted(
        ((bar, lane["name"]) for lane in document["lanes"] for bar in lane["bars"]), key=lambda each: each[0]["begun"]
    )
    lines: list[tuple[str, str, int]] = []  # time, text, consecutive repetitions
    for bar, name in bars:
        when = f"{bar['begun']:>6} to {bar['ended'] if bar['ended'] is not None else '...':<6}"
        text = f"{name} {bar['text']}"
        again = lines[-1][2] + 1 if lines and lines[-1][1] == text else 1
        lines[len(lines) - (again > 1) :] = [(when, text, again)]
    left = len(lines) - SENTENCES
    return ([f"({left} steps before that)"] if left > 0 else []) + [
        f"{when} {text}" + (f", the last of {again} times in a row" if again > 1 else "")
        for when, text, again in lines[-SENTENCES:]
    ]
