"""An abort ends waits of every kind: each verb in each of its waits.

A thread of the volume makes the call, so its caller can leave at once. Calls of a prompt backend run on the caller's
thread, and end when the backend returns.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from pagecache import CachedFile, ShutdownError, View, Volume
from pagecache.backends import DirectoryBackend

from ..stores import WAIT_LIMIT_S, Gate, ObjectBackend, RecordingBackend, short
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, at_gate, cut_off, dirty_bytes, eventually, make_rig, pattern, raises

OLD = pattern(4 * PAGE)
Verb = Callable[[Rig, CachedFile], Any]

VERBS: dict[str, Verb] = {
    "pread": lambda rig, file: file.pread(PAGE, 2 * PAGE),
    "pread_into": lambda rig, file: file.pread_into(bytearray(PAGE), 2 * PAGE),
    "preadv": lambda rig, file: file.preadv([bytearray(PAGE)], 2 * PAGE),
    "read": lambda rig, file: (file.seek(2 * PAGE), file.read(10)),
    "long read": lambda rig, file: file.pread(4 * PAGE, 0),
    "direct read": lambda rig, file: rig.open("rb", direct=True).pread(PAGE, 2 * PAGE),
    "view": lambda rig, file: file.view(2 * PAGE, PAGE),
    "writable view": lambda rig, file: file.view(2 * PAGE, PAGE, writable=True),
    "prefetch": lambda rig, file: file.prefetch(2 * PAGE, PAGE, wait=True),
    "prefetch_ranges": lambda rig, file: file.prefetch_ranges([(2 * PAGE, PAGE)], wait=True),
    "pwrite": lambda rig, file: file.pwrite(b"x", 0),
    "append": lambda rig, file: file.append(b"x"),
    "write-through": lambda rig, file: rig.open("r+b", write_through=True).pwrite(b"x", 0),
    "direct write": lambda rig, file: rig.open("r+b", direct=True).pwrite(b"x" * PAGE, 0),
    "flush": lambda rig, file: file.flush(),
    "fsync": lambda rig, file: file.fsync(),
    "fsync with a deadline": lambda rig, file: file.fsync(timeout=60),
    "sync_range": lambda rig, file: file.sync_range(0, 4 * PAGE),
    "close": lambda rig, file: file.close(),
    "truncate": lambda rig, file: file.truncate(10),
    "punch_hole": lambda rig, file: file.punch_hole(2 * PAGE, PAGE),
    "zero_range": lambda rig, file: file.zero_range(0, PAGE),
    "sync": lambda rig, file: rig.volume.sync(),
    "cache.sync": lambda rig, file: rig.cache.sync(),
    "ticket": lambda rig, file: rig.volume.begin_sync().wait(),
    "invalidate": lambda rig, file: rig.volume.invalidate(KEY),
    "discard": lambda rig, file: rig.volume.discard(KEY),
    "open": lambda rig, file: rig.volume.open(KEY),
    "stat": lambda rig, file: rig.volume.stat(KEY),
    "setattr": lambda rig, file: rig.volume.setattr(KEY, mtime_ns=1),
    "exists": lambda rig, file: rig.volume.exists("other"),
    "list": lambda rig, file: list(rig.volume.list()),
    "rename": lambda rig, file: rig.volume.rename("other", "another"),
    "remove": lambda rig, file: rig.volume.remove("other"),
    "volume.truncate": lambda rig, file: rig.volume.truncate("other", 3),
    "create": lambda rig, file: rig.volume.open("fresh", "xb"),
}


@dataclass(slots=True)
class Stuck:
    """A volume in which a call hangs, and the reason."""

    rig: Rig
    file: CachedFile
    gate: Gate
    helpers: list[Task[Any]]
    views: list[View] = field(default_factory=list)


def hanging(
    op: str, setup: Callable[[CachedFile], Any] | None = None, helper: Verb | None = None
) -> Callable[[Make], Stuck]:
    """A call of the backend hangs: that of another thread, or, without a helper, the verb's own."""

    def build(make: Make) -> Stuck:
        rig, file = make({KEY: OLD, "other": OLD}, limits={"punch": True}, retry=ONCE).opened("r+b")
        if setup is not None:
            setup(file)
        gate = rig.backend.gate(op, times=9)
        return Stuck(rig, file, gate, [] if helper is None else [at_gate(gate, helper, rig, file)[1]])

    return build


def beside_a_direct_write(make: Make) -> Stuck:
    """Another thread's direct write hangs, in a backend that takes no commit beside it; bytes are acknowledged."""
    rig, file, direct = make({KEY: OLD}, limits={"parallel_direct_writes": False}, retry=ONCE).both(direct=True)
    file.pwrite(b"dirty", 0)
    file.flush()
    gate, writer = at_gate(rig.backend.gate("write_from"), direct.pwrite, OLD[:PAGE], 2 * PAGE)
    return Stuck(rig, file, gate, [writer])


def throttled(make: Make) -> Stuck:
    """There is no room for dirty data, and the backend takes none."""
    limits = {"dirty_background": 16 * PAGE, "dirty_limit": 32 * PAGE}
    rig, file = make({KEY: OLD, "other": OLD, "big": b""}, capacity=128 * PAGE, retry=ONCE, **limits).opened("r+b")
    gate = rig.backend.gate("write_from", times=99)
    _, writer = at_gate(gate, rig.open("r+b", key="big").pwrite, bytes(64 * PAGE), 0)
    assert writer.waits()
    return Stuck(rig, file, gate, [writer])


def full_of_views(make: Make) -> Stuck:
    """Views hold all memory: a read goes past the cache."""
    rig = make({KEY: OLD, "big": bytes(32 * PAGE)}, capacity=32 * PAGE, retry=ONCE)
    views = [rig.open("rb", key="big").view(0, 32 * PAGE)]
    return Stuck(rig, rig.open("r+b"), rig.backend.gate("read_into", times=9), [], views)


def hung_rollback(make: Make) -> Stuck:
    """A discard of uploaded bytes makes the backend roll them back, and that call hangs."""
    rig, file = make(backend=ObjectBackend({KEY: OLD}), retry=ONCE).written(b"dirty", 0)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable)
    return Stuck(rig, file, rig.backend.gate("rollback", times=9), [])


def dirty(file: CachedFile) -> None:
    file.pwrite(b"dirty", 0)


TABLE: list[tuple[Callable[[Make], Stuck], str, tuple[str, ...]]] = [
    (
        hanging("read_into", helper=lambda rig, _: rig.open("rb").pread(PAGE, 2 * PAGE)),
        "a fill",
        (
            *("pread", "pread_into", "preadv", "read", "view", "prefetch", "prefetch_ranges"),
            *("truncate", "punch_hole"),
        ),
    ),
    (
        hanging("write_from", dirty, lambda _, file: file.fsync()),
        "a pass",  # it has the token
        (
            *("flush", "fsync", "fsync with a deadline", "sync_range", "close", "truncate", "punch_hole"),
            *("sync", "cache.sync", "ticket", "invalidate", "discard"),
        ),
    ),
    (
        hanging("truncate", helper=lambda rig, _: rig.open("r+b").truncate(3 * PAGE)),
        "a truncate",  # it has the inode lock, the token and the invalidate lock
        ("pwrite", "append", "truncate", "punch_hole", "zero_range", "pread", "view", "prefetch"),
    ),
    (beside_a_direct_write, "a direct write", ("fsync", "sync", "ticket", "truncate")),
    (throttled, "room", ("pwrite", "append", "zero_range")),
    (full_of_views, "its read past the cache", ("pread",)),
    (
        hanging("read_into"),
        "its read",
        ("pread", "pread_into", "read", "long read", "direct read", "view", "writable view", "prefetch"),
    ),
    (hanging("write_from", dirty), "its write-back", ("fsync", "flush", "sync_range", "close", "sync", "ticket")),
    (hanging("write_from"), "its write", ("write-through", "direct write")),
    (hanging("commit", dirty), "a commit", ("fsync", "sync", "cache.sync", "ticket", "invalidate", "punch_hole")),
    (hanging("truncate"), "its truncate", ("truncate", "volume.truncate")),
    (hanging("punch_hole"), "its hole", ("punch_hole",)),
    (hung_rollback, "its rollback", ("discard",)),
    (hanging("open"), "open", ("create", "volume.truncate")),
    (hanging("file_stat", dirty), "stat of an open object", ("stat", "setattr")),
    (hanging("stat"), "stat", ("exists", "open")),
    (hanging("list"), "list", ("list",)),
    (hanging("rename"), "rename", ("rename",)),
    (hanging("remove"), "remove", ("remove",)),
    (hanging("sync", dirty), "names", ("sync", "cache.sync", "ticket")),
    (
        hanging("rename", helper=lambda rig, _: rig.volume.rename("other", "elsewhere")),
        "a busy name",
        ("rename", "remove", "volume.truncate"),
    ),
]
CASES = [pytest.param(build, verb, id=f"{verb} waits for {what}") for build, what, verbs in TABLE for verb in verbs]


@pytest.mark.parametrize(("build", "verb"), CASES)
def test_abort_ends_the_wait(make: Make, build: Callable[[Make], Stuck], verb: str) -> None:
    """ShutdownError with ESHUTDOWN while the call hangs; data stays; the late answer changes nothing. [T-13, I-23]"""
    stuck = build(make)
    rig = stuck.rig
    waiter = Task(VERBS[verb], rig, stuck.file)
    if not stuck.helpers:
        stuck.gate.wait_entered()
    assert waiter.waits(0.05)
    local = dirty_bytes(rig.volume)
    rig.volume.abort(ConnectionError("cable pulled"))
    assert raises(ShutdownError, waiter.result, match="cable pulled").errno == errno.ESHUTDOWN
    assert dirty_bytes(rig.volume) >= min(local, 1)
    stuck.gate.open()
    for helper in stuck.helpers:
        assert helper.finished.wait(30)
    eventually(lambda: rig.backend.nr_running == 0)
    eventually(lambda: rig.cache.stats().writeback == 0)
    for view in stuck.views:
        view.release()
    rig.cache.check()
    assert dirty_bytes(rig.volume) >= min(local, 1)


@pytest.mark.parametrize("verb", ["pread", "pread_into", "read", "view", "writable view", "direct read"])
def test_a_read_of_a_prompt_backend_ends_when_the_backend_returns(make: Make, verb: str) -> None:
    """An abort cannot take the thread of the caller out of the backend. [T-13, I-23, K9]"""
    rig = make({KEY: OLD}, limits={"prompt": True}, retry=ONCE)
    gate, task = at_gate(rig.backend.gate("read_into"), VERBS[verb], rig, rig.open("r+b"))
    rig.volume.abort()
    assert task.waits(0.3)
    gate.open()
    with contextlib.suppress(ShutdownError):  # or it ends with the bytes that it has got
        task.result()


libc = ctypes.CDLL(None, use_errno=True)


SYSTEM_CALLS = {"x86_64": {"preadv": 295, "pwritev": 296}, "aarch64": {"preadv": 69, "pwritev": 70}}


def interrupt_all(number: int) -> None:
    """Let each system call of this number fail with EINTR from now on, in this thread (seccomp(2))."""
    steps = (  # load the number; if it is not this one, go to the end; EINTR; allow
        *(0x20, 0, 0, 0),
        *(0x15, 0, 1, number),
        *(0x06, 0, 0, 0x0005_0000 | errno.EINTR),
        *(0x06, 0, 0, 0x7FFF_0000),
    )
    program = ctypes.create_string_buffer(struct.pack("=" + "HBBI" * 4, *steps))
    whole = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(program)))
    no_new_privileges, set_filter, filter_mode = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(set_filter, filter_mode, whole, 0, 0) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.skipif(platform.machine() not in SYSTEM_CALLS, reason=f"no numbers for {platform.machine()}")
@pytest.mark.parametrize(("op", "verb"), [("preadv", "pread"), ("pwritev", "fsync")])
def test_a_call_that_a_signal_interrupts_is_not_made_again_after_an_abort(tmp_path: Path, op: str, verb: str) -> None:
    """The next backend, or another client after a fence, may own the object by then. [2.22]"""
    (tmp_path / KEY).write_bytes(OLD)
    rig = make_rig(backend=cast(RecordingBackend, DirectoryBackend(tmp_path)))
    file = rig.dirtied(b"dirty", 0)
    begun = threading.Event()

    def interrupted() -> None:
        interrupt_all(SYSTEM_CALLS[platform.machine()][op])
        begun.set()
        VERBS[verb](rig, file)

    task = Task(interrupted)
    assert begun.wait(WAIT_LIMIT_S)
    assert task.waits()
    rig.volume.abort()
    raises(ShutdownError, task.result)
    rig.volume.reconnect(rig.volume.backend, fenced=True)
    file.fsync()
    assert (tmp_path / KEY).read_bytes() == b"dirty" + OLD[5:]
    rig.cache.close()


@pytest.mark.parametrize("prompt", [False, True])
def test_a_hit_and_a_flush_of_a_clean_file_need_no_backend(make: Make, prompt: bool) -> None:
    """They succeed on an aborted volume; an fsync does not, also of a range. [I-23, 2.22]"""
    rig, file = make({KEY: OLD}, limits={"prompt": prompt}).opened("r+b")
    assert file.pread(len(OLD), 0) == OLD
    rig.volume.abort()
    file.flush()
    assert file.pread(len(OLD), 0) == OLD
    for save in (file.fsync, lambda: file.sync_range(0, PAGE)):
        raises(ShutdownError, save)
    rig.volume.reconnect(rig.backend)


def test_every_blocking_verb_is_in_the_table() -> None:
    """Public methods of handles and volumes that may wait. [I-23]"""
    quick = {
        *("try_pread", "try_pwrite", "tell", "seek", "seekable", "readable", "writable", "isatty", "fileno", "stats"),
        *("advise", "abandon", "detach", "readlines", "writelines"),
        *("pwritev", "readall", "readinto", "readline", "write"),  # the same C functions as a verb of the table
        *("drop_clean", "invalidate_remote", "failed", "retry_failed", "dirty_ranges", "abort"),
        *("begin_sync", "not_mirrored", "unsaved", "recovered", "resume"),
        *("reconnect", "resolve"),  # of test_reconnect and test_lifecycle
    }
    done = {verb.split()[0].removeprefix("volume.") for _build, _what, verbs in TABLE for verb in verbs}
    for kind in (CachedFile, Volume):
        names = {name for name in vars(kind) | vars(kind.__base__) if not name.startswith("_")}
        assert {name for name in names if callable(getattr(kind, name))} - quick - done == set()


def test_nothing_new_starts_after_an_abort(make: Make) -> None:
    """Every verb that would call the backend raises; cached pages can still be read and written. [2.22]"""
    rig, file = make({KEY: OLD, "other": OLD}, limits={"punch": True}, retry=ONCE).opened("r+b")
    file.pread(PAGE, 0)
    file.pwrite(b"dirty", 0)
    rig.volume.abort()
    rig.backend.forget_calls()
    for name, verb in VERBS.items():
        if name in ("pwrite", "append", "zero_range", "close"):
            continue
        with pytest.raises(ShutdownError):
            pytest.fail(f"{name} answered {verb(rig, file)!r}")
    assert file.pread(PAGE, 0) == b"dirty" + OLD[5:PAGE]
    assert [call.op for call in rig.backend.calls if call.op != "file_close"] == []


def test_reads_of_queued_work_are_not_made_after_an_abort(make: Make) -> None:
    """Readahead, passes and commits that waited for a thread make no call. [2.22]"""
    rig = make(
        {KEY: OLD * 64, "other": OLD}, limits={"max_inflight": 2, "max_read": PAGE}, options={"read_ahead": "1MiB"}
    )
    file, other = rig.open("r+b"), rig.open("r+b", key="other")
    other.pwrite(b"dirty", 0)
    gate, reader = at_gate(rig.backend.gate("read_into", times=99), file.pread, PAGE, 0)
    file_reads = Task(file.prefetch)
    eventually(lambda: rig.backend.nr_running == 2)  # no call is left for the writes
    saving = Task(other.fsync)
    file_reads.result()
    rig.volume.abort()
    raises(ShutdownError, saving.result)
    calls = len(rig.backend.calls)
    gate.open()
    eventually(lambda: rig.backend.nr_running == 0)
    raises(ShutdownError, file.pread, PAGE, 100 * PAGE)
    assert reader.finished.wait(30)
    assert len(rig.backend.calls) == calls


@pytest.mark.parametrize("op", ["read_into", "write_from"])
def test_a_request_that_was_answered_short_makes_no_further_call(make: Make, op: str) -> None:
    """The rest is asked for again after a short answer, but not after an abort. [2.22]"""
    rig, file = make({KEY: OLD}, retry=ONCE).opened("r+b")
    rig.backend.fault(op, short(PAGE), times=99)
    if op == "write_from":
        file.pwrite(pattern(4 * PAGE, seed=1), 0)
    calls: dict[str, Callable[[], object]] = {"write_from": file.fsync, "read_into": lambda: file.pread(4 * PAGE, 0)}
    cut_off(rig.volume, rig.backend.gate(op), calls[op]).open()
    eventually(lambda: rig.backend.nr_running == 0)
    eventually(lambda: rig.cache.stats().writeback == 0)
    assert len(rig.backend.seen(op)) == 1
