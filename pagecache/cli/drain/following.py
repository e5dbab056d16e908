"""The syncs of several caches side by side: none waits for another, and one deadline holds for all of them.

On stderr live bars in a terminal, otherwise a line every few seconds; in the end the result.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pagecache.cli.usage import WrongUsage
from pagecache.observe.client import LiveError, ask, live_error
from pagecache.quantities import duration_text, printable, range_text, size_text

ANSWER_TIMEOUT_S = 5.0
"""The time for one answer: the cache makes it from memory."""
FAILED_TIMEOUT_S = 1.0
"""The time for the final question about failed ranges."""
INTERVAL_S = 0.2
"""The time between two questions, and between two updates of the display."""
LINE_INTERVAL_S = 5.0
SILENT_S = 2.0
"""Time without an answer after which the progress mentions it."""

Document = dict[str, Any]
Show = Callable[[Sequence["Outcome"]], None]
UNKNOWN: Document = {"total": 0, "remaining": 0, "rate": 0.0, "expected": None, "seconds": 0.0, "done": False}

UNSAVED = ("volume", "key", "offset", "length", "errno", "message")


@dataclass(slots=True)
class Outcome:
    """The state of one cache. One thread writes it; a reader may see it between two fields.

    Attributes:
        socket: As the user gave it.
        sync: The last answer of `/v1/sync`.
        unknown: The reason, as a sentence, why the state can no longer be known; "" while it can.
        unsaved: The failed ranges, when the sync is over or given up: volume, key, offset, length, errno, message, and
            the next automatic step. The key None: it concerns the volume as a whole.
        silent_since: Time of the last answer.
    """

    socket: str
    name: str = ""
    pid: int | None = None
    sync: Document = field(default_factory=lambda: {**UNKNOWN, "errors": []})
    unknown: str = ""
    unsaved: list[Document] = field(default_factory=list)
    silent_since: float = field(default_factory=time.monotonic)

    @property
    def saved(self) -> bool:
        """Return whether everything written before the sync is committed."""
        return self.sync["done"] and not self.sync["errors"] and not self.unknown

    def as_dict(self) -> Document:
        """Return the entry of `--json`."""
        known = {"socket": printable(self.socket), "name": self.name, "pid": self.pid, "unsaved": self.unsaved}
        progress = {name: self.sync[name] for name in UNKNOWN}
        return known | progress | {"saved": self.saved, "unknown": self.unknown or None}


def drain(sockets: Sequence[str], volume: str | None, deadline: float | None, show: Show) -> list[Outcome]:
    """Have everything saved that was written so far; return the outcomes in the order of the sockets.

    Args:
        sockets: Paths of `PageCache.serve_stats`.
        volume: Only this one; None: all.
        deadline: Seconds after which the waiting ends; the syncs go on.
        show: Is called again and again with the progress.

    Raises:
        WrongUsage: A socket is unusable; then no sync was begun anywhere.
    """
    outcomes = [Outcome(socket) for socket in sockets]
    begun = [outcome for outcome in outcomes if _answers(outcome, volume)]
    threads = [threading.Thread(target=_follow, args=(outcome, volume), daemon=True) for outcome in begun]
    for thread in threads:
        thread.start()
    until = float("inf") if deadline is None else time.monotonic() + deadline
    while (running := [thread for thread in threads if thread.is_alive()]) and time.monotonic() < until:
        show(outcomes)
        running[0].join(max(0.0, min(INTERVAL_S, until - time.monotonic())))
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
            raise WrongUsage(printable(str(error))) from None
        outcome.unknown = f"{printable(str(error))}; nothing was begun there"
        return False
    except (KeyError, TypeError) as error:
        raise WrongUsage(printable(str(live_error(outcome.socket, error)))) from None
    if volume is not None and volume not in names:
        there = ", ".join(map(repr, names)) or "none"
        raise WrongUsage(f"--volume {volume!r}: {printable(outcome.socket)} has no such volume (there: {there})")
    return True


def _follow(outcome: Outcome, volume: str | None) -> None:
    """Follow one sync to its end, on a separate thread."""
    try:
        _update(outcome, "/v1/sync", method="POST", volume=volume)
        while not outcome.sync["done"]:
            time.sleep(INTERVAL_S)
            _update(outcome, f"/v1/sync/{outcome.sync['ticket']}")
    except LiveError as error:
        outcome.unknown = f"{printable(str(error))}; it is not known what was saved"
    else:
        _note_unsaved(outcome, volume)


def _update(outcome: Outcome, target: str, **request: Any) -> None:
    """Take the next answer about the sync. A stopped process may go on; to begin a sync again does no harm."""
    while True:
        try:
            sync = ask(outcome.socket, target, timeout=ANSWER_TIMEOUT_S, **request)
            if missing := {*UNKNOWN, "ticket", "errors"} - sync.keys():
                raise live_error(outcome.socket, KeyError(*missing))
            outcome.sync, outcome.silent_since = sync, time.monotonic()
            return
        except LiveError as error:
            if error.kind != "TooSlow":
                raise


def _note_unsaved(outcome: Outcome, volume: str | None) -> None:
    """Note each unsaved range with its next step, as far as the cache still answers."""
    sync = outcome.sync
    if sync["done"] and not sync["errors"]:
        return
    failed: list[Document] = []
    with suppress(LiveError):  # then without the next steps
        failed = ask(outcome.socket, "/v1/failed", timeout=FAILED_TIMEOUT_S, volume=volume)["failed"]
    found: list[Document] = []
    for error in sync["errors"]:
        whole = {"key": None, "offset": 0, "length": 0, "errno": 0, "message": error["message"]}
        found += [{**one, "volume": error["volume"]} for one in error["ranges"] or [whole]]
    if not sync["done"]:
        # Ranges that are still retried are not yet errors of the sync; they are the reason why it lasts.
        keys = {(one["volume"], one["key"]) for one in found}
        found += [one for one in failed if (one["volume"], one["key"]) not in keys]
    nexts = {(one["volume"], one["key"]): _next(one["next_retry"]) for one in failed}
    usual = "kept, and written back as usual"
    outcome.unsaved = [
        {name: one[name] for name in UNSAVED}
        | {"next": "" if one["key"] is None else nexts.get((one["volume"], one["key"]), usual)}
        for one in found
    ]


def _next(seconds: float | None) -> str:
    return "kept, and tried again when asked" if seconds is None else f"tried again in {duration_text(seconds)}"


# -- outcomes as text


def _name(outcome: Outcome) -> str:
    """Return the name of a cache and its process."""
    name = printable(outcome.name or outcome.socket)
    return name if outcome.pid is None else f"{name} (process {outcome.pid})"


def _state(outcome: Outcome) -> str:
    """Return the progress of one cache."""
    sync = outcome.sync
    if outcome.unknown:
        return "lost"
    if sync["done"]:
        return "saved" if outcome.saved else f"{size_text(sync['remaining'])} not saved"
    parts = [f"{size_text(sync['remaining'])} of {size_text(sync['total'])} left"]
    if sync["rate"]:
        parts.append(f"{size_text(sync['rate'])}/s")
    if sync["expected"] is not None:
        parts.append(f"about {duration_text(sync['expected'])}")
    if sync["errors"]:
        parts.append(f"{len(sync['errors'])} failed")
    if (silent := time.monotonic() - outcome.silent_since) > SILENT_S:
        parts.append(f"no answer for {duration_text(silent)}")
    return ", ".join(parts)


@contextmanager
def on_stderr() -> Iterator[Show]:
    """Show progress in the form that suits stderr."""
    console = Console(stderr=True)
    then = time.monotonic() + LINE_INTERVAL_S

    def show_lines(outcomes: Sequence[Outcome]) -> None:
        nonlocal then
        if time.monotonic() < then:
            return
        then = time.monotonic() + LINE_INTERVAL_S
        for outcome in outcomes:
            if outcome.sync["total"] and not outcome.sync["done"] and not outcome.unknown:  # 0: not known yet
                line = f"{_name(outcome)}: {_state(outcome)}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield show_lines
        return
    name, state = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[state]}"))
    with Progress(name, BarColumn(), state, console=console, transient=True) as bars:

        def show_bars(outcomes: Sequence[Outcome]) -> None:
            while len(bars.tasks) < len(outcomes):
                bars.add_task(_name(outcomes[len(bars.tasks)]), state="")
            for task, outcome in zip(bars.tasks, outcomes, strict=True):
                total = max(outcome.sync["total"], 1)
                done = total if outcome.saved else outcome.sync["total"] - outcome.sync["remaining"]
                bars.update(task.id, total=total, completed=done, state=_state(outcome))

        yield show_bars


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the result: a line for each cache and each unsaved range."""
    for outcome in outcomes:
        yield f"{_name(outcome)}: {_verdict(outcome)}"
        for unsaved in outcome.unsaved:
            yield f"  {_unsaved(unsaved)}"


def _verdict(outcome: Outcome) -> str:
    remaining, total = size_text(outcome.sync["remaining"]), size_text(outcome.sync["total"])
    if outcome.saved:
        return f"saved: all that was written before, {total} in {duration_text(outcome.sync['seconds'])}"
    if outcome.unknown:
        seen = f"; the last that was seen is {remaining} of {total} left" if outcome.sync["total"] else ""
        return f"NOT KNOWN: {outcome.unknown}{seen}"
    if outcome.sync["done"]:
        return f"NOT SAVED: {remaining} of {total}, kept in memory by its process"
    return f"NOT SAVED YET: {remaining} of {total} left at the deadline; what was begun goes on"


def _unsaved(entry: Document) -> str:
    volume, message = printable(entry["volume"]), printable(entry["message"])
    if entry["key"] is None:
        return f"{volume}: {message}"
    code = errno.errorcode.get(entry["errno"], str(entry["errno"]))
    where = f"{entry['key']!r} {range_text(entry['offset'], entry['length'])}"
    return f"{volume}: {where}: {code}: {message}; {entry['next']}"
