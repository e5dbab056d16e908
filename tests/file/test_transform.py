"""A cache over a TransformBackend: whatever happens, the stored bytes decode to the written ones."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecache import BackendError, PageCache, RetryPolicy, WritebackError
from pagecache.backends import Backend, MemoryBackend, Transform, TransformBackend
from pagecache.backends.transform.units import Units
from pagecache.testing import FaultyBackend, Rule

from ..backends.transforms import Checksums, Sealed, XorStream
from ..stores import WAIT_LIMIT_S, PublishingBackend, RecordingBackend, RecordingFile, failing_commit, short
from .rig import FAST, KEY, ONCE, PAGE, QUIET, Rig, at_gate, pattern

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


def store(backend: Backend, transform: Transform, content: bytes) -> None:
    file = TransformBackend(backend, transform).open(KEY, create=True)
    if content:
        assert file.write_from(0, [memoryview(content)]) == len(content)
    file.commit()


@contextmanager
def sealed(content: bytes = b"", *, retry: RetryPolicy = FAST, unit: int = UNIT, **options: Any) -> Iterator[Rig]:
    recording = RecordingBackend(**options)
    store(recording, Sealed(unit), content)
    recording.forget_calls()
    cache = PageCache("8MiB", **{**QUIET, "retry": retry})
    rig = Rig(cache, cache.attach(TransformBackend(recording, Sealed(unit)), name="volume", read_ahead=0), recording)
    try:
        yield rig
    finally:
        rig.finish()


def decoded(slots: bytes, first: int = 0) -> bytes:
    transform = Sealed(UNIT)
    return b"".join(
        transform.decode(first + i, slots[i * SLOT : (i + 1) * SLOT]) for i in range(-(-len(slots) // SLOT))
    )


@pytest.mark.parametrize("answer", ["stored", "failed", "stored and failed"])
def test_bytes_are_stable_in_flight_and_the_newest_arrive(answer: str) -> None:
    """A write is held in flight while the writer changes the bytes: the units sent are old, then new ones. [T-37]"""
    old, new = pattern(2 * UNIT, 1), pattern(2 * UNIT, 2)
    with sealed(bytes(2 * UNIT), capture=True) as rig:
        file = rig.dirtied(old, 0)

        def fail(below: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
            if answer == "stored and failed":
                below.store(offset, buffers)
            raise OSError(errno.EIO, "made up")

        if answer != "stored":
            rig.backend.fault("write_from", fail)
        with rig.backend.gate("write_from") as gate:
            _, first = at_gate(gate, file.fsync)
            file.pwrite(new[:UNIT], 0)  # returns while the call is in flight
            file.pwrite(new[UNIT + 10 : UNIT + PAGE], UNIT + 10)
        first.result()
        file.fsync()
        newest = new[:UNIT] + old[UNIT : UNIT + 10] + new[UNIT + 10 : UNIT + PAGE] + old[UNIT + PAGE :]
        sent = [call.data for call in rig.backend.seen("write_from")]
        assert len({bytes(data[:8]) for data in sent}) == len(sent) >= 2, "a nonce was used twice"
        assert decoded(sent[0]) == old
        assert plain(rig.backend, Sealed(UNIT)) == newest
        assert decoded(rig.backend.committed(KEY) or b"") == newest


@pytest.mark.parametrize("bytes_stored", [1, 100, SLOT - 1])
def test_bytes_around_survive_a_call_that_stored_half_of_their_unit(bytes_stored: int) -> None:
    """They are clean, so the cache no longer has them when it retries. [T-37, 2.12]"""
    content = pattern(3 * UNIT, 1)
    with sealed(content, retry=ONCE) as rig:
        file = rig.dirtied(b"new", UNIT + PAGE)
        rig.backend.fault("write_from", short(bytes_stored))
        rig.fails("write_from", OSError(errno.ENOSPC, "made up"), WritebackError, file.fsync)
        rig.volume.drop_clean(KEY)
        expected = content[: UNIT + PAGE] + b"new" + content[UNIT + PAGE + 3 :]
        assert file.pread(3 * UNIT, 0) == expected
        rig.volume.drop_clean(KEY)
        rig.volume.retry_failed()
        file.fsync()
        assert plain(rig.backend, Sealed(UNIT)) == expected


LIMIT = 40 * PAGE
offsets = st.one_of(st.integers(0, LIMIT), st.sampled_from([0, PAGE, UNIT - 1, UNIT, UNIT + 1, 3 * UNIT]))
lengths = st.one_of(st.integers(1, 3 * PAGE), st.sampled_from([1, PAGE, UNIT, UNIT + 1, 2 * UNIT]))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), offsets, lengths),
        st.tuples(st.just("write"), offsets, lengths),
        st.tuples(st.just("truncate"), offsets, st.just(0)),
        st.tuples(st.just("punch"), offsets, lengths),
        st.tuples(st.just("read"), offsets, lengths),
        st.tuples(st.sampled_from(["flush", "fsync", "drop", "reopen", "fail"]), st.integers(1, 3), st.just(0)),
    ),
    max_size=25,
)
transforms = st.sampled_from(
    [
        lambda: XorStream(PAGE),
        lambda: Checksums(PAGE),
        lambda: Sealed(UNIT),
        lambda: Sealed(UNIT - 24),  # slots of a round size, units that are not
        lambda: Checksums(1000),
    ]
)


def run(inner: Backend, fail: Callable[[int], object], make: Callable[[], Transform], steps: list[Any]) -> None:
    """The steps on a cache of few pages and on a bytearray."""
    model, seed = bytearray(), 0
    patient = RetryPolicy(attempts=100, first_delay=0.0005, max_delay=0.002, deadline=WAIT_LIMIT_S, failed_retry=None)
    quick = {"dirty_background": 0.1, "dirty_limit": 0.6, "flush_interval": 0.01}
    with PageCache(64 * PAGE, **{**QUIET, **quick}, retry=patient) as cache, ExitStack() as opened:
        volume = cache.attach(TransformBackend(inner, make()), read_ahead="16KiB")
        whole = volume.backend.limits.commit_on_close
        file = opened.enter_context(volume.open(KEY, "w+"))
        for verb, offset, length in steps:
            seed += 1
            if verb == "write":
                if offset + length - len(model) > 0:
                    model.extend(bytes(offset + length - len(model)))
                model[offset : offset + length] = pattern(length, seed)
                file.pwrite(pattern(length, seed), offset)
            elif verb == "truncate":
                model = model[:offset] + bytearray(max(0, offset - len(model)))
                file.truncate(offset)
            elif verb == "punch":
                end = min(offset + length, len(model))
                model[offset:end] = bytes(max(0, end - offset))
                file.punch_hole(offset, length)
            elif verb == "read":
                assert file.pread(length, offset) == model[offset : offset + length]
            elif verb == "drop":
                volume.drop_clean(KEY)
            elif verb == "flush":
                file.flush()
            elif verb == "fail":
                fail(offset)
            else:
                file.fsync()
                if not whole or verb == "fsync":
                    assert plain(inner, make()) == model
                if verb == "reopen":
                    file.close()
                    file = opened.enter_context(volume.open(KEY, "r+"))
        assert file.pread(LIMIT * 2, 0) == model
        file.fsync()
        assert plain(inner, make()) == model


FAULTS = [Rule("write", short=1, times=1), Rule("write", short="half", times=2), Rule("read", short="half", times=2)]


@settings(max_examples=60)
@given(steps=operations, make=transforms, faults=st.booleans())
def test_content_is_that_of_a_model_over_memory(steps: list[Any], make: Callable[[], Transform], faults: bool) -> None:
    """[T-37, T-45]"""
    faulty = FaultyBackend(MemoryBackend())

    def fail(times: int) -> None:
        if faults:
            lost = Rule(("write", "commit"), error=errno.EAGAIN, done=True, times=times)
            torn = [Rule("write", short=700, nth=1), Rule("write", error=errno.EAGAIN, nth=2)]
            faulty.use([*torn, lost, *FAULTS])

    run(faulty, fail, make, steps)


@settings(max_examples=60)
@given(steps=operations, make=transforms, read_back=st.booleans(), kept=st.booleans(), in_pairs=st.booleans())
def test_content_is_that_of_a_model_over_objects_published_as_a_whole(
    steps: list[Any], make: Callable[[], Transform], read_back: bool, kept: bool, in_pairs: bool
) -> None:
    """Also if reads show committed content and failed commits forget. [T-45, 2.26]"""
    error = BackendError(errno.EIO, "the commit failed, as the test wants", retry=True, kept=kept)
    inner = PublishingBackend(read_back=read_back, write_unit=2 * Units(make()).slot if in_pairs else 1)
    run(inner, lambda times: inner.fault("commit", error if kept else failing_commit(error), times=times), make, steps)
    assert inner.violations == []
