"""Each duration is measured once: the register of waits, latency and a trace agree to the nanosecond."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecache import CachedFile, PageCache, Volume, native
from pagecache.backends import MemoryBackend
from pagecache.native import READ_CALL, WAITS, WRITE_CALL, WaitRecord
from pagecache.testing import FaultPlan, FaultyBackend, Gate, Rule

from .reading import Slice, TraceFile

PAGE = 4096


class Rig:
    """A traced cache over a backend that a test can hold; its writes are not sent without a request."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "trace.json"
        self.backend = FaultyBackend(MemoryBackend(), FaultPlan())
        self.cache = PageCache("1MiB", max_folio=PAGE, dirty_expire=3600, flush_interval=600)
        self.volume: Volume = self.cache.attach(self.backend, read_ahead=0)
        self.file: CachedFile = self.volume.open("key", "w+")
        self.file.pwrite(b"x" * 8 * PAGE, 0)
        self.file.fsync()
        self.began = 0
        self.engine = next(iter(self.cache._engine_volumes()))

    def wait_of(self, thread: threading.Thread) -> WaitRecord:
        """The wait of a thread, once it sleeps; not the short one for `canonical`."""
        while True:
            found = [r for r in native.waits(self.cache.native.core) if r.thread == thread.ident]
            if found and getattr(found[0].reason, "what", "") != "the backend's canonical":
                return found[0]
            thread.join(0.001)
            assert thread.is_alive()

    def trace_while_held(self, method: str, first: Callable[[], object], second: Callable[[], object]) -> WaitRecord:
        """Hold `first` in the backend's method while `second` waits for it; return the record of that wait."""
        with Gate() as gate:
            trace = self.cache.trace(self.path)
            with trace:
                self.began = trace._start
                self.backend.use([Rule(method, nth=1, gate=gate)])
                threads = [threading.Thread(target=first)]
                threads[0].start()
                gate.wait_entered()
                threads.append(threading.Thread(target=second))
                threads[1].start()
                record = self.wait_of(threads[1])
                gate.release()
                for thread in threads:
                    thread.join(60)
        return record

    def read(self) -> TraceFile:
        trace = TraceFile(self.path)
        assert trace.faults == []
        return trace

    def spent(self, call: int) -> tuple[int, float]:
        """The number of calls that latency has counted, and their nanoseconds."""
        counts, seconds = self.engine.native.latency(call)
        return sum(counts), seconds * 1e9


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.backend.use([])
    rig.cache.close(timeout=60, on_failed="discard")


def same(rig: Rig, record: WaitRecord, shown: Slice) -> bool:
    return rig.began + shown.start == record.since_ns


def test_a_wait_of_the_core_begins_in_the_register_when_it_begins_in_the_trace(rig: Rig) -> None:
    rig.volume.drop_clean()
    record = rig.trace_while_held("read", lambda: rig.file.pread(10, 0), lambda: rig.file.pread(10, 100))
    shown = max(
        rig.read().named("wait: folio"), key=lambda wait: wait.start
    )  # the first reader waits for the same folio
    assert record.kind == WAITS["folio"]
    assert same(rig, record, shown)
    assert (shown.args["offset"], shown.args["length"]) == (record.pos, record.end - record.pos) == (0, PAGE)


def test_a_wait_of_the_engine_is_one_slice_under_the_kind_that_the_register_has(rig: Rig) -> None:
    rig.file.pwrite(b"new", 0)
    record = rig.trace_while_held("write", lambda: rig.file.flush(), lambda: rig.file.fsync())
    trace = rig.read()
    (shown,) = [s for s in trace.named("wait: sync") if same(rig, record, s)]
    assert record.kind == WAITS["sync"]
    sync = trace.only("fsync")
    assert sync.track == shown.track
    assert [s for s in trace.slices if s.category == "wait" and s.track == sync.track] == [shown]
    assert sync.start <= shown.start <= shown.end <= sync.end


def test_a_wait_that_only_its_reason_names_has_that_name_in_the_trace(rig: Rig) -> None:
    def opened() -> None:
        rig.volume.open("other", "w+").close()

    record = rig.trace_while_held("open", opened, opened)
    trace = rig.read()
    assert record.kind == WAITS["reason"]
    assert record.reason.what == "the name"
    assert same(rig, record, trace.only("wait: the name"))
    assert trace.named("wait: the backend's open")[0].track != trace.only("wait: the name").track


def test_a_reader_sees_the_wait_for_room_with_its_bytes_and_only_while_it_waits(rig: Rig) -> None:
    rig.cache.configure(dirty_background=2 * PAGE, dirty_limit=4 * PAGE)
    record = rig.trace_while_held(
        "write", lambda: rig.file.pwrite(b"a" * 4 * PAGE, 0), lambda: rig.file.pwrite(b"b" * PAGE, 7 * PAGE)
    )
    shown = next(s for s in rig.read().named("wait: room") if same(rig, record, s))
    assert record.kind == WAITS["room"]
    assert (record.pos, record.end) == (7 * PAGE, 8 * PAGE)
    assert (shown.args["offset"], shown.args["length"]) == (7 * PAGE, PAGE)


def test_a_call_of_the_backend_takes_as_long_in_its_histogram_as_in_the_trace(rig: Rig) -> None:
    rig.volume.drop_clean()
    reads, read_ns = rig.spent(READ_CALL)
    writes, write_ns = rig.spent(WRITE_CALL)
    with rig.cache.trace(rig.path):
        for k in range(8):
            rig.file.pread(10, k * PAGE)
            rig.file.pwrite(b"y", k * PAGE)
        rig.file.fsync()
    trace = rig.read()
    for name, call, before, before_ns in (
        ("read_into", READ_CALL, reads, read_ns),
        ("write_from", WRITE_CALL, writes, write_ns),
    ):
        calls, total = rig.spent(call)
        shown = trace.named(name)
        assert len(shown) == calls - before > 0
        assert sum(s.end - s.start for s in shown) == pytest.approx(total - before_ns, abs=1)


def test_a_call_that_raises_ends_once_in_both(rig: Rig) -> None:
    rig.volume.drop_clean()
    before, before_ns = rig.spent(READ_CALL)
    rig.backend.use([Rule("read", nth=1, error=OSError(5, "no"))])
    with rig.cache.trace(rig.path):
        rig.file.pread(10, 0)
    failed, done = rig.read().named("read_into")
    assert failed.args["failed"]
    assert "failed" not in done.args
    calls, total = rig.spent(READ_CALL)
    assert calls - before == 2
    assert sum(s.end - s.start for s in (failed, done)) == pytest.approx(total - before_ns, abs=1)


def test_a_call_of_the_backend_has_run_in_a_report_since_it_began_in_the_trace(rig: Rig) -> None:
    rig.volume.drop_clean()
    with Gate() as gate:
        trace = rig.cache.trace(rig.path)
        with trace:
            rig.began = trace._start
            rig.backend.use([Rule("read", nth=1, gate=gate)])
            reading = threading.Thread(target=rig.file.pread, args=(10, 0))
            reading.start()
            gate.wait_entered()
            (running,) = [op for op in native.operations(rig.cache.native.core) if op.in_call]
            gate.release()
            reading.join(60)
    assert rig.began + rig.read().only("read_into").start == running.since_ns
