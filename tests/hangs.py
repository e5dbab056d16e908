"""A test that hangs is named, and costs the run no more than its time.

pytest-timeout interrupts a test where Python looks at signals, once. A test that hangs in C, or in a fixture that ends
after that, would go on until somebody ends the run, and take with it what the others had to say. So the process of a
test that has had its time, and some seconds more, ends with the stacks of its threads: pytest-xdist names the test as
the one it crashed in, and goes on in another process. Where the run is ended from outside, it says what was running.

`--dist loadgroup` of pytest-xdist 3.8 does not outlive the end of a process: it runs the test again that ended it. And
who takes the place of another waits for ever: he is given one test, and begins a test when he knows the next. And a
test is lost that is given to who has not collected yet.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from faulthandler import cancel_dump_traceback_later, dump_traceback_later  # as they are: some tests replace them
from typing import Any

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from xdist.scheduler import LoadGroupScheduling
from xdist.workermanage import WorkerController

LAST = float(os.environ.get("PAGECACHE_TESTS_LAST", "30"))
"""Seconds from the timeout of a test to the end of its process."""

_times: dict[str, float] = {}  # by test that runs here: its seconds
_running: dict[str, float] = {}  # by test that runs anywhere: when it began


def _arm(item: pytest.Item, seconds: float) -> None:
    stderr = item.config.stash[fault_handler_stderr_fd_key]  # what a test prints is captured
    dump_traceback_later(seconds + LAST, exit=True, file=stderr)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    _times[item.nodeid] = settings.timeout
    _arm(item, settings.timeout)
    return (yield)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> Generator[None, object, object]:
    cancel_dump_traceback_later()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """After an error pytest-timeout and pytest have let go of their timers."""
    if item.nodeid in _times:
        _arm(item, _times[item.nodeid])
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        if _times.pop(item.nodeid, None) is not None:
            cancel_dump_traceback_later()


class Scheduling(LoadGroupScheduling):  # type: ignore[misc]  # it has no types
    """Loses no test with a process, and gives each process that is new two to begin with, once it knows the tests."""

    def _reschedule(self, node: WorkerController) -> None:
        if node in self.registered_collections:  # else when it says which there are
            super()._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        groups = self.assigned_work.pop(node)
        crashed = None
        for name, group in groups.items():
            left = [nodeid for nodeid, done in group.items() if not done]
            if left and crashed is None:
                crashed = left.pop(0)
            if left:
                self.workqueue[name] = dict.fromkeys(left, False)
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def schedule(self) -> None:
        super().schedule()
        for node in self.nodes:
            self._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart(nodeid: str) -> None:  # before the terminal says so
    _running[nodeid] = time.monotonic()


def pytest_runtest_logfinish(nodeid: str) -> None:
    _running.pop(nodeid, None)


def _ended(signum: int, frame: object) -> None:
    now = time.monotonic()
    lines = [f"  {nodeid}, for {now - began:.0f} s" for nodeid, began in _running.items()]
    os.write(2, "\n".join(["", "the run of the tests is ended from outside; running:", *lines, ""]).encode())
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _ended)
