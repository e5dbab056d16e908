"""Each kind of wait: forced by a gate in the backend, seen in the report from another thread, and gone afterwards."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import Wait

from ..file.rig import KEY, Rig, Task, eventually
from ..file.test_interrupts import ctrl_c
from .kinds import DATA, KINDS, Kind, prefetched
from .seen import no_wait_left, start, wait_of

Make = Callable[..., Rig]


class Stage:
    """A kind of wait up to the moment before its caller waits."""

    def __init__(self, make: Make, name: str) -> None:
        self.kind = KINDS[name]
        config = dict(self.kind.config)
        capacity = config.pop("capacity", "8MiB")
        self.rig = make({KEY: DATA, "other": DATA}, capacity, limits=self.kind.options, **config)
        self.file = self.rig.open()
        self.gate = None if self.kind.gate is None else self.rig.backend.gate(self.kind.gate, times=64)
        if self.kind.fault is not None:
            self.rig.backend.fault(*self.kind.fault)
        self.kind.before(self.rig, self.file)
        self.tasks: list[Task[Any]] = []
        if self.kind.first is not None:
            assert self.gate is not None
            self.tasks.append(start("first", self.kind.first, self.rig, self.file))
            self.gate.wait_entered()
            wait_of(self.rig.cache, "first")
        if name == "a fill that no thread has begun":
            prefetched(self.rig, self.file)

    def call(self) -> object:
        return self.kind.call(self.rig, self.file)

    def seen(self, name: str) -> Wait:
        """The wait, once the report is as expected."""
        eventually(lambda: matches(self.kind, wait_of(self.rig.cache, name), name))
        return wait_of(self.rig.cache, name)

    def finish(self) -> None:
        """Release the wait; then check that the report is empty."""
        if self.kind.fault is not None:
            self.rig.volume.abort()
        if self.gate is not None:
            self.gate.open()
        for task in self.tasks:
            assert task.finished.wait(20)
        self.kind.after(self.rig, self.file)
        if not self.rig.cache.closed:
            no_wait_left(self.rig.cache)


def matches(kind: Kind, wait: Wait, name: str) -> bool:
    """Return whether the report matches the expectation."""
    found = re.fullmatch(kind.what, wait.what) and len(wait.chain) == 1 + len(kind.chain)
    sentences = [sentence.replace(name, "waiter") for sentence in wait.chain[1:]]
    return bool(found) and all(re.fullmatch(p, s) for p, s in zip(kind.chain, sentences, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_a_report_has_the_waiter_and_the_owner(make: Make, name: str) -> None:
    """It has the object, the bytes, the owner, the start, and the chain down to the running call; afterwards it is
    empty. [T-80]
    """
    stage = Stage(make, name)
    stage.tasks.append(start("waiter", stage.call))
    kind, wait = stage.kind, stage.seen("waiter")
    assert (wait.volume, wait.key, wait.task) == ("volume", kind.key, False)
    if kind.within is None:
        assert (wait.offset, wait.length) == (kind.span or (None, None))
    else:
        assert wait.offset is not None
        assert wait.length is not None
        assert kind.within[0] <= wait.offset < wait.offset + wait.length <= kind.within[1]
    assert wait.chain[0].startswith(f"waiter waits for {wait.what}")
    assert wait.seconds >= 0
    assert wait.next
    owner = wait.owner
    assert owner is not None
    assert kind.owner is not None
    assert re.fullmatch(kind.owner, owner.what)
    assert (owner.name is None) == (kind.thread is None) == (owner.thread is None)
    assert kind.thread is None or re.fullmatch(kind.thread, owner.name or "")
    stage.finish()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", KINDS)
def test_an_interrupt_leaves_no_record(make: Make, name: str) -> None:
    """Ctrl-C comes in each of them: the caller is no longer in the report, whatever goes on. [T-80, T-51]"""
    stage = Stage(make, name)
    ready = threading.Event()

    def watch() -> None:
        try:
            stage.seen("MainThread")
        finally:
            ready.set()

    watcher = Task(watch)
    with ctrl_c(ready), pytest.raises(KeyboardInterrupt):
        stage.call()
    watcher.result()
    assert [wait for wait in stage.rig.cache.waits() if wait.name == "MainThread"] == []
    stage.finish()
