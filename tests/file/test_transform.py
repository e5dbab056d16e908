"""A cache over a TransformBackend: whatever happens, the stored bytes decode to the written ones."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pagecache import BackendError
from pagecache.backends import Backend, MemoryBackend, Transform, TransformBackend
from pagecache.backends.transform.units import Units
from pagecache.stress import Plan
from pagecache.stress.cached import CachedTarget
from pagecache.stress.job import Run
from pagecache.testing import FaultPlan, FaultyBackend, Rule

from ..backends.transforms import Checksums, Sealed, XorStream
from ..stores import PublishingBackend, RecordingBackend, RecordingFile, failing_commit
from ..stress.test_together import Patient
from .rig import FAST, KEY, PAGE, QUIET, at_gate, attached, pattern

UNIT = 4 * PAGE
SLOT = UNIT + Sealed.overhead


def plain(backend: Backend, transform: Transform, key: str = KEY) -> bytes:
    """The content as another client would decode it."""
    file = TransformBackend(backend, transform).open(key)
    size = file.stat().size
    buffer = bytearray(size + 1)
    with memoryview(buffer) as view:
        done = file.read_into(0, [view])
    assert done == size
    return bytes(buffer[:done])


def decoded(slots: bytes, first: int = 0) -> bytes:
    transform = Sealed(UNIT)
    return b"".join(
        transform.decode(first + i, slots[i * SLOT : (i + 1) * SLOT]) for i in range(-(-len(slots) // SLOT))
    )


@pytest.mark.parametrize("answer", ["stored", "failed", "stored and failed"])
def test_bytes_are_stable_in_flight_and_the_newest_arrive(answer: str) -> None:
    """A write is held in flight while the writer changes the bytes: the units sent are old, then new ones. [T-37]"""
    old, new = pattern(2 * UNIT, 1), pattern(2 * UNIT, 2)
    recording = RecordingBackend(capture=True)
    backend = TransformBackend(recording, Sealed(UNIT))
    with attached(backend, "8MiB", retry=FAST, **QUIET) as volume, volume.open(KEY, "w+b", read_ahead=0) as file:
        file.pwrite(old, 0)

        def fail(below: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
            if answer == "stored and failed":
                below.store(offset, buffers)
            raise OSError(errno.EIO, "made up")

        if answer != "stored":
            recording.fault("write_from", fail)
        with recording.gate("write_from") as gate:
            _, first = at_gate(gate, file.fsync)
            file.pwrite(new[:UNIT], 0)  # returns while the call is in flight
            file.pwrite(new[UNIT + 10 : UNIT + PAGE], UNIT + 10)
        first.result()
        file.fsync()
        newest = new[:UNIT] + old[UNIT : UNIT + 10] + new[UNIT + 10 : UNIT + PAGE] + old[UNIT + PAGE :]
        sent = [call.data for call in recording.seen("write_from")]
        assert len({bytes(data[:8]) for data in sent}) == len(sent) >= 2, "a nonce was used twice"
        assert decoded(sent[0]) == old
        assert plain(recording, Sealed(UNIT)) == newest
        assert decoded(recording.committed(KEY) or b"") == newest
    assert recording.violations == []


TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "stream": lambda: XorStream(PAGE),
    "checksums": lambda: Checksums(PAGE),
    "sealed": lambda: Sealed(UNIT),
    "slots of a round size, units that are not": lambda: Sealed(UNIT - 24),
    "units of no pages": lambda: Checksums(1000),
}
# A unit is torn by a call that is short and one that fails behind it; in a stream nobody would see that.
BELOW = [
    Rule("write", short=700, chance=0.2),
    Rule("write", error=errno.EAGAIN, chance=0.2),
    Rule("write", error=errno.EAGAIN, done=True, chance=0.05),
    Rule(("read", "write"), short="half", chance=0.1),
    Rule("write", short=1, chance=0.02),
]


def read_again(transform: Transform) -> Transform:
    """The tester reads the store beside writes, which tear units for a moment."""
    decode = transform.decode

    def torn(index: int, data: bytes) -> bytes:
        try:
            return decode(index, data)
        except ValueError as error:
            time.sleep(0.01)
            raise BackendError(errno.EIO, "torn", retry=True) from error

    transform.decode = torn  # type: ignore[method-assign]
    return transform


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("store", ["in place", "whole", "whole, reads show committed content"])
def test_random_operations(kind: str, store: str) -> None:
    """By the tester. Below the transform, calls are short or lose their answers, commits forget. [T-37, T-45, 2.26]"""
    make = TRANSFORMS[kind]
    objects = PublishingBackend(write_unit=2 * Units(make()).slot)
    below = PublishingBackend(objects, read_back=store == "whole", write_unit=2 * Units(make()).slot)
    for number in range(100):
        error = BackendError(errno.EIO, "as the test wants", retry=True, kept=number % 2 == 0)
        below.fault("commit", error if error.kept else failing_commit(error), skip=2)
    memory = MemoryBackend()
    own: Backend = memory if store == "in place" else objects
    rules = [rule for rule in BELOW if kind != "stream" or rule.short is None]
    hurt: Backend = FaultyBackend(memory, FaultPlan(rules, seed=1)) if store == "in place" else below

    def target(plan: Plan, number: int) -> CachedTarget:
        found = Patient(plan, number, lambda: TransformBackend(own, read_again(make())), kind)
        found.between = lambda _backend: TransformBackend(hurt, make())
        return found

    fields: dict[str, Any] = {"size": "160KiB", "capacity": "256KiB", "operations": 60, "rounds": 1, "duration": 60}
    plan = Plan(seed=1, threads=2, tasks=0, files=1, **fields)
    report = Run(plan, make=target).run()
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["operations"] > 100
    assert objects.violations == below.violations == []
