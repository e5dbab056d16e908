"""The arrows of a write lead from its call to the commit that made it durable, and nowhere else."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecache
from pagecache import CachedFile, PageCache, RetryPolicy, Volume
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultPlan, FaultyBackend, Gate, Rule

from .reading import TraceFile

QUICK = RetryPolicy(first_delay=0.001, max_delay=0.002)


class Rig:
    """A cache that writes nothing back by itself, over a backend with settable faults."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "trace.json"
        self.backend = FaultyBackend(MemoryBackend(), FaultPlan())
        self.cache = PageCache("4MiB", max_folio=4096, dirty_expire=3600, flush_interval=600, retry=QUICK)
        self.volume: Volume = self.cache.attach(self.backend, name="store")
        self.file: CachedFile = self.volume.open("key", "w+")

    def read(self) -> TraceFile:
        """Read the trace and check that it is valid."""
        trace = TraceFile(self.path)
        assert trace.faults == []
        assert trace.other["dropped"] == 0
        return trace


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.backend.use([])
    rig.cache.close(timeout=20, on_failed="discard")


def test_a_write_leads_to_its_request_and_its_commit_and_that_to_the_fsync_that_waited(rig: Rig) -> None:
    with rig.cache.trace(rig.path):
        rig.file.pwrite(b"x" * 100, 0)
        rig.file.fsync()
    trace = rig.read()
    write, commit, sync = trace.only("pwrite"), trace.only("commit"), trace.only("fsync")
    assert trace.stations(write) == [["write_from", "commit"]]
    assert write.following[0][1:] == [trace.only("write_from"), commit]
    assert commit.following == [[commit, sync]]
    assert write.args["file"] == "key"
    assert write.args["volume"] == "store"
    assert (write.args["offset"], write.args["length"]) == (0, 100)


def test_writes_of_one_request_have_an_arrow_each_and_a_read_has_none(rig: Rig) -> None:
    with rig.cache.trace(rig.path):
        for k in range(3):
            rig.file.pwrite(b"x" * 4096, 4096 * k)
        rig.file.pread(10, 0)
        rig.file.fsync()
    trace = rig.read()
    assert [trace.stations(write) for write in trace.named("pwrite")] == [[["write_from", "commit"]]] * 3
    assert trace.only("pread").following == []
    assert len(trace.named("write_from")) == 1


def test_a_write_that_is_carried_by_two_requests_has_two_arrows(rig: Rig) -> None:
    with rig.cache.trace(rig.path):
        rig.file.pwritev([b"x" * 4096, b"y" * 4096], 0)
        rig.file.sync_range(0, 4096)
        rig.file.fsync()
    trace = rig.read()
    first, second = trace.named("write_from")
    ways = trace.only("pwritev").following
    assert [way[1:] for way in ways] == [[first, trace.only("commit")], [second, trace.only("commit")]]


def test_a_retry_is_a_station_of_its_own(rig: Rig) -> None:
    rig.backend.use([Rule("write", nth=1, error=errno.EIO)])
    with rig.cache.trace(rig.path):
        rig.file.pwrite(b"x" * 100, 0)
        rig.file.fsync()
    trace = rig.read()
    failed, sent = trace.named("write_from")
    assert failed.args.get("failed")
    assert not sent.args.get("failed")
    assert [way[1:] for way in trace.only("pwrite").following] == [[failed, sent, trace.only("commit")]]
    ends = [e["args"] for e in trace.events if e["ph"] == "e" and e["name"] == "write request"]
    assert [args["attempt"] for args in ends] == [1, 2]


def test_a_commit_that_failed_is_no_commit_of_the_write(rig: Rig) -> None:
    """Its bytes are sent again, and the arrow leads to the next commit."""
    rig.backend.use([Rule("commit", nth=1, error=errno.EIO)])
    with rig.cache.trace(rig.path):
        rig.file.pwrite(b"x" * 100, 0)
        rig.file.fsync()
    trace = rig.read()
    first, second = trace.named("write_from")
    failed, done = trace.named("commit")
    assert failed.args.get("failed")
    assert [way[1:] for way in trace.only("pwrite").following] == [[first, second, done]]
    assert failed.following == []


def test_a_page_written_again_in_flight_goes_with_the_next_request(rig: Rig) -> None:
    with Gate() as gate, rig.cache.trace(rig.path):
        rig.backend.use([Rule("write", nth=1, gate=gate)])
        rig.file.pwrite(b"old" * 10, 0)
        syncing = threading.Thread(target=rig.file.fsync)
        syncing.start()
        gate.wait_entered()
        rig.file.pwrite(b"new" * 5, 0)
        gate.release()
        syncing.join(20)
        rig.file.fsync()
    trace = rig.read()
    old, new = trace.named("pwrite")
    first, second = trace.named("write_from")
    one, two = trace.named("commit")
    assert [way[1:] for way in old.following] == [[first, one]]
    assert [way[1:] for way in new.following] == [[second, two]]
    early, late = trace.named("fsync")
    assert one.following == [[one, early]]
    assert two.following == [[two, late]]


def test_a_page_written_again_in_flight_of_a_call_that_fails(rig: Rig) -> None:
    """Half of the failed bytes are overwritten: that half has no further station, the other half goes on."""
    with Gate() as gate, rig.cache.trace(rig.path):
        rig.backend.use([Rule("write", nth=1, gate=gate, error=errno.EIO)])
        rig.file.pwrite(b"o" * 200, 0)
        rig.file.pwrite(b"g" * 50, 200)
        syncing = threading.Thread(target=rig.file.fsync)
        syncing.start()
        gate.wait_entered()
        rig.file.pwrite(b"n" * 100, 0)
        rig.file.pwrite(b"n" * 50, 200)
        gate.release()
        syncing.join(20)
        rig.file.fsync()
    trace = rig.read()
    half, gone, new, other = trace.named("pwrite")
    failed = trace.named("write_from")[0]
    resent = trace.named("write_from")[1]
    commit = trace.named("commit")[0]
    assert [way[1:] for way in half.following] == [[failed, resent, commit]]
    assert [way[1:] for way in gone.following] == [[failed]]
    for write in (new, other):
        assert [way[1:] for way in write.following] == [[resent, commit]]


def test_bytes_never_written_back_have_no_arrow(rig: Rig) -> None:
    with rig.cache.trace(rig.path):
        rig.file.pwrite(b"x", 0)
        rig.file.pwrite(b"kept", 8192)
        rig.file.sync_range(8192, 4)
    trace = rig.read()
    never, kept = trace.named("pwrite")
    assert never.following == []
    assert trace.stations(kept) == [["write_from"]]
    assert trace.named("commit") == []


def test_bytes_overwritten_cut_off_or_given_up_before_their_write_back_have_no_arrow(rig: Rig) -> None:
    with rig.cache.trace(rig.path):
        rig.file.pwrite(b"1" * 100, 0)
        rig.file.pwrite(b"2" * 100, 0)
        rig.file.pwrite(b"3" * 100, 4096)
        rig.file.truncate(4000)
        rig.file.pwrite(b"4" * 100, 16384)
        rig.volume.discard("key", 16384)
        with pytest.raises(pagecache.DataLossError):
            rig.file.fsync()
    trace = rig.read()
    ways = [trace.stations(write) for write in trace.named("pwrite")]
    assert ways == [[], [["write_from", "commit"]], [], []]


def test_bytes_acknowledged_and_then_cut_off_have_no_arrow_to_a_commit(rig: Rig) -> None:
    with rig.cache.trace(rig.path):
        rig.file.pwrite(b"1" * 100, 0)
        rig.file.pwrite(b"2" * 100, 8192)
        rig.file.flush()
        rig.file.truncate(4000)
        rig.file.fsync()
    trace = rig.read()
    assert [trace.stations(write) for write in trace.named("pwrite")] == [[["write_from", "commit"]], [["write_from"]]]


def test_an_fsync_of_earlier_writes_has_no_arrow_from_a_later_commit(rig: Rig) -> None:
    """Both concern one file and overlap in time; only the commit that the first waited for counts."""
    with Gate() as gate, rig.cache.trace(rig.path):
        rig.backend.use([Rule("commit", nth=1, gate=gate)])
        rig.file.pwrite(b"x", 0)
        first = threading.Thread(target=rig.file.fsync)
        first.start()
        gate.wait_entered()
        rig.file.pwrite(b"y", 8192)
        second = threading.Thread(target=rig.file.fsync)
        second.start()
        gate.release()
        first.join(20)
        second.join(20)
    trace = rig.read()
    early, late = trace.named("fsync")
    one, two = trace.named("commit")
    assert [early] in [way[1:] for way in one.following]
    assert [way[1:] for way in two.following] == [[late]]


def test_where_writes_are_durable_the_arrow_ends_at_the_request(tmp_path: Path) -> None:
    limits = pagecache.BackendLimits(durable_writes=True)
    cache = PageCache("1MiB")
    with cache.attach(MemoryBackend(limits=limits)).open("key", "w+") as file, cache.trace(tmp_path / "trace.json"):
        file.pwrite(b"x", 0)
        file.fsync()
    cache.close()
    trace = TraceFile(tmp_path / "trace.json")
    assert trace.faults == []
    assert trace.stations(trace.only("pwrite")) == [["write_from"]]
    sent = trace.only("write_from")
    assert sent.following == [[sent, trace.only("fsync")]]


def test_an_awaited_write_has_its_arrow_on_a_lane(rig: Rig) -> None:
    async def main() -> None:
        async with pagecache.aio.open(rig.volume, "other", "w+") as file:
            await asyncio.gather(*(file.pwrite(b"x" * 5000, 5000 * k) for k in range(5)))
            await file.append(b"end")
            await file.fsync()

    with rig.cache.trace(rig.path):
        asyncio.run(main())
    trace = rig.read()
    for write in [*trace.named("pwrite"), trace.only("append")]:
        assert trace.stations(write) == [["write_from", "commit"]]
        assert trace.tracks[write.track].startswith("awaited calls")
    commit, sync = trace.only("commit"), trace.only("fsync")
    assert commit.following == [[commit, sync]]


def test_a_write_that_ran_when_the_trace_was_stopped_is_shown_as_unfinished(rig: Rig) -> None:
    rig.cache.configure(dirty_background="16KiB", dirty_limit="32KiB")
    with Gate() as gate:
        rig.backend.use([Rule("write", gate=gate)])
        with rig.cache.trace(rig.path):
            writing = threading.Thread(target=rig.file.pwrite, args=(b"x" * 65536, 0))
            writing.start()
            gate.wait_entered()
        trace = TraceFile(rig.path)
        gate.release()
        writing.join(20)
    assert trace.faults == []
    assert any(s.args.get("unfinished") for s in trace.slices if s.name == "write_from")
