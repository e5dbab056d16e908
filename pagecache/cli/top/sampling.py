"""One sample of a socket, and a thread that samples at an interval.

A sample may take as long as its timeout if the owner of the socket hangs. So each socket has a separate thread: one
that hangs delays no other, and a daemon thread does not keep the program from ending.
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
    """The choice of files.

    Attributes:
        limit: Number of files; 0: none at all.
        volume: Only files of this volume.
        match: Only files with this text in their keys.
    """

    sort: str = "dirty"
    limit: int = 100
    volume: str | None = None
    match: str = ""


def take_sample(client: Client, question: Question) -> Sample:
    """Read one sample. Never raises LiveError: the sample contains it."""
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
                pass  # the volume was detached in between; the next sample shows that
        try:
            waits = client.waits()
        except Refused:
            pass
    except LiveError as error:
        return Sample(client.path, error=error)
    return Sample(client.path, stats=stats, files=files, waits=waits, match=question.match)


class Sampler(threading.Thread, Generic[T]):
    """A thread that reads, delivers the answer, waits, and reads again, until it is stopped.

    Args:
        read: Called in this thread. An exception ends the thread.
        deliver: Takes the answer, in this thread.
        interval: Returns the seconds until the next question; None: not before `wake`.
        client: The client of `read`; closed when the thread ends.
    """

    def __init__(
        self,
        read: Callable[[], T],
        deliver: Callable[[T], None],
        interval: Callable[[], float | None],
        client: Client,
    ) -> None:
        super().__init__(name=f"top-{client.path.name}", daemon=True)
        self._read, self._deliver, self._interval, self._client = read, deliver, interval, client
        self._wake = threading.Event()
        self._stopped = False

    def wake(self) -> None:
        """Read now; if a question is under way, once more after it."""
        self._wake.set()

    def stop(self) -> None:
        """Stop reading and delivering. Does not wait for a question that is under way."""
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        """Run the thread."""
        with self._client:
            while not self._stopped:
                self._wake.clear()
                answer = self._read()
                if self._stopped:
                    return
                self._deliver(answer)
                self._wake.wait(self._interval())


def socket_sampler(
    path: Path,
    question: Callable[[], Question],
    deliver: Callable[[Sample], None],
    interval: Callable[[], float | None],
) -> Sampler[Sample]:
    """Return a sampler for one socket."""
    client = Client(path, timeout=TIMEOUT)
    return Sampler(lambda: take_sample(client, question()), deliver, interval, client)
