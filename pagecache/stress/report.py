"""The result of a run, for people and for programs; and the operations around a failure, in order, as sentences.

They are those that touched the wrong bytes; without wrong bytes (an error, a hang), the last of all workers. Times are
those of the round's clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from pagecache.stress.history import FOREVER, Broken
from pagecache.stress.oracle import Finding, worker_name
from pagecache.stress.profiles import CROSSING, KINDS, PLACELESS, shared_names
from pagecache.stress.world import CRASH, SYNCS, Activity, World

SENTENCES = 24
EVERYWHERE = {"fsync", "sync", "ticket", "flush", "name_sync", "held_fsync", "held_close"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a run.

    Attributes:
        ok: no failure was found.
        story: a few lines for a person: the failure, or what was exercised.
        replay: input of `Plan.from_replay` and `pagecache stress --replay`.
        counters: event -> count.
        kinds: kind of operation -> count.
        skipped: feature that the target lacks -> reason.
        kind: of the failure: "data", "error", "hang", "check" or "crash"; "" without one.
        hung: threads that wait for something were left behind.
        steps: events that concern the wrong bytes, in order, a sentence each.
    """

    ok: bool
    story: str
    replay: dict[str, Any]
    counters: dict[str, int]
    kinds: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    kind: str = ""
    hung: bool = False
    steps: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON form."""
        return asdict(self)


def counted(number: int, what: str) -> str:
    """Return a count with its noun, in words."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def exercised(counters: Counter[str], kinds: Counter[str], target: str, skipped: dict[str, str]) -> str:
    """Return some lines about a run without a finding. `kinds`: counts of operations."""
    done = ", ".join(counted(counters[what + "s"], what) for what in ("operation", "round", "rest"))
    lines = [
        f"nothing wrong: {done}, on {target}",
        *(f"{kind:<16}{count:>9}" for kind, count in kinds.most_common() if count > 0),
    ]
    for what, why in sorted(skipped.items()):
        lines.append(f"{'tried in part' if kinds[what] > 0 else 'not tried'}: {what}: {why}")
    return "\n".join(lines)


def place(activity: Activity) -> tuple[int, int]:
    """Return the range of an operation: of a change as its call reported, of others as planned."""
    known = [write for write in activity.writes if write.start >= 0 and write.end > write.start]
    if not known:
        return activity.start, activity.end
    return min(write.start for write in known), max(write.end for write in known)


def sentence(activity: Activity) -> str:
    """Describe an operation, without its worker."""
    operation, kind, file = activity.operation, activity.operation.kind, activity.file
    way = f" ({operation.way})" if operation.way else ""
    start, end = place(activity)
    if kind == CRASH:
        text = "crashed the tested system, and checked the remains"
    elif KINDS[kind] == "names":
        text = f"{kind} of a name of its own"
    elif file is None:
        text = f"{kind} of {shared_names()[operation.file]}"
    else:
        of = f"object {file}" if KINDS[kind] in CROSSING else "all files" if kind in SYNCS else f"file {file}"
        where = "" if kind in PLACELESS else f" [{start}, {end})" if end < FOREVER else f" from {start} on"
        text = f"{kind}{way} of {of}{where}"
    if activity.errors:
        text += f", which raised {', '.join(activity.errors)}"
    return text if activity.ended is not None else f"{text}, still running"


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


def narrative(world: World, failure: Broken) -> tuple[str, ...]:
    """Return the operations, sorted by their begin; the same again of one worker is one sentence."""
    met = [*list(world.past), *list(world.active.values())]
    if failure.finding is not None:
        met = [one for one in met if touches(one, failure.finding)]
    lines: list[tuple[str, str, int]] = []  # time, text, consecutive repetitions
    for one in sorted(met, key=lambda one: one.begun):
        when = f"{one.begun:>6} to {one.ended if one.ended is not None else '...':<6}"
        text = f"{worker_name(one.worker)}: {sentence(one)}" if one.worker else f"the tester {sentence(one)}"
        again = lines[-1][2] + 1 if lines and lines[-1][1] == text else 1
        lines[len(lines) - (again > 1) :] = [(when, text, again)]
    left = len(lines) - SENTENCES
    return tuple([f"({left} steps before that)"] if left > 0 else []) + tuple(
        f"{when} {text}" + (f", the last of {again} times in a row" if again > 1 else "")
        for when, text, again in lines[-SENTENCES:]
    )
