"""Abort, reconnect and late answers of calls that hang, in every order."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecache import ShutdownError

from .rig import KEY, ONCE, PAGE, Task, eventually, make_rig, overlay, pattern, raises

OLD = pattern(4 * PAGE)
NEW = pattern(4 * PAGE, seed=1)
NEWER = pattern(PAGE, seed=2)

HUNG = ("write", "two writes", "commit", "truncate", "punch_hole")
ANSWERS = ("done", "refused", "done, answer lost", "done long before")


def orders(lates: int) -> Iterator[tuple[str, ...]]:
    """Orders in which abort comes before reconnect, with late answers anywhere."""
    events = ["abort", "reconnect", *(f"late {k}" for k in range(lates))]
    for order in itertools.permutations(events):
        if order.index("abort") < order.index("reconnect"):
            yield order


CASES = [
    (hung, answer, order, lose, fenced)
    for hung in HUNG
    for answer in ANSWERS
    for order in orders(2 if hung == "two writes" else 1)
    for lose in (True, False)
    for fenced in (False, True)
    if not (fenced and not lose) and not (hung in ("truncate", "punch_hole") and answer == "done long before")
]


class Story:
    """One file, calls that hang, and the events that follow."""

    def __init__(self, hung: str, answer: str, *, lose: bool, fenced: bool) -> None:
        limits = {"max_write": PAGE, "punch": True}
        self.rig = make_rig({KEY: OLD}, limits=limits, retry=ONCE)
        self.old, self.now = self.rig.backend, self.rig.backend
        self.hung, self.answer, self.lose, self.fenced = hung, answer, lose, fenced
        self.file = self.rig.open("r+b")
        self.model = OLD
        self.came = 0
        self.write(PAGE, NEW[PAGE : 2 * PAGE])
        if hung in ("truncate", "punch_hole"):
            self.file.fsync()
        if hung == "two writes":
            self.write(3 * PAGE, NEW[3 * PAGE :])
        op = {"write": "write_from", "two writes": "write_from"}.get(hung, hung)
        count = 2 if hung == "two writes" else 1
        if answer == "done long before":
            self.gates = [self.old.gate(f"{op} answer") for _ in range(count)]
        else:
            self.gates = [self.old.gate(op) for _ in range(count)]
        self.fault(op)
        calls: dict[str, Callable[[], Any]] = {
            "truncate": lambda: self.file.truncate(2 * PAGE + 5),
            "punch_hole": lambda: self.file.punch_hole(PAGE, PAGE),
        }
        self.waiter = Task(calls.get(hung, self.file.fsync))
        for gate in self.gates:
            gate.wait_entered()
        if hung == "truncate":
            self.changed = OLD[: 2 * PAGE + 5]
            self.changed = overlay(self.changed, PAGE, NEW[PAGE : 2 * PAGE])
        elif hung == "punch_hole":
            self.changed = overlay(OLD, PAGE, bytes(PAGE))

    def write(self, offset: int, data: bytes) -> None:
        self.file.pwrite(data, offset)
        self.model = overlay(self.model, offset, data)

    def fault(self, op: str) -> None:
        """The answers of the hung calls: full effect and an error, no effect and an error, or success."""
        if self.answer == "refused":
            self.old.fault(op, OSError(errno.EACCES, "no"), times=2)
        elif self.answer == "done, answer lost" and op in ("write_from", "commit"):
            self.old.fault(f"{op} answer", OSError(errno.ECONNRESET, "the line went dead"), times=2)

    def step(self, event: str) -> None:
        if event == "abort":
            self.rig.volume.abort()
        elif event == "reconnect":
            self.now = self.old.successor(lose=self.lose, shared=not self.fenced)
            self.rig.volume.reconnect(self.now, fenced=self.fenced)
        else:
            self.late(int(event.split()[1]))

    def late(self, k: int) -> None:
        ended = self.old.nr_ended
        self.gates[k].open()
        eventually(lambda: self.old.nr_ended > ended)
        self.came += 1

    def in_old_hands(self) -> bool:
        return not self.fenced and self.came < len(self.gates)

    def nothing_clean_that_is_not_stored(self) -> None:
        """Check that the store would keep every cached, non-local page over a crash."""
        local = {
            page
            for offset, n in self.rig.volume.dirty_ranges(KEY)
            for page in range(offset // PAGE, -(-(offset + n) // PAGE))
        }
        stored = self.now.committed(KEY)
        assert stored is not None
        for page in range(4):
            cached = self.file.try_pread(PAGE, page * PAGE)
            if page not in local and cached is not None:
                assert cached == stored[page * PAGE : page * PAGE + len(cached)], f"page {page}"


@pytest.mark.long
@pytest.mark.parametrize("hung", HUNG)
@pytest.mark.parametrize("fenced", [False, True])
def test_abort_reconnect_and_late_answers_in_every_order(hung: str, fenced: bool) -> None:
    """Nothing is clean that is not stored; the newest bytes arrive. [T-75b, 2.22]"""
    cases = [case for case in CASES if case[0] == hung and case[4] == fenced]
    assert cases
    for _hung, answer, order, lose, _fenced in cases:
        story = Story(hung, answer, lose=lose, fenced=fenced)
        try:
            play(story, order)
        except BaseException as error:
            error.add_note(f"{answer=} {order=} {lose=}")
            raise
        finally:
            story.rig.finish()


def play(story: Story, order: tuple[str, ...]) -> None:
    calm = story.hung not in ("truncate", "punch_hole")  # else pages are covered by the stamp of another page
    published = False
    for event in order:
        story.step(event)
        if event.startswith("late") and story.came == len(story.gates) and "abort" not in order[: order.index(event)]:
            try:
                story.waiter.result()
            except OSError:
                pass  # the answer was an error
            else:
                published = not calm
            published |= not calm and story.answer != "refused"
        elif event == "abort" and not story.waiter.finished.is_set():
            raises(ShutdownError, story.waiter.result)
            published = not calm
            assert calm or story.file.size == len(story.changed)
        if calm and not (event == "late 0" and order[0] == event):
            story.nothing_clean_that_is_not_stored()
    if published:
        story.model = story.changed
    story.rig.cache.check()
    assert order[0] != "abort" or story.rig.volume.failed() == []  # a late error is ignored
    story.write(0, NEWER)
    Task(story.file.fsync).result()
    content = story.now.committed(KEY)
    assert story.file.pread(5 * PAGE, 0) == content
    if story.hung != "punch_hole" or "late" not in order[0]:  # a hole that was made, and not committed, is a loss
        assert content == story.model
    assert story.rig.volume.dirty_ranges(KEY) == []
    assert story.now.violations == []
