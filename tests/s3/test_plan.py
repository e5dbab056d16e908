"""The requests of a commit cover the next version exactly, within the limits of uploads, and send no extra byte."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecache import BackendError
from pagecache.backends.objects.extents import LOST, OLD, ZEROS, Extents, Part, Piece, Source
from pagecache.backends.objects.parallel import side_by_side
from pagecache.backends.s3.errors import may_pass
from pagecache.backends.s3.plan import Copy, Send, Sent, Sizes, Step, assembly
from pagecache.backends.spool import Spool

from ..file.rig import Patch, raises, raising

UNIT = 8
SPOOL = Spool(None)
SMALL = Sizes(part=UNIT, copied=3 * UNIT, part_most=7 * UNIT + 3, parts=20, direct=6)
MiB, GiB, TiB = 1 << 20, 1 << 30, 1 << 40


class Oracle:
    """The origin of each byte, one by one."""

    def __init__(self, size: int) -> None:
        self.bytes: list[tuple[Source, int]] = [(OLD, at) for at in range(size)]

    def put(self, begin: int, end: int, source: Source, at: int) -> None:
        self.cut(max(begin, len(self.bytes)))
        self._lose_parts(begin, end)
        self.bytes[begin:end] = [(source, at + i) for i in range(end - begin)]

    def cut(self, size: int) -> None:
        self._lose_parts(size, len(self.bytes))
        self.bytes = self.bytes[:size] + [(ZEROS, 0)] * (size - len(self.bytes))

    def punch(self, begin: int, end: int) -> None:
        end = min(end, len(self.bytes))
        if begin < end:
            self.put(begin, end, ZEROS, 0)
            self.bytes[begin:end] = [(ZEROS, 0)] * (end - begin)

    def _lose_parts(self, begin: int, end: int) -> None:
        gone = {source for source, _ in self.bytes[begin:end] if isinstance(source, Part)}
        self.bytes = [(LOST, 0) if source in gone else (source, at) for source, at in self.bytes]


def spelled(pieces: Sequence[Piece]) -> list[tuple[Source, int]]:
    found: list[tuple[Source, int]] = []
    for piece in pieces:
        plain = piece.source in (ZEROS, LOST)
        found += [(piece.source, 0 if plain else piece.at + i) for i in range(piece.end - piece.begin)]
    return found


def taken(step: Step) -> list[tuple[Source, int]]:
    """The bytes of one step, as the oracle spells them; None for bytes that were sent."""
    match step:
        case Copy():
            return spelled([Piece(step.begin, step.end, OLD, step.begin)])
        case Send():
            return spelled(step.pieces)
        case Sent():
            return [(Part("u", step.number, step.etag), i) for i in range(step.end - step.begin)]


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("part"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("spooled"), st.integers(0, 12), st.integers(1, 3 * UNIT)),
        st.tuples(st.just("cut"), st.integers(0, 13 * UNIT), st.just(0)),
        st.tuples(st.just("hole"), st.integers(0, 13 * UNIT), st.integers(1, 3 * UNIT)),
        st.tuples(st.just("odd"), st.integers(0, 12 * UNIT), st.integers(1, 2 * UNIT)),
    ),
    max_size=12,
)


def changed(size: int, changes: Sequence[tuple[str, int, int]]) -> tuple[Extents, Oracle]:
    extents, oracle = Extents(size), Oracle(size)
    for n, (what, where, length) in enumerate(changes):
        if what == "cut":
            extents.cut(where)
            oracle.cut(where)
            continue
        if what == "hole":
            extents.punch(where, where + length)
            oracle.punch(where, where + length)
            continue
        source: Source
        begin = where if what == "odd" else where * UNIT
        if what == "part":
            source, length = Part("u", where + 1, f"etag-{n}"), UNIT
        else:
            source = SPOOL
        at = begin if source is SPOOL else 0
        extents.put(begin, begin + length, source, at)
        oracle.put(begin, begin + length, source, at)
    return extents, oracle


@given(size=st.integers(0, 13 * UNIT), changes=CHANGES)
@settings(max_examples=400)
def test_extents_say_of_each_byte_where_it_is(size: int, changes: list[tuple[str, int, int]]) -> None:
    extents, oracle = changed(size, changes)
    pieces = list(extents)
    assert spelled(pieces) == oracle.bytes
    assert [p.begin for p in pieces[1:]] == [p.end for p in pieces[:-1]]
    assert extents.size == len(oracle.bytes)
    for begin in range(0, extents.size, 5):
        part = extents.pieces(begin, begin + 7)
        assert [p.source for p in part if p.source != LOST] == [
            p.source for p in (q.within(begin, begin + 7) for q in pieces if q.begin < begin + 7 and q.end > begin)
            if p.source != LOST
        ]  # fmt: skip
        assert not part or (part[0].begin, part[-1].end) == (begin, min(begin + 7, extents.size))


@given(size=st.integers(0, 13 * UNIT), changes=CHANGES)
@settings(max_examples=400)
def test_lost_bytes_are_those_opened_less_cuts_and_holes(size: int, changes: list[tuple[str, int, int]]) -> None:
    """Bytes may be forgotten; cuts and holes may not."""
    extents, _ = changed(size, changes)
    spaces, _ = changed(size, [change for change in changes if change[0] in ("cut", "hole")])
    there = spelled(spaces.pieces(0, spaces.size))
    extents.lose("u")
    lost = [at for p in extents if p.source == LOST for at in range(p.begin, p.end)]
    extents.forget()
    found = spelled(list(extents))
    assert LOST not in {source for source, _ in found}
    for at in lost:
        assert found[at] == (there[at] if at < len(there) else (ZEROS, 0))


@given(size=st.integers(0, 13 * UNIT), changes=CHANGES)
@settings(max_examples=600)
def test_an_assembly_is_the_object_within_the_limits(size: int, changes: list[tuple[str, int, int]]) -> None:
    extents, oracle = changed(size, changes)
    if any(source == LOST for source, _ in oracle.bytes):
        raises(ValueError, assembly, extents, SMALL, match="lost")
        return
    steps = assembly(extents, SMALL)
    found = [byte for step in steps for byte in taken(step)]
    plain = [(s, 0) if s == ZEROS else (s if not isinstance(s, Part) else Part("u", s.number, s.etag), at)
             for s, at in oracle.bytes]  # fmt: skip
    assert [(s, 0) if s == ZEROS else (s, at) for s, at in found] == plain
    numbers = [step.number for step in steps]
    assert numbers == sorted(set(numbers))
    assert not numbers or 1 <= numbers[0] <= numbers[-1] <= SMALL.parts
    for step in steps:
        assert step.end - step.begin <= SMALL.part_most
        assert step.end == extents.size or step.end - step.begin >= UNIT, "a part in the middle is too small"


@given(size=st.integers(0, 13 * UNIT), changes=CHANGES)
@settings(max_examples=400)
def test_only_units_are_sent_that_the_server_has_not(size: int, changes: list[tuple[str, int, int]]) -> None:
    extents, oracle = changed(size, changes)
    if any(source == LOST for source, _ in oracle.bytes):
        return
    sent = {step.begin for step in assembly(extents, SMALL) if isinstance(step, Send)}
    for begin in range(0, len(oracle.bytes), UNIT):
        unit = oracle.bytes[begin : begin + UNIT]
        old = all(source == OLD for source, _ in unit)
        part = isinstance(unit[0][0], Part) and all(source == unit[0][0] for source, _ in unit)
        assert (begin in sent) == (not (old or part))


@pytest.mark.parametrize("size", [80 * GiB + 5, TiB, 5 * TiB])
def test_large_objects_are_copied_where_they_are_not_changed(size: int) -> None:
    extents, sizes = Extents(size), Sizes()
    changed_at = size - size % sizes.part - 64 * MiB
    extents.put(changed_at, changed_at + sizes.part, SPOOL, changed_at)
    steps = assembly(extents, sizes)
    assert len(steps) <= size // GiB + 4
    assert [(step.begin, step.end) for step in steps if isinstance(step, Send)] == [
        (changed_at, changed_at + sizes.part)
    ]


def test_copies_become_larger_where_numbers_are_short() -> None:
    sizes = Sizes(part=UNIT, copied=UNIT, part_most=64 * UNIT, parts=20, direct=4)
    assert len(assembly(Extents(60 * UNIT), sizes)) <= 20


def test_an_object_that_no_upload_can_hold_is_refused_with_a_part_size_that_suffices() -> None:
    """EFBIG names the option and the value."""
    sizes, extents = Sizes(), Extents()
    extents.put(0, 10_000 * sizes.part, SPOOL)
    assert len(assembly(extents, sizes)) == 10_000
    extents.put(extents.size, extents.size + 1, SPOOL)
    assert raises(OSError, assembly, extents, sizes, match="part_size='9MiB' suffices").errno == errno.EFBIG
    assert len(assembly(extents, Sizes(part=9 * MiB))) <= 10_000


# ---------------------------------------------------------------- carried out


def failing(error: OSError, done: list[int]) -> Callable[[int], int]:
    def work(item: int) -> int:
        if item == 3:
            raise error
        done.append(item)
        return item

    return work


def test_one_error_that_passes_does_not_keep_the_rest_from_being_done() -> None:
    error, done = ConnectionResetError(errno.ECONNRESET, "reset"), list[int]()
    assert raises(ConnectionResetError, side_by_side, failing(error, done), range(100), 4, may_pass) is error
    assert sorted([*done, 3]) == list(range(100))


@pytest.mark.parametrize(
    "error",
    [BackendError(errno.EAGAIN, "less", retry=True, retry_after=1.0), OSError(errno.ESTALE, "another version")],
    ids=["slow down", "stale"],
)
def test_an_error_that_stays_ends_it_and_so_does_a_server_that_asks_for_less(error: OSError) -> None:
    done: list[int] = []
    raised = raises(OSError, side_by_side, failing(error, done), range(100), 1, may_pass, match=str(error.strerror))
    assert raised is error
    assert done == [0, 1, 2]


def test_work_ends_where_nearly_all_of_it_fails() -> None:
    asked = []

    def work(item: int) -> None:
        asked.append(item)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody there")

    raises(ConnectionRefusedError, side_by_side, work, range(1000), 4, may_pass)
    assert 4 <= len(asked) <= 8


def test_an_error_is_raised_when_running_work_has_ended_and_no_other_is_begun(monkeypatch: Patch) -> None:
    begun, waited_for, ended = threading.Event(), threading.Event(), list[int]()
    caller, join = threading.current_thread(), threading.Thread.join

    def work(item: int) -> None:
        if threading.current_thread() is caller:
            assert begun.wait(60)
            raise OSError(errno.EIO, "broken")
        begun.set()
        assert waited_for.wait(60)
        ended.append(item)

    def joined(thread: threading.Thread, timeout: float | None = None) -> None:
        waited_for.set()
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", joined)
    raises(OSError, side_by_side, work, range(100), 2, match="broken")
    assert len(ended) == 1


def test_where_no_thread_can_be_started_the_caller_does_all_work(monkeypatch: Patch) -> None:
    monkeypatch.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
    assert side_by_side(lambda item: 2 * item, range(5), 4) == [0, 2, 4, 6, 8]
