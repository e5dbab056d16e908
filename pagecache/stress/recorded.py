"""A target that reports its verbs to a keeper of the durable state: before a call begins, and after it.

A `Keeper` gets the verbs that make durable, and those that change names; all others pass.
"""

from __future__ import annotations

from collections.abc import Callable
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
            keeper = self._keep()
            if keeper is None:
                return found(*arguments)
            end = begin(keeper, name, arguments)
            try:
                answer = found(*arguments)
            except BaseException:
                end(False)
                raise
            end(True)
            return answer

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
        keeper = self._keep() if name in SAVING | NAMING else None
        if keeper is None:
            return await self._tasks.call(name, arguments)
        end = begin(keeper, name, arguments)
        try:
            answer = await self._tasks.call(name, arguments)
        except BaseException:
            end(False)
            raise
        end(True)
        return answer


def begin(keeper: Keeper, name: str, arguments: tuple[Any, ...]) -> Callable[[bool], None]:
    """Begin a verb; return a function to call with whether it succeeded."""
    if name in SAVING:
        mark = keeper.saving(arguments[0] if name == "fsync" else None)

        def saved(done: bool) -> None:
            if done:
                keeper.saved(mark)
            else:
                keeper.failed(mark)

        return saved
    names = keeper.naming(name, arguments)

    def named(done: bool) -> None:
        if done:
            keeper.named(names)

    return named
