"""The syncs of several caches side by side: none waits for another, and one deadline holds for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pagecache.observe.client import LiveError, ask, not_pagecache
from pagecache.quantities import duration_text, printable

__all__ = ["Outcome", "Unusable", "drain"]

ANSWER_TIMEOUT_S = 5.0
"""The time for one answer: the cache makes it from memory."""
FAILED_TIMEOUT_S = 1.0
"""The time for the final question about failed ranges."""
INTERVAL_S = 0.2
"""The time between two questions, and between two updates of the display."""

Document = dict[str, Any]


class Unusable(Exception):
    """The socket is not the intended one; the message is one sentence for the user."""


@dataclass(slots=True)
class Outcome:
    """The state of one cache. One thread writes it; a reader may see it between two fields.

    Attributes:
        socket: As the user gave it.
        done: The sync is over.
        unknown: The reason, as a sentence, why the state can no longer be known; "" while it can.
        errors: Errors of the ticket, as in `/v1/sync`.
        unsaved: The ranges of these errors, when the sync is over or given up: volume, key, offset, length, errno,
            message, and the next automatic step. The key None: it concerns the volume as a whole.
        silent_since: Time of the last answer.
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
    errors: list[Document] = field(default_factory=list)
    unsaved: list[Document] = field(default_factory=list)
    silent_since: float = field(default_factory=time.monotonic)

    @property
    def saved(self) -> bool:
        """Return whether everything written before the sync is committed."""
        return self.done and not self.errors and not self.unknown


def drain(
    sockets: Sequence[str], volume: str | None, deadline: float | None, show: Callable[[Sequence[Outcome]], None]
) -> list[Outcome]:
    """Have everything saved that was written so far; return the outcomes in the order of the sockets.

    Args:
        sockets: Paths of `PageCache.serve_stats`.
        volume: Only this one; None: all.
        deadline: Seconds after which the waiting ends; the syncs go on.
        show: Is called again and again with the progress.

    Raises:
        Unusable: A socket is unusable; then no sync was begun anywhere.
    """
    outcomes = [Outcome(socket) for socket in sockets]
    begun = [outcome for outcome in outcomes if _answers(outcome, volume)]
    threads = [threading.Thread(target=_follow, args=(outcome, volume), daemon=True) for outcome in begun]
    for thread in threads:
        thread.start()
    until = None if deadline is None else time.monotonic() + deadline
    while any(thread.is_alive() for thread in threads) and (until is None or time.monotonic() < until):
        show(outcomes)
        running = next((thread for thread in threads if thread.is_alive()), threads[0])
        running.join(INTERVAL_S if until is None else max(0.0, min(INTERVAL_S, until - time.monotonic())))
    for outcome, thread in zip(begun, threads, strict=True):
        if thread.is_alive():
            _note_unsaved(outcome, volume)
    return outcomes


def _answers(outcome: Outcome, volume: str | None) -> bool:
    """Check the cache and the volume before any sync begins; return whether it answers."""
    try:
        stats = ask(outcome.socket, "/v1/stats", timeout=ANSWER_TIMEOUT_S)
        outcome.name, outcome.pid = stats["cache"]["name"], stats["pid"]
        names = [one["name"] for one in stats["volumes"]]
    except LiveError as error:
        if error.kind != "TooSlow":
            raise Unusable(printable(str(error))) from None
        outcome.unknown = f"{printable(str(error))}; nothing was begun there"
        return False
    except (KeyError, TypeError) as error:
        raise Unusable(printable(str(not_pagecache(outcome.socket, error)))) from None
    if volume is not None and volume not in names:
        there = ", ".join(map(repr, names)) or "none"
        raise Unusable(f"--volume {volume!r}: {printable(outcome.socket)} has no such volume (there: {there})")
    return True


def _follow(outcome: Outcome, volume: str | None) -> None:
    """Follow one sync to its end, on a separate thread."""
    try:
        ticket = _take(outcome, "/v1/sync", method="POST", volume=volume)
        while not outcome.done:
            time.sleep(INTERVAL_S)
            _take(outcome, f"/v1/sync/{ticket}")
    except LiveError as error:
        outcome.unknown = f"{printable(str(error))}; it is not known what was saved"
    else:
        if outcome.errors:
            _note_unsaved(outcome, volume)


def _take(outcome: Outcome, target: str, **request: Any) -> int:
    """Take the next answer about the sync; return its ticket."""
    sync = _patiently(outcome.socket, target, **request)
    try:
        outcome.errors = [{"volume": one["volume"], "ranges": one["ranges"], **one} for one in sync["errors"]]
        for name in ("total", "remaining", "rate", "expected", "seconds", "done"):
            setattr(outcome, name, sync[name])
        outcome.silent_since = time.monotonic()
        return int(sync["ticket"])
    except (KeyError, TypeError, ValueError) as error:
        raise not_pagecache(outcome.socket, error) from None


def _patiently(socket: str, target: str, **request: Any) -> Document:
    """Ask until there is an answer: a stopped process may go on. To begin a sync again does no harm."""
    while True:
        try:
            return ask(socket, target, timeout=ANSWER_TIMEOUT_S, **request)
        except LiveError as error:
            if error.kind != "TooSlow":
                raise


def _note_unsaved(outcome: Outcome, volume: str | None) -> None:
    """Note each unsaved range with its next step, as far as the cache still answers."""
    failed: list[Document] = []
    try:
        failed = ask(outcome.socket, "/v1/failed", timeout=FAILED_TIMEOUT_S, volume=volume)["failed"]
        nexts = {(one["volume"], one["key"]): _next(one["next_retry"]) for one in failed}
    except (LiveError, KeyError, TypeError):
        nexts = {}  # without the next steps
    found = []
    for error in outcome.errors:
        whole = {"key": None, "offset": 0, "length": 0, "errno": 0, "message": error["message"]}
        found += [_unsaved(error["volume"], one, nexts) for one in error["ranges"] or [whole]]
    if not outcome.done:
        # Ranges that are still retried are not yet errors of the sync; they are the reason why it lasts.
        keys = {(one["volume"], one["key"]) for one in found}
        found += [_unsaved(one["volume"], one, nexts) for one in failed if (one["volume"], one["key"]) not in keys]
    outcome.unsaved = found


def _next(seconds: float | None) -> str:
    return "kept, and tried again when asked" if seconds is None else f"tried again in {duration_text(seconds)}"


def _unsaved(volume: str, entry: Document, nexts: dict[tuple[str, str], str]) -> Document:
    known = {name: entry[name] for name in ("key", "offset", "length", "errno", "message")}
    kept = "" if entry["key"] is None else nexts.get((volume, entry["key"]), "kept, and written back as usual")
    return {"volume": volume, **known, "next": kept}
