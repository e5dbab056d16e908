"""Replace `threading`, `time`, `random`, `sys` and `SimpleQueue` in the modules of the product during a round.

Every name of a module of `pagecache` that is one of these becomes another object, which checks the calling thread: in a
thread of the scheduler it makes and does simulated things, in any other thread it behaves as the original. So the
product needs no hooks, a lock of a backend is simulated like those of the engine, and other caches of the process go on
as before. Objects that were made earlier stay real: a lock that is made at import of its module must not be held while
other threads may run.
"""

from __future__ import annotations

import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

from pagecache.stress import hang
from pagecache.stress.deterministic import threads
from pagecache.stress.deterministic.scheduler import Scheduler, here

__all__ = ["substituted"]

ON_DEMAND = ("backends.directory", "backends.memory", "backends.transform", "engine.loop", "observe.tracing", "stats")
"""Modules that the product imports on first use: one that came in the middle of a round would keep the real clock."""
EPOCH = 1_700_000_000_000_000_000
"""First value of the wall clock, in nanoseconds."""


class _Of:
    """A module with some names replaced."""

    def __init__(self, module: Any, own: dict[str, Any]) -> None:
        self._module = module
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _made(kind: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    """Make the object for the calling thread: simulated or real."""

    def make(*args: Any, **kwargs: Any) -> Any:
        scheduler = here()
        return real(*args, **kwargs) if scheduler is None else kind(scheduler, *args, **kwargs)

    return make


def _replaced(simulated: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    """Call the function for the calling thread: simulated or real."""

    def call(*args: Any) -> Any:
        scheduler = here()
        return real(*args) if scheduler is None else simulated(scheduler, *args)

    return call


def _current_thread(scheduler: Scheduler) -> Any:
    return scheduler.python_threads.get(scheduler.running, scheduler.running)


def _sleep(scheduler: Scheduler, seconds: float) -> None:
    scheduler.sleep("time", seconds)


def _thread(scheduler: Scheduler, group: None = None, *args: Any, **kwargs: Any) -> threads.Thread:
    return threads.Thread(scheduler, *args, **kwargs)


def _stacks(scheduler: Scheduler, _loop: None = None) -> dict[str, list[str]]:
    return {"simulated threads": scheduler.report().splitlines()}


def _current_frames(scheduler: Scheduler) -> dict[int, FrameType]:
    frames = {thread.ident: thread.frame() for thread in scheduler.threads}
    return {ident: frame for ident, frame in frames.items() if frame is not None}


def _random(scheduler: Scheduler, *seed: Any) -> random.Random:
    return random.Random(*(seed or (scheduler.rng.getrandbits(64),)))


THREADING = _Of(
    threading,
    {
        "Lock": _made(threads.Lock, threading.Lock),
        "RLock": _made(threads.RLock, threading.RLock),
        "Condition": _made(threads.Condition, threading.Condition),
        "Event": _made(threads.Event, threading.Event),
        "Thread": _made(_thread, threading.Thread),
        "current_thread": _replaced(_current_thread, threading.current_thread),
        "get_ident": _replaced(lambda scheduler: scheduler.running.ident, threading.get_ident),
        "enumerate": _replaced(lambda scheduler: list(scheduler.python_threads.values()), threading.enumerate),
    },
)
TIME = _Of(
    time,
    {
        "monotonic": _replaced(lambda scheduler: scheduler.now_ns() / 1e9, time.monotonic),
        "monotonic_ns": _replaced(Scheduler.now_ns, time.monotonic_ns),
        "perf_counter": _replaced(lambda scheduler: scheduler.now_ns() / 1e9, time.perf_counter),
        "perf_counter_ns": _replaced(Scheduler.now_ns, time.perf_counter_ns),
        "time": _replaced(lambda scheduler: (EPOCH + scheduler.now_ns()) / 1e9, time.time),
        "time_ns": _replaced(lambda scheduler: EPOCH + scheduler.now_ns(), time.time_ns),
        "sleep": _replaced(_sleep, time.sleep),
    },
)
RANDOM = _Of(random, {"Random": _made(_random, random.Random)})
SYS = _Of(sys, {"_current_frames": _replaced(_current_frames, sys._current_frames)})
OTHERS: list[tuple[Any, Any]] = [
    (threading, THREADING),
    (time, TIME),
    (random, RANDOM),
    (sys, SYS),
    (queue.SimpleQueue, _made(threads.SimpleQueue, queue.SimpleQueue)),
    (hang.stacks, _replaced(_stacks, hang.stacks)),
]


def _is_meant(name: str, more: tuple[str, ...]) -> bool:
    own = name == "pagecache" or name.startswith("pagecache.")
    return (own and not name.startswith("pagecache.stress.deterministic")) or name in more


@contextmanager
def substituted(more: tuple[str, ...] = ()) -> Iterator[None]:
    """Replace the names in all imported modules of the product, and in `more`, for the length of a `with`."""
    for name in ON_DEMAND:
        import_module(f"pagecache.{name}")
    by_id = {id(real): (real, other) for real, other in OTHERS}
    changed: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, module in list(sys.modules.items()):
            if not _is_meant(name, more):
                continue
            names = vars(module)
            for key, value in list(names.items()):
                found = by_id.get(id(value))
                if found is not None:
                    changed.append((names, key, value))
                    names[key] = found[1]
        yield
    finally:
        for names, key, value in changed:
            names[key] = value
