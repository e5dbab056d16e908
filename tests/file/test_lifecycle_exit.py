"""The end of a program: its caches are saved, or listed; forked children leave them alone."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pagecache

from .rig import FAST, KEY, Rig, eventually
from .test_lifecycle import DATA

Make = Callable[..., Rig]


def script(body: str, tmp_path: Path, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program in a child process."""
    path = tmp_path / "program.py"
    path.write_text(
        "import os, sys, threading, time\nfrom pagecache import PageCache\n"
        "from pagecache.backends import MemoryBackend, DirectoryBackend\n" + textwrap.dedent(body)
    )
    place = str(Path(pagecache.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([place, *filter(None, sys.path)])}
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", path, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        check=False,
    )


def test_exit_saves_what_was_left_dirty(tmp_path: Path) -> None:
    """The program never called close: the exit hook writes back. [T-52, 2.22]"""
    done = script(
        """
        cache = PageCache("1MiB", flush_interval=3600, dirty_expire=3600)
        file = cache.attach(f"dir:{sys.argv[1]}").open("saved", "wb")
        file.pwrite(b"saved at exit" * 1000, 0)
        sys.exit(7)
        """,
        tmp_path,
        str(tmp_path),
    )
    assert done.returncode == 7
    assert (tmp_path / "saved").read_bytes() == b"saved at exit" * 1000


HUNG = """
    entered = threading.Event()
    class Hung(MemoryBackend):
        def open(self, key, **options):
            file = super().open(key, **options)
            class File:
                stat, read_into, truncate, commit = file.stat, file.read_into, file.truncate, file.commit
                def write_from(self, offset, buffers):
                    entered.set()
                    threading.Event().wait()
            return File()
    cache = PageCache("1MiB", exit_timeout=0.5, flush_interval=3600, dirty_expire=3600)
    file = cache.attach(Hung(), name="slowvolume").open("lostfile", "wb")
    file.pwrite(b"x" * 5000, 0)
    """


@pytest.mark.parametrize("ending", ["sys.exit(3)", "raise SystemExit(3)", "pass", "1 / 0"])
def test_exit_with_a_hung_backend_ends_and_says_what_was_lost(tmp_path: Path, ending: str) -> None:
    """It ends within the deadline; the list is on stderr; the exit status is the program's. [T-52, 2.22]"""
    done = script(textwrap.dedent(HUNG) + ending + "\n", tmp_path)
    assert done.returncode == {"pass": 0, "1 / 0": 1}.get(ending, 3)
    assert "lostfile" in done.stderr


@pytest.mark.parametrize("handle", ["open", "closed"])
def test_exit_publishes_nothing_in_its_writers_name(tmp_path: Path, handle: str) -> None:
    """commit_on_close: an open object is listed and left as it was; one that was closed is whole. [T-77, 2.22]"""
    done = script(
        f"""
        from pagecache import BackendLimits
        class Multipart(MemoryBackend):
            def open(self, key, **options):
                file = super().open(key, **options)
                class File:
                    stat, read_into, truncate, write_from = file.stat, file.read_into, file.truncate, file.write_from
                    def commit(self):
                        print("published", key)
                        return file.commit()
                    def rollback(self):
                        pass
                return File()
        backend = Multipart(limits=BackendLimits(commit_on_close=True))
        cache = PageCache("1MiB", flush_interval=3600, dirty_expire=3600)
        file = cache.attach(backend).open("lostfile", "wb")
        file.pwrite(b"x" * 5000, 0)
        if {handle!r} == "closed":
            file.close()
        """,
        tmp_path,
    )
    assert done.returncode == 0
    assert ("lostfile" in done.stderr, "published" in done.stdout) == (
        (True, False) if handle == "open" else (False, True)
    )


def test_exit_while_a_call_hangs(tmp_path: Path) -> None:
    """The flusher is inside a call that never returns. [T-52]"""
    done = script(
        textwrap.dedent(HUNG) + "threading.Thread(target=file.fsync, daemon=True).start()\nassert entered.wait(30)\n",
        tmp_path,
    )
    assert done.returncode == 0
    assert "lostfile" in done.stderr


def test_a_child_process_that_exits_does_no_io(tmp_path: Path) -> None:
    """Its exit hook leaves the parent's data alone. [T-50]"""
    done = script(
        """
        class Noting(DirectoryBackend):
            def open(self, key, **options):
                with open(sys.argv[1] + "/pids", "a") as log:
                    log.write(f"{os.getpid()}\\n")
                return super().open(key, **options)
        cache = PageCache("1MiB", flush_interval=3600, dirty_expire=3600)
        file = cache.attach(Noting(sys.argv[1])).open("kept", "wb")
        file.pwrite(b"parent", 0)
        child = os.fork()
        if child == 0:
            sys.exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        with open(sys.argv[1] + "/kept", "rb") as stored:
            assert stored.read() == b"", "written by the child"
        cache.close()
        with open(sys.argv[1] + "/pids") as log:
            assert set(log.read().split()) == {str(os.getpid())}
        """,
        tmp_path,
        str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "kept").read_bytes() == b"parent"


def test_an_unclosed_handle_warns_and_saves(make: Make) -> None:
    """ResourceWarning from the collector; its bytes are written by the cache. [2.21]"""
    rig = make({KEY: b""}, retry=FAST)
    handles = [rig.volume.open(KEY, "r+b")]
    handles[0].pwrite(DATA, 0)
    with pytest.warns(ResourceWarning) as seen:
        forget(handles, seen)
    rig.volume.sync(20)
    assert rig.backend.committed(KEY) == DATA


def forget(things: list[Any], seen: pytest.WarningsRecorder) -> None:
    """Drop the last references and collect until a warning comes."""
    things.clear()
    gc.collect()
    eventually(lambda: any(issubclass(warning.category, ResourceWarning) for warning in seen.list), timeout=10)
