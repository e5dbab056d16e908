"""Ends of programs and processes in which tasks are at work: exit, Ctrl-C, fork."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PREAMBLE = """
import asyncio, os, signal, sys, threading, time
from tests.aio.stores import Store
from pagecache import ForkedError, PageCache, ShutdownError, aio
from pagecache.backends import DirectoryBackend
from pagecache.testing import LatencyBackend
cache = PageCache("8MiB", exit_timeout=5)
"""


def run(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-c", PREAMBLE + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_ctrl_c_in_asyncio_run(tmp_path: Path) -> None:
    """KeyboardInterrupt out of asyncio.run: nothing is lost, and the next loop goes on with the same handle. [T-51]"""
    code = """
volume = cache.attach(LatencyBackend(DirectoryBackend(sys.argv[1]), write=0.3))
async def opens():
    return await aio.open(volume, "f", "w+")
file = asyncio.run(opens())
async def syncs():
    await file.pwrite(b"x" * 8192, 0)
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
    await file.fsync()
for turn in range(3):
    try:
        asyncio.run(syncs())
    except KeyboardInterrupt:
        print("interrupted")
async def ends():
    await file.fsync()
    assert await file.pread(8192, 0) == b"x" * 8192
    await file.close()
asyncio.run(ends())
cache.check()
cache.close(timeout=20)
print("end")
"""
    done = run(code, tmp_path)
    assert done.stdout == "interrupted\n" * 3 + "end\n", done.stderr
    assert done.returncode == 0
    assert done.stderr == ""
    assert (tmp_path / "f").read_bytes() == b"x" * 8192


def test_a_fork_inside_of_a_running_loop(tmp_path: Path) -> None:
    """The child gets ForkedError from everything, and ends; the parent's tasks go on. [T-50]"""
    code = """
volume = cache.attach(Store({"f": b"o" * 40960}))
other = cache.attach(DirectoryBackend(sys.argv[1]))
async def main():
    async with aio.open(volume, "f", "r+") as file, aio.open(other, "g", "w+") as second:
        await second.pwrite(b"g" * 100, 0)
        await file.pwrite(b"new", 0)
        volume.drop_clean()
        before = asyncio.ensure_future(file.pread(10, 8192))
        await asyncio.sleep(0)
        view = file._file.view(0, 10, writable=True)
        pid = os.fork()
        if not pid:
            status = 0
            try:
                for call in (lambda: file.pread(1, 0), lambda: file.pread(1, 20000), lambda: file.pwrite(b"c", 0),
                             lambda: file.fsync(), lambda: file.flush(), lambda: file.sync_range(0, 1)):
                    try:
                        call().__await__().send(None)  # asyncio has no running loop in the child
                        status = 2
                    except ForkedError:
                        pass
                view.release()
                before.cancel()
            except BaseException as error:
                print(repr(error), flush=True)
                status = 3
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert await asyncio.wait_for(before, 20) == b"o" * 10
        view.release()
        volume.drop_clean()
        assert await asyncio.wait_for(file.pread(10, 16384), 20) == b"o" * 10
        await file.fsync()
asyncio.run(main())
cache.check()
cache.close(timeout=20)
assert volume.backend.content("f")[:3] == b"new"
print("end")
"""
    done = run(code, tmp_path)
    assert done.stdout == "end\n", done.stdout + done.stderr
    assert done.returncode == 0
    assert (tmp_path / "g").read_bytes() == b"g" * 100
