"""Instructions of a hit, counted by callgrind in a C program: P7.

The program is `tests/native/hit_instructions.c` of the source tree, built with the flags of the wheel, and is called
`PROGRAM hit N` or `PROGRAM memcpy N`: N hits of 4 KiB, or the memcpy of the same bytes. Two counts of each give the
instructions of one, without those of the set-up; their difference is the cost added by the cache.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.rows import Bench, Row, case, exact, skipped

FEW, MANY = 1_000, 11_000


class CountFailed(Exception):
    """The program or callgrind failed or printed an unexpected result; the text has the details."""


def instructions(program: Path, mode: str, count: int) -> int:
    """Run the program under callgrind and return the instructions it took.

    Raises:
        CountFailed: It failed, took more than two minutes, or printed no count.
    """
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), mode, str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise CountFailed(f"{program.name} {mode} {count}: no end after 120 s") from None
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise CountFailed(f"{program.name} {mode} {count}: exit status {done.returncode}, {lines[-1]}")
    return int(found.group(1))


def per_item(program: Path, mode: str) -> float:
    """Instructions of one turn of `mode`."""
    return (instructions(program, mode, MANY) - instructions(program, mode, FEW)) / (MANY - FEW)


@case("instructions", "instructions of a 4 KiB hit above memcpy, by callgrind", ("P7",))
def hit_instructions(bench: Bench) -> Iterator[Row]:
    """P7, if the program was built and valgrind is installed."""
    program = bench.settings.native
    if program is None:
        yield skipped("instructions", "P7", "needs --native PROGRAM, built from tests/native/hit_instructions.c")
        return
    if shutil.which("valgrind") is None:
        yield skipped("instructions", "P7", "valgrind is not installed")
        return
    try:
        hit, copy = per_item(program, "hit"), per_item(program, "memcpy")
    except CountFailed as error:
        yield skipped("instructions", "P7", str(error))
        return
    yield exact("instructions", "P7", hit - copy, f"{hit:.0f} with memcpy, {copy:.0f} of it alone")
