"""`pagecache stress` as a program: a plan from options or a replay file, live counters, the story, the replay file."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pagecache.stress.job import Run, run_of
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report

__all__ = ["execute", "live", "plan_of", "read_replay", "write_replay"]

EVERY = 0.5  # seconds between two lines of counters

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}


def seconds(text: str, what: str) -> float:
    """A duration such as "90", "60s", "10m", "1.5h".

    Raises:
        ValueError: it is none.

    >>> seconds("1.5m", "duration")
    90.0
    """
    number = text.rstrip("smhin")
    unit = text[len(number) :]
    try:
        return float(number) * _SECONDS[unit]
    except (ValueError, KeyError):
        raise ValueError(f"{what}: {text!r} is not a duration such as 90, 60s, 10m or 1.5h") from None


def plan_of(options: dict[str, Any]) -> Plan:
    """The plan of the options that were given; those that are None are the plan's own.

    Raises:
        ValueError: names the option that is out of range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "duration" in given:
        given["duration"] = seconds(given["duration"], "duration")
    for several in ("mix", "crashes"):
        if several in given:
            given[several] = tuple(given[several].split(","))
    return Plan(**given)


def read_replay(path: Path) -> tuple[Plan, str | None]:
    """Plan and target of a replay file.

    Raises:
        ValueError: it is none.
    """
    try:
        replay = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(replay, dict):
        raise ValueError(f"{path}: not a replay of pagecache stress")
    return Plan.from_replay(replay), replay.get("target")


def write_replay(report: Report) -> Path:
    """The replay of a failure, in a file of the current directory or, where that cannot be written, a temporary one."""
    plan = report.replay["plan"]
    name = f"pagecache-stress-{plan['seed']}-{plan['first_round']}.json"
    text = json.dumps(report.replay, indent=2) + "\n"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            (folder / name).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    raise OSError(f"{name} can be written nowhere")


def execute(plan: Plan, target: str | None) -> Report:
    """Run it, with live counters where a person looks at stderr.

    Raises:
        UnusableTarget: there is nothing to test.
    """
    run = run_of(plan, target)
    with live(run):
        return run.run()


@contextmanager
def live(run: Run) -> Iterator[None]:
    """One line on stderr that is written over and over; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    over, begun = threading.Event(), time.monotonic()

    def show() -> None:
        while not over.wait(EVERY):
            sys.stderr.write("\r\x1b[K" + line(run, time.monotonic() - begun))
            sys.stderr.flush()

    thread = threading.Thread(target=show, name="stress-live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def line(run: Run, elapsed: float) -> str:
    """What is going on, in 100 characters."""
    world = run.world
    now = world.operations if world is not None else 0
    pairs = len(run.coverage | world.coverage) if world is not None else 0
    done = run.counters["operations"] + now
    return (
        f"{elapsed:.0f} s of {run.plan.duration:.0f}  round {run.number}  {done} operations "
        f"({done / max(elapsed, 0.1):.0f}/s)  {pairs} combinations met  {len(world.active) if world else 0} at work"
    )
