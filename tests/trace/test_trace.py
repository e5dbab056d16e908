"""`PageCache.trace`: what is in the file, and what becomes of it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache, PageCacheError
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultyBackend, Gate, LatencyBackend, Rule

from ..file.rig import ONCE, PAGE, QUIET, Log, Patch, Task, eventually, pattern, raises

KEY = "data"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "trace.json"


@pytest.fixture
def cache() -> Iterator[PageCache]:
    with PageCache("1MiB", **QUIET, retry=ONCE) as cache:
        yield cache


def events(out: Path, category: str | None = None) -> list[dict[str, Any]]:
    """The slices of a file, by their beginning."""
    found = [e for e in json.loads(out.read_text())["traceEvents"] if e["ph"] == "X"]
    assert all(e["dur"] >= 0 for e in found)
    return sorted((e for e in found if category in (None, e["cat"])), key=lambda e: e["ts"])


def track(out: Path, event: dict[str, Any]) -> str:
    """The name of the thread of a slice."""
    tracks = {e["tid"]: e["args"]["name"] for e in json.loads(out.read_text())["traceEvents"] if e["ph"] == "M"}
    return str(tracks[event["tid"]])


def test_calls_of_the_backend_and_waits_are_slices_with_file_range_and_thread(cache: PageCache, out: Path) -> None:
    """By bytes, by names and commits; those of other caches are not in it. A wait is around what it waits for."""
    store = FaultyBackend(LatencyBackend(MemoryBackend()))  # not prompt: the volume's threads make the calls
    with PageCache("1MiB") as other, cache.trace(out):
        other.attach("memory:").open("else", "wb").close()
        volume = cache.attach(store, name="store", prompt=False)
        with volume.open(KEY, "w+b") as file:
            file.pwrite(b"x" * PAGE, PAGE)
            store.use([Rule("write", error=OSError(5, "broken"), times=1)])
            raises(OSError, file.fsync, match="broken")
            file.fsync()
        volume.drop_clean()
        with volume.open(KEY) as file:
            file.pread(10, PAGE)
        volume.rename(KEY, "moved")
    calls = events(out, "backend")
    wanted = ("write_from", "write_from", "commit", "read_into", "rename")
    found = [e for e in calls if e["name"] in wanted]
    assert [e["name"] for e in found] == list(wanted)
    assert [bool(e["args"].get("failed")) for e in found] == [True, False, False, False, False]
    assert {"open", "stat"} & {e["name"] for e in calls}
    assert found[1]["args"] == {"volume": "store", "file": "moved", "offset": PAGE, "length": PAGE}
    assert track(out, found[1]).startswith("pagecache-store-")
    assert all(e["args"].get("file") in (KEY, "moved") for e in calls)
    waits = events(out, "wait")
    fsync = [e for e in waits if e["name"] == "wait: fsync"][-1]
    assert track(out, fsync) == threading.current_thread().name
    assert found[2]["ts"] + found[2]["dur"] <= fsync["ts"] + fsync["dur"]
    assert any(e["name"] == "wait: the backend's open" for e in waits)


def test_what_has_not_ended_is_in_the_file(cache: PageCache, out: Path) -> None:
    """The wait, the call that it is for, and the line that this has reached."""
    store = FaultyBackend(MemoryBackend())
    with Gate() as gate, cache.attach(store, name="store", prompt=False).open(KEY, "w+b") as file:
        file.pwrite(b"x", 0)
        store.use([Rule("commit", gate=gate)])
        with cache.trace(out):
            saving = Task(file.fsync)
            gate.wait_entered()
            eventually(lambda: any(wait.owner for wait in cache.waits()))
        gate.release()
        saving.result()
    (left,) = events(out, "unfinished")
    assert (left["name"], left["args"]["call"]) == ("wait: fsync", "a commit of the backend")


def test_a_full_trace_keeps_the_newest_events_and_counts_the_others(cache: PageCache, out: Path, caplog: Log) -> None:
    with cache.attach("memory:").open(KEY, "w+b") as file, cache.trace(out, records=3) as trace:
        for page in range(20):
            file.pwrite(pattern(PAGE), page * PAGE)
            file.flush()
    found = events(out)
    assert (trace.records, len(found)) == (4, 4)
    assert trace.dropped >= 16
    assert [e for e in found if e["args"].get("offset") == 19 * PAGE]
    assert f"the {trace.dropped} oldest events were dropped" in caplog.text
    assert json.loads(out.read_text())["otherData"]["dropped"] == trace.dropped


def test_a_trace_that_cannot_be_made_is_refused_before_the_body(cache: PageCache, tmp_path: Path, out: Path) -> None:
    for path, error in [(tmp_path, IsADirectoryError), (tmp_path / "no" / "t", FileNotFoundError)]:
        with pytest.raises(error), cache.trace(path):
            raise AssertionError("the body ran")
    for records in (0, 1, 1 << 25):
        raises(ValueError, cache.trace, out, records=records, match="records")
    with pytest.raises(TypeError, match="records"):
        cache.trace(out, records="many")  # type: ignore[arg-type]
    other = cache.trace(tmp_path / "other")
    with cache.trace(out) as trace, pytest.raises(PageCacheError, match="runs already"):
        other.__enter__()
    with pytest.raises(RuntimeError, match="used once"), trace:
        raise AssertionError("the body ran")
    assert os.listdir(tmp_path) == ["trace.json"]


def test_the_file_is_whole_or_not_there(cache: PageCache, out: Path, monkeypatch: Patch, caplog: Log) -> None:
    """An error of the file is raised, and only logged beside that of the body."""

    def full(*_: object) -> None:
        raise OSError(28, "no space")

    with pytest.raises(KeyError), cache.trace(out):
        raise KeyError("of the body")
    assert events(out) == []
    out.unlink()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"), cache.trace(out):
        pass
    with pytest.raises(KeyError), cache.trace(out):
        raise KeyError("of the body")
    assert "was not written" in caplog.text
    assert os.listdir(out.parent) == []
    monkeypatch.undo()
    with cache.trace(out):
        assert cache.native.tracing
    assert not cache.native.tracing


def test_a_forked_child_leaves_the_file_to_its_parent(cache: PageCache, out: Path) -> None:
    trace = cache.trace(out)
    with trace:
        cache.attach("memory:").open(KEY, "wb").close()
        pid = os.fork()
        if pid == 0:
            try:
                trace.__exit__(None, None, None)
            finally:
                os._exit(0 if not out.exists() else 1)
        assert os.waitpid(pid, 0)[1] == 0
    assert [e["name"] for e in events(out)]


def test_a_cache_that_is_closed_inside_is_traced_to_its_end(out: Path) -> None:
    cache = PageCache("1MiB", **QUIET)
    with cache.trace(out):
        file = cache.attach("memory:").open(KEY, "wb")
        file.write(b"x")
        file.close()
        cache.close()
    assert "write_from" in [e["name"] for e in events(out)]


@pytest.mark.parametrize("key", ["a/b", 7, Path("x"), "caf\u00e9", "\udc80"])
def test_keys_are_text(cache: PageCache, out: Path, key: Any) -> None:
    with cache.trace(out), cache.attach("memory:").open(key, "wb") as file:
        file.write(b"x")
    text = {e["args"].get("file") for e in events(out, "backend")}
    assert text == {str(key).encode("utf-8", "backslashreplace").decode()}
