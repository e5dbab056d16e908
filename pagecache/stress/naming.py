"""Targets from names on the command line, one for each round; and names from targets."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.stress.cached import CachedTarget
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.plan import Plan
from pagecache.stress.targets import Target, UnusableTarget
from pagecache.target import BadTarget, place
from pagecache.target import Target as BackendTarget

PATH = "path:"


def maker(target: str | Callable[[], Backend | AsyncBackend] | None) -> Callable[[Plan, int], Target]:
    """Return a function that makes the target of a round; UnusableTarget: there is no target with this name."""
    if target is None or target == "memory:":
        return lambda plan, number: CachedTarget(plan, number, None, "memory:")
    if not isinstance(target, str):
        label = getattr(target, "__qualname__", repr(target))
        if not callable(target):
            raise UnusableTarget(
                f"{target!r} cannot be called: a factory gives a backend, for example lambda: MyBackend()"
            )
        source = BackendTarget(label, {}, factory=target)
    elif target.startswith(PATH):
        return lambda plan, number: MountedTarget(plan, number, target.removeprefix(PATH))
    else:
        try:
            source = BackendTarget(target, {}, (PATH.rstrip(":"), "python"))
        except (BadTarget, ValueError) as error:
            raise UnusableTarget(str(error)) from None

    def make(plan: Plan, number: int) -> Target:
        try:
            return CachedTarget(plan, number, source.make, source.name)
        except UnusableTarget:
            raise
        except BadTarget as error:
            raise UnusableTarget(str(error)) from None
        except Exception as error:
            raise UnusableTarget(f"{source.name}: {type(error).__name__}: {error}{place(error)}") from error

    return make


def name_of(target: object) -> str | None:
    """Return the name of a target on the command line; None: a memory backend, or a factory that no module has under a
    name.
    """
    if target is None or isinstance(target, str):
        return target
    module, path = getattr(target, "__module__", None), getattr(target, "__qualname__", "<none>")
    if module in (None, "__main__") or "<" in path:
        return None
    found: object = importlib.import_module(str(module))
    for part in path.split("."):
        found = getattr(found, part, None)
    return f"python:{module}:{path}" if found is target else None
