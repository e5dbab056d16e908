"""What was asked for by name is done, or refused: a run that leaves it out would be green without having tried it.

    refuse_crashes   crashes and processes that a target cannot have: before anything is made
    refuse_ways      ways that it has not: where the files are made, since some are tried out on them

A mix of which the profile has nothing is refused by the plan (`profiles.leaves_nothing`). What nobody named, and the
target cannot do, is left out, and the report says so.
"""

from __future__ import annotations

from typing import Any

from pagecache.stress.cached import CachedTarget
from pagecache.stress.child import unpicklable
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.plan import Plan
from pagecache.stress.targets import Target, UnusableTarget

__all__ = ["BEHIND", "refuse_crashes", "refuse_ways"]

BEHIND = {"foreign", "rivals"}
"""Who changes the store behind a cache: they would have to know of a crash. Not all rounds with a cache have them."""


def refuse_crashes(plan: Plan, target: Target, made_from: Any) -> None:
    """Crashes and processes.

    Raises:
        UnusableTarget: names what there cannot be, and why.
    """
    for kind in plan.crashes:
        if kind != "none" and (why := why_no_crash(kind, plan, target, made_from)):
            raise UnusableTarget(f"crashes: {kind} cannot be on {target.name}: {why}")
    if plan.processes > 1 and (why := why_no_processes(plan, target)):
        raise UnusableTarget(f"processes: {plan.processes} cannot be on {target.name}: {why}")
    for way in BEHIND & set(plan.mix):
        if plan.crashes and "none" not in plan.crashes:
            raise UnusableTarget(f"mix: {way} cannot be in rounds with crashes: name none among them, too")


def why_no_processes(plan: Plan, target: Target) -> str:
    """A sentence; "" where there can be several."""
    if plan.scheduler != "threads":
        return "the deterministic scheduler has one"
    if not isinstance(target, MountedTarget):
        return "files are shared by processes on a mount, not through a cache: path:DIR has that"
    return ""


def why_no_crash(kind: str, plan: Plan, target: Target, made_from: Any) -> str:
    """A sentence; "" where there can be such a crash."""
    if plan.scheduler != "threads":
        return "the deterministic scheduler has no crashes"
    if isinstance(target, MountedTarget):
        return "" if kind == "killed" else "the store of system calls is not ours to drop anything from"
    assert isinstance(target, CachedTarget)
    named = made_from not in (None, "memory:")
    if kind == "killed":
        return unpicklable(made_from) if named else "the store ends with its process"
    if target.faulting.repairing:
        return f"the faults of {plan.faults!r} are repaired by reconnecting, too"
    if named and target.durable_writes:
        return "durable_writes: the backend promises that acknowledged bytes survive"
    return ""


def refuse_ways(plan: Plan, target: Target) -> None:
    """Ways of the mix.

    Raises:
        UnusableTarget: names one that the target has not.
    """
    for way in plan.mix:
        if way not in target.ways and not (way in BEHIND and isinstance(target, CachedTarget)):
            why = f": {target.skipped[way]}" if way in target.skipped else ""
            raise UnusableTarget(f"mix: {way} cannot be on {target.name}{why}")
