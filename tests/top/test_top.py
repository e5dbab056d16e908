"""`pagecache top`: its figures, its tables, its document, its exit status, and the live view in a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from pagecache import DiskTier, PageCache, RetryPolicy, Volume
from pagecache.backends import MemoryBackend
from pagecache.cli.top import figures
from pagecache.cli.top.figures import entries_of
from pagecache.observe import documents
from pagecache.observe.client import ask
from pagecache.testing import FaultyBackend, Rule
from tests.commands import TIMEOUT_S, Terminal
from tests.commands import call as run
from tests.file.rig import raises
from tests.live.fake import Fake, hanging

PAGE = 4096
HOSTILE = "dir/\x1b[31mred\u202e"
SHOWN = r"dir/\x1b[31mred\u202e"
OLD_SCREEN = "\x1b[?1049l"
call = partial(run, "top")


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caches of this machine, and its width."""
    for name in ("XDG_RUNTIME_DIR", "PAGECACHE_SOCKET", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def socket(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
def volume(socket: str) -> Iterator[Volume]:
    """A served volume with 12 KiB of one file that could not be saved, and a clean file."""
    backend = FaultyBackend(MemoryBackend())
    once = RetryPolicy(attempts=1, failed_retry=3600.0)
    with PageCache("4MiB", page_size=PAGE, retry=once, dirty_expire=3600.0) as cache:
        volume = cache.attach(backend, name="store")
        cache.serve_stats(socket)
        with volume.open("clean", "w+b") as file:
            file.write(b"x" * 5000)
            file.fsync()
        backend.use([Rule("write", error=28)])
        with volume.open(HOSTILE, "w+b") as file:
            file.pwrite(b"x" * 3 * PAGE, 0)
            raises(OSError, file.fsync)
            yield volume
            backend.use([])
            volume.retry_failed()


@pytest.mark.smoke("top")
def test_once_prints_caches_volumes_errors_and_files_by_unsaved_bytes(volume: Volume, socket: str) -> None:
    result = call("--once", "--wide", socket)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert "  12K not saved, oldest " in lines[0]
    assert "  12K FAILED" in lines[0]
    assert "memory 4.0M" in lines[1]
    assert "dirty 12K" in lines[1]
    assert next(line for line in lines if line.startswith(" store ")).split()[1:5] == ["12K", "0", "0", "12K"]
    assert [line.split()[:2] for line in lines if line.rstrip().endswith(" store")] == [[SHOWN, "12K"], ["clean", "0"]]
    assert f"store {SHOWN} [0, 12288): ENOSPC " in result.stdout
    assert "→ tried again in 3600.0 s" in result.stdout
    assert "2 of 2 files, by dirty" in lines
    assert "\x1b" not in result.stdout


def test_an_uncommitted_truncate_is_not_saved(socket: str) -> None:
    """It has no bytes that could be counted."""
    with PageCache("4MiB", dirty_expire=3600.0) as cache, cache.attach(MemoryBackend()).open("a", "w+b") as file:
        cache.serve_stats(socket)
        file.write(b"x" * PAGE)
        file.fsync()
        assert "  all saved" in call("--once", socket).stdout
        file.truncate(1)
        shown = call("--once", socket).stdout
        assert ("  uncommitted changes" in shown, "all saved" in shown) == (True, False)
        assert "clean" not in shown.splitlines()[-1]


def test_a_disk_tier_has_a_line_with_what_is_in_its_journal(tmp_path: Path, socket: str) -> None:
    with PageCache("4MiB", disk=DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB")) as cache:
        volume = cache.attach(MemoryBackend(), name="store", durability="disk")
        cache.serve_stats(socket)
        with volume.open("a", "w+b") as file:
            file.write(b"x" * PAGE)
            file.fsync()
            (line,) = (line for line in call("--once", socket).stdout.splitlines() if line.startswith("  disk "))
            assert line.split()[2:5] == ["served", "0", "reads"]
            assert line.split()[5] == "journal"
        assert json.loads(call("--json", socket).stdout)["caches"][0]["counters"]["journal_bytes"] > 0


def test_the_json_has_names_and_numbers_unchanged_and_rates_of_two_samples(volume: Volume, socket: str) -> None:
    result = call("--json", socket, "--sort", "key", "--files", "1")
    document = json.loads(result.stdout)
    assert result.stdout.isascii()
    (cache,), (one,), (file,) = document["caches"], document["volumes"], document["files"]
    assert (cache["error"], cache["pid"], cache["local"], cache["clean_in"]) == (None, os.getpid(), 3 * PAGE, None)
    assert cache["per_second"] == {"accesses": None, "reads": None, "writes": None, "commits": None}
    assert (one["name"], one["state"], one["errors"][0]["name"]) == ("store", "attached", "ENOSPC")
    assert (file["key"], file["size"], file["counters"]["dirty"]) == ("clean", 5000, 0)
    document = json.loads(call("--json", "--interval", "0.1", socket).stdout)
    assert document["files"][0]["key"] == HOSTILE
    for entry in (*document["caches"], *document["volumes"], *document["files"]):
        assert entry["per_second"] == {"accesses": 0.0, "reads": 0.0, "writes": 0.0, "commits": 0.0}


def test_rates_are_growth_over_the_clock_of_the_cache(volume: Volume, socket: str) -> None:
    """Reads of two processes, or of a clock that went back, give none."""

    def changed(uptime: float = 0.0, pid: int = 1, **counters: int) -> dict[str, Any]:
        stats: dict[str, Any] = ask(socket, "/v1/stats") | {"uptime": uptime, "pid": pid}
        for name, value in counters.items():
            stats["cache"]["counters"][name] = value
        return stats | ask(socket, "/v1/waits") | {"total": 0, "files": []}

    def rates(before: dict[str, Any]) -> tuple[float | None, dict[str, float | None]]:
        now = changed(2.0, hits=28, misses=12, write_requests=9, read_requests=0)
        (cache,) = entries_of(Path("s"), now, before)["caches"]
        return cache["hit_rate"], cache["per_second"]

    before = {"hits": 10, "misses": 10, "write_requests": 4, "read_requests": 0}
    assert rates(changed(**before)) == (0.9, {"accesses": 10.0, "reads": 0.0, "writes": 2.5, "commits": 0.0})
    assert rates(changed(**before | {"read_requests": 1}))[1]["reads"] is None
    for other in (changed(2.0, **before), changed(pid=2, **before)):
        assert rates(other) == (None, dict.fromkeys(("accesses", "reads", "writes", "commits")))


@pytest.mark.parametrize("order", documents.SORTS)
def test_files_of_several_caches_are_merged_in_their_order(volume: Volume, socket: str, order: str) -> None:
    """The option has the orders of the server."""
    path = f"{socket}-2"
    with (
        PageCache("1MiB", dirty_expire=3600.0) as other,
        other.attach("memory:", name="store").open("a", "w+b") as file,
    ):
        other.serve_stats(path)
        file.write(b"x" * 4 * PAGE)
        for _ in range(3):
            file.pread(1, 0)
        files = json.loads(call("--json", "--sort", order, path, socket).stdout)["files"]
    found = [file["key"] for file in files]
    assert sorted(found) == ["a", "clean", HOSTILE]
    first = {"failed": HOSTILE, "age": HOSTILE, "unstable": None}.get(order, "a")
    assert first in (found[0], None)


def test_tables_fit_their_width_and_name_the_columns_without_room(
    volume: Volume, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 columns off a terminal, or $COLUMNS; all of them with --wide."""
    plain = call("--once", socket).stdout
    assert max(map(cell_len, plain.splitlines())) <= 100
    assert "not shown (--wide shows all): " in plain
    wide = call("--once", "--wide", socket).stdout
    assert "not shown" not in wide
    assert all(f" {name}" in wide for name in ("CLEAN IN", "QUEUE", "COMMIT/S", "BACKEND"))
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(cell_len, call("--once", socket).stdout.splitlines())) <= 60


def test_an_unreadable_socket_is_exit_status_1_and_the_others_are_shown(
    volume: Volume, socket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that hangs, one that is not there, and one without the fields of a document."""
    fake, none = Fake(tmp_path / "fake"), str(tmp_path / "none")
    with hanging(tmp_path / "hangs") as hangs:
        monkeypatch.setattr(figures, "ask", lambda path, *a, **o: ask(path, *a, **o | limit(path == hangs)))
        result = call("--once", str(hangs), none, fake.path, socket, socket)
        document = json.loads(call("--json", str(hangs), none, fake.path).stdout)
    fake.stop()
    assert result.exit_code == 1
    assert result.stdout.count("12K not saved") == 1
    assert f"pagecache top: {none}: no such socket" in result.stderr
    assert "no answer within 0.05 s" in result.stderr
    kinds = [cache["error"]["kind"] for cache in document["caches"]]
    assert kinds == ["TooSlow", "NoSocket", "NotPagecache"]


def limit(hangs: bool) -> dict[str, Any]:
    return {"timeout": 0.05 if hangs else TIMEOUT_S}


def test_sockets_are_found_or_wrong_usage(volume: Volume, socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are options that make no sense."""
    result = call("--once")
    assert result.exit_code == 2
    assert result.stderr.startswith("main top: no socket found: serve one by cache.serve_stats(path)")
    monkeypatch.setenv("PAGECACHE_SOCKET", socket)
    assert call("--once").exit_code == 0
    for options in ["--interval 0", "--interval x", "--files -1", "--files 1001", "--sort size"]:
        assert call(socket, *options.split()).exit_code == 2


def test_output_off_a_terminal_comes_once_with_a_note(volume: Volume, socket: str) -> None:
    result = call(socket)
    assert (result.exit_code, result.stderr) == (0, "pagecache top: not a terminal: shown once\n")
    assert "12K not saved" in result.stdout


def test_ctrl_c_does_not_wait_for_an_owner_that_hangs(tmp_path: Path) -> None:
    code = "from pagecache.cli.top import figures as f; f.TIMEOUT_S = 1000.0; from pagecache.cli import main; main()"
    with hanging(tmp_path / "s") as path:
        command = [sys.executable, "-c", code.replace("main()", "print('begins', flush=True); main()")]
        with subprocess.Popen([*command, "top", "--once", path], stdout=-1, stderr=-1, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            wait_connected(path)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stdout, stderr) == (130, "", "interrupted: nothing was changed\n")


def wait_connected(path: Path) -> None:
    """Wait until a client of a socket that never accepts waits for its answer."""
    while sum(str(path) in line for line in Path("/proc/net/unix").read_text().splitlines()) < 2:
        os.sched_yield()


def test_the_live_view_is_refreshed_until_ctrl_c(volume: Volume, socket: str) -> None:
    """No escape sequence of a key reaches the terminal."""
    terminal = Terminal("top", "--interval", "0.1", socket)
    terminal.shows("12K not saved")
    terminal.shows(SHOWN)
    file = volume.open("more", "w+b")
    file.write(b"x" * PAGE)
    terminal.shows("16K not saved")
    assert b"\x1b[31mred" not in terminal.output
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end(OLD_SCREEN) == 130
    raises(OSError, file.close)


def test_a_cache_that_is_closed_is_gone_and_its_successor_is_shown(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with PageCache("1MiB") as cache:
        cache.serve_stats(path)
        terminal = Terminal("top", "--interval", "0.1", path)
        terminal.shows("all saved")
    terminal.shows("gone  no such socket")
    with PageCache("1MiB") as successor:
        successor.serve_stats(path)
        terminal.shows("all saved")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end(OLD_SCREEN) == 130
