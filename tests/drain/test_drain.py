"""`pagecache drain` against servers with the protocol of docs/live.md: its messages for a user, and the exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache.cli.drain import following
from tests.commands import call as run
from tests.file.rig import eventually
from tests.live.fake import DONE, Fake, failed_range, hanging, ticket

call = partial(run, "drain")
Serve = Callable[..., Fake]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A function that serves as many sockets as a test wants."""
    served: list[Fake] = []

    def serve(name: str = "s", **sync: Any) -> Fake:
        served.append(Fake(tmp_path / name, **sync))
        return served[-1]

    yield serve
    for server in served:
        server.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "INTERVAL_S", 0.01)


def test_everything_saved_is_exit_status_0(serve: Serve) -> None:
    server = serve()
    server.sync = lambda poll: (200, ticket() if poll < 3 else ticket(**DONE))
    result = call(server.path)
    assert result.exit_code == 0, result.output
    assert result.stdout == "cache-1 (process 4711): saved: all that was written before, 2.0 GiB in 2.5s\n"
    assert server.requests == ["GET /v1/stats", "POST /v1/sync", "GET /v1/sync/7", "GET /v1/sync/7"]
    assert call(server.path, "--quiet", "--volume", "odd & name").output == ""
    assert server.requests[-1] == "POST /v1/sync?volume=odd & name"


def test_no_size_is_told_where_none_is_known(serve: Serve) -> None:
    """Recovered bytes are not local when the sync begins."""
    server = serve()
    server.sync = lambda _poll: (200, ticket(**DONE | {"total": 0}))
    assert call(server.path).stdout == "cache-1 (process 4711): saved: all that was written before, in 2.5s\n"


def test_what_could_not_be_saved_is_listed(serve: Serve) -> None:
    """The list has volume, key, range, errno, the backend's words without their control characters, and the
    next step.
    """
    ranges = [
        failed_range(message="no\x1b[2Jroom", next_retry=12.25),
        failed_range(key="c", errno=5, next_retry=None),
        failed_range(key="d\n", errno=999),
    ]
    errors = [
        {"volume": "files", "message": "3 files could not be saved", "ranges": ranges},
        {"volume": "objects", "message": "the volume 'objects' was aborted: unplugged", "ranges": []},
    ]
    server = serve(done=True, remaining=24576, errors=errors)
    result = call(server.path)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "cache-1 (process 4711): NOT SAVED: 24.0 KiB of 2.0 GiB, kept in memory by its process",
        "  files: 'a/b' [4096, 12288): ENOSPC: no\\x1b[2Jroom; tried again in 12.2s",
        "  files: 'c' [4096, 12288): EIO: no room left; kept, and tried again when asked",
        "  files: 'd\\n' [4096, 12288): 999: no room left; kept, and written back as usual",
        "  objects: the volume 'objects' was aborted: unplugged",
    ]


def test_the_deadline_reports_the_remainder_and_the_obstacle(serve: Serve) -> None:
    """Bytes that are retried again and again are no error of the ticket yet."""
    server = serve()
    server.failed = [{"volume": "files", **failed_range(), "next_retry": 0.5}]
    result = call(server.path, "--deadline", "0.3")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "cache-1 (process 4711): NOT SAVED YET: 1.0 GiB of 2.0 GiB left at the deadline; what was begun goes on",
        "  files: 'a/b' [4096, 12288): ENOSPC: no room left; tried again in 500ms",
    ]


def test_a_slow_cache_delays_no_other(serve: Serve) -> None:
    slow, quick = serve("slow"), serve("quick", **DONE)
    result = call(slow.path, quick.path, "--deadline", "0.3", "--json")
    assert [cache["saved"] for cache in json.loads(result.stdout)["caches"]] == [False, True]


# -- the owner


@pytest.mark.parametrize(
    "end", [(0, b""), (404, {"schema": 1, "error": "no such ticket: 7"}), (200, {"schema": 1}), (200, "<html>")]
)
def test_an_owner_that_dies_leaves_it_unknown_what_was_saved(serve: Serve, end: tuple[int, Any]) -> None:
    """This holds even if another process serves the path now, without the ticket."""
    server = serve()
    server.sync = lambda poll: (200, ticket()) if poll % 2 else end
    result = call(server.path)
    assert result.exit_code == 1
    assert result.stdout.startswith("cache-1 (process 4711): NOT KNOWN: ")
    assert "it is not known what was saved; the last that was seen is 1.0 GiB of 2.0 GiB left" in result.stdout
    assert json.loads(call(server.path, "--json").stdout)["caches"][0]["unknown"]


def test_an_owner_that_does_not_answer_may_go_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command waits for a process that was stopped for a while."""
    monkeypatch.setattr(following, "ANSWER_TIMEOUT_S", 0.2)
    server, goes_on = serve(), threading.Event()

    def sync(poll: int) -> tuple[int, Any]:
        if poll in (1, 3):
            goes_on.wait(20)
        return 200, ticket() if poll < 4 else ticket(**DONE)

    server.sync = sync
    result = call(server.path)
    goes_on.set()
    assert result.exit_code == 0, result.output
    sent = [request for request in server.requests if request != "GET /v1/stats"]
    begun = sent.count("POST /v1/sync")  # one more each time that a reply is late, as under load
    assert sent == ["POST /v1/sync"] * begun + ["GET /v1/sync/7"] * (len(sent) - begun)
    assert (begun >= 2, len(sent) >= 4) == (True, True)


def test_an_owner_that_never_answers_is_exit_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ANSWER_TIMEOUT_S", 0.05)
    with hanging(tmp_path / "s") as path:
        result = call(str(path))
    assert result.exit_code == 1
    assert "no answer within 0.05 s: its owner hangs, or is stopped; nothing was begun there" in result.stdout


# -- wrong usage


def test_wrong_usage_of_one_of_several_begins_nothing(serve: Serve, tmp_path: Path) -> None:
    server = serve(**DONE)
    wrong = [[], [server.path, str(tmp_path / "none")], [server.path, "--deadline", "-1"]]
    assert [call(*arguments).exit_code for arguments in wrong] == [2] * 3
    missing = call(server.path, "--volume", "fils")
    assert missing.exit_code == 2
    assert "has no such volume (there: 'files', 'odd & name')" in missing.stderr
    assert set(server.requests) == {"GET /v1/stats"}


def test_words_of_a_cache_do_nothing_to_the_terminal(serve: Serve) -> None:
    """This includes the words of a later server of that path."""
    server = serve()
    server.sync = lambda poll: (200, ticket()) if poll < 2 else (404, {"schema": 1, "error": "no\x1b[2J"})
    assert r"no\x1b[2J; it is not known what was saved" in call(server.path).stdout
    server.stats = (404, {"schema": 1, "error": "no\x1b[2J"})
    result = call(server.path)
    assert (result.exit_code, r"no\x1b[2J" in result.stderr) == (2, True)


# -- for a terminal user


def test_ctrl_c_says_that_what_was_begun_goes_on(serve: Serve) -> None:
    server = serve()
    command = [sys.executable, "-m", "pagecache", "drain", server.path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: server.polls >= 2)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted: what was begun goes on\n"


def test_a_line_now_and_then(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LINE_INTERVAL_S", 0.05)
    result = call(serve().path, "--deadline", "0.5")
    lines = result.stderr.splitlines()
    assert set(lines) == {"cache-1 (process 4711): 1.0 GiB of 2.0 GiB left, 976.6 KiB/s, about 17m54s"}


# -- a cache in another process, from the command to the bytes in the store

SIZE = 4 << 20

OWNER = f"""
import errno, sys
from pagecache import PageCache, RetryPolicy
from pagecache.backends import DirectoryBackend
from pagecache.testing import FaultyBackend, Rule

root, socket, full = sys.argv[1:]
backend = FaultyBackend(DirectoryBackend(root))
backend.use([Rule("write", key=full, error=errno.ENOSPC)])
once = RetryPolicy(attempts=1, failed_retry=None)
cache = PageCache("64MiB", retry=once, dirty_background=0.8, dirty_limit=0.9, dirty_expire=3600.0)
volume = cache.attach(backend, name="files")
files = [volume.open(name, "w+") for name in "abc"]
for file in files:
    file.write(b"x" * {SIZE})
cache.serve_stats(socket)
print("served", flush=True)
sys.stdin.read()
backend.use([])
cache.close()
"""


@pytest.mark.parametrize("full", ["none", "b"])
def test_writes_of_another_process_are_saved_or_listed(tmp_path: Path, full: str) -> None:
    root, socket = tmp_path / "root", str(tmp_path / "s")
    root.mkdir()
    with subprocess.Popen([sys.executable, "-c", OWNER, root, socket, full], stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "served\n"
        command = [sys.executable, "-m", "pagecache", "drain", socket, "--json", "--volume", "files"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        (cache,) = json.loads(done.stdout)["caches"]
        assert (done.returncode, cache["saved"]) == ((1, False) if full == "b" else (0, True))
        assert (cache["total"], cache["remaining"]) == (3 * SIZE, SIZE if full == "b" else 0)
        unsaved = {(one["volume"], one["key"], one["errno"], one["next"]) for one in cache["unsaved"]}
        assert unsaved == ({("files", "b", 28, "kept, and tried again when asked")} if full == "b" else set())
        saved = [name for name in "abc" if (root / name).read_bytes() == b"x" * SIZE]
        assert saved == [name for name in "abc" if name != full]
        owner.communicate(timeout=60)
