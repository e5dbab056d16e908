"""A real process over a real journal is killed at any moment, again and again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pagecache.disk.recovery import recover

WRITER = """
import os, sys
from pagecache.disk import records
from pagecache.disk.journal import Journal

folder, store = sys.argv[1:]
journal = Journal(folder, segment=1 << 16, limit=1 << 20)
assert not journal.recovered.lost
value = int(open(store).read())
if journal.recovered.files:
    (file,) = journal.recovered.files
    number, value = file.number, int.from_bytes(file.read(0, 8), "little")
else:
    number = journal.number()
    journal.append(records.file(number, "store", "key", str(value), created=False, size=4000))
while True:
    value += 1
    data = value.to_bytes(8, "little")
    lsn = journal.append(records.data(number, 0, 4000), [data * 200, data * 300])
    if value % 3 == 0:
        journal.confirm(lsn)
        os.write(1, data)
    if value % 40 == 0:
        journal.confirm(journal.append(records.saving(number, lsn)))
        open(store + ".new", "w").write(str(value))
        os.replace(store + ".new", store)
        journal.append(records.saved(number, lsn, str(value)))
"""


def killed(folder: Path, rng: random.Random) -> int:
    """Run the writer, kill it, and return the last value that it reported."""
    command = [sys.executable, "-c", WRITER, str(folder / "journal"), str(folder / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        reported = writer.stdout.read(8)
        time.sleep(rng.random() ** 3 / 10)  # so that the kill comes at any step
        writer.kill()
        reported += writer.stdout.read()
    assert reported, "the writer failed"
    return int.from_bytes(reported[-8:], "little")


def run(folder: Path, times: int) -> int:
    """Kill the writer so many times; return the last value."""
    rng = random.Random(times)
    (folder / "store").write_text("0")
    last = 0
    for _ in range(times):
        promised = killed(folder, rng)
        assert promised > last
        stored = int((folder / "store").read_text())
        found = recover(str(folder / "journal"))
        assert not found.lost
        values = {0}
        for file in found.files:
            assert not file.damaged
            data = file.read(0, 4000)
            assert data == data[:8] * 500
            values.add(int.from_bytes(data[:8], "little"))
        last = max(stored, *values)
        assert last >= promised
    assert len(os.listdir(folder / "journal")) <= 16
    return last


def test_a_killed_process_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    """D1."""
    run(tmp_path, 10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_200_killed_processes_lose_nothing_that_was_confirmed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """D1."""
    text = f"killed writers of a journal: 200, the last of {run(tmp_path, 200)} values"
    record_property("size", text)
    print(text)
