"""Which lock a direct write takes, that it decides again, that no writer starves, and that it leaves nothing behind."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pagecache import CachedFile
from pagecache.native import LOCK, SHARED
from pagecache.testing import Gate

from ..stores import answering
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, beside, eventually, make_rig, pattern, raises
from .test_interrupts import EVERY, ctrl_c, interrupted_each

DATA = pattern(16 * PAGE)
PARALLEL = {"parallel_direct_writes": True, "max_inflight": 8}


def parallel(rig: Rig) -> CachedFile:
    return rig.open("r+b", direct=True, parallel_direct_writes=True)


def direct_count(rig: Rig) -> int:
    return rig.handles[0]._inode.direct_count()


def acknowledged(file: CachedFile) -> None:
    file.pwrite(b"d", 0)
    file.flush()


def inside(direct: CachedFile) -> object:
    return direct.pwrite(b"x" * 512, 8 * PAGE)


# Whether the second write shares the lock; limits of the backend, options of its handle, earlier calls, and the write.
Prepare = Callable[[Rig, CachedFile], object]
TABLE: dict[str, tuple[bool, dict[str, Any], dict[str, Any], Prepare | None, Callable[[CachedFile], object]]] = {
    "inside the file": (True, {}, {}, None, inside),
    "up to its end": (True, {}, {}, None, lambda d: d.pwrite(b"x" * 512, 16 * PAGE - 512)),
    "over clean pages": (True, {}, {}, lambda rig, f: f.pread(16 * PAGE, 0), inside),
    "beyond the end": (False, {}, {}, None, lambda d: d.pwrite(b"x" * 512, 16 * PAGE - 256)),
    "append": (False, {}, {}, None, lambda d: d.append(b"x" * 512)),
    "not aligned": (False, {"direct_unit": 512}, {}, None, lambda d: d.pwrite(b"x" * 100, 8 * PAGE)),
    "something dirty elsewhere": (False, {}, {}, lambda rig, f: f.pwrite(b"d", 0), inside),
    "something uncommitted elsewhere": (False, {}, {}, lambda rig, f: acknowledged(f), inside),
    "a handle that does not want it": (False, {}, {"parallel_direct_writes": False}, None, inside),
    "a backend that does not allow it": (False, {"parallel_direct_writes": False}, {}, None, inside),
    "ordered writes": (False, {"ordered_writes": True}, {}, None, inside),
}


@pytest.mark.parametrize("case", TABLE)
def test_parallel_direct_writes_share_the_lock_and_others_do_not(make: Make, case: str) -> None:
    """A writer that needs the file alone waits for every other holder. [T-21, 2.10]"""
    shares, limits, options, before, write = TABLE[case]
    rig, file = make({KEY: DATA}, limits={**PARALLEL, **limits}).opened("r+b")
    direct = rig.open("r+b", direct=True, **{"parallel_direct_writes": True, **options})
    if before is not None:
        before(rig, file)
    inode = file._inode
    with holding(inode, shared=True):
        second = Task(write, direct)
        assert second.waits() != shares
        if shares:
            second.result()
    second.result()
    with holding(inode, shared=False):
        third = Task(write, direct)
        assert third.waits()
    third.result()


@contextmanager
def holding(inode: Any, *, shared: bool) -> Iterator[None]:
    """The inode lock, held by another thread."""
    with Gate() as gate:
        _, task = at_gate(gate, inode.run, SHARED if shared else LOCK, "holding", gate.enter)
        yield
    task.result()


def test_the_lock_is_decided_again_once_it_is_held(make: Make, monkeypatch: Patch) -> None:
    """A truncate comes between decision and lock: the write then extends the file, and needs it alone. [T-22, 2.10]"""
    rig = make({KEY: DATA}, limits=PARALLEL)
    file, direct = rig.open("r+b"), parallel(rig)
    inode = type(file._inode)
    beside(monkeypatch, inode, "direct_may_share", lambda: Task(file.truncate, 2 * PAGE).result(), after=True)
    gate, writer = at_gate(rig.backend.gate("write_from"), direct.pwrite, b"x" * PAGE, 8 * PAGE)
    other = Task(parallel(rig).pwrite, b"y" * PAGE, 0)
    assert other.waits()
    writer.result(opening=gate)
    other.result()
    assert file.size == 9 * PAGE
    assert file.pread(16 * PAGE, 0) == b"y" * PAGE + DATA[PAGE : 2 * PAGE] + bytes(6 * PAGE) + b"x" * PAGE


@pytest.mark.parametrize("left", [False, True], ids=["a running one", "one that was interrupted"])
def test_a_parallel_direct_write_waits_for_one_of_the_same_bytes(make: Make, left: bool) -> None:
    """Else the store may have the bytes of either. Writes of other bytes run beside it. [T-21, 2.10, 2.26]"""
    rig = make({KEY: DATA}, limits=PARALLEL)
    direct, gate = parallel(rig), rig.backend.gate("write_from")
    if left:
        with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
            direct.pwrite(b"a" * 2 * PAGE, 4 * PAGE)
    else:
        first = at_gate(gate, direct.pwrite, b"a" * 2 * PAGE, 4 * PAGE)[1]
    for page in (3, 6):
        Task(direct.pwrite, b"c" * PAGE, page * PAGE).result()
    second = Task(direct.pwrite, b"b" * 2 * PAGE, 5 * PAGE)
    assert second.waits()
    gate.open()
    if not left:
        first.result()
    second.result()
    assert direct.pread(4 * PAGE, 3 * PAGE) == b"c" * PAGE + b"a" * PAGE + b"b" * 2 * PAGE


@pytest.mark.parametrize("change", ["truncate", "punch_hole"])
def test_a_truncate_or_hole_waits_for_a_direct_write(make: Make, change: str) -> None:
    """This is the other order: nothing of the file is in flight when the backend is called. [T-22, T-29, 2.17, 2.26]"""
    rig = make({KEY: DATA}, limits={**PARALLEL, "punch": True})
    file, direct = rig.open("r+b"), parallel(rig)
    gate, writer = at_gate(rig.backend.gate("write_from"), direct.pwrite, b"x" * PAGE, 8 * PAGE)
    size = 2 * PAGE if change == "truncate" else 16 * PAGE
    cut = Task(file.truncate, size) if change == "truncate" else Task(file.punch_hole, 2 * PAGE, 14 * PAGE)
    assert cut.waits()
    assert rig.backend.seen(change) == []
    writer.result(opening=gate)
    cut.result()
    assert file.pread(16 * PAGE, 0) == DATA[: 2 * PAGE] + bytes(size - 2 * PAGE)


def test_threads_share_one_handle_in_direct_and_buffered_writes(make: Make) -> None:
    """Unaligned writes go through the cache, aligned ones past it. [T-25]"""
    rig = make({KEY: DATA}, limits={**PARALLEL, "direct_unit": 512})
    direct = parallel(rig)

    def writes(k: int) -> None:
        for n in range(25):
            at = k * 4 * PAGE
            direct.pwrite(bytes([n]) * PAGE, at)
            direct.pwrite(bytes([n]) * 100, at + PAGE + 7)
            assert direct.pread(PAGE, at) == bytes([n]) * PAGE
            assert direct.pread(100, at + PAGE + 7) == bytes([n]) * 100

    for task in [Task(writes, k) for k in range(4)]:
        task.result()
    assert direct_count(rig) == 0
    rig.cache.check()
    direct.fsync()
    for k in range(4):
        stored = (rig.backend.committed(KEY) or b"")[k * 4 * PAGE :]
        assert stored[:PAGE] == bytes([24]) * PAGE
        assert stored[PAGE + 7 : PAGE + 107] == bytes([24]) * 100


FULL = OSError(errno.ENOSPC, "full")
Ending = Callable[[Rig, CachedFile], None]


def fails(op: str, answer: Any = FULL, *, dirty: bool = False, match: str = "full") -> Ending:
    """A direct write that fails; there may be dirty bytes below it, which are written back first."""

    def ends(rig: Rig, direct: CachedFile) -> None:
        if dirty:
            rig.handles[0].pwrite(b"dirty", 4 * PAGE)
        rig.backend.fault(op, answer, times=10)
        raises(OSError, direct.pwrite, b"x" * 4 * PAGE, 4 * PAGE, match=match)

    return ends


def is_interrupted_in_the_backend(rig: Rig, direct: CachedFile) -> None:
    gate = rig.backend.gate("write_from")
    with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
        direct.pwrite(b"x" * 4 * PAGE, 4 * PAGE)
    waiting = Task(rig.handles[0].pwrite, b"next", 4 * PAGE)
    assert waiting.waits()  # its bytes may still land
    rig.cache.check()
    waiting.result(opening=gate)


def is_interrupted_while_it_waits_for_the_lock(rig: Rig, direct: CachedFile) -> None:
    with holding(rig.handles[0]._inode, shared=False):
        ready = threading.Event()
        ready.set()
        with ctrl_c(ready), pytest.raises(KeyboardInterrupt):
            direct.pwrite(b"x" * 4 * PAGE, 4 * PAGE)


def is_interrupted_while_it_cleans(rig: Rig, direct: CachedFile) -> None:
    rig.handles[0].pwrite(b"dirty", 4 * PAGE)
    with rig.backend.gate("write_from") as gate, ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
        direct.pwrite(b"x" * 4 * PAGE, 4 * PAGE)


ENDINGS: dict[str, Ending] = {
    "fails": fails("write_from"),
    "fails before it begins": fails("write_from", dirty=True),
    "fails to commit the bytes below": fails("commit", dirty=True),
    "gets a wrong answer": fails("write_from", answering("all"), match="did not answer"),
    "is interrupted in the backend": is_interrupted_in_the_backend,
    "is interrupted while it waits for the lock": is_interrupted_while_it_waits_for_the_lock,
    "is interrupted while it cleans": is_interrupted_while_it_cleans,
}


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize("ends", ENDINGS)
def test_a_failing_direct_write_leaves_nothing(make: Make, ends: str, mode: str) -> None:
    """It holds no lock, count or ticket: other calls go on, and everything can still be saved. [T-24, T-51]"""
    rig, file = make({KEY: DATA}, limits={**PARALLEL, "max_write": PAGE}, retry=ONCE).opened("r+b")
    direct = rig.open("r+b", direct=True, parallel_direct_writes=mode == "shared")
    ENDINGS[ends](rig, direct)
    rig.backend.clear_faults()
    rig.volume.retry_failed()
    eventually(lambda: direct_count(rig) == 0)
    Task(file.pwrite, b"after", 5 * PAGE).result()
    Task(direct.pwrite, b"y" * PAGE, 6 * PAGE).result()
    Task(file.truncate, 10 * PAGE).result()
    Task(file.fsync).result()
    content = file.pread(16 * PAGE, 0)
    assert rig.backend.committed(KEY) == content
    assert content[5 * PAGE : 5 * PAGE + 5] == b"after"
    assert content[6 * PAGE : 7 * PAGE] == b"y" * PAGE


AGAIN = BlockingIOError(errno.EAGAIN, "again")
CALLS: dict[str, Callable[[Rig], object]] = {
    "a shared write": lambda rig: (
        rig.backend.fault("write_from", AGAIN),
        rig.handles[1].pwrite(b"w" * 3 * PAGE, 6 * PAGE),
    ),
    "an exclusive write": lambda rig: (
        rig.handles[0].pwrite(b"dirty", 6 * PAGE),
        rig.handles[1].pwrite(b"w" * 3 * PAGE, 6 * PAGE),
    ),
    "an extending write": lambda rig: rig.handles[1].pwrite(b"w" * 3 * PAGE, 15 * PAGE),
    "a direct append": lambda rig: rig.handles[1].append(b"w" * PAGE),
    "a direct read": lambda rig: (
        rig.handles[0].pwrite(b"dirty", 6 * PAGE),
        rig.backend.fault("read_into", AGAIN),
        rig.handles[1].pread(3 * PAGE, 5 * PAGE),
    ),
}


def a_rig() -> Rig:
    rig = make_rig({KEY: DATA}, limits={**PARALLEL, "max_write": PAGE})
    rig.open("r+b")
    parallel(rig)
    return rig


def verify(rig: Rig) -> None:
    """Check that nothing is locked or counted, and that each byte is the old one or the new one."""
    file, direct = rig.handles[:2]
    eventually(lambda: direct_count(rig) == 0)
    rig.cache.check()
    content = file.pread(20 * PAGE, 0)
    assert direct.pread(20 * PAGE, 0) == content
    assert content[: 5 * PAGE] == DATA[: 5 * PAGE]
    assert {a for a, b in zip(content, DATA, strict=False) if a != b} <= set(b"wdirty")
    direct.pwrite(b"after", 0)
    file.truncate(6 * PAGE)
    file.fsync(timeout=20)
    assert rig.backend.committed(KEY) == file.pread(20 * PAGE, 0)
    rig.cache.check()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("points", [pytest.param(range(1, 1000, 3), id="some"), EVERY])
@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_between_two_bytecodes_of_direct_io_leaves_nothing_behind(call: str, points: range) -> None:
    """Of the places in the engine at which CPython checks for signals: some of them, or all. [T-24, T-51]"""
    assert interrupted_each(CALLS[call], points, a_rig, verify) > 0


@pytest.mark.parametrize("first", ["write_from", "commit"])
@pytest.mark.parametrize("both", [True, False], ids=["takes both", "takes one"])
def test_a_commit_and_a_direct_write_alternate_if_the_backend_takes_one(make: Make, both: bool, first: str) -> None:
    """The waiting commit holds no token: other bytes are written back. The write is not counted. [2.10, 2.26]"""
    rig, file, direct = make({KEY: DATA}, limits={"parallel_direct_writes": both}).both(direct=True)
    acknowledged(file)
    calls: list[Callable[[], object]] = [lambda: direct.pwrite(b"x" * PAGE, 8 * PAGE), file.fsync]
    gate, one = at_gate(rig.backend.gate(first), calls[first == "commit"])
    other = Task(calls[first != "commit"])
    if both:
        other.result()
    else:
        assert other.waits()
        assert (rig.backend.committed(KEY) or b"")[:1] != b"d"
        assert direct_count(rig) == (first == "write_from")
    rig.cache.check()
    one.result(opening=gate)
    other.result()
    assert (rig.backend.committed(KEY) or b"")[:1] == b"d"
    file.fsync()
    assert (rig.backend.committed(KEY) or b"")[8 * PAGE : 9 * PAGE] == b"x" * PAGE


def test_direct_writes_keep_the_number_of_calls_in_flight(make: Make) -> None:
    """Many writes and long ones together never exceed the backend's limit of calls in flight. [2.1, 2.10]"""
    rig = make({KEY: DATA}, limits={**PARALLEL, "max_inflight": 3, "max_write": PAGE})
    direct = parallel(rig)
    gate = rig.backend.gate("write_from", times=100)
    tasks = [Task(direct.pwrite, b"x" * 4 * PAGE, k * 4 * PAGE) for k in range(4)]
    eventually(lambda: gate.nr_entered == 3)
    assert all(task.waits(0.05) for task in tasks)
    assert gate.nr_entered == 3
    gate.open()
    for task in tasks:
        task.result()
    assert rig.backend.nr_transfers_max == 3
