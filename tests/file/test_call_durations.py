"""Durations of backend calls: each is counted once, whichever thread makes it, and for no longer than it lasted."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any

import pytest

from pagecache import RetryPolicy, aio
from pagecache.native import COMMIT_CALL, READ_CALL, WRITE_CALL

from ..aio.stores import Store
from ..stores import RecordingBackend
from .rig import KEY, PAGE, QUIET, Make, Patch, at_gate, attached, eventually

NAMES = ("read", "write", "commit")


def counts(volume: Any) -> dict[str, int]:
    """Calls that ended, by kind."""
    return {name: sum(volume.engine.native.latency(call)[0]) for name, call in zip(NAMES, range(3), strict=True)}


OPS = ("read_into", "write_from", "commit")


def test_a_call_counts_for_as_long_as_it_lasts_and_not_before_it_ends(make: Make) -> None:
    rig = make({KEY: b"x"})
    for op, call, act in (
        ("read_into", READ_CALL, lambda f: f.pread(1, 0)),
        ("write_from", WRITE_CALL, lambda f: (f.pwrite(b"y", 0), f.flush())),
        ("commit", COMMIT_CALL, lambda f: f.fsync()),
    ):
        began = time.monotonic()
        gate, running = at_gate(rig.backend.gate(op), act, rig.open())
        entered = time.monotonic()
        time.sleep(0.02)  # gives the call a length; no event is awaited
        assert sum(rig.volume.engine.native.latency(call)[0]) == 0
        released = time.monotonic()
        running.result(opening=gate)
        found, total = rig.volume.engine.native.latency(call)
        assert sum(found) == 1
        assert released - entered <= total <= time.monotonic() - began


def test_a_call_that_fails_counts_and_the_pause_before_the_next_does_not(make: Make, monkeypatch: Patch) -> None:
    policy = RetryPolicy(attempts=3, first_delay=10.0, max_delay=10.0, deadline=60.0, failed_retry=None)
    rig = make({KEY: b"x"}, retry=policy)
    paused = 0.0

    def pause(*_: object) -> None:
        nonlocal paused
        began = time.monotonic()
        time.sleep(0.05)  # gives the pause a length; no event is awaited
        paused += time.monotonic() - began

    monkeypatch.setattr(rig.volume.engine, "sleep", pause)
    rig.backend.fault("read_into", OSError(errno.EIO, "later"), times=2)
    file = rig.open()
    began = time.monotonic()
    assert file.pread(1, 0) == b"x"
    calls = time.monotonic() - began - paused
    found, total = rig.volume.engine.native.latency(READ_CALL)
    assert sum(found) == 3
    assert paused > 0.05
    assert total <= calls


@pytest.mark.parametrize("parallel", [False, True])
def test_direct_reads_and_writes_count(make: Make, parallel: bool) -> None:
    rig = make({KEY: b"x" * 4 * PAGE}, limits={"parallel_direct_writes": parallel})
    f = rig.open(direct=True, parallel_direct_writes=parallel)
    f.pwrite(b"y" * PAGE, 0)
    f.pread(PAGE, 2 * PAGE)
    seen = {name: len(rig.backend.seen(op)) for name, op in zip(NAMES, OPS, strict=True)}
    assert counts(rig.volume) == seen
    assert seen["read"] >= 1
    assert seen["write"] >= 1


def test_the_mirror_is_not_measured(make: Make) -> None:
    backend, mirror = RecordingBackend({KEY: b""}), RecordingBackend({KEY: b""})
    with attached(backend, "8MiB", **QUIET, options={"mirror": mirror}) as volume:
        with volume.open(KEY, "r+") as f:
            f.pwrite(b"x" * PAGE, 0)
            f.fsync()
        eventually(lambda: mirror.seen("write_from"))
        assert counts(volume)["write"] == len(backend.seen("write_from"))


def test_calls_of_an_asynchronous_backend_count() -> None:
    store = Store({KEY: b"x" * PAGE})
    with attached(store, "8MiB", **QUIET, options={"read_ahead": 0}) as volume:

        async def use() -> None:
            async with aio.open(volume, KEY, "r+") as f:
                await f.pread(PAGE, 0)
                await f.pwrite(b"y" * PAGE, 0)
                await f.fsync()

        asyncio.run(use())
        assert counts(volume) == {name: store.calls.count(op) for name, op in zip(NAMES, OPS, strict=True)}


def test_a_call_left_behind_by_an_abort_is_not_measured(make: Make) -> None:
    """Its operation ended before it did."""
    rig = make({KEY: b"x"})
    gate, reading = at_gate(rig.backend.gate("read_into"), rig.open().pread, 1, 0)
    rig.volume.abort(OSError(errno.EIO, "gone"))
    rig.volume.reconnect(rig.backend.successor(), fenced=True)
    gate.open()
    try:
        reading.result()
    except OSError:
        pass  # it does not matter whether it was read again
    assert counts(rig.volume)["read"] <= 1
