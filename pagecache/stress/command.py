"""`pagecache stress` as a program: a plan from options or a replay file, and the results as text and files."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from pagecache.interrupts import INTERRUPTED
from pagecache.stress import job
from pagecache.stress.hang import beside
from pagecache.stress.job import Run
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report
from pagecache.stress.shrinker import NotFailing, shrink
from pagecache.stress.targets import UnusableTarget

STANDS = 60.0  # seconds without progress of any Python thread, plus `Plan.patience`: then the process is ended
WINDS = 1.0  # seconds between two resets of the timer for that
EVERY = 10.0  # seconds between two lines of progress


def read_replay(path: Path, **given: Any) -> tuple[Plan, str | None]:
    """Return plan and target of a replay file. Of the options of a plan, only the duration may be given.

    Raises:
        ValueError: it is no replay file, or an option is set that the file decides.
    """
    for name in given.keys() - {"duration"}:
        raise ValueError(f"--{name}: with --replay it is the file's: edit {path}")
    try:
        replay = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a replay of pagecache stress: {error}") from None
    if not isinstance(replay, dict):
        raise ValueError(f"{path}: not a replay of pagecache stress")
    target = replay.get("target")
    if not isinstance(target, str | None):
        raise ValueError(f"{path}: target: {target!r} is not text, and not null")
    try:
        return replace(Plan.from_replay(replay), **given), target
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def execute(plan: Plan, target: str | None) -> Report:
    """Run a plan; the seed, and then its progress, is printed on stderr.

    Raises:
        UnusableTarget: there is nothing to test.
    """
    run = Run(plan, target)
    run.begun = lambda: print(f"seed {plan.seed}", file=sys.stderr)

    def show(over: threading.Event) -> None:
        begun = time.monotonic()
        while not over.wait(EVERY):
            done = run.counters["operations"] + (run.world.operations if run.world is not None else 0)
            elapsed = time.monotonic() - begun
            print(f"{elapsed:.0f} s of {plan.duration:.0f}, round {run.number}: {done} operations", file=sys.stderr)

    with beside("stress-live", show), standing(plan.patience + STANDS):
        return run.run()


class Ending:
    """Handle SIGINT and SIGTERM during a run, as a context manager: the first signal asks the run to end, the second
    ends the process even if a thread hangs.

    Attributes:
        status: exit status: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(self) -> None:
        self.status = INTERRUPTED
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # so for background jobs of a shell, and under nohup
                self._before[number] = signal.signal(number, self._first)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _first(self, number: int, frame: FrameType | None) -> NoReturn:
        self.status = 128 + number
        for known in self._before:
            signal.signal(known, self._another)
        line = f"interrupted: waiting up to {job.CALLS:g} s for calls of the backend; Ctrl-C again ends at once\n"
        os.write(2, line.encode())  # sys.stderr may be in the middle of a line
        raise KeyboardInterrupt

    @staticmethod
    def _another(number: int, frame: FrameType | None) -> NoReturn:
        os._exit(128 + number)


@contextmanager
def standing(most: float) -> Iterator[None]:
    """End the process, with the stacks of all threads on stderr, if no thread could run for `most` seconds because one
    of them keeps the interpreter lock. The watchdog needs that lock as well; the timer of faulthandler does not. It is
    reset while threads run.
    """

    def wind(over: threading.Event) -> None:
        with suppress(AttributeError, io.UnsupportedOperation):  # stderr may be no file of the system
            while True:
                faulthandler.dump_traceback_later(most, exit=True)
                if over.wait(WINDS):
                    return

    try:
        with beside("stress-standing", wind):
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


# Files that a run leaves: the replay, and the shrunk replay. They are written to the current directory, or to the
# directory for temporary files if that fails.


def write(name: str, text: str) -> Path:
    """Write a file whose path is printed; OSError: neither directory is writable."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            (folder / name).unlink(missing_ok=True)  # it may be a link: other users may write in the directory
            with open(folder / name, "x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return folder / name
    raise OSError(f"{name} can be written nowhere")


def stem(report: Report) -> str:
    """Return the common prefix of a failure's file names."""
    plan = report.replay["plan"]
    return f"pagecache-stress-{plan['seed']}-{plan['first_round']}"


def write_replay(report: Report, what: str, more: str = "") -> None:
    """Write the replay of a failure as JSON and print its path, or why there is none: the report is shown anyway."""
    try:
        path = write(f"{stem(report)}{more}.json", json.dumps(report.replay, indent=1) + "\n")
        print(f"{what}: pagecache stress --replay {path}", file=sys.stderr)
    except OSError as error:
        print(f"{what}: {error}; --json prints it", file=sys.stderr)


def save(report: Report) -> None:
    """Write the replay of a failure, first of all: later steps may be interrupted."""
    write_replay(report, "again")
    if report.replay["target"] not in (None, "memory:"):
        begin = f"'{stem(report)}'"
        print(f"left in the target: what begins with {begin}; --replay removes it, and begins anew", file=sys.stderr)


def shrunk(report: Report, target: str | None, seconds: float) -> Report | None:
    """Return the report of the smallest failing script, and write its replay; None: it could not be shrunk."""
    print(f"shrinking for up to {seconds:g} s", file=sys.stderr)
    try:
        found = shrink(report, target, seconds=seconds)
    except (NotFailing, UnusableTarget, ValueError, OSError) as error:
        print(f"not shrunk: {error}", file=sys.stderr)
        return None
    write_replay(found, "shrunk", "-small")
    return found


def text(report: Report, small: Report | None, *, verbose: bool) -> str:
    """Return the text for a person: one line for a run without a finding, unless `verbose`."""
    if small is not None:
        return f"{report.story.splitlines()[0]}\n{small.story}"
    return report.story.partition("\n")[0] if report.ok and not verbose else report.story
