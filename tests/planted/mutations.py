"""The mutation table, docs/mutations.md: how fast named settings of the stress tester find each planted bug.

    python -m tests.planted.mutations                   all of it: each bug at five seeds, each settings without a bug
    python -m tests.planted.mutations NAME ...          some bugs, or settings; what is known of the others stays
    options: --seeds 5 --seconds 60

One process a hunt (`hunt.py`), one after the other; a process that dies of an assertion of the core, or does not end,
has found its bug. What was measured is kept in measured.json, the page is made of that: `python -m
tests.planted.mutations --page` writes it again, and test_mutations.py fails when it is old.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .planted import Planted, debug_environment
from .settings import SETTINGS, STORES, WAITS, settings_of
from .table import BUGS

__all__ = ["CLEAN", "MEASURED", "PAGE", "hunted", "measured", "page"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "mutations.md"
MEASURED = Path(__file__).with_name("measured.json")

CLEAN = "-"  # the bug of who looks where nothing is planted
START = 120.0  # seconds that a process may take to start
STILL = 30.0  # seconds without a sign of life after which a process hangs


def hunted(bug: str, settings: str, seed: int, seconds: float) -> dict[str, Any]:
    """The outcome of one process."""
    command = [sys.executable, "-m", "tests.planted.hunt", bug, settings, str(seed), str(seconds)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=debug_environment(), stdout=subprocess.PIPE, stderr=errors)
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
    """The last line of a process, and whether it has stopped to write any."""
    text, wait = b"", START
    while True:
        ready, _, _ = select.select([out], [], [], wait)
        part = os.read(out, 1 << 16) if ready else b""
        text, wait = text[-(1 << 16) :] + part, STILL
        if not part:
            lines = text.decode().splitlines() or [""]
            return next((line for line in lines if line.startswith("{")), lines[-1]), not ready


# ---------------------------------------------------------------------------------------- what was measured


def measured() -> dict[str, Any]:
    """What is known: {"bugs": name -> settings and runs, "clean": settings -> runs}."""
    found: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return found


def measure(names: list[str], seeds: int, seconds: float) -> None:
    """Hunt, and put what came of it in the place of what was known."""
    for name in names:
        bug = next((bug for bug in BUGS if bug.name == name), None)
        settings = name if bug is None else settings_of(name)
        runs = []
        for seed in range(1, 1 + (1 if bug is None else seeds)):
            run = hunted(CLEAN if bug is None else name, settings, seed, seconds)
            runs.append(run | {"story": run["story"][:300], "seed": seed})
            what = run["found"] or "nothing"
            print(f"{name} ({settings}), seed {seed}: {what}, {run['seconds']} s", flush=True)
        known = measured() if MEASURED.exists() else {"bugs": {}, "clean": {}}
        if bug is None:
            known["clean"][name] = {"plan": SETTINGS[name], "seconds": seconds, "runs": runs}
        else:
            known["bugs"][name] = {"settings": settings, "seconds": seconds, "runs": runs}
        known["machine"] = {"cpus": os.cpu_count(), "load": round(os.getloadavg()[1], 1)}
        known["bugs"] = {bug.name: known["bugs"][bug.name] for bug in BUGS if bug.name in known["bugs"]}
        known["clean"] = {one: known["clean"][one] for one in SETTINGS if one in known["clean"]}
        MEASURED.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(), encoding="utf-8")


# ---------------------------------------------------------------------------------------- the page


def page() -> str:
    """The text of docs/mutations.md."""
    known = measured()
    found = sum(all(run["found"] for run in entry["runs"]) for entry in known["bugs"].values())
    lines = [
        "# Mutations",
        "",
        "Made by `python -m tests.planted.mutations`: each [planted bug](testing.md#planted-bugs) is looked for by",
        "[`pagecache stress`](how-to/stress.md) with named settings, at each of five seeds, until it is found or a",
        f"minute is over. {found} of {len(BUGS)} are found at every seed. *Rule* is what is broken, by its id in the",
        "[contract](contract.md); *found* at how many seeds; seconds are those of the tester, from its first operation",
        "on; of a hang with those after which it counts as one. A *death* is an assertion of the core's debug build,",
        f"or a crash. Measured on {known['machine']['cpus']} CPUs at a load of {known['machine']['load']}.",
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
    ]
    if WAITS:
        lines += [
            "",
            "## Not found, or not at each seed",
            "",
            "A bug that the tester does not find is a reason to better it. What is missing for those without a row,",
            "and for those that are not found each time:",
            "",
            *(f"* `{bug.name}` ({bug.rule}): {WAITS[bug.name]}." for bug in BUGS if bug.name in WAITS),
        ]
    return "\n".join(lines) + "\n"


def _row(bug: Planted, entry: dict[str, Any]) -> str:
    runs = entry["runs"]
    hits = [run for run in runs if run["found"]]
    times = [run["seconds"] if run["found"] else entry["seconds"] for run in runs]
    median, worst = (f"{value:.1f} s" for value in (statistics.median(times), max(times)))
    if len(hits) < len(runs):
        worst = f"over {entry['seconds']:.0f} s"
        median = median if 2 * len(hits) > len(runs) else worst
    kinds = ", ".join(dict.fromkeys(run["found"] for run in hits)) or "none"
    seeds = f"{len(hits)} of {len(runs)}"
    return f"| `{bug.name}` | {bug.rule} | {entry['settings']} | {seeds} | {median} | {worst} | {kinds} |"


def _clean(name: str, entry: dict[str, Any] | None) -> str:
    plan = ", ".join(f"{field}={value}" for field, value in SETTINGS[name].items())
    store = STORES.get(name)
    plan = f"`{plan}`" if store is None else f"`{plan}`, on `{store.__name__}`"
    if entry is None:
        return f"| {name} | {plan} | not measured |"
    runs = entry["runs"]
    told = [run["found"] for run in runs if run["found"]]
    seconds = sum(run["seconds"] for run in runs)
    said = f"found: {', '.join(told)}" if told else f"clean for {seconds:.0f} s"
    return f"| {name} | {plan} | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast the stress tester finds each planted bug.")
    parser.add_argument("names", nargs="*", help="bugs and settings; all without")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args()
    names = options.names or [*SETTINGS, *(bug.name for bug in BUGS)]
    unknown = set(names) - set(SETTINGS) - {bug.name for bug in BUGS}
    if unknown:
        parser.error(f"no planted bug and no settings: {', '.join(sorted(unknown))}")
    if options.page:
        PAGE.write_text(page(), encoding="utf-8")
        return
    measure(names, options.seeds, options.seconds)


if __name__ == "__main__":
    main()
