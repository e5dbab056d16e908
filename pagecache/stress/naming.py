"""From what a person names to targets, one for each round."""

from __future__ import annotations

from collections.abc import Callable

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.check_backend.target import BadTarget
from pagecache.check_backend.target import Target as BackendTarget
from pagecache.stress.cached import CachedTarget
from pagecache.stress.plan import Plan
from pagecache.stress.targets import Target, UnusableTarget

__all__ = ["maker"]

PATH = "path:"


def maker(target: str | Callable[[], Backend | AsyncBackend] | None) -> Callable[[Plan, int], Target]:
    """What makes the target of a round.

    Raises:
        UnusableTarget: nothing is called that.
    """
    if target is None or target == "memory:":
        return lambda plan, number: CachedTarget(plan, number, None, "memory:")
    if not isinstance(target, str):
        label = getattr(target, "__qualname__", repr(target))
        return lambda plan, number: CachedTarget(plan, number, target, label)
    if target.startswith(PATH):
        from pagecache.stress.mounted import MountedTarget

        return lambda plan, number: MountedTarget(plan, number, target.removeprefix(PATH))
    return _from_backend(target)


def _from_backend(name: str) -> Callable[[Plan, int], Target]:
    try:
        found = BackendTarget(name, {})
    except (BadTarget, ValueError) as error:
        raise UnusableTarget(str(error)) from None

    def make(plan: Plan, number: int) -> Target:
        try:
            return CachedTarget(plan, number, found.make, name)
        except BadTarget as error:
            raise UnusableTarget(str(error)) from None

    return make
