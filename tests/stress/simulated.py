"""A run of the deterministic scheduler in a separate process, which imports the debug or the planted extension."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

from pagecache.stress import Plan, run

from ..planted.planted import debug_environment, planted_environment
from ..planted.table import BUGS

__all__ = ["reports"]


def reports(
    *plans: dict[str, Any], bug: str = "", target: str = "memory:", timeout: float = 600, **environment: str
) -> list[dict[str, Any]]:
    """Run plans one after the other, with a bug switched on, within `timeout` seconds. Return their reports."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.simulated", bug, target, json.dumps(plans)],
        env=(planted_environment() if bug else debug_environment()) | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def main(name: str, target: str, plans: list[dict[str, Any]]) -> None:
    bug = next((bug for bug in BUGS if bug.name == name), None)
    with contextlib.nullcontext() if bug is None else bug.on():
        print(
            json.dumps([run(Plan.from_replay({"version": 1, "plan": plan}), target).to_dict() for plan in plans]),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
