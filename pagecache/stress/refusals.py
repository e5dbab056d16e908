"""Refuse options that the target cannot serve: a run that silently skipped them would be green without a test.

    refuse_crashes   crashes that a target cannot have; called before anything is made
    refuse_ways      ways that a target lacks; called after the files are made, since some ways are tried out on them
    crashing         what makes the crashes of a round

The plan itself refuses a mix that shares nothing with the profile (`profiles.leaves_nothing`). Operations that the
target cannot do and that no option names are left out, and the report lists them.
"""

from __future__ import annotations

from typing import Any

from pagecache.stress.cached import CachedTarget
from pagecache.stress.crash import Forgetting, NoCrash
from pagecache.stress.killed import Killed, unpicklable
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.plan import Plan
from pagecache.stress.targets import Target, UnusableTarget
from pagecache.stress.world import World

__all__ = ["crashing", "refuse_crashes", "refuse_ways"]

BEHIND = {"foreign", "rivals", "shared", "links", "others"}
"""Ways that change the store behind a cache, and shared names. They cannot take part in crashes, and not all rounds
with a cache have them."""


def refuse_crashes(plan: Plan, target: Target, made_from: Any) -> None:
    """Refuse crashes that the target cannot have.

    Raises:
        UnusableTarget: names the refused option and the reason.
    """
    for kind in plan.crashes:
        if kind != "none" and (why := why_no_crash(kind, plan, target, made_from)):
            raise UnusableTarget(f"crashes: {kind} cannot be on {target.name}: {why}")
    for way in BEHIND & set(plan.mix):
        if plan.crashes and "none" not in plan.crashes:
            raise UnusableTarget(f"mix: {way} cannot be in rounds with crashes: name none among them, too")


def why_no_crash(kind: str, plan: Plan, target: Target, made_from: Any) -> str:
    """Return a sentence that explains why crashes of this kind are impossible; "" if they are possible."""
    if isinstance(target, MountedTarget):
        return "a crash is of a cache and its store, and here is none"
    assert isinstance(target, CachedTarget)
    named = made_from not in (None, "memory:")
    if kind == "killed":
        if not plan.threads:
            return "its workers are threads"
        return unpicklable(made_from) if named else "the store ends with its process"
    if target.faulting.repairing:
        return f"the faults of {plan.faults!r} are repaired by reconnecting, too"
    if named and target.durable_writes:
        return "durable_writes: the backend promises that acknowledged bytes survive"
    return ""


def crashing(world: World, target: Target, made_from: Any) -> NoCrash:
    """Return the object that makes the crashes of a round."""
    kind = world.plan.crash_of(world.number)
    if kind == "none":
        return NoCrash()
    assert isinstance(target, CachedTarget)
    target.ways -= BEHIND
    return Killed(world, target, made_from) if kind == "killed" else Forgetting(world, target)


def refuse_ways(plan: Plan, target: Target) -> None:
    """Refuse ways of the mix that the target lacks.

    Raises:
        UnusableTarget: names a way that the target lacks.
    """
    for way in plan.mix:
        later = way in BEHIND and way not in target.skipped and isinstance(target, CachedTarget)  # in other rounds
        if way not in target.ways and not later:
            why = f": {target.skipped[way]}" if way in target.skipped else ""
            raise UnusableTarget(f"mix: {way} cannot be on {target.name}{why}")
