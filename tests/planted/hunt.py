"""One hunt: `pagecache.stress` with settings of `settings.py`, until it finds something or time is over.

`python -m tests.planted.hunt BUG SETTINGS SEED SECONDS`, in a separate process with the planted extension, prints a
JSON object: the kind of finding ("" for none), seconds, operations, the story. BUG `-`: nothing is planted. Before that
it prints a line of seconds and operations twice a second. These lines show the process that waits whether, and since
when, this one stands still.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from typing import Any

from pagecache.stress import Plan
from pagecache.stress.job import Run, run_of

from .planted import Planted
from .settings import SETTINGS, STORES
from .table import BUGS

__all__ = ["hunt"]

STORY = 4000  # printed characters of a story
BEAT = 0.5  # seconds


def hunt(bug: Planted | None, settings: str, seed: int, seconds: float) -> dict[str, Any]:
    """The tester's report on a bug, or on none."""
    plan = Plan(seed=seed, duration=seconds, **SETTINGS[settings])
    store = bug.target if bug is not None and bug.target is not None else STORES.get(settings)
    target = None if store is None else store()
    run = run_of(plan, target)
    with bug.on() if bug is not None else contextlib.nullcontext():
        began = time.monotonic()
        threading.Thread(target=beat, args=(run, began), daemon=True).start()
        report = run.run()
        took = time.monotonic() - began
    story = "" if report.ok else report.story[:STORY]
    return {
        "found": report.kind,
        "seconds": round(took, 2),
        "operations": report.counters.get("operations", 0),
        "story": story,
    }


def emit(line: str) -> None:
    """Print a line in one piece."""
    os.write(1, f"{line}\n".encode())


def beat(run: Run, began: float) -> None:
    """Print progress for as long as the process lives."""
    while True:
        done = run.counters["operations"] + (run.world.operations if run.world is not None else 0)
        emit(f"{time.monotonic() - began:.2f} {done}")
        time.sleep(BEAT)


def main(arguments: list[str]) -> None:
    name, settings, seed, seconds = arguments
    bug = next((bug for bug in BUGS if bug.name == name), None)
    if bug is None and name != "-":
        sys.exit(f"{name!r} is no planted bug")
    emit(json.dumps(hunt(bug, settings, int(seed), float(seconds))))
    os._exit(0)  # at once: a wait on state broken by a bug may never end


if __name__ == "__main__":
    main(sys.argv[1:])
