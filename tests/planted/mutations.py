"""How fast each planted bug is found: those of `SCHEDULED` by schedules of the core, others by the stress tester.
The exit status is 1 if a bug is missed at a seed, or something is found without a bug.

    make mutations                              everything, in some twenty minutes on two cores
    python -m tests.planted.mutations NAME ...  some bugs, settings or worlds
    options: --seeds 3 --seconds 60 --jobs 2

The tester, whose threads are real, hunts at several seeds. Schedules take one, which decides all of them. Settings and
worlds without a bug run for seconds: `make soak` runs the same for minutes.

Each hunt is one process, and ends with its first finding; as many run side by side as the machine has cores. A process
that dies of an assertion of the core, or that stands still, has found its bug. Schedules are a separate program. `make
planted` builds what both need.

A hunt is `python -m tests.planted.mutations --hunt BUG SETTINGS SEED SECONDS`: it prints seconds and operations twice a
second, from which the process that waits sees that this one is alive, and then its result as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecache.stress import Plan
from pagecache.stress.job import Run

from .planted import planted_environment
from .settings import FORCED, SCHEDULED, SETTINGS, STORES, WORLDS, settings_of
from .table import BUGS

__all__ = ["CLEAN", "SCHEDULES", "hunted", "scheduled"]

ROOT = Path(__file__).parents[2]
SCHEDULES = ROOT / "build" / "planted" / "schedules" / "schedules"

BUG_NAMES = [bug.name for bug in BUGS]
CLEAN = "-"  # the bug of a hunt in which nothing is planted
START = 120.0  # seconds that a process may take to start
STILL = 30.0  # seconds without a sign of life after which a process hangs
BEAT = 0.5  # seconds between two signs
STORY = 2000  # characters of a story
CLEAN_SECONDS = 5.0  # of a search in which nothing is planted

Search = Callable[[str, str, int, float], dict[str, Any]]


def hunted(bug: str, settings: str, seed: int, seconds: float) -> dict[str, Any]:
    """Return the outcome of a hunt in a process of its own: what was found ("" for nothing), seconds, the story."""
    command = [sys.executable, "-m", "tests.planted.mutations", "--hunt", bug, settings, str(seed), str(seconds)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=planted_environment(), stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        with process.stdout as out:
            last, stands = _followed(out.fileno())
        if stands:
            process.kill()
        status = process.wait()
        errors.seek(0)
        said = errors.read()[-STORY:]
    if last.startswith("{"):
        outcome: dict[str, Any] = json.loads(last)
        return outcome
    took = float([*last.split(), "0"][0])
    if stands:
        return {"found": "hang", "seconds": took + STILL, "story": "the whole process stands still"}
    if status < 0:
        return {"found": "death", "seconds": took, "story": f"{signal.Signals(-status).name}\n{said}"}
    raise RuntimeError(f"{' '.join(command)}: {said}")


def _followed(out: int) -> tuple[str, bool]:
    """The result of a process, or else its last line; and whether it has stopped printing."""
    text, wait = b"", START
    while True:
        ready, _, _ = select.select([out], [], [], wait)
        part = os.read(out, 1 << 16) if ready else b""
        text, wait = text[-(1 << 16) :] + part, STILL
        if not part:
            lines = text.decode().splitlines() or [""]
            return next((line for line in lines if line.startswith("{")), lines[-1]), not ready


def scheduled(bug: str, world: str, seed: int, seconds: float) -> dict[str, Any]:
    """Return the outcome of schedules of the core in a kind of world, with the fix taken out."""
    command = [str(SCHEDULES), "--kind", world, "--seed", str(seed), "--seconds", str(seconds)]
    command += [] if bug == CLEAN else ["--without", bug]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + START, check=False)
    parsed = re.match(r"(\d+) schedules in ([\d.]+) s", done.stdout)
    if parsed is None or done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return {"found": "schedule" if done.returncode else "", "seconds": float(parsed[2]), "story": done.stderr}


def hunt(name: str, settings: str, seed: int, seconds: float) -> None:
    """Run the tester on a bug, or on none, in this process, and end it."""
    bug = next((bug for bug in BUGS if bug.name == name), None)
    if bug is None and name != CLEAN:
        sys.exit(f"{name!r} is no planted bug")
    store = bug.target if bug is not None and bug.target is not None else STORES.get(settings)
    run = Run(Plan(seed=seed, duration=seconds, **SETTINGS[settings]), None if store is None else store())
    with bug.on() if bug is not None else contextlib.nullcontext():
        began = time.monotonic()
        threading.Thread(target=_beat, args=(run, began), daemon=True).start()
        report = run.run()
        took = round(time.monotonic() - began, 2)
    _print({"found": report.kind, "seconds": took, "story": "" if report.ok else report.story[:STORY]})
    os._exit(0)  # at once: a wait on state broken by a bug may never end


def _print(outcome: dict[str, Any]) -> None:
    os.write(1, f"{json.dumps(outcome)}\n".encode())  # in one piece


def _beat(run: Run, began: float) -> None:
    while True:
        done = run.counters["operations"] + (run.world.operations if run.world is not None else 0)
        os.write(1, f"{time.monotonic() - began:.2f} {done}\n".encode())
        time.sleep(BEAT)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a bug, or none, searched for in one way."""

    bug: str
    search: Search
    where: str  # the settings, or the world
    seeds: int
    seconds: float

    def outcomes(self, pool: ThreadPoolExecutor) -> Callable[[], dict[int, dict[str, Any]]]:
        """Begin the search at each seed; the result waits for all."""
        seeds = range(1, 1 + self.seeds)
        begun = {seed: pool.submit(self.search, self.bug, self.where, seed, self.seconds) for seed in seeds}
        return lambda: {seed: future.result() for seed, future in begun.items()}

    def text(self, outcomes: dict[int, dict[str, Any]]) -> str:
        """Return the row."""
        hits = [outcome for outcome in outcomes.values() if outcome["found"]]
        kinds = ", ".join(dict.fromkeys(outcome["found"] for outcome in hits)) or "nothing"
        took = statistics.median(outcome["seconds"] for outcome in outcomes.values())
        by = "schedules" if self.search is scheduled else "tester"
        return f"| {self.bug} | {by} | {self.where} | {len(hits)} of {self.seeds} | {took:.1f} s | {kinds} |"

    def fault(self, outcomes: dict[int, dict[str, Any]]) -> str:
        """Return what is wrong: a bug was missed, or something is found without one; "" for nothing."""
        if self.bug == CLEAN:
            found = [outcome["found"] for outcome in outcomes.values() if outcome["found"]]
            return f"{self.where}: found without a bug: {', '.join(found)}" if found else ""
        missed = [str(seed) for seed, outcome in outcomes.items() if not outcome["found"]]
        return f"{self.bug}: missed at seeds {', '.join(missed)}" if missed else ""


def rows(names: list[str], seeds: int, seconds: float) -> list[Row]:
    """Return the rows of some bugs, settings and worlds."""
    found = []
    for name in names:
        if name in SCHEDULED:
            found.append(Row(name, scheduled, SCHEDULED[name], 1, seconds))
        elif name in BUG_NAMES:
            found.append(Row(name, hunted, settings_of(name), seeds, seconds))
        if name in SETTINGS:
            found.append(Row(CLEAN, hunted, name, 1, CLEAN_SECONDS))
        if name in WORLDS:
            found.append(Row(CLEAN, scheduled, name, 1, CLEAN_SECONDS))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast the stress tester finds each planted bug.")
    parser.add_argument("names", nargs="*", help="bugs, settings, worlds; all without")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of the stress tester")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds after which a bug is missed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of hunts side by side")
    parser.add_argument("--hunt", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hunt:
        hunt(options.hunt[0], options.hunt[1], int(options.hunt[2]), float(options.hunt[3]))
    every = list(dict.fromkeys([*WORLDS, *SETTINGS, *BUG_NAMES]))
    usual = [name for name in every if name not in FORCED]
    if unknown := set(options.names) - set(every):
        parser.error(f"no planted bug, no settings, no world: {', '.join(sorted(unknown))}")
    print("| bug | searcher | settings | found | median | finding |\n|---|---|---|---|---|---|", flush=True)
    wrong = []
    with ThreadPoolExecutor(options.jobs) as pool:
        begun = [(row, row.outcomes(pool)) for row in rows(options.names or usual, options.seeds, options.seconds)]
        for row, outcomes in begun:
            print(row.text(outcomes()), flush=True)
            wrong.append(row.fault(outcomes()))
    if lines := [line for line in wrong if line]:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
