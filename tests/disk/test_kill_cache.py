"""A process with a cache is killed at any moment, again and again; what fsync has put on disk is there each time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract("D1", "D3", "D10")

WRITER = """
import os, sys
import pagecache

folder, seed = sys.argv[1:]
tier = pagecache.DiskTier(folder + "/tier", size="8MiB", segment="1MiB")
cache = pagecache.PageCache("4MiB", disk=tier, dirty_expire=0.03, flush_interval=0.01)
volume = cache.attach(f"dir:{folder}/store", durability="disk", volume_id="store")

def value_of(name):
    if not volume.exists(name):
        return 0
    with volume.open(name) as file:
        data = file.read()
    words = {int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)}
    if any(data[:8]) and all(data[at : at + 8] != bytes(8) for at in range(0, min(len(data), 4000), 8)):
        words -= {0}  # of a file that grew without an fsync
    low, high = min(words, default=0), max(words, default=0)
    assert high - low <= 1, f"{name} has {words}"  # of the last fsync, or written since
    sizes = {8 * (500 + 300 * (k % 4)) for k in range(low - 1, high + 2)}
    assert len(data) in sizes or not low, f"{name}: {len(data)}"
    return low

names = [f"file{k}" for k in range(3)]
values = [value_of(name) for name in names]
os.write(1, b"".join(value.to_bytes(8, "little") for value in values))
files = [volume.open(name, "r+b" if value else "w+b") for name, value in zip(names, values)]
turn = 0
while True:
    turn += 1
    k = turn % 3
    values[k] += 1
    data = values[k].to_bytes(8, "little")
    size = 8 * (500 + 300 * (values[k] % 4))
    files[k].pwrite(data * (size // 8), 0)
    files[k].truncate(size)
    files[k].fsync()
    os.write(1, bytes([k]) + data)
"""


def run(folder: Path, times: int) -> int:
    """Kill the program so many times; return the number of promises."""
    (folder / "store").mkdir()
    rng = random.Random(times)
    promised = [0, 0, 0]
    for _ in range(times):
        command = [sys.executable, "-c", WRITER, str(folder), "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stderr is not None
            found = writer.stdout.read(24)
            time.sleep(rng.random() ** 2 / 3)  # so that the kill comes at any step
            writer.kill()
            reports, said = writer.stdout.read(), writer.stderr.read().decode()
        assert len(found) == 24, said
        for k in range(3):
            value = int.from_bytes(found[8 * k : 8 * k + 8], "little")
            assert value >= promised[k], f"file{k} has {value}, and {promised[k]} was promised\n{said}"
            promised[k] = value
        for at in range(0, len(reports) - 8, 9):
            promised[reports[at]] = int.from_bytes(reports[at + 1 : at + 9], "little")
    assert sum(promised) > times
    assert len(os.listdir(folder / "tier" / "journal")) <= 8
    return sum(promised)


@pytest.mark.parametrize("times", [8, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_killed_program_loses_nothing_that_fsync_has_put_on_disk(
    tmp_path: Path, times: int, record_property: Callable[[str, object], None]
) -> None:
    text = f"killed programs: {times}, after {run(tmp_path, times)} fsyncs at disk"
    record_property("size", text)
    print(text)
