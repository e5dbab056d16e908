"""One look at a socket, and a thread that looks again and again.

A look may take as long as its timeout where the owner of the socket hangs. So each socket has a thread of its own:
one that hangs delays nobody, and a daemon thread does not keep the program from ending.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pagecache.cli.top.rows import Sample
from pagecache.observe.answers import Files, Waits
from pagecache.observe.client import Client, LiveError, Refused

T = TypeVar("T")

TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Question:
    """Which files to ask for.

    Attributes:
        limit: how many; 0: none at all.
        volume: of one volume only.
        match: only those with this text in their keys.
    """

    sort: str = "dirty"
    limit: int = 100
    volume: str | None = None
    match: str = ""


def look(client: Client, question: Question) -> Sample:
    """Read what a view shows. Never raises LiveError: it is in the sample."""
    try:
        stats = client.stats()
        files: Files | None = None
        waits: Waits | None = None
        if question.limit:
            volume = question.volume if any(one.name == question.volume for one in stats.volumes) else None
            try:
                files = client.files(
                    volume=volume, sort=question.sort, limit=question.limit, match=question.match or None
                )
            except Refused:
                pass  # the volume was detached since; the next look finds that
        try:
            waits = client.waits()
        except Refused:
            pass
    except LiveError as error:
        return Sample(client.path, error=error)
    return Sample(client.path, stats=stats, files=files, waits=waits, match=question.match)


class Looker(threading.Thread, Generic[T]):
    """Asks, delivers the answer, waits, and asks again, until it is stopped.

    Args:
        ask: Called in this thread. What it raises ends the thread.
        deliver: Takes the answer, in this thread.
        interval: Tells the seconds until the next question; None: not before `wake`.
        client: What `ask` uses; closed when the thread ends.
    """

    def __init__(
        self,
        ask: Callable[[], T],
        deliver: Callable[[T], None],
        interval: Callable[[], float | None],
        client: Client,
    ) -> None:
        super().__init__(name=f"top-{client.path.name}", daemon=True)
        self._ask, self._deliver, self._interval, self._client = ask, deliver, interval, client
        self._wake = threading.Event()
        self._stopped = False

    def wake(self) -> None:
        """Ask now; where a question is under way, once more after it."""
        self._wake.set()

    def stop(self) -> None:
        """Ask no more, and deliver nothing. Does not wait for a question that is under way."""
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        """The thread."""
        with self._client:
            while not self._stopped:
                self._wake.clear()
                answer = self._ask()
                if self._stopped:
                    return
                self._deliver(answer)
                self._wake.wait(self._interval())


def socket_looker(
    path: Path,
    question: Callable[[], Question],
    deliver: Callable[[Sample], None],
    interval: Callable[[], float | None],
) -> Looker[Sample]:
    """A looker at one socket."""
    client = Client(path, timeout=TIMEOUT)
    return Looker(lambda: look(client, question()), deliver, interval, client)
