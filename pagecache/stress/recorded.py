"""A target that reports its verbs to a keeper of the durable state: before a call begins, and after it.

A `Keeper` gets the verbs that make durable, and those that change names; all others pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["Keeper", "Recorded"]

SAVING = frozenset({"fsync", "sync", "ticket"})
NAMING = frozenset({"publish", "rename", "remove"})


class Keeper(Protocol):
    """Receiver of the reports: `Durable` of durable.py, or a sender to another process."""

    def saving(self, file: int | None) -> Any: ...
    def saved(self, mark: Any) -> None: ...
    def failed(self, mark: Any) -> None: ...
    def naming(self, verb: str, arguments: tuple[Any, ...]) -> Any: ...
    def named(self, mark: Any) -> None: ...


class Recorded:
    """A reporting target, see `targets.Target`; `keep` returns the current keeper, or None."""

    def __init__(self, target: Any, keep: Callable[[], Keeper | None]) -> None:
        self._target = target
        self._keep = keep
        self.tasks = None if target.tasks is None else RecordedTasks(target.tasks, keep)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in SAVING | NAMING:
            return found

        def call(*arguments: Any) -> Any:
            with reported(self._keep(), name, arguments):
                return found(*arguments)

        return call


class RecordedTasks:
    """The coroutines of a reporting target."""

    def __init__(self, tasks: Any, keep: Callable[[], Keeper | None]) -> None:
        self._tasks = tasks
        self._keep = keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tasks, name)

    async def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Run a verb."""
        with reported(self._keep(), name, arguments):
            return await self._tasks.call(name, arguments)


@contextmanager
def reported(keeper: Keeper | None, name: str, arguments: tuple[Any, ...]) -> Iterator[None]:
    """Report a verb to the keeper, if there is one: its begin, and whether it succeeded."""
    if keeper is None or name not in SAVING | NAMING:
        yield
    elif name in SAVING:
        mark = keeper.saving(arguments[0] if name == "fsync" else None)
        try:
            yield
        except BaseException:
            keeper.failed(mark)
            raise
        keeper.saved(mark)
    else:
        names = keeper.naming(name, arguments)
        yield
        keeper.named(names)
