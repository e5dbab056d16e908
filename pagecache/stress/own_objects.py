"""The objects of one worker alone: made, renamed, removed and read by their names.

No other worker changes them, so the content of each is known after every call. As in steps.py, each operation is a
generator that yields verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from pagecache.stress.content import made
from pagecache.stress.history import Broken, Model
from pagecache.stress.oracle import worker_name
from pagecache.stress.profiles import PRIVATE, Operation, names_of, other, saved_first
from pagecache.stress.targets import Verb
from pagecache.stress.world import Halted, World

if TYPE_CHECKING:
    from pagecache.stress.steps import Step


class OwnObjects:
    """The objects of one worker, by name."""

    def __init__(self, world: World, worker: int, number: Callable[[], int]) -> None:
        """Begin without objects. `number`: returns the next number of a write of this worker."""
        self.world = world
        self.worker = worker
        self._number = number
        self._contents: dict[str, bytes] = {}
        self._beside: set[int] = set()  # hashes of contents that failed to be published: they may be stored beside

    def contents(self) -> dict[str, bytes]:
        """Return a copy of the contents by name."""
        return dict(self._contents)

    def recall(self, found: Callable[[str], bytes | None]) -> None:
        """After a crash, set the contents to those that `found` returns."""
        for name in names_of(self.worker):
            self._known(name, found(name))

    def _name(self, operation: Operation, more: int = 0) -> str:
        return names_of(self.worker)[(operation.file + more) % PRIVATE]

    def publish(self, operation: Operation, _model: Model, _start: int, _end: int) -> Step:
        """Make an object anew, or replace it by a rename over it."""
        name = self._name(operation)
        length = 0 if operation.extra % 8 == 2 else operation.length % self.world.plan.size_bytes
        data = made(self.world.tag, operation.file, self.worker, self._number(), 0, length)
        done = yield from self._naming("publish", ("publish", name, data, operation.extra), {name: data})
        on_disk = "disk" in self.world.target.level(operation.extra)
        if done and saved_first(operation.extra) and not on_disk:
            yield from self._saved_object(name, data)
        if done and self.world.target.shows and self.world.plan.durability == "backend":
            self._same(name, (yield ("store", name)), data, "is in the store after the last close")

    def rename(self, operation: Operation, model: Model, start: int, end: int) -> Step:
        """Rename or remove an object; perhaps make it before, and read afterwards from a handle opened before."""
        kind, name, hold = operation.kind, self._name(operation), bool(other(operation.extra) % 2)
        if name not in self._contents and hold:
            yield from self.publish(operation, model, start, end)
        if name not in self._contents:
            self.world.idle(self.worker, kind)
            return
        new = [self._name(operation, 1)] if kind == "rename" else []
        after = {name: None} | dict.fromkeys(new, self._contents[name])
        yield from self._naming(kind, (kind, name, *new, *([True] if hold else [])), after)

    remove = rename

    def _saved_object(self, name: str, data: bytes) -> Step:
        """Check that an object that was saved before it got its name is stored, under that name or the earlier one
        [T-74].
        """
        for one in (f"{name}-new", name):
            found = yield ("store", one)
            if found == data:
                return
        self._same(name, found, data, "is in the store after an fsync before it got its name")

    def _naming(self, kind: str, verb: Verb, after: dict[str, bytes | None]) -> Generator[Verb, Any, bool]:
        """Change names; after an error, check which names exist. Return whether the change was done."""
        before = self._contents.get(str(verb[1]))
        try:
            shown = yield verb
        except OSError as error:
            self.world.excuse(error, kind, self.worker)
            for name in after:
                found = yield from self._read_own(name)
                wanted = after[name]
                part = wanted is not None and found is not None and wanted.startswith(found)
                if (
                    found not in (None, self._contents.get(name), wanted)
                    and not part
                    and hash(found) not in self._beside
                ):
                    raise Broken(
                        f"{name}: {len(found or b'')} bytes of neither before nor after a {kind} that failed"
                    ) from error
                self._known(name, found)
                if kind == "publish" and wanted is not None:
                    self._beside.add(hash(wanted))
            return False
        for name, data in after.items():
            self._known(name, data)
        if verb[-1] is True:
            if shown is not None:
                self.world.count(f"reads by a handle after a {kind}")
                self._same(str(verb[1]), shown, before, f"is what a handle shows that was open before its {kind}")
            for name, data in after.items():
                self._same(name, (yield from self._read_own(name)), data, f"is found right after a {kind}")
        return True

    def _known(self, name: str, data: bytes | None) -> None:
        self._contents.pop(name, None)
        if data is not None:
            self._contents[name] = data

    def _read_own(self, name: str) -> Generator[Verb, Any, bytes | None]:
        while True:
            try:
                found: bytes | None = yield ("look", name)
            except OSError as error:
                self.world.excuse(error, "look", self.worker)
                if "look" in self.world.unsupported:
                    return None
                if self.world.crashing and self.world.stopped.is_set():
                    raise Halted from error
                yield ("pause",)
            else:
                return found

    def look(self, operation: Operation, _model: Model, _start: int, _end: int) -> Step:
        name = self._name(operation)
        found = yield from self._read_own(name)
        self._same(name, found, self._contents.get(name), "is")

    def saved(self, names: dict[str, bytes]) -> Step:
        for name in names_of(self.worker):
            found = yield ("store", name)
            self._same(name, found, names.get(name), "is in the store after sync")

    def _same(self, name: str, found: bytes | None, wanted: bytes | None, where: str) -> None:
        if found != wanted:
            has = "nothing" if found is None else f"an object of {len(found)} bytes"
            should = "nothing" if wanted is None else f"{len(wanted)} bytes of {worker_name(self.worker)}"
            raise Broken(f"{name}: {has} {where}, should be {should}")
