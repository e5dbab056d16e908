"""Writers of a volume that saves in the disk tier go on while the store hangs: their bytes leave memory for a spool."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import BackendProtocolError, CachedFile, ConflictError, DataLossError, ShutdownError
from pagecache.backends.spool import Spool
from pagecache.disk.device import OS
from pagecache.engine.commit import overlay as laying
from pagecache.engine.commit.owed import Growth, Rollback
from pagecache.engine.commit.staging import Staging
from pagecache.engine.io import collector
from pagecache.native import LOCK, TOKEN
from tests.disk.test_durability import World, clean
from tests.file.rig import Task, at_gate, beside, eventually, held, overlay, quiet, raises, raising, side_by_side
from tests.file.test_interrupts import interrupted_at
from tests.file.test_prompt import handled
from tests.stores import ObjectBackend, RecordingBackend

pytestmark = pytest.mark.contract("D1", "D3", "D6")

MIB = 1 << 20
OLD = random.Random(1).randbytes(MIB)


class Spilling(World):
    """A cache of 4 MiB with a tier, and the file "k" of a store of whole objects."""

    store: ObjectBackend

    def __init__(
        self,
        folder: Path,
        store: RecordingBackend | None = None,
        number: int = 0,
        *,
        limits: Any = None,
        **options: Any,
    ) -> None:
        if store is None:
            store = ObjectBackend({"k": OLD}, **limits or {})
        more = {"memory": "4MiB", "size": "64MiB", "throttle_timeout": 20.0, **options}
        super().__init__(folder, store, number, **more)

    def spill(self, file: CachedFile) -> int:
        """Move the dirty bytes of a file out of memory, as a writer without room does."""
        spills = self.volume.engine.spills
        assert spills is not None
        return spills.make_room(file._inode, locked=False)

    def evict(self) -> None:
        """Free the memory of clean bytes."""
        self.cache.resize("512KiB")
        self.cache.resize("4MiB")


@pytest.fixture
def world(tmp_path: Path) -> Spilling:
    return Spilling(tmp_path)


def written(file: CachedFile, length: int = 16 * MIB, *, seed: int = 2) -> bytes:
    """Write random bytes from the beginning, in pieces."""
    data = random.Random(seed).randbytes(length)
    for at in range(0, length, 300_000):
        file.pwrite(data[at : at + 300_000], at)
    return data


def test_four_times_the_memory_is_written_and_read_while_the_store_hangs(world: Spilling) -> None:
    world.hang()
    file = world.volume.open("k", "r+b")
    data = written(file)
    assert file.pread(len(data), 0) == data
    assert world.volume.stats().dirty <= 2 * MIB
    assert world.saved() == OLD
    assert len(file._inode.owed) == 1  # the size, once
    spool = file._inode.staging._spool
    assert spool is not None
    assert os.readlink(spool.path).startswith(str(world.tier))
    world.store.open_all_gates()
    file.fsync(durability="backend", timeout=60)
    assert world.saved() == data
    file.close()


def test_a_store_that_fails_keeps_no_writer(world: Spilling) -> None:
    for call in ("write_from", "commit", "truncate"):
        world.store.fault(call, OSError(errno.ECONNREFUSED, "the store is down"), times=math.inf)
    with world.volume.open("k", "r+b") as file:
        written(file)
        file.fsync()  # at the disk
        raises(OSError, file.fsync, durability="backend", timeout=0.5, match="the store is down")
        data = written(file, seed=3)
        assert file.pread(len(data), 0) == data
        world.store.clear_faults()
        world.volume.sync(60, durability="backend")
        assert world.saved() == data


def test_bytes_that_the_store_refuses_for_good_keep_no_writer(world: Spilling) -> None:
    world.store.fault("write_from", OSError(errno.EIO, "the store is broken"), times=math.inf)
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"x" * 1_400_000, 0)
        raises(OSError, file.fsync, durability="backend", timeout=20, match="the store is broken")
        eventually(lambda: world.volume.stats().failed > world.cache.limits.failed_limit)
        data = written(file, 4 * MIB)
        assert file.pread(len(data), 0) == data
        world.store.clear_faults()
        file.fsync(durability="backend", timeout=60)
    assert world.saved() == data


def test_background_passes_send_nothing_while_bytes_may_spill(tmp_path: Path) -> None:
    world = Spilling(tmp_path, limits={"write_unit": 4096})
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"x" * 65536, 0)  # whole units
        for _ in range(3):
            world.cache.flusher.turn()
        assert world.store.seen("write_from") == []
        assert world.volume.stats().dirty == 65536


def test_newer_bytes_in_memory_are_appended_and_not_those_of_the_spool(world: Spilling) -> None:
    expected = bytearray(b"spooled." * 1024)
    with world.volume.open("k", "r+b") as file:
        file.pwrite(expected, 0)
        world.spill(file)
        assert file._inode.drop_clean()
        for at in (1024, 6000):
            expected[at : at + 8] = b"newer..."
            file.pwrite(b"newer...", at)
        file.fsync()  # at the disk
        after = world.copied()
    assert after.read()[:8192] == expected


def test_beyond_its_limit_the_journal_lets_writers_wait_for_the_store(tmp_path: Path) -> None:
    world = Spilling(tmp_path, journal_limit="6MiB", throttle_timeout=0.3)
    world.hang()
    with world.volume.open("k", "r+b") as file:
        raises(BlockingIOError, written, file, match="throttled")
        spilled = world.volume.stats().details["staged"]
        assert 4 * MIB < spilled <= 6 * MIB + MIB // 2
        assert world.cache.stats().disk_bytes >= spilled
        world.store.open_all_gates()
        data = written(file)
        file.fsync(durability="backend", timeout=60)
        assert world.saved() == data


@pytest.mark.parametrize("what", ["spool", "journal"])
def test_clean_data_gives_way_to_unsaved_data(world: Spilling, what: str) -> None:
    world.store.put("big", random.Random(5).randbytes(80 * MIB))
    with world.volume.open("big") as big:
        eventually(lambda: big.pread(MIB, random.randrange(80) * MIB) and world.cache.stats().disk_bytes > 60 * MIB)
    world.hang()
    with world.volume.open("n", "w+b") as file:
        for at in range(24):
            file.pwrite(random.Random(at).randbytes(MIB), at % 3 * MIB if what == "journal" else at * MIB)
            if what == "journal":
                file.fsync()
            eventually(lambda: world.cache.stats().disk_bytes <= 65 * MIB)
        assert world.cache.stats().journal_bytes >= (20 * MIB if what == "journal" else 0)
        world.store.open_all_gates()


def test_spools_and_journal_together_take_no_more_than_the_tier_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`journal_limit` may be all of it."""
    world = Spilling(tmp_path, size="16MiB", journal_limit="16MiB")
    world.hang()
    file = world.open("k", "r+b")
    data = written(file, 14 * MIB)
    journal, sizes, grown = world.journal(), list[int](), world.journal()._grown

    def noted() -> None:
        sizes.append(journal.bytes + world.volume.engine.spooled_bytes())
        grown()

    monkeypatch.setattr(journal, "_grown", noted)
    sync = Task(file.fsync)
    eventually(lambda: len(sizes) > 0)
    world.store.open_all_gates()
    sync.result()
    assert max(sizes) <= 17 * MIB
    assert file.pread(len(data), 0) == data


def test_a_long_append_spills_what_it_has_written_itself(world: Spilling) -> None:
    world.hang()
    data = random.Random(3).randbytes(16 * MIB)
    with world.volume.open("log", "a+b") as file:
        file.write(data)
        assert file.pread(len(data), 0) == data
        world.store.open_all_gates()
        file.fsync(durability="backend", timeout=60)
    assert world.saved("log") == data


def test_small_files_that_are_not_spilled_are_sent_when_memory_is_short(world: Spilling) -> None:
    files = [world.volume.open(f"f{k}", "w+b") for k in range(80)]
    for k, file in enumerate(files):
        file.pwrite(bytes([k]) * 65536, 0)
    for k, file in enumerate(files):
        assert file.pread(1 << 20, 0) == bytes([k]) * 65536
        file.close()


def test_many_writers_that_lack_room_spill_side_by_side(world: Spilling) -> None:
    """Each file has fewer dirty bytes than the writer needs, so those of other files leave memory too."""
    world.hang()
    files = [world.open(f"f{k}", "w+b") for k in range(80)]
    contents = [random.Random(k).randbytes(200_000) for k in range(80)]

    def write(first: int) -> None:
        for k in range(first, 80, 4):
            files[k].pwrite(contents[k], 0)

    side_by_side(write, threads=4)
    for k in range(80):
        assert files[k].pread(1 << 20, 0) == contents[k]
    world.store.open_all_gates()
    world.volume.sync(60, durability="backend")
    for k in range(80):
        assert world.saved(f"f{k}") == contents[k]


def test_a_write_unit_that_the_store_has_in_part_is_not_spilled(tmp_path: Path) -> None:
    """The store would have to read back what it has taken and not committed."""
    world = Spilling(tmp_path, limits={"write_unit": 65536})
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 65536, 0)
        file._inode.refresh_limits()
        file._inode.pass_background(1 << 20)
        eventually(lambda: world.volume.stats().unstable > 0)
        file.pwrite(b"b", 100)
        assert world.spill(file) == 0
        file.fsync(durability="backend", timeout=30)
        assert world.saved() == b"a" * 100 + b"b" + b"a" * 65435 + OLD[65536:]


@pytest.mark.parametrize("change", ["discard", "remove", "rename"])
@pytest.mark.parametrize("evicted", [False, True])
def test_a_change_after_a_spill_holds(world: Spilling, change: str, evicted: bool) -> None:
    with contextlib.suppress(DataLossError), world.volume.open("n", "w+b") as file:
        if change == "rename":
            file.fsync(durability="backend")  # an object that the store does not have has no name there
        data = random.Random(4).randbytes(3 * MIB)
        file.pwrite(data, 0)
        world.spill(file)
        assert file.stats().details["staged"] == len(data)
        if evicted:
            world.evict()
        name = "n"
        if change == "discard":
            world.volume.discard("n")
            return
        elif change == "rename":
            world.volume.rename("n", name := "m")
        else:
            world.volume.remove("n")
        assert file.pread(1 << 30, 0) == data
        if change != "remove":
            file.fsync(durability="backend", timeout=30)
            assert world.saved(name) == data


@pytest.mark.parametrize("moment", ["write_from", "write_from answer"])
def test_a_spill_cuts_off_nothing_that_a_write_beside_it_stores_further_on(world: Spilling, moment: str) -> None:
    """The store gets the size to which spilled bytes lead from the next caller. The write is called before or after."""
    end = MIB + (64 << 10)
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"far." * 4096, end - 16384)
        with world.store.gate(moment) as gate:
            sending = Task(file.flush)
            gate.wait_entered()
            file.pwrite(b"near" * 1024, MIB)
            assert world.spill(file) == 4096
            file._inode.owed.pay()
        sending.result()
        file.fsync(durability="backend", timeout=30)
    gap = bytes(end - 16384 - MIB - 4096)
    assert world.saved() == OLD + b"near" * 1024 + gap + b"far." * 4096


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("sends", [False, True])
def test_an_fsync_ends_although_each_of_its_truncates_is_slower_than_a_spill(
    world: Spilling, *, sends: bool, fails: bool
) -> None:
    """It is about what was written before it: the sizes to which later bytes lead are not of its calls. [2.15]"""
    with world.volume.open("k", "r+b") as file:

        def append() -> None:
            file.pwrite(b"more" * 1024, file.size)
            assert world.spill(file) == 4096

        def more() -> None:
            if len(world.store.seen("truncate")) < 100:
                Task(append).result()
            if fails and len(world.store.seen("truncate")) == 1:
                raise OSError(errno.ECONNRESET, "line")

        append()
        if sends:
            file.pwrite(b"b" * 4096, 0)
        expected = overlay(OLD, 0, b"b" * 4096 if sends else b"") + b"more" * 1024
        world.store.fault("truncate", more, times=math.inf)
        file.fsync(durability="backend", timeout=60)
        assert 0 < len(world.store.seen("truncate")) <= 1 + sends + fails
        saved = world.saved() or b""
        assert saved[: len(expected)] == expected
        assert set(saved[len(expected) :]) <= set(b"more\0")
        world.store.clear_faults()
        appended = len(world.store.seen("truncate"))
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == expected + b"more" * 1024 * appended
    assert world.store.violations == []


def test_a_read_that_waits_for_a_size_makes_no_call_beside_the_commit(world: Spilling) -> None:
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, MIB + 65536)
        assert world.spill(file)
        with world.store.gate("commit") as commit, world.store.gate("truncate") as truncate:
            _, saving = at_gate(truncate, file.fsync, durability="backend", timeout=30)
            gap = Task(file.pread, 4096, MIB + 4096)
            assert gap.waits()
            file.pwrite(b"b" * 4096, MIB + 131072)
            assert world.spill(file)
            truncate.open()
            commit.wait_entered()
            gap.waits()
            assert len(world.store.seen("truncate")) == 1
        saving.result()
        assert gap.result() == bytes(4096)
        file.fsync(durability="backend", timeout=30)
    gaps = [bytes(65536), bytes(61440)]
    assert world.saved() == OLD + gaps[0] + b"a" * 4096 + gaps[1] + b"b" * 4096
    assert world.store.violations == []


@pytest.mark.parametrize("large", [True, False])
def test_separate_bytes_of_one_folio_spill(world: Spilling, *, large: bool) -> None:
    with world.volume.open("k", "r+b") as file:
        if large:  # a folio of many pages, of which two become dirty
            file.pread(256 << 10, 0)
        first, second = (4096, 5 * 4096) if large else (0, 1000)
        file.pwrite(b"a" * 100, first)
        file.pwrite(b"b" * 100, second)
        assert world.spill(file)
        assert world.volume.stats().dirty == 0
        file.fsync(durability="backend")
    assert world.saved() == overlay(overlay(OLD, first, b"a" * 100), second, b"b" * 100)


def test_a_gap_before_bytes_that_have_spilled_in_part_is_zeros(world: Spilling) -> None:
    """Of two folios the first leaves memory; the other one has changed since. [D6]"""
    at = 2 * MIB
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"z", at + (256 << 10))
        file.pread(16384, at + 16384)  # clean zeros, in a folio of four pages
        file.pwrite(b"a" * 16384, at)
        for page in (4, 6):
            file.pwrite(b"b" * 4096, at + page * 4096)
        inode, moved = file._inode, list[int]()
        runs = [(at, at + 5 * 4096)]
        inode.run_if_free(LOCK, "holding", lambda: moved.append(inode.staged().spill(runs)))
        assert moved == [16384]
        assert file.pread(4096, at - MIB // 2) == bytes(4096)
        assert len(inode.owed) <= 1


@pytest.mark.parametrize("paying", [True, False])
def test_a_spill_that_is_refused_leaves_the_store_its_size(
    world: Spilling, monkeypatch: pytest.MonkeyPatch, *, paying: bool
) -> None:
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"near" * 1024, MIB)
        inode, payers = file._inode, list[Task[None]]()

        def pay() -> None:
            payers.append(Task(inode.owed.pay))
            payers[0].waits()

        if paying:
            beside(monkeypatch, type(inode), "spilled", pay)
        inode.run(TOKEN, "holding", lambda: inode.staged().spill([(MIB, MIB + 4096)]))
        for payer in payers:
            payer.result()
        assert not inode.owed.owes("truncate")
        assert world.store.seen("truncate") == []
        world.volume.discard("k")
        inode.set_uncommitted()
        with pytest.raises(DataLossError):
            file.fsync(durability="backend", timeout=30)
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == OLD


def test_a_payer_of_the_size_of_a_refused_spill_calls_nothing_beside_a_commit(
    world: Spilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at the size late: a truncate has made the file longer since."""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"near" * 1024, MIB)
        inode, payers = file._inode, list[Task[None]]()
        waiting = held(monkeypatch, Growth, "call")
        pay = partial(at_gate, waiting, lambda: inode.owed.pay())
        beside(monkeypatch, type(inode), "spilled", lambda: payers.append(pay()[1]))
        inode.run(TOKEN, "holding", lambda: inode.staged().spill([(MIB, MIB + 4096)]))
        file.truncate(2 * MIB)
        truncates = len(world.store.seen("truncate"))
        with world.store.gate("commit") as commit:
            _, saving = at_gate(commit, file.fsync, durability="backend", timeout=30)
            waiting.open()
            payers[0].result()
            assert len(world.store.seen("truncate")) == truncates
        saving.result()
    assert world.saved() == OLD + b"near" * 1024 + bytes(MIB - 4096)
    assert world.store.violations == []


@pytest.mark.parametrize("what", ["a discard", "a commit that does not send yet"])
def test_while_nothing_may_spill_no_try_of_a_writer_copies_bytes(
    world: Spilling, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    discards = what == "a discard"
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, 0)
        save = partial(file.fsync, durability="backend", timeout=30)
        if discards:
            file.flush()
        gate = held(monkeypatch, Rollback, "call") if discards else held(monkeypatch, Staging, "begin_sending")
        call: Callable[[], object] = partial(world.volume.discard, "k", 0, 4096) if discards else save
        hanging, running = at_gate(gate, call)
        file.pwrite(b"b" * 65536, MIB)
        with monkeypatch.context() as patch:
            patch.setattr(type(file._inode), "read", raising(AssertionError("it has copied them")))
            assert world.spill(file) == 0
        assert file._inode.staging.writes == 0
        hanging.open()
        running.result()
        if discards:
            raises(DataLossError, save)
        save()
    assert world.saved() == (OLD if discards else overlay(OLD, 0, b"a" * 4096)) + b"b" * 65536


def test_a_commit_beside_a_spill_does_not_store_the_size_without_the_bytes(
    world: Spilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit has begun to send, and the bytes are on their way to the spool."""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, 0)
        began = held(monkeypatch, Staging, "begin_sending", after=True)
        _, saving = at_gate(began, file.fsync, durability="backend", timeout=30)
        file.pwrite(b"b" * 4096, MIB + 65536)
        putting, spilling = at_gate(held(monkeypatch, Spool, "write_all"), world.spill, file)
        began.open()
        eventually(lambda: world.saved() != OLD)
        assert world.saved() == overlay(OLD, 0, b"a" * 4096)
        assert spilling.result(opening=putting) == 4096
        saving.result()
        assert file.pread(65536, MIB) == bytes(65536)
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == overlay(OLD, 0, b"a" * 4096) + bytes(65536) + b"b" * 4096


@pytest.mark.parametrize("within", [False, True])
def test_a_spill_beside_a_discard_leads_the_store_to_its_size(
    world: Spilling, monkeypatch: pytest.MonkeyPatch, *, within: bool
) -> None:
    """The discard makes the object shorter than it was when the spill began: before it, or within it."""
    with contextlib.suppress(DataLossError), world.volume.open("k", "r+b") as file:
        file.pwrite(b"far." * 1024, MIB + 131072)
        assert world.spill(file) == 4096
        file.pwrite(b"near" * 1024, MIB + 65536)
        if within:
            written, spilling = held(monkeypatch, Spool, "write_all"), list[Task[int]]()

            def begin() -> None:
                spilling.append(Task(world.spill, file))
                eventually(lambda: written.entered.is_set() or spilling[0].finished.is_set())

            beside(monkeypatch, Staging, "forgotten", begin, after=True)
            world.volume.discard("k", MIB + 131072)
            spilling[0].result(opening=written)
        else:
            discard = partial(world.volume.discard, "k", MIB + 131072)
            beside(monkeypatch, type(file._inode), "read", lambda: Task(discard).result(), after=True)
            world.spill(file)
        assert file.pread(MIB, MIB) == bytes(65536) + b"near" * 1024
        raises(DataLossError, file.fsync, durability="backend", timeout=30)
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == OLD + bytes(65536) + b"near" * 1024


@pytest.mark.parametrize("outcome", ["commits", "fails"])
def test_a_commit_takes_what_was_spilled_before_it_and_leaves_what_is_spilled_beside_it(
    world: Spilling, outcome: str
) -> None:
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 8192, 0)
        world.spill(file)
        with world.store.gate("commit") as gate:
            _, saving = at_gate(gate, file.fsync, durability="backend", timeout=30)
            file.pwrite(b"b" * 8192, 4096)
            assert world.spill(file) == 8192
            if outcome == "fails":
                world.store.fault("commit", OSError(errno.ETIMEDOUT, "not now"), times=1)
        saving.result()
        if outcome == "commits":
            assert (world.saved() or b"")[:12288] == b"a" * 8192 + OLD[8192:12288]
        assert file.stats().details["staged"] == (8192 if outcome == "commits" else 0)
        world.evict()
        assert file.pread(12288, 0) == b"a" * 4096 + b"b" * 8192
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == b"a" * 4096 + b"b" * 8192 + OLD[12288:]


@pytest.mark.parametrize("at", [8192, 2048], ids=["others", "overlapping ones"])
def test_what_is_spilled_while_a_commit_reads_the_rest_of_its_write_unit_is_saved(tmp_path: Path, at: int) -> None:
    world = Spilling(tmp_path, limits={"write_unit": 65536})
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, 0)
        world.spill(file)
        with world.store.gate("read_into") as gate:
            _, saving = at_gate(gate, file.fsync, durability="backend", timeout=30)
            file.pwrite(b"b" * 4096, at)
            assert world.spill(file)
        saving.result()
        after = overlay(before := overlay(OLD, 0, b"a" * 4096), at, b"b" * 4096)
        assert world.saved() in (before, after)
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == after


def test_a_spill_at_the_end_of_a_commit_ends_and_so_does_the_commit(
    world: Spilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit no longer sends, and is about to be recorded; the spill has asked before whether it may."""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, 0)
        world.spill(file)
        ending, saving = at_gate(
            held(monkeypatch, collector, "committed"), file.fsync, durability="backend", timeout=30
        )
        file.pwrite(b"b" * 4096, MIB)
        inode, runs = file._inode, [(MIB, MIB + 4096)]
        spill = partial(inode.run, LOCK, "holding", lambda: inode.staged().spill(runs))
        staged, spilling = at_gate(held(monkeypatch, Staging, "_stage"), spill)
        ending.open()
        assert saving.waits()
        spilling.result(opening=staged)
        saving.result()
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == overlay(OLD, 0, b"a" * 4096) + b"b" * 4096


@pytest.mark.parametrize("call", ["write_from", "commit"])
def test_the_size_of_what_is_spilled_beside_a_commit_is_set_after_it(world: Spilling, call: str) -> None:
    """Reads go on; one of the gap waits for the commit."""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, 0)
        world.spill(file)
        with world.store.gate(call) as gate:
            _, saving = at_gate(gate, file.fsync, durability="backend", timeout=30)
            file.pwrite(b"b" * 4096, MIB + 65536)
            assert world.spill(file) == 4096
            assert file.pread(8192, 0) == b"a" * 4096 + OLD[4096:8192]
            assert file.pread(4096, MIB + 65536) == b"b" * 4096
            gap = Task(file.pread, 4096, MIB + 4096)
            assert gap.waits()
            assert world.store.seen("truncate") == []
        saving.result()
        assert gap.result() == bytes(4096)
        assert world.saved() == overlay(OLD, 0, b"a" * 4096)
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == overlay(OLD, 0, b"a" * 4096) + bytes(65536) + b"b" * 4096
    assert world.store.violations == []


@pytest.mark.parametrize("meanwhile", ["nothing", "a read", "a commit"])
def test_a_read_of_the_gap_that_is_judged_after_the_commit_is_made_again(
    world: Spilling, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """The store has answered it beside the commit. [D6]"""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, 0)
        with world.store.gate("commit") as gate:
            _, saving = at_gate(gate, file.fsync, durability="backend", timeout=30)
            file.pwrite(b"b" * 4096, MIB + 65536)
            assert world.spill(file) == 4096
            answered, reading = at_gate(held(monkeypatch, type(file._inode), "fill"), file.pread, 4096, MIB + 4096)
        saving.result()
        if meanwhile == "a read":
            assert file.pread(4096, MIB + 32768) == bytes(4096)
        elif meanwhile == "a commit":
            file.fsync(durability="backend", timeout=30)
        assert reading.result(opening=answered) == bytes(4096)
        world.store.fault("read_into", lambda *_: 0, times=math.inf)
        raises(BackendProtocolError, file.pread, 4096, MIB // 2, match="returned 0")


def test_a_commit_sends_a_piece_of_the_spool_as_it_was_before_a_spill_or_after_it(
    world: Spilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never half of each: two bytes that were written at once are published at once."""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 8192, 0)
        world.spill(file)
        original, spilling = Spool.fill, list[Task[int]]()

        def change() -> int:
            file.pwrite(b"b" * 8192, 0)
            return world.spill(file)

        def fill(self: Spool, offset: int, buffers: Any) -> None:
            (buffer,) = buffers
            original(self, offset, [buffer[:4096]])
            if not spilling:
                spilling.append(Task(change))
                time.sleep(0.2)  # a spill that did not wait would have ended
            original(self, offset + 4096, [buffer[4096:]])

        monkeypatch.setattr(Spool, "fill", fill)
        file.fsync(durability="backend", timeout=30)
        spilling[0].result()
        monkeypatch.undo()
        assert (world.saved() or b"")[:8192] in (b"a" * 8192, b"b" * 8192)
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == b"b" * 8192 + OLD[8192:]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_on_a_full_disk_clean_data_gives_way_to_a_spool_in_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, elsewhere: bool
) -> None:
    big = random.Random(5).randbytes(4 * MIB)
    world = Spilling(tmp_path, ObjectBackend({"k": OLD, "big": big}), spool=tmp_path if elsewhere else "")
    assert world.read("big") == big
    eventually(lambda: len(clean(world)) > 2)
    (first, second, *_), write = clean(world), Spool.write

    def full(spool: Spool, *arguments: Any) -> int:
        if first in clean(world):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(spool, *arguments)

    with world.volume.open("k", "r+b") as file:
        monkeypatch.setattr(Spool, "write", full)
        file.pwrite(b"a" * 8192, 0)
        assert world.spill(file) == (0 if elsewhere else 8192)
        assert (first in clean(world), second in clean(world)) == (elsewhere, True)
        monkeypatch.undo()
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == b"a" * 8192 + OLD[8192:]
    assert world.read("big") == big


def fill_disk(world: Spilling, monkeypatch: pytest.MonkeyPatch, error: int = errno.ENOSPC) -> None:
    """Have the disk of the tier take no byte more, of spools and of the journal."""
    write = Spool.write

    def full(spool: Spool, *arguments: Any) -> int:
        if os.readlink(spool.path).startswith(str(world.tier)):
            raise OSError(error, os.strerror(error))
        return write(spool, *arguments)

    monkeypatch.setattr(Spool, "write", full)
    for call in ("fallocate", "pwritev"):
        monkeypatch.setattr(OS, call, raising(OSError(error, os.strerror(error))))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("length", [2 * MIB, 16 * MIB])
def test_a_tier_whose_disk_takes_nothing_keeps_no_byte_from_the_store(
    world: Spilling, monkeypatch: pytest.MonkeyPatch, length: int, error: int
) -> None:
    """[D5]"""
    with world.volume.open("k", "r+b") as file:
        fill_disk(world, monkeypatch, error)
        data = written(file, length)
        file.fsync(timeout=30)
        assert file.pread(length, 0) == data
    assert world.saved() == data
    world.volume.detach()


def test_a_spool_that_has_moved_is_not_copied_again(world: Spilling, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other disk fills up, too. The error names that one. [2.23]"""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 8192, 0)
        assert world.spill(file) == 8192
        staging = file._inode.staged()
        fill_disk(world, monkeypatch)
        staging.put(staging.epoch, MIB, [memoryview(b"c" * 4096)])
        with monkeypatch.context() as full:
            full.setattr(Spool, "write", raising(OSError(errno.ENOSPC, "full")))
            full.setattr(Spool, "take", raising(AssertionError()))
            put = partial(staging.put, staging.epoch, 2 * MIB, [memoryview(b"d" * 4096)])
            assert str(world.tier) not in str(raises(OSError, put, match="the spool in"))
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == b"a" * 8192 + OLD[8192:]


def test_a_spool_whose_move_found_the_other_disk_full_moves_once_that_has_room(
    world: Spilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the tier stays full. [2.23]"""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 8192, 0)
        assert world.spill(file) == 8192
        staging = file._inode.staged()
        fill_disk(world, monkeypatch)
        put = partial(staging.put, staging.epoch, MIB, [memoryview(b"c" * 4096)])
        with monkeypatch.context() as full:
            full.setattr(Spool, "write", raising(OSError(errno.ENOSPC, "full")))
            assert str(world.tier) not in str(raises(OSError, put, match="the spool in"))
        put()
        spool = staging._spool
        assert spool is not None
        assert not os.readlink(spool.path).startswith(str(world.tier))
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == b"a" * 8192 + OLD[8192:]


def test_a_spill_beside_the_move_of_a_spool_leaves_its_bytes_dirty(
    world: Spilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer waits no longer than it may. An abort ends the move."""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * MIB, 0)
        assert world.spill(file) == MIB
        staging = file._inode.staged()
        fill_disk(world, monkeypatch)
        put = partial(staging.put, staging.epoch, 4 * MIB, [memoryview(b"c" * 4096)])
        gate, moving = at_gate(held(monkeypatch, Spool, "take"), put)
        file.pwrite(b"b" * 8192, 0)
        assert Task(world.spill, file).result() == 0
        world.volume.abort()
        gate.open()
        raises(ShutdownError, moving.result)
        world.volume.reconnect(world.store)
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == b"b" * 8192 + b"a" * (MIB - 8192)


def test_bytes_in_a_spool_whose_disk_fills_up_go_to_another_one(
    world: Spilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a request that is not acknowledged yet: CORE does not count them as staged. [D5]"""
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 8192, MIB)
        assert world.spill(file) == 8192
        staging = file._inode.staged()
        staging.put(staging.epoch, 0, [memoryview(b"b" * 4096)])
        reading = held(monkeypatch, Spool, "fill")
        world.volume.drop_clean("k")
        gate, read = at_gate(reading, file.pread, 8192, MIB)
        fill_disk(world, monkeypatch)
        staging.put(staging.epoch, 3 * MIB, [memoryview(b"c" * 4096)])
        assert read.result(opening=gate) == b"a" * 8192
        spool = staging._spool
        assert spool is not None
        for at, byte in ((0, b"b"), (MIB, b"a"), (3 * MIB, b"c")):
            spool.fill(at, [memoryview(found := bytearray(4096))])
            assert found == byte * 4096
        assert os.stat(spool.path).st_blocks * 512 <= 16384
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == OLD + b"a" * 8192


def test_a_version_of_another_client_is_not_overwritten_behind_a_rename_of_spilled_bytes(world: Spilling) -> None:
    """The store has nothing of them: the object is opened by its new name, and the other version found."""
    with world.volume.open("k", "r+b") as file:
        file.pread(10, 0)
        file.pwrite(b"ours" * 1024, 4096)
        assert world.spill(file) == 4096
        world.store.put("k", theirs := random.Random(6).randbytes(MIB))
        world.volume.rename("k", "moved")
        raises(ConflictError, file.fsync, durability="backend", timeout=30)
        assert world.saved("moved") == theirs
        world.volume.discard("moved")
        with contextlib.suppress(DataLossError):
            file.fsync(durability="backend", timeout=30)


@pytest.mark.parametrize("moment", ["copies before it", "begins within it", "writes as it begins"])
def test_a_spill_beside_a_rebase_has_no_byte_of_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Around written bytes of a page: they would be sent again from the spool, and published. [2.19, D6]"""
    world = Spilling(tmp_path, limits={"max_inflight": 2})  # one request of a file at a time
    new, at = random.Random(7).randbytes(MIB), MIB // 2
    file = world.open()
    inode = file._inode
    file.pread(4096, at)
    file.pwrite(b"x" * 4096, 0)
    world.store.put("k", new)
    raises(ConflictError, file.fsync, durability="backend")
    quiet(world.volume, "k")
    file.pwrite(b"y" * 10, at)  # not failed: it may spill
    gate = world.store.gate("write_from", times=9)

    def spill() -> None:  # as one that has begun before the conflict
        inode.run_if_free(LOCK, "holding", lambda: inode.staged().spill([(at, at + 4096)]))

    def rebase() -> None:
        world.volume.resolve("k", "rebase")
        gate.wait_entered()  # with the first page; the other one is still dirty

    if moment == "copies before it":
        beside(monkeypatch, type(inode), "read", lambda: Task(rebase).result(), after=True)
        spill()
    elif moment == "begins within it":
        written, spilling = held(monkeypatch, Spool, "write_all"), list[Task[None]]()

        def begin() -> None:
            spilling.append(Task(spill))
            eventually(lambda: written.entered.is_set() or spilling[0].finished.is_set())

        beside(monkeypatch, laying.Overlay, "put", begin)
        rebase()
        spilling[0].result(opening=written)
    else:
        written, writing = at_gate(held(monkeypatch, Spool, "write_all"), spill)
        beside(monkeypatch, Staging, "forgotten", written.open)
        rebase()
        writing.result()
    expected = overlay(overlay(new, 0, b"x" * 4096), at, b"y" * 10)
    assert file.pread(4096, at) == expected[at : at + 4096]
    gate.open()
    world.evict()
    assert file.pread(4096, at) == expected[at : at + 4096]
    file.fsync(durability="backend")
    assert world.saved() == expected


@pytest.mark.parametrize("outcome", ["commits", "fails"])
def test_a_rebase_after_a_commit_lays_what_was_spilled_beside_it_over_the_new_version(
    world: Spilling, outcome: str
) -> None:
    """Bytes of a commit are local only if it has failed. [2.19]"""
    with world.volume.open("k", "r+b") as file:
        file.pread(16384, 0)
        file.pwrite(b"a" * 100, 0)
        with world.store.gate("commit") as gate:
            _, saving = at_gate(gate, file.fsync, durability="backend", timeout=30)
            file.pwrite(b"b" * 100, 2048)
            file.pwrite(b"b" * 100, 8192)
            assert world.spill(file) == 8192
            if outcome == "fails":
                world.store.fault("commit", OSError(errno.ETIMEDOUT, "not now"), times=1)
                world.store.put("k", new := random.Random(8).randbytes(MIB))
        if outcome == "fails":
            raises(ConflictError, saving.result)
        else:
            saving.result()
            world.store.put("k", new := random.Random(8).randbytes(MIB))
            raises(ConflictError, file.fsync, durability="backend", timeout=30)
        world.volume.resolve("k", "rebase")
        expected = overlay(overlay(new, 2048, b"b" * 100), 8192, b"b" * 100)
        if outcome == "fails":
            expected = overlay(expected, 0, b"a" * 100)
        assert file.pread(16384, 0) == expected[:16384]
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == expected


def test_what_was_spilled_beside_a_commit_that_hangs_reaches_the_store_after_a_reconnect(world: Spilling) -> None:
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 8192, 0)
        world.spill(file)
        with world.store.gate("commit") as gate:
            _, saving = at_gate(gate, file.fsync, durability="backend", timeout=30)
            file.pwrite(b"b" * 8192, 4096)
            assert world.spill(file) == 8192
            world.volume.abort()
            world.volume.reconnect(fresh := ObjectBackend({"k": OLD}))
            file.pwrite(b"c", 0)
            world.spill(file)
        with contextlib.suppress(OSError):
            saving.result()
        assert file.pread(12288, 0) == b"c" + b"a" * 4095 + b"b" * 8192
        file.fsync(durability="backend", timeout=30)
        assert fresh.committed("k") == b"c" + b"a" * 4095 + b"b" * 8192 + OLD[12288:]


def test_a_commit_that_a_fence_has_left_behind_sets_no_size_beside_the_next_one(
    world: Spilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would cut off what the next one sends. [2.22]"""
    fresh = ObjectBackend({"k": OLD})
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, MIB)
        assert world.spill(file)
        left, saving = at_gate(world.store.gate("truncate"), file.fsync, durability="backend", timeout=30)
        world.volume.abort()
        raises(ShutdownError, saving.result)
        world.volume.reconnect(fresh, fenced=True)
        sending, saving = at_gate(
            held(monkeypatch, Staging, "send_again"), file.fsync, durability="backend", timeout=30
        )
        file.pwrite(b"b" * 4096, MIB + 4096)
        assert world.spill(file)
        with fresh.gate("truncate") as late:
            left.open()
            late.entered.wait(0.5)
            file.pwrite(b"c" * 4096, MIB + 8192)
            assert world.spill(file)
            with fresh.gate("commit") as commit:
                sending.open()
                commit.wait_entered()
                late.open()
                eventually(lambda: not file._inode.owed.is_paying())
            saving.result()
        file.fsync(durability="backend", timeout=30)
    assert fresh.committed("k") == OLD + b"a" * 4096 + b"b" * 4096 + b"c" * 4096


def test_a_file_object_that_outlives_its_volume_keeps_no_spool(world: Spilling) -> None:
    """Its space would be taken, and counted by nothing."""
    file = world.volume.open("k", "r+b")
    file.pwrite(b"x" * 2 * MIB, 0)
    assert world.spill(file)
    spool = weakref.ref(file._inode.staging._spool)
    assert spool() is not None
    world.volume.abort()
    world.volume.detach(on_failed="discard")
    assert spool() is None


def test_an_interrupt_anywhere_in_a_spill_loses_nothing(world: Spilling) -> None:
    file = world.open()
    number = 0
    while True:
        number += 1
        data = b"%05d" % number * 2000
        file.pwrite(data, 1000)
        if not interrupted_at(number, lambda: world.spill(file)):
            break
        assert file.pread(len(data), 1000) == data
        if number % 5 == 0:
            file.fsync(durability="backend", timeout=30)
            assert (world.saved() or b"")[1000:11000] == data
    assert number > 30


@pytest.mark.parametrize("verb", ["append", "zero_range"])
@pytest.mark.parametrize("call", ["fsync", "discard"])
def test_a_signal_handler_in_the_spill_of_a_writer_with_the_lock_ends(
    world: Spilling, monkeypatch: pytest.MonkeyPatch, verb: str, call: str
) -> None:
    """It runs after a part of the spill, and finds no lock of it. [2.25]"""
    file, genuine, sent = world.volume.open("k", "r+b"), Spool.write_all, threading.Event()
    calls: dict[str, Callable[[], object]] = {
        "fsync": partial(file.fsync, durability="backend", timeout=20),
        "discard": partial(world.volume.discard, "k"),
    }
    ran: list[str] = []
    file.truncate(20 * 300_000)

    def write_all(spool: Spool, offset: int, buffers: Any) -> None:
        genuine(spool, offset, buffers)
        if threading.current_thread() is threading.main_thread() and not sent.is_set():
            sent.set()
            signal.raise_signal(signal.SIGUSR1)

    def handler(*_: object) -> None:
        assert not file._inode.staging.lock.locked(), "the call would hang"
        calls[call]()
        ran.append(call)

    monkeypatch.setattr(Spool, "write_all", write_all)
    with handled(signal.SIGUSR1, handler):
        for k in range(20):
            file.append(bytes(300_000)) if verb == "append" else file.zero_range(k * 300_000, 300_000)
    assert ran == [call]
    if call == "discard":
        raises(DataLossError, file.fsync)
    file.close()


def test_bytes_of_writable_views_stay(world: Spilling) -> None:
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"a" * 4096, 0)
        with file.view(0, 4096, writable=True) as view:
            view.segments[0][:3] = b"xyz"
            assert world.spill(file) == 0
        file.fsync(durability="backend", timeout=30)
    assert world.saved() == b"xyz" + b"a" * 4093 + OLD[4096:]


@pytest.mark.parametrize("seed", range(24))
def test_in_any_order_no_byte_is_lost(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    limits = {"write_unit": rng.choice([1, 1, 8192, 65536])}
    world = Spilling(tmp_path, limits=limits, dirty_expire=rng.choice([0.05, 3600]))
    for _ in range(3):
        world.store.put("k", OLD[:100_000])
        file = world.volume.open("k", "r+b", revalidate=0.0)
        model = bytearray(file.pread(MIB, 0))
        for _ in range(60):
            offset, length = rng.randrange(200_000), rng.randrange(1, 40_000)
            choice = rng.randrange(12)
            if choice < 4:
                data = rng.randbytes(length)
                file.pwrite(data, offset)
                model.extend(bytes(max(0, offset + length - len(model))))
                model[offset : offset + length] = data
            elif choice < 7:
                world.spill(file)
            elif choice == 7:
                file.truncate(offset)
                del model[offset:]
                model.extend(bytes(offset - len(model)))
            elif choice == 8:
                file.punch_hole(offset, length)
                end = min(offset + length, len(model))
                model[offset:end] = bytes(max(0, end - offset))
            elif choice == 9:
                world.store.fault(rng.choice(["write_from", "commit"]), OSError(errno.EIO, "no"), times=1)
                with contextlib.suppress(OSError):
                    file.fsync(durability="backend", timeout=20)
                world.store.clear_faults()
            elif choice == 10:
                file.fsync(durability=rng.choice(["disk", "backend"]), timeout=20)
            else:
                world.evict()
            assert file.pread(offset + length, offset) == bytes(model[offset : 2 * offset + length])
        file.fsync(durability="backend", timeout=20)
        assert world.saved() == bytes(model)
        assert world.store.violations == []
        file.close()
