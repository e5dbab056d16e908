"""Changes of ranges: which change waits for which, and the state after an interrupt."""

from __future__ import annotations

import threading

from pagecache.backends.transform.changes import RECENT, Changes

from ..file.rig import Task


def test_overlapping_changes_wait_for_each_other_and_others_do_not() -> None:
    changes, first, second, third = Changes(), threading.Lock(), threading.Lock(), threading.Lock()
    with second, third:
        with first:
            changes.begin(0, 10, first)
            changes.begin(10, 20, second)
            waiting = Task(changes.begin, 5, 15, third)
            assert waiting.waits()
        assert waiting.waits()  # for the second one
        second.release()
        waiting.result()
        second.acquire()


def test_read_waits_for_a_change_and_notices_one_that_began_later() -> None:
    changes, first, second = Changes(), threading.Lock(), threading.Lock()
    with first:
        changes.begin(0, 10, first)
        assert changes.quiet(10, 20) == 1
        reading = Task(changes.quiet, 9, 20)
        assert reading.waits()
    since = reading.result()
    assert changes.unchanged(0, 20, since)
    with second:
        changes.begin(5, 10, second)
    assert changes.unchanged(0, 5, since)
    assert not changes.unchanged(0, 6, since)


def test_read_that_more_changes_overtook_than_are_remembered_is_done_again() -> None:
    changes = Changes()
    since = changes.quiet(0, 10)
    for _ in range(RECENT + 1):
        changes.begin(50, 60, threading.Lock())
    assert not changes.unchanged(0, 10, since)
    assert changes.unchanged(0, 10, since + 1)


def test_change_that_was_interrupted_before_it_let_go_is_over() -> None:
    """Only its lock shows that it goes on, and `with` unlocks that one."""
    changes, going = Changes(), threading.Lock()
    try:
        with going:
            changes.begin(0, 10, going)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert changes.quiet(0, 10) == 1
