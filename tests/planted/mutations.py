"""The mutation table: how fast named settings of the stress tester find each planted bug, and how fast schedules of the
core find the bugs in `SCHEDULED`. The exit status is 1 if a bug is missed, or something is found without a bug.

    make mutations                              everything: each bug at five seeds, each setting without a bug
    python -m tests.planted.mutations NAME ...  some bugs, settings or worlds; results of the others stay
    options: --seeds 5 --seconds 60 --page

Each hunt is one process (`hunt.py`), and hunts run one after another. A process that dies of an assertion of the core,
or that never ends, has found its bug. Schedules are a separate program. `make planted` builds what both need. Results
are kept in build/mutations.json, and build/mutations.md is made from them. Neither is in git; no test reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .planted import Planted, planted_environment
from .settings import SCHEDULED, SETTINGS, STORES, WAITS, WORLDS, settings_of
from .table import BUGS

__all__ = ["CLEAN", "MEASURED", "PAGE", "SCHEDULES", "hunted", "measured", "page", "scheduled"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "build" / "mutations.md"
MEASURED = ROOT / "build" / "mutations.json"
SCHEDULES = ROOT / "build" / "planted" / "schedules" / "schedules"

CLEAN = "-"  # the bug of a hunt in which nothing is planted
START = 120.0  # seconds that a process may take to start
STILL = 30.0  # seconds without a sign of life after which a process hangs


def hunted(bug: str, settings: str, seed: int, seconds: float) -> dict[str, Any]:
    """The outcome of one process."""
    command = [sys.executable, "-m", "tests.planted.hunt", bug, settings, str(seed), str(seconds)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=planted_environment(), stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        with process.stdout as out:
            last, stands = _followed(out.fileno())
        if stands:
            process.kill()
        status = process.wait()
        errors.seek(0)
        said = errors.read()[-2000:]
    if last.startswith("{"):
        outcome: dict[str, Any] = json.loads(last)
        return outcome
    took, operations, *_ = [*last.split(), "0", "0"]
    if stands:
        found, story, took = "hang", "the whole process stands still", str(float(took) + STILL)
    elif status < 0:
        found, story = "death", f"{signal.Signals(-status).name}\n{said}"
    else:
        raise RuntimeError(f"{' '.join(command)}: {said}")
    return {"found": found, "seconds": float(took), "operations": int(operations), "story": story}


def _followed(out: int) -> tuple[str, bool]:
    """The last line of a process, and whether it has stopped printing."""
    text, wait = b"", START
    while True:
        ready, _, _ = select.select([out], [], [], wait)
        part = os.read(out, 1 << 16) if ready else b""
        text, wait = text[-(1 << 16) :] + part, STILL
        if not part:
            lines = text.decode().splitlines() or [""]
            return next((line for line in lines if line.startswith("{")), lines[-1]), not ready


def scheduled(bug: str, world: str, seed: int, seconds: float) -> dict[str, Any]:
    """The outcome of schedules of the core in a kind of world, with the fix taken out; operations are schedules."""
    command = [str(SCHEDULES), "--kind", world, "--seed", str(seed), "--seconds", str(seconds)]
    command += [] if bug == CLEAN else ["--without", bug]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + START, check=False)
    parsed = re.match(r"(\d+) schedules in ([\d.]+) s", done.stdout)
    if parsed is None or done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    found = "schedule" if done.returncode else ""
    return {
        "found": found,
        "seconds": float(parsed[2]),
        "operations": int(parsed[1]) + bool(found),
        "story": done.stderr,
    }


# ---------------------------------------------------------------------------------------- results


def measured() -> dict[str, Any]:
    """Return the results so far: {"bugs": name -> settings and runs, "scheduled": name -> world and runs,
    "clean": settings -> runs, "worlds": world -> runs}.
    """
    found: dict[str, Any] = {part: {} for part in ("bugs", "scheduled", "clean", "worlds")}
    if MEASURED.exists():
        found |= json.loads(MEASURED.read_text(encoding="utf-8"))
    return found


def measure(names: list[str], seeds: int, seconds: float) -> list[str]:
    """Hunt, and replace the stored results of these names. Return the wrong ones."""
    MEASURED.parent.mkdir(exist_ok=True)
    bugs = [bug.name for bug in BUGS]
    wrong: list[str] = []
    for name in names:
        found: dict[str, dict[str, Any]] = {}
        if name in bugs:
            settings = settings_of(name)
            found["bugs"] = {"settings": settings, "runs": _runs(hunted, name, settings, seeds, seconds)}
        if name in SCHEDULED:
            world = SCHEDULED[name]
            found["scheduled"] = {"world": world, "runs": _runs(scheduled, name, world, seeds, seconds)}
        if name in SETTINGS:
            found["clean"] = {"plan": SETTINGS[name], "runs": _runs(hunted, CLEAN, name, 1, seconds)}
        if name in WORLDS:
            found["worlds"] = {"runs": _runs(scheduled, CLEAN, name, 1, seconds)}
        wrong += [f"{name}: {text}" for part, entry in found.items() if (text := fault(name, part, entry["runs"]))]
        known = measured()
        how = {"seconds": seconds, "cpus": os.cpu_count(), "load": round(os.getloadavg()[1], 1)}
        for part, order in (("bugs", bugs), ("scheduled", [*SCHEDULED]), ("clean", [*SETTINGS]), ("worlds", [*WORLDS])):
            entries = known[part] | ({name: found[part] | how} if part in found else {})
            known[part] = {one: entries[one] for one in order if one in entries}
        MEASURED.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(), encoding="utf-8")
    return wrong


def fault(name: str, part: str, runs: list[dict[str, Any]]) -> str:
    """Return what is wrong with the runs of a bug, of settings or of a world; "" for nothing."""
    if part in ("clean", "worlds"):
        found = [run["found"] for run in runs if run["found"]]
        return f"found without a bug: {', '.join(found)}" if found else ""
    missed = [str(run["seed"]) for run in runs if not run["found"]]
    is_known = part == "bugs" and name in WAITS  # schedules have to find it
    return f"missed at seeds {', '.join(missed)}" if missed and not is_known else ""


def _runs(
    hunt: Callable[[str, str, int, float], dict[str, Any]], bug: str, where: str, seeds: int, seconds: float
) -> list[dict[str, Any]]:
    """The runs, one a seed."""
    runs = []
    for seed in range(1, 1 + seeds):
        run = hunt(bug, where, seed, seconds)
        runs.append(run | {"story": run["story"][:300], "seed": seed})
        print(f"{bug} ({where}), seed {seed}: {run['found'] or 'nothing'}, {run['seconds']} s", flush=True)
    return runs


# ---------------------------------------------------------------------------------------- the page


def page() -> str:
    """Return the text of build/mutations.md."""
    known = measured()
    seen, deeper = ({name for name, one in known[part].items() if _always(one)} for part in ("bugs", "scheduled"))
    both = f"{len(seen | deeper)} of {len(BUGS)} are found at every seed"
    if more := len(deeper - seen):
        both += f": {len(seen)} so, and {more} more by [schedules of the core](#schedules-of-the-core)"
    lines = [
        "# Mutations",
        "",
        "Made by `python -m tests.planted.mutations`. [`pagecache stress`](../docs/how-to/stress.md) with named",
        "settings searches for each [planted bug](../docs/testing.md#planted-bugs), at each of five seeds, until it",
        f"finds the bug or a minute has passed. {both}.",
        "",
        "*Rule* is the broken rule, by id in the [contract](../docs/contract.md); *found* counts seeds. Seconds are",
        "those of the tester, from its first operation on; for a hang they include the time after which a call counts",
        "as one. A *death* is an assertion of the core's debug build, or a crash. Measured on",
        f"{_machine(known['bugs'].values())}.",
        "",
        "| bug | rule | settings | found | median | worst | finding |",
        "|---|---|---|---|---|---|---|",
        *(_row(bug, known["bugs"][bug.name]) for bug in BUGS if bug.name in known["bugs"]),
        "",
        "## Settings",
        "",
        "Fields of `pagecache.stress.Plan`; some run on a store of `tests/planted/failing.py`. The same settings find",
        "nothing where nothing is planted:",
        "",
        "| settings | plan | without a bug |",
        "|---|---|---|",
        *(_clean(name, known["clean"].get(name)) for name in SETTINGS),
        "",
        "## Schedules of the core",
        "",
        "The [simulated threads](../docs/testing.md#schedules) play the core alone, without engine and Python: tens of",
        "thousands of orders a second and core, each of which can be repeated. Each search runs one kind of world with",
        "the fix taken out, at five seeds, for a minute. Seconds are wall time up to the failing schedule. Measured on",
        f"{_machine(known['scheduled'].values())}. {_worlds(known['worlds'])}",
        "",
        "| bug | rule | world | found | median | worst | schedules, median |",
        "|---|---|---|---|---|---|---|",
        *(_scheduled(bug, known["scheduled"][bug.name]) for bug in BUGS if bug.name in known["scheduled"]),
    ]
    if WAITS:
        lines += [
            "",
            "Why no settings of the tester find these at each seed:",
            "",
            *(f"* `{bug.name}`: {WAITS[bug.name]}." for bug in BUGS if bug.name in WAITS),
        ]
    return "\n".join(lines) + "\n"


def _always(entry: dict[str, Any]) -> bool:
    return all(run["found"] for run in entry["runs"])


def _machine(entries: Iterable[dict[str, Any]]) -> str:
    """Return the machine on which the entries were measured."""
    if not (entries := list(entries)):
        return "no machine yet"
    cpus, loads = zip(*((entry["cpus"], entry["load"]) for entry in entries), strict=True)
    load = f"a load of {loads[0]}" if len(set(loads)) == 1 else f"loads of {min(loads)} to {max(loads)}"
    return f"{' or '.join(map(str, sorted(set(cpus))))} CPUs at {load}"


def _row(bug: Planted, entry: dict[str, Any]) -> str:
    kinds = ", ".join(dict.fromkeys(run["found"] for run in entry["runs"] if run["found"])) or "none"
    return f"| `{bug.name}` | {bug.rule} | {entry['settings']} | {_times(entry)} | {kinds} |"


def _scheduled(bug: Planted, entry: dict[str, Any]) -> str:
    schedules = statistics.median(run["operations"] for run in entry["runs"])
    return f"| `{bug.name}` | {bug.rule} | {entry['world']} | {_times(entry)} | {schedules:,.0f} |"


def _times(entry: dict[str, Any]) -> str:
    """The number of seeds that found it; the times to the finding."""
    runs = entry["runs"]
    hits = [run for run in runs if run["found"]]
    times = [run["seconds"] if run["found"] else entry["seconds"] for run in runs]
    median, worst = (f"{value:.1f} s" for value in (statistics.median(times), max(times)))
    if len(hits) < len(runs):
        worst = f"over {entry['seconds']:.0f} s"
        median = median if 2 * len(hits) > len(runs) else worst
    return f"{len(hits)} of {len(runs)} | {median} | {worst}"


def _worlds(entries: dict[str, dict[str, Any]]) -> str:
    """The findings of schedules without a planted bug."""
    said = []
    for world, entry in entries.items():
        run = entry["runs"][0]
        what = "failed" if run["found"] else "found nothing"
        said.append(f"`{world}` {what} without a bug in {run['seconds']:.0f} s, {run['operations']:,} schedules.")
    return " ".join(said)


def _clean(name: str, entry: dict[str, Any] | None) -> str:
    plan = ", ".join(f"{field}={value}" for field, value in SETTINGS[name].items())
    store = STORES.get(name)
    plan = f"`{plan}`" if store is None else f"`{plan}`, on `{store.__name__}`"
    if entry is None:
        return f"| {name} | {plan} | not measured |"
    runs = entry["runs"]
    times = [run["found"] for run in runs if run["found"]]
    seconds = sum(run["seconds"] for run in runs)
    said = f"found: {', '.join(times)}" if times else f"clean for {seconds:.0f} s"
    return f"| {name} | {plan} | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast the stress tester finds each planted bug.")
    parser.add_argument("names", nargs="*", help="bugs, settings, worlds; all without")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--page", action="store_true", help="write the page again from build/mutations.json, measure nothing"
    )
    options = parser.parse_args()
    every = [*WORLDS, *SETTINGS, *(bug.name for bug in BUGS)]
    names = options.names or every
    if unknown := set(names) - set(every):
        parser.error(f"no planted bug, no settings, no world: {', '.join(sorted(unknown))}")
    if options.page:
        PAGE.write_text(page(), encoding="utf-8")
        return
    if wrong := measure(names, options.seeds, options.seconds):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
