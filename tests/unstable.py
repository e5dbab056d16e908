"""Run pytest with OPTIONS, and run each failed test again alone: `python -m tests.unstable OPTIONS`.

`.ci/run` runs the Python tests in this way. A failed test runs again in a process of its own, beside no other test, at
most twice. If it passes, it is unstable: the run continues, and its last lines are `UNSTABLE name`. A test that fails
three times ends the run as failed.

A test that ends its process, by a crash or by its timeout (hangs.py), has failed like others. pytest-xdist then starts
no more tests, so tests without a verdict get another run. A run succeeds only if each collected test has passed or was
skipped. Errors outside of tests, as in an import, end the run as failed at once.

OPTIONS name no paths: another run adds the names of its tests.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

__all__ = ["Verdicts", "main"]

TRIES = 2


class Verdicts:
    """A plug-in of the main process of pytest-xdist: the collected tests, and which of them passed or failed."""

    def __init__(self) -> None:
        self.collected: set[str] = set()
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.is_collected = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.is_collected &= not report.failed

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.collected.update(map(plain, ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test fails in any phase, or in none if its process ends. The last phase of other tests is the teardown."""
        if report.failed:
            self.failed.add(plain(report.nodeid))
        elif report.when == "teardown":
            self.passed.add(plain(report.nodeid))

    @property
    def remaining(self) -> set[str]:
        return self.collected - self.passed - self.failed


def plain(nodeid: str) -> str:
    """Return the id of a test without the group that pytest-xdist appends to it."""
    at = nodeid.rfind("@")
    return nodeid[:at] if at > nodeid.rfind("]") else nodeid


def passes_alone(name: str, options: list[str]) -> bool:
    """Run a failed test again, at most twice. Its exit status is its verdict, so a crash is a failure too."""
    for number in range(1, TRIES + 1):
        print(f"\nrun again alone, {number} of {TRIES}: {name}", flush=True)
        if subprocess.run([sys.executable, "-m", "pytest", *options, "-n0", name], check=False).returncode == 0:
            return True
    return False


def run(options: list[str], unstable: list[str]) -> int:
    """Run the tests until each has a verdict; add the unstable ones to a list. Return an exit status of pytest."""
    selected: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        while True:
            verdicts = Verdicts()
            status = int(pytest.main([*options, *selected], plugins=[verdicts]))
            if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not verdicts.is_collected:
                return status
            for name in sorted(verdicts.failed):
                if not passes_alone(name, options):
                    print(f"\nFAILED {1 + TRIES} times: {name}")
                    return pytest.ExitCode.TESTS_FAILED
                unstable.append(name)
            if not verdicts.remaining:  # or a failure belongs to no test
                return pytest.ExitCode.OK if verdicts.failed else status
            if not verdicts.passed | verdicts.failed:
                return pytest.ExitCode.TESTS_FAILED
            names = Path(folder) / "remaining"
            names.write_text("\n".join(sorted(verdicts.remaining)) + "\n", encoding="utf-8")
            selected = [f"@{names}"]


def main(options: list[str]) -> int:
    unstable: list[str] = []
    try:
        return run(options, unstable)
    finally:
        for name in unstable:
            print(f"UNSTABLE {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
