"""`pagecache drain` against a real cache in another process, from the command to the bytes in the store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SIZE = 4 << 20

OWNER = f"""
import errno, sys
from pagecache import PageCache, RetryPolicy
from pagecache.backends import DirectoryBackend
from pagecache.testing import FaultyBackend, Gate, Rule

root, socket, how = sys.argv[1:]
gate = Gate()
backend = FaultyBackend(DirectoryBackend(root))
if how == "hangs":
    backend.use([Rule("write", gate=gate)])
if how == "full":
    backend.use([Rule("write", key="b", error=errno.ENOSPC)])
once = RetryPolicy(attempts=1, failed_retry=None)
cache = PageCache("64MiB", retry=once, dirty_background=0.8, dirty_limit=0.9, dirty_expire=3600.0)
volume = cache.attach(backend, name="files")
files = [volume.open(name, "w+") for name in "abc"]
for file in files:
    file.write(b"x" * {SIZE})
cache.serve_stats(socket)
print("served", flush=True)
if how == "hangs":
    gate.wait_entered(60.0)
    print("begun", flush=True)
sys.stdin.read()
gate.release()
backend.use([])
cache.close()
"""

Owned = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Owned]:
    """A function that starts a process with 12 MiB of unsaved data in three files, which serves them on `tmp_path /
    "s"`.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(how: str) -> subprocess.Popen[str]:
        (tmp_path / "root").mkdir()
        command = [sys.executable, "-c", OWNER, str(tmp_path / "root"), str(tmp_path / "s"), how]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "served\n"
        return process

    yield start
    for process in processes:
        process.communicate(timeout=60)


def drain(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pagecache", "drain", str(tmp_path / "s"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_writes_of_another_process_are_saved(owned: Owned, tmp_path: Path) -> None:
    owned("well")
    process = drain(tmp_path)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, "saved: all that was written before, 12.0 MiB" in out) == (0, True)
    assert [(tmp_path / "root" / name).read_bytes() for name in "abc"] == [b"x" * SIZE] * 3


def test_unsaved_ranges_of_another_process_are_listed(owned: Owned, tmp_path: Path) -> None:
    """The rest is saved."""
    owned("full")
    process = drain(tmp_path, "--json", "--volume", "files")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    (cache,) = json.loads(out)["caches"]
    assert {(entry["volume"], entry["key"], entry["errno"]) for entry in cache["unsaved"]} == {("files", "b", 28)}
    assert {entry["next"] for entry in cache["unsaved"]} == {"kept, and tried again when asked"}
    assert (cache["total"], cache["remaining"]) == (3 * SIZE, SIZE)
    assert [(tmp_path / "root" / name).stat().st_size for name in "ac"] == [SIZE] * 2


def test_a_process_that_is_killed_during_the_drain_leaves_it_unknown(owned: Owned, tmp_path: Path) -> None:
    owner = owned("hangs")
    process = drain(tmp_path)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "begun\n"
    owner.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "it is not known what was saved" in out


def test_a_deadline_leaves_the_rest_to_its_process(owned: Owned, tmp_path: Path) -> None:
    owned("hangs")
    process = drain(tmp_path, "--deadline", "0.1")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "left at the deadline; what was begun goes on" in out
