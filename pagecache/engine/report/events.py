"""Delivery of events to subscribers.

One daemon thread, started with the first subscriber, calls all subscribers with each event, in the order of emission.
The thread does nothing else: a callback may be slow and may call any method of the cache, including sync and close; it
delays only other subscribers. An emitter never waits: if subscribers are too slow, events are dropped and counted, and
the next delivered event reports the number.

The thread refers to its `Feed` only while it has events, so that subscribers do not keep a dropped cache alive. `_lock`
guards the subscribers and the order of events; it is held briefly, and a signal handler may emit in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue

from ... import loglines
from ...objects import Event
from ..park import make_calls, start_thread

log = logging.getLogger("pagecache.events")

QUEUED_MAX = 4096
"""Events that wait for slow subscribers; more are dropped."""

Callback = Callable[[Event], object]


@dataclasses.dataclass(slots=True, eq=False)
class _Subscriber:
    """A receiver of events, until it is removed from the list."""

    callback: Callback
    raised: int = 0


class Feed:
    """The subscribers of one cache."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.subscribers: list[_Subscriber] = []
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._missed = 0
        self._stopped = False

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Add a subscriber for later events; return a function that removes it, idempotent and callable from
        anywhere.
        """
        with self._lock:
            if self._thread is None:
                name = "pagecache-events"
                thread = threading.Thread(target=make_calls, args=(self._queue,), name=name, daemon=True)
                start_thread(thread, "of the cache")
                self._thread = thread
                weakref.finalize(self, self._queue.put, None).atexit = False
            subscriber = _Subscriber(callback)
            self.subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self.subscribers.remove(subscriber)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Queue an event; from any thread; never waits."""
        if not self.subscribers or self._stopped:
            return
        with self._lock:
            if self._queue.qsize() >= QUEUED_MAX:
                self._missed += 1
                if self._missed == 1:
                    what = "subscribers are slow: %d events wait, and more are left out"
                    loglines.say(log, logging.WARNING, what, QUEUED_MAX)
                return
            missed, self._missed = self._missed, 0
            event = dataclasses.replace(event, missed=missed) if missed else event
            self._queue.put(partial(self._deliver, tuple(self.subscribers), event))

    def _deliver(self, subscribers: Sequence[_Subscriber], event: Event) -> None:
        """Call those that had subscribed when the event was emitted."""
        for subscriber in subscribers:
            if subscriber not in self.subscribers:
                continue  # an earlier subscriber has removed it
            try:
                subscriber.callback(event)
            except BaseException:  # SystemExit too: the thread serves all subscribers
                subscriber.raised += 1
                if subscriber.raised == 1:
                    log.exception("%r raised, with %s; it goes on getting events", subscriber.callback, event)
                else:
                    log.debug("%r raised again", subscriber.callback, exc_info=True)

    def stop(self, timeout: float) -> None:
        """Deliver the last events, within `timeout` seconds; the event thread does not wait for itself."""
        self._stopped = True
        self._queue.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
