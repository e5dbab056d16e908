"""The servers of these tests: leftovers are found, and no server outlives the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..file.rig import raises
from .servers import Bucket, Server, new_bucket


def test_leftovers_of_a_test_are_found(bucket: Bucket) -> None:
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key="k")
    bucket.put("p/.pagecache/s/1", b"")
    assert bucket.left_behind() == ["upload of 'k'", "object 'p/.pagecache/s/1'"]
    with pytest.raises(AssertionError, match="left behind"), new_bucket(bucket.server) as other:
        other.client.create_multipart_upload(Bucket=other.name, Key="k")
    bucket.clear()


def test_a_server_that_cannot_start_says_why(new_server: Callable[[str], Server], tmp_path: Path) -> None:
    first = new_server("rclone")
    second = new_server("rclone")
    second.kill()
    second.port = first.port
    raises(RuntimeError, second.start, match="in use")


def test_servers_end_with_a_test_process_that_is_killed(tmp_path: Path) -> None:
    """After SIGKILL none of its servers runs."""
    code = (
        "import pathlib, sys, time\n"
        "from tests.s3.servers import Server\n"
        "print(Server('moto', pathlib.Path(sys.argv[1])).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "moto")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as tests:
        assert tests.stdout is not None
        server = int(tests.stdout.readline())
        os.kill(server, 0)
        tests.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while runs(server):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Return whether such a process exists, zombies aside."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
