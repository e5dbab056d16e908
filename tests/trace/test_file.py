"""The file of a trace: whole or not at all, in a format that readers take, whatever happens around it."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecache
from pagecache import CachedFile, PageCache
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultPlan, FaultyBackend, Gate, Rule

from .reading import TraceFile


@pytest.fixture
def cache() -> Iterator[PageCache]:
    with PageCache("4MiB") as cache:
        yield cache


@pytest.fixture
def opened(cache: PageCache) -> Iterator[CachedFile]:
    with cache.attach("memory:").open("key", "w+") as file:
        yield file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.json"


def only_file(path: Path) -> bool:
    """Return whether its folder has no other file."""
    return [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_event_takes_as_many_bytes_as_the_page_says(cache: PageCache, opened: CachedFile, path: Path) -> None:
    """120 to 180, as docs/how-to/trace.md says; keys and numbers are short here."""
    with cache.trace(path):
        for page in range(200):
            opened.pwrite(b"x" * 100, page * 4096)
        opened.fsync()
        for page in range(200):
            opened.pread(100, page * 4096)
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    assert len(events) > 400
    assert 100 < path.stat().st_size / len(events) < 200


def test_an_empty_trace_is_a_valid_file(cache: PageCache, path: Path) -> None:
    with cache.trace(path) as trace:
        assert trace.path == str(path)
        assert trace.records == 1 << 18
    found = TraceFile(path)
    assert found.faults == []
    assert found.other["pagecache"] == pagecache.__version__
    assert found.other["records"] == 1 << 18
    assert found.other["dropped"] == 0
    assert only_file(path)


def test_every_kind_of_call_is_a_slice(cache: PageCache, path: Path) -> None:
    """The test makes one of each: their names are in the file, and none of them is more than one slice."""
    volume = cache.attach("memory:")
    with cache.trace(path):
        file = volume.open("key", "w+")
        file.pwrite(b"12345678", 0)
        file.pwritev([b"a", b"b"], 8)
        file.append(b"c")
        file.seek(0)
        file.write(b"d")
        file.read(1)
        file.readinto(bytearray(2))
        file.pread(2, 0)
        file.pread_into(bytearray(2), 0)
        file.preadv([bytearray(1), bytearray(1)], 0)
        file.try_pread(2, 0)
        file.try_pwrite(b"e", 0)
        file.view(0, 4).release()
        file.flush()
        file.truncate(4)
        file.punch_hole(0, 2)
        file.zero_range(0, 2)
        file.prefetch()
        file.fsync()
        file.close()
    found = TraceFile(path)
    assert found.faults == []
    calls = [s.name for s in found.slices if s.category == "call"]
    wanted = """pwrite pwritev append write read readinto pread pread_into preadv try_pread try_pwrite view flush
        truncate punch_hole zero_range prefetch fsync close"""
    assert {*wanted.split()} <= {*calls}
    assert calls.count("pwrite") == calls.count("pread") == calls.count("try_pwrite") == 1
    assert found.only("pread").args == {"file": "key", "volume": found.only("pread").args["volume"]} | {
        "offset": 0,
        "length": 2,
        "result": 2,
    }
    assert {"open"} <= {s.name for s in found.slices if s.category == "engine"}


def test_threads_have_their_names(cache: PageCache, path: Path) -> None:
    volume = cache.attach("memory:", name="store", prompt=False)
    with volume.open("key", "w+") as file, cache.trace(path):
        for name in ("one", "two"):  # one after the other: the system may give the second the number of the first
            thread = threading.Thread(target=file.pwrite, args=(b"x", 0), name=f"writer {name} ☃")
            thread.start()
            thread.join()
        file.pread(1, 0)
        file.fsync()
    found = TraceFile(path)
    assert found.faults == []
    assert [found.tracks[s.track] for s in found.named("pwrite")] == ["writer one ☃", "writer two ☃"]
    assert found.tracks[found.only("pread").track] == "MainThread"
    assert found.tracks[found.only("write_from").track].startswith("pagecache-store-")
    assert found.tracks[found.only("commit").track].startswith("pagecache-store-")


@pytest.mark.parametrize(("prompt", "kind"), [(True, "fill"), (False, "folio")])
def test_a_wait_and_a_miss_are_within_their_call(path: Path, prompt: bool, kind: str) -> None:
    backend = FaultyBackend(MemoryBackend(), FaultPlan())
    with PageCache("1MiB") as cache, cache.attach(backend, read_ahead=0, prompt=prompt).open("key", "w+") as file:
        file.pwrite(b"x" * 8192, 0)
        file.fsync()
        file.volume.drop_clean()
        with cache.trace(path):
            file.pread(10, 0)
    found = TraceFile(path)
    assert found.faults == []
    read, wait, call = found.only("pread"), found.only(f"wait: {kind}"), found.only("read_into")
    assert read.start <= wait.start <= call.start <= call.end <= wait.end <= read.end
    assert (read.track == wait.track, wait.track == call.track) == (True, prompt)


# -- overrun


def test_the_newest_records_are_kept_and_the_others_counted_and_said_once(
    cache: PageCache, opened: CachedFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = opened
    with caplog.at_level(logging.WARNING, "pagecache"), cache.trace(path, records=100) as trace:
        assert trace.records == 128
        for k in range(1000):
            file.pread(1, k)
    found = TraceFile(path)
    assert found.faults == []
    offsets = [s.args["offset"] for s in found.named("pread")]
    assert offsets == list(range(1000 - len(offsets), 1000))
    assert 100 < len(offsets) <= 128
    assert found.other["dropped"] == trace.dropped >= 1000 - 128
    assert found.other["kept"] + found.other["dropped"] >= 1000
    assert [r.message for r in caplog.records if "dropped" in r.message] == [r.message for r in caplog.records]
    assert len(caplog.records) == 1
    assert "records=1024" in caplog.records[0].message


def test_arrows_of_what_is_left_after_an_overrun_are_right(cache: PageCache, opened: CachedFile, path: Path) -> None:
    file = opened
    with cache.trace(path, records=64):
        for k in range(200):
            file.pwrite(b"x", 4096 * (k % 10))
        file.fsync()
    found = TraceFile(path)
    assert found.faults == []
    for write in found.named("pwrite")[-10:]:
        assert found.stations(write) == [["write_from", "commit"]]


@pytest.mark.parametrize(("records", "error"), [(1, ValueError), (1 << 25, ValueError), ("many", TypeError)])
def test_a_wrong_number_of_records_is_said_at_once(
    cache: PageCache, path: Path, records: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="records"):
        cache.trace(path, records=records)


# -- failing output


def entered(cache: PageCache, path: Any) -> None:
    with cache.trace(path):
        raise AssertionError("the body must not run")


def test_a_path_that_cannot_be_written_is_an_error_before_the_body(cache: PageCache, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        entered(cache, tmp_path / "no" / "trace.json")
    assert missing.value.filename == str(tmp_path / "no" / "trace.json")
    with pytest.raises(IsADirectoryError):
        entered(cache, tmp_path)
    with pytest.raises(NotADirectoryError):
        (tmp_path / "file").touch()
        entered(cache, tmp_path / "file" / "trace.json")
    with pytest.raises(OSError, match="not a regular file"):
        entered(cache, "/dev/null")
    with pytest.raises(TypeError):
        entered(cache, 7)
    assert os.listdir(tmp_path) == ["file"]
    with cache.trace(tmp_path / "file"):
        pass  # none of these has left a trace running


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error_before_the_body(cache: PageCache, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        entered(cache, tmp_path / "trace.json")


def test_a_file_that_is_there_is_replaced_when_the_trace_is_whole(cache: PageCache, path: Path) -> None:
    path.write_text("before")
    link = path.with_name("link")
    link.symlink_to(path)
    with cache.trace(link):
        assert path.read_text() == "before"
    assert TraceFile(path).faults == []
    assert link.is_symlink()


def test_an_error_while_writing_leaves_no_half_file(cache: PageCache, path: Path) -> None:
    """Its folder disappears in the meantime. The trace still ends, and another one can begin."""
    folder = path.parent / "folder"
    folder.mkdir()
    with pytest.raises(FileNotFoundError), cache.trace(folder / "trace.json"):
        shutil.rmtree(folder)
    with cache.trace(path):
        pass
    assert only_file(path)


def test_an_error_in_the_middle_of_writing_leaves_what_was_there(
    cache: PageCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text("before")
    monkeypatch.setattr("pagecache.observe.tracing.chrome.Writer._unfinished", lambda self: os.write(-1, b""))
    with pytest.raises(OSError, match="Bad file descriptor"), cache.trace(path):
        pass
    assert path.read_text() == "before"
    assert only_file(path)


def test_the_bodys_own_exception_is_the_primary_one(
    cache: PageCache, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = path.parent / "folder"
    folder.mkdir()
    with pytest.raises(KeyError), cache.trace(folder / "trace.json"):
        shutil.rmtree(folder)
        raise KeyError("the body's")
    assert "was not written" in caplog.text
    with pytest.raises(KeyError), cache.trace(path):
        with cache.attach("memory:").open("key", "w") as file:
            file.write(b"x")
        raise KeyError("the body's")
    assert len(TraceFile(path).named("write")) == 1


# -- more than one


def test_a_cache_has_one_trace_at_a_time(cache: PageCache, path: Path) -> None:
    with cache.trace(path):
        with pytest.raises(pagecache.PageCacheError, match="already") as second:
            entered(cache, path.with_name("other"))
        assert second.value.errno == errno.EBUSY
    assert only_file(path)


def test_a_trace_is_used_once(cache: PageCache, path: Path) -> None:
    trace = cache.trace(path)
    with trace:
        pass
    with pytest.raises(RuntimeError, match="once"), trace:
        pass


def test_caches_are_traced_each_by_itself(path: Path) -> None:
    """One cache stores into another; two traces overlap, and each has its own calls only."""

    class Stacked(MemoryBackend):
        def open(self, key: Any, **options: Any) -> Any:
            return inner_volume.open(key, "r+" if inner_volume.exists(key) else "w+")

    inner_path, outer_path = path.with_name("inner"), path.with_name("outer")
    with PageCache("1MiB") as inner, PageCache("1MiB") as outer:
        inner_volume = inner.attach("memory:")
        low = inner_volume.open("low", "w+")
        high = outer.attach("memory:").open("high", "w+")
        with inner.trace(inner_path):
            low.pwrite(b"1", 0)
            with outer.trace(outer_path):
                high.pwrite(b"2", 0)
                low.pwrite(b"3", 0)
                high.fsync()
            low.fsync()
    assert [s.args["file"] for s in TraceFile(inner_path).named("pwrite")] == ["low", "low"]
    assert [s.args["file"] for s in TraceFile(outer_path).named("pwrite")] == ["high"]
    for one in (TraceFile(inner_path), TraceFile(outer_path)):
        assert one.faults == []
        assert one.stations(one.named("pwrite")[-1]) == [["write_from", "commit"]]


# -- caches that close or fork inside


def test_a_cache_that_is_closed_inside_is_traced_to_its_end(path: Path) -> None:
    cache = PageCache("1MiB")
    file = cache.attach("memory:").open("key", "w+")
    with cache.trace(path):
        file.pwrite(b"x", 0)
        cache.close()
    found = TraceFile(path)
    assert found.faults == []
    assert found.stations(found.only("pwrite")) == [["write_from", "commit"]]
    with pytest.raises(pagecache.ShutdownError):
        cache.trace(path)


def test_a_trace_of_a_cache_that_was_closed_before_it_was_entered(path: Path) -> None:
    cache = PageCache("1MiB")
    trace = cache.trace(path)
    cache.close()
    with pytest.raises(pagecache.ShutdownError), trace:
        pass
    assert not path.exists()


def test_a_forked_child_writes_nothing_and_the_parent_all(cache: PageCache, opened: CachedFile, path: Path) -> None:
    child = -1
    try:
        with cache.trace(path):
            opened.pwrite(b"x", 0)
            child = os.fork()
            if child == 0:
                raise InterruptedError  # leaves the block, as any exception would
            _, status = os.waitpid(child, 0)
            assert not path.exists()
    finally:
        if child == 0:
            os._exit(1 if path.exists() else 0)
    assert status == 0
    found = TraceFile(path)
    assert found.faults == []
    assert len(found.named("pwrite")) == 1
    assert only_file(path)


class Odd:
    """A key with a defective text."""

    def __repr__(self) -> str:
        return 'odd \udcff \x00 " \\ </script>'


@pytest.mark.parametrize("key", ["plain", b"\xff\xfe", "\udcff\ud800", ("a", 1), Odd(), 'quo"te\n'])
def test_keys_that_are_no_text_are_shown_as_text(cache: PageCache, path: Path, key: Hashable) -> None:
    with cache.trace(path), cache.attach(MemoryBackend(), name='vol"ume\udc80').open(key, "w+") as file:
        file.pwrite(b"x", 0)
        file.fsync()
    found = TraceFile(path)
    assert found.faults == []
    text = found.only("pwrite").args["file"]
    assert text
    text.encode("utf-8")  # no half characters
    if key == "plain":
        assert text == "plain"


def test_a_file_that_was_closed_or_renamed_is_named(cache: PageCache, path: Path) -> None:
    volume = cache.attach("memory:")
    with cache.trace(path):
        with volume.open("old", "w+") as file:
            file.pwrite(b"x", 0)
        volume.rename("old", "new")
        with volume.open("gone", "w+") as file:
            file.pwrite(b"yy", 0)
        volume.remove("gone")
        volume.detach()
    found = TraceFile(path)
    assert found.faults == []
    assert found.only("pwrite", length=1).args["file"] in ("old", "new")
    assert found.only("pwrite", length=2).args["file"] == "gone"


def test_running_calls_are_shown_up_to_the_end(path: Path) -> None:
    backend = FaultyBackend(MemoryBackend(), FaultPlan())
    with PageCache("1MiB") as cache, Gate() as gate:
        file = cache.attach(backend).open("key", "w+")
        with cache.trace(path):
            backend.use([Rule("commit", gate=gate)])
            file.pwrite(b"x", 0)
            syncing = threading.Thread(target=file.fsync)
            syncing.start()
            gate.wait_entered()
        found = TraceFile(path)
        gate.release()
        syncing.join(20)
    assert found.faults == []
    assert {s.name for s in found.slices if s.args.get("unfinished")} >= {"fsync", "commit"}
    assert found.stations(found.only("pwrite")) == [["write_from"]]
