"""A test that hangs fails the run, with the stacks of all threads.

pytest-timeout lets plug-ins set the timer of a test. This one sets faulthandler's: a thread in C that prints the stacks
and ends the process, whatever the test waits for and whatever locks it holds. (The thread method of pytest-timeout
needs the interpreter's lock, and below pytest-xdist it prints to /dev/null.)

pytest-xdist then names the test. `--max-worker-restart=0` in pyproject.toml ends the run as failed when the other
processes have finished the tests that they run. It starts no new process: with `--dist loadgroup`, pytest-xdist 3.8 may
leave a new process without tests, and wait for it forever.

pytest-timeout drops the timer of a test that fails. The fixtures of the test are given its time again.

A run that is ended by SIGTERM prints which tests were running.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from faulthandler import cancel_dump_traceback_later, dump_traceback_later  # some tests replace those of the module
from typing import Any

import pytest

SETTINGS = pytest.StashKey[Any]()
STDERR = pytest.StashKey[int]()  # that of the process; the output of a test is captured

_running: dict[str, float] = {}  # id of a test that runs in any process -> when it began


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    item.stash[SETTINGS] = settings
    dump_traceback_later(settings.timeout, exit=True, file=item.config.stash[STDERR])
    return True


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    cancel_dump_traceback_later()
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    if SETTINGS in item.stash:
        pytest_timeout_set_timer(item, item.stash[SETTINGS])
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart(nodeid: str) -> None:  # before the terminal prints it
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
    config.stash[STDERR] = os.dup(2)
    if not hasattr(config, "workerinput") and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _ended)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])
