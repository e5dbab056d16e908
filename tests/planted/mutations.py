"""The search for each planted bug: by schedules of the core, by the stress tester with named settings, or by a test.
The exit status is 1 if a bug is missed at a seed, or something is found without a bug.

    make mutations                              everything, in some fifteen minutes on two cores
    python -m tests.planted.mutations NAME ...  some bugs, settings or worlds

The tester, whose threads are real, hunts at several seeds; schedules and tests take one, which decides all. Settings
and worlds without a bug run for seconds: `make soak` runs the same for minutes.

Each hunt is one process, and ends with its first finding. A process that dies of an assertion of the core, or that
stands still, has found its bug. `make planted` builds the copy of the package that it imports, and the schedules.
"""

from __future__ import annotations

import argparse
import builtins
import ctypes
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pagecache.native.extension import _core
from pagecache.stress import Plan, run

from .patches import ROOT, bugs
from .settings import SETTINGS, STORES

PLANTED = ROOT / "build" / "planted"

BUGS = bugs()
WORLDS = tuple(dict.fromkeys(bug.place for bug in BUGS.values() if bug.searcher == "schedules"))
CLEAN = "-"  # the bug of a hunt in which nothing is planted
CLEAN_SECONDS = 5.0
LIMIT_S = 120.0  # beside its search: a process that takes longer stands still
STORY = 2000  # characters of a story

Outcome = dict[str, Any]  # what was "found" ("" for nothing), in how many "seconds", and the "story"


def _run(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def hunted(bug: str, place: str, seed: int, seconds: float) -> Outcome:
    """Return the outcome of a hunt by the stress tester, or by Python tests, in a new process."""
    call = f"from tests.planted.mutations import hunt; hunt({bug!r}, {place!r}, {seed}, {seconds})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PAGECACHE_EXTENSION": ""}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        environment["TMPDIR"] = folder
        # The copy of the package is first on the path.
        done = _run([sys.executable, "-c", call], cwd=PLANTED, env=environment)
    if done.returncode > 0:
        raise RuntimeError(f"{call}: {done.stderr}")
    if done.returncode < 0:
        sign, took = signal.Signals(-done.returncode), time.monotonic() - began
        kind = "hang" if sign == signal.SIGALRM else "death"
        return {"found": kind, "seconds": took, "story": f"{sign.name}\n{done.stderr[-STORY:]}"}
    *lines, outcome = done.stdout.splitlines()
    return {**json.loads(outcome), **({"story": "\n".join(lines)[-STORY:]} if lines else {})}


def scheduled(bug: str, world: str, seed: int, seconds: float) -> Outcome:
    """Return the outcome of schedules of the core in a kind of world, with the fix taken out."""
    command = [str(PLANTED / "schedules" / "schedules"), "--kind", world, "--seed", str(seed)]
    done = _run([*command, "--seconds", str(seconds), *(["--without", bug] if bug != CLEAN else [])])
    if done.returncode not in (0, 1) or " schedules in " not in done.stdout:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    took = float(done.stdout.split()[3])  # "N schedules in T s: ..."
    return {"found": "schedule" if done.returncode else "", "seconds": took, "story": done.stderr}


def hunt(bug: str, place: str, seed: int, seconds: float) -> None:
    """Run the tester, or tests, with the fix of a bug, or of none, taken out of this process, and end it."""
    removed = ctypes.c_char_p.in_dll(ctypes.CDLL(_core.__file__), "pc_fix_removed")
    removed.value = bug.encode()
    signal.alarm(int(seconds + LIMIT_S))
    vars(builtins)["PC_FIX"] = lambda fix: fix != bug
    began = time.monotonic()
    if place in SETTINGS:
        report = run(Plan(seed=seed, duration=seconds, **SETTINGS[place]), STORES.get(place, lambda: None)())
        found, story = report.kind, "" if report.ok else report.story[:STORY]
    else:
        # The process has imported the package: pytest cannot rewrite its assertions.
        options = ("-qx", "--assert=plain", "--capture=sys", "--timeout=0", "-pno:cacheprovider")
        tests = [str(ROOT / test) for test in place.split()]
        found, story = ("", "test")[pytest.main([*options, *tests])], ""  # other statuses: no test ran
    print(json.dumps({"found": found, "seconds": round(time.monotonic() - began, 2), "story": story}), flush=True)
    os._exit(0)  # at once: a wait on state broken by a bug may never end


Search = Callable[[str, str, int, float], Outcome]
SEARCHERS: dict[str, Search] = {"tester": hunted, "test": hunted, "schedules": scheduled}


def searches(names: list[str], settings: str | None) -> list[tuple[str, str, str]]:
    """Return bug, searcher and place of each search; without names: of all."""
    found = []
    for name in names or dict.fromkeys([*WORLDS, *SETTINGS, *BUGS]):
        if name in BUGS:
            found.append((name, "tester", settings) if settings else (name, BUGS[name].searcher, BUGS[name].place))
        if name in SETTINGS:
            found.append((CLEAN, "tester", name))
        if name in WORLDS:
            found.append((CLEAN, "schedules", name))
    return [search for search in found if search[1] in SEARCHERS]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast each planted bug is found.")
    parser.add_argument("names", nargs="*", help="bugs, settings, worlds; all without")
    parser.add_argument("--settings", choices=SETTINGS, help="settings of the tester, for all of the bugs")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of the stress tester")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds after which a bug is missed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of hunts side by side")
    options = parser.parse_args()
    if unknown := set(options.names) - {*WORLDS, *SETTINGS, *BUGS}:
        parser.error(f"no planted bug, no settings, no world: {', '.join(sorted(unknown))}")
    print("| bug | searcher | settings | found | median | finding |\n|---|---|---|---|---|---|", flush=True)
    wrong = []
    with ThreadPoolExecutor(options.jobs) as pool:
        begun = []
        for bug, by, place in searches(options.names, options.settings):
            seeds = range(1, 2 if bug == CLEAN or by != "tester" else options.seeds + 1)
            seconds = CLEAN_SECONDS if bug == CLEAN else options.seconds
            hunts = {seed: pool.submit(SEARCHERS[by], bug, place, seed, seconds) for seed in seeds}
            begun.append((bug, by, place, hunts))
        for bug, by, place, hunts in begun:
            took = statistics.median(hunt.result()["seconds"] for hunt in hunts.values())
            hits = {str(seed): kind for seed, hunt in hunts.items() if (kind := hunt.result()["found"])}
            kinds = ", ".join(dict.fromkeys(hits.values())) or "nothing"
            print(f"| {bug} | {by} | {place} | {len(hits)} of {len(hunts)} | {took:.1f} s | {kinds} |", flush=True)
            if len(hits) != (0 if bug == CLEAN else len(hunts)):
                wrong.append(f"{bug}, {place}: found at seeds {', '.join(hits) or 'none'} of {len(hunts)}")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
