"""benchmarks/far.py measures each of its jobs, and S3 needs the requests that its goals allow. Times are not judged."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.s3.servers import missing

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "far.py"
OBJECTS, MANY = 4, 32  # of a quick run
REQUESTS = {
    "read": OBJECTS,
    "again": OBJECTS,
    "create-x": OBJECTS,
    "create-w": 2 * OBJECTS,
    "reads-16": MANY,
    "again-16": MANY,
    "again-16-fresh": 0,
    "creates-16": MANY,
}
BESIDE_BOTO3 = {"write": 4, "write-huge": 4}  # most requests beyond boto3's
OTHERS = {"read-large", "edits-near", "edits-all"}


@pytest.mark.skipif(missing("ministack_memory"), reason="ministack is not installed (extra `dev`)")
def test_each_job_beside_boto3_makes_the_requests_of_its_goal() -> None:
    command = [sys.executable, str(PROGRAM), "--quick", "--delay", "1ms"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if ": " in line and " | " in line]
    counts = {cells[0].partition(":")[0]: (int(cells[2]), int(cells[6])) for cells in rows if cells[0] != "job"}
    assert set(counts) == {*REQUESTS, *BESIDE_BOTO3, *OTHERS}
    assert {name: counts[name][0] for name in REQUESTS} == REQUESTS
    for name, beyond in BESIDE_BOTO3.items():
        own, boto3 = counts[name]
        assert own <= boto3 + beyond, name


@pytest.mark.parametrize("delay", ["fast", "61s", "nanms"])
def test_a_bad_delay_is_refused(delay: str) -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), "--delay", delay], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{delay!r} is not a duration" in done.stderr
