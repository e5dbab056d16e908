"""One cache: begin a sync there, and ask for its progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pagecache.observe.answers import FailedRange, Sync, SyncError
from pagecache.observe.client import Client, LiveError, Refused, TooSlow
from pagecache.quantities import duration_text, printable

__all__ = ["Follower", "Outcome", "Unsaved", "Unusable"]

ANSWER_TIMEOUT = 5.0
"""Seconds that one answer may take: the cache makes it from memory."""
FAILED_TIMEOUT = 1.0
"""Seconds for the final question about failed ranges."""
INTERVAL = 0.2
"""Seconds between two questions."""
BUSY_MAX = 10.0
"""Seconds after which a cache with too many clients counts as closed: both answer 503."""
NOT_KNOWN = "it is not known what was saved"


class Unusable(Exception):
    """The socket is not the intended one; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Unsaved:
    """A range that is not saved.

    Attributes:
        key: None: it concerns the volume as a whole.
        next: The next automatic step; "" if that is not known.
    """

    volume: str
    message: str
    key: str | None = None
    offset: int = 0
    length: int = 0
    errno: int = 0
    next: str = ""


@dataclass(slots=True)
class Outcome:
    """The state of one cache. Replaced as a whole with each answer, so that a reader sees numbers of one moment.

    Attributes:
        socket: As the user gave it.
        name: Name of the cache.
        pid: Its process.
        done: The sync is over.
        unknown: The reason, as a sentence, why the state can no longer be known; "" while it can.
        silent: Seconds since the last answer.
        errors: Errors of the ticket.
        unsaved: The ranges of these errors, when the sync is over or given up.
    """

    socket: str
    name: str = ""
    pid: int | None = None
    total: int = 0
    remaining: int = 0
    rate: float = 0.0
    expected: float | None = None
    seconds: float = 0.0
    done: bool = False
    unknown: str = ""
    silent: float = 0.0
    errors: tuple[SyncError, ...] = ()
    unsaved: list[Unsaved] = field(default_factory=list)

    @property
    def saved(self) -> bool:
        """Return whether everything written before the sync is committed."""
        return self.done and not self.errors and not self.unknown

    @property
    def over(self) -> bool:
        return self.done or bool(self.unknown)


class Follower:
    """Follows the sync of one cache, on a separate thread."""

    def __init__(self, socket: str, volume: str | None) -> None:
        self.outcome = Outcome(socket)
        self.ended = threading.Event()
        self._socket = socket
        self._volume = volume
        # Used by the caller of `check`, and by the thread after `start`.
        self._client = Client(socket, timeout=ANSWER_TIMEOUT)
        self._answered = 0.0

    def check(self) -> None:
        """Check the cache and the volume before any sync begins.

        Raises:
            Unusable: Not a cache, or it has no such volume.
            TooSlow: It does not answer.
        """
        try:
            stats = self._client.stats()
        except TooSlow:
            raise
        except LiveError as error:
            raise Unusable(printable(str(error))) from error
        self.outcome.name, self.outcome.pid = stats.cache.name, stats.pid
        names = [volume.name for volume in stats.volumes]
        if self._volume is not None and self._volume not in names:
            there = ", ".join(map(repr, names)) or "none"
            where = printable(self._socket)
            raise Unusable(f"--volume {self._volume!r}: {where} has no such volume (there: {there})")

    def close(self) -> None:
        """Drop the connection of a follower that was never started."""
        self._client.close()

    def give_up(self) -> None:
        """Stop waiting, and note the ranges that are not saved."""
        if not self.ended.is_set():
            self._note_unsaved()

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"drain-{self._socket}", daemon=True).start()

    def _run(self) -> None:
        try:
            with self._client:
                self._follow()
        except LiveError as error:
            self._lose(printable(str(error)))
        finally:
            self.ended.set()

    def _follow(self) -> None:
        self._answered = time.monotonic()
        sync = self._patiently(lambda: self._client.begin_sync(self._volume))
        self._take(sync)
        while not self.outcome.done:
            time.sleep(INTERVAL)
            self._take(self._patiently(lambda: self._client.sync(sync.ticket)))
        if self.outcome.errors:
            self._note_unsaved()

    def _patiently(self, request: Callable[[], Sync]) -> Sync:
        """Ask until there is an answer: a stopped or busy process may go on.

        To begin a sync a second time does no harm.
        """
        refused_since: float | None = None
        while True:
            try:
                return request()
            except TooSlow:
                pass
            except Refused as error:
                now = time.monotonic()
                refused_since = now if refused_since is None else refused_since
                if error.status != 503 or now >= refused_since + BUSY_MAX:
                    raise
                time.sleep(INTERVAL)
            self.outcome.silent = time.monotonic() - self._answered

    def _take(self, sync: Sync) -> None:
        self._answered = time.monotonic()
        before = self.outcome
        self.outcome = Outcome(
            socket=before.socket,
            name=before.name,
            pid=before.pid,
            total=sync.total,
            remaining=sync.remaining,
            rate=sync.rate or 0.0,
            expected=sync.expected,
            seconds=sync.seconds,
            done=sync.done,
            errors=sync.errors,
        )

    def _lose(self, why: str) -> None:
        """Note that the end of the sync was not seen, and why."""
        if not self.outcome.done:
            self.outcome.unknown = f"{why}; {NOT_KNOWN}"

    def _note_unsaved(self) -> None:
        """Note each unsaved range with its next step, as far as the cache still answers.

        Context: any thread, hence a separate connection.
        """
        failed: tuple[FailedRange, ...] = ()
        try:
            with Client(self._socket, timeout=FAILED_TIMEOUT) as client:
                failed = client.failed(self._volume).failed
        except LiveError:
            pass  # without the next steps
        nexts = {(entry.volume, entry.key): _next(entry.next_retry) for entry in failed}
        found = [unsaved for error in self.outcome.errors for unsaved in _of_error(error, nexts)]
        if not self.outcome.done:
            # Ranges that are still retried are not yet errors of the sync; they are the reason why it lasts.
            keys = {(unsaved.volume, unsaved.key) for unsaved in found}
            found += [_of_range(e.volume, e, nexts) for e in failed if (e.volume, e.key) not in keys]
        self.outcome.unsaved = found


Nexts = Mapping[tuple[str | None, str], str]
"""The next steps, by volume and key."""


def _next(seconds: float | None) -> str:
    return "kept, and tried again when asked" if seconds is None else f"tried again in {duration_text(seconds)}"


def _of_range(volume: str | None, entry: FailedRange, nexts: Nexts) -> Unsaved:
    return Unsaved(
        volume=volume or "",
        message=entry.message or "",
        key=entry.key,
        offset=entry.offset,
        length=entry.length,
        errno=entry.errno or 0,
        next=nexts.get((volume, entry.key), "kept, and written back as usual"),
    )


def _of_error(error: SyncError, nexts: Nexts) -> list[Unsaved]:
    ranges = [_of_range(error.volume, entry, nexts) for entry in error.ranges]
    return ranges or [Unsaved(error.volume or "", error.message)]
