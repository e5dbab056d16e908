"""Possible values of a byte: exact if calls follow one another, a set if they overlap. Bytes name their origin."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecache.stress.content import APPENDED, decode, made
from pagecache.stress.durable import Durable
from pagecache.stress.history import FOREVER, SIZES_MAX, Broken, Clock, Model, Write
from pagecache.stress.oracle import Observation, copied, settled, verdict

from ..file.rig import raises

SIZE = 10_000


class File:
    """A model, and its file."""

    def __init__(self) -> None:
        first = Write("content", "", 0, 0, 0, 7, 0, SIZE)
        self.model = Model(0, first, Clock())
        self.bytes = bytearray(made(7, 0, 0, 0, 0, SIZE))
        self._sequence = 0

    def write(self, start: int, length: int, **fields: object) -> Write:
        self._sequence += 1
        return Write("write", "buffered", 1, self._sequence, 0, 7, start, length, **fields)  # type: ignore[arg-type]

    def begin(self, start: int, length: int, **fields: object) -> Write:
        write = self.write(start, length, **fields)
        self.model.begin(write)
        return write

    def put(self, write: Write) -> None:
        end = write.size if write.size is not None and write.size >= 0 else write.end
        self.bytes.extend(bytes(max(0, end - len(self.bytes))))
        if write.zero:
            self.bytes[write.start :] = bytes(max(0, len(self.bytes) - write.start))
            del self.bytes[end:]
        else:
            self.bytes[write.start : write.end] = write.data(write.start, write.end)

    def done(self, start: int, length: int) -> Write:
        write = self.begin(start, length)
        self.put(write)
        self.model.finish(write)
        return write

    def truncate(self, size: int) -> Write:
        return self.begin(size, FOREVER - size, size=size, zero=True)

    def observe(self, start: int = 0, end: int = 2 * SIZE) -> Observation:
        return Observation(self.model, start, end, 9, "pread")

    def seen(self) -> Observation:
        observation = self.observe()
        observation.returned()
        return observation

    def append(self, length: int, way: str = "direct", worker: int = 1) -> Write:
        """Begin an append."""
        write = Write("append", way, worker, 1, 0, 7, -1, length)
        self.model.begin(write)
        return write

    def refuses(self, got: bytes | None = None, match: str | None = None) -> None:
        raises(Broken, self.sees, got, match=match)

    def sees(self, got: bytes | None = None) -> None:
        assert verdict(self.seen(), bytes(self.bytes) if got is None else got) is None


def test_random_calls_one_after_another_are_a_plain_file() -> None:
    """The test makes writes, truncates and holes, and each kind of read. [I-17]"""
    rng, file = random.Random(5), File()
    for _ in range(400):
        turn = rng.random()
        if turn < 0.2:
            size = rng.randrange(2 * SIZE)
            cut = file.truncate(size)
            del file.bytes[size:]
            file.bytes.extend(bytes(size - len(file.bytes)))
            file.model.finish(cut)
        elif turn < 0.3:
            start = rng.randrange(SIZE)
            hole = file.begin(start, 700, size=-1, zero=True)
            end = min(len(file.bytes), start + 700)
            if start < end:
                file.bytes[start:end] = bytes(end - start)
            file.model.finish(hole)
        else:
            file.done(rng.randrange(SIZE), rng.randrange(1, 900))
        file.sees()
        if file.bytes:
            wrong = bytearray(file.bytes)
            at = rng.randrange(len(wrong))
            wrong[at] ^= 0x55
            file.refuses(bytes(wrong))
        file.refuses(bytes(file.bytes) + b"\0", match="where the file had")
    assert len(file.model.extents) < 400


def test_a_look_beside_a_write_sees_either_and_after_it_the_new_one() -> None:
    """Byte by byte. [I-17]"""
    file = File()
    old = bytes(file.bytes)
    observation = file.observe()
    write = file.begin(0, 100)
    file.put(write)
    torn = bytes(file.bytes[:40]) + old[40:60] + bytes(file.bytes[60:])
    file.model.finish(write)
    observation.returned()
    assert verdict(observation, torn) is None
    file.refuses(torn)


def test_values_that_were_read_stay() -> None:
    """A byte that was read as new is not read as old again, although its write still runs. [I-17]"""
    file = File()
    old = bytes(file.bytes)
    write = file.begin(0, 100)
    file.sees(old)
    file.put(write)
    file.sees()
    file.refuses(old)
    file.model.finish(write)


def test_overlapping_writes_leave_one_of_them_and_rest_decides() -> None:
    """The set lasts until a read while nothing runs. [I-17]"""
    file = File()
    one, other = file.begin(0, 100), file.begin(50, 100)
    file.put(other)
    first = bytes(file.bytes)
    file.put(one)
    second = bytes(file.bytes)
    file.model.finish(one)
    file.model.finish(other)
    file.sees(second)
    file = File()
    one, other = file.begin(0, 100), file.begin(50, 100)
    file.put(one)
    file.put(other)
    file.model.finish(other)
    file.model.finish(one)
    observation = file.seen()
    got = bytes(file.bytes)
    file.model.settle(settled(observation, got), len(got))
    file.sees(got)
    file.refuses(second)
    assert first != second


def test_a_truncate_beside_a_write_leaves_one_of_two_sizes() -> None:
    """Afterwards the bytes behind an end do not come back. [I-17]"""
    file = File()
    cut, write = file.truncate(100), file.begin(20_000 - 10, 10)
    file.model.finish(write)
    file.model.finish(cut)
    for size in (100, 20_000):
        observation = file.seen()
        content = bytes(file.bytes[:100]) + bytes(20_000 - 110) + write.data(19_990, 20_000)
        assert verdict(observation, content[:size]) is None
    up = file.truncate(20_000)
    file.model.finish(up)
    observation = file.seen()
    raises(Broken, verdict, observation, bytes(file.bytes[:100]) + bytes(file.bytes[100:]) + bytes(10_000))


def test_a_failed_write_is_there_up_to_what_it_said() -> None:
    """An exact one goes no further, another perhaps. [I-17]"""
    for exact in (True, False):
        file = File()
        old = bytes(file.bytes)
        write = file.begin(0, 100)
        rest = file.model.split(write, 30)
        file.model.finish(write)
        file.model.cancel(rest) if exact else file.model.finish(rest, certain=False)
        new = made(7, 0, 1, 1, 0, 100)
        file.sees(new[:30] + old[30:])
        file.refuses(new[:20] + old[20:])
        if exact:
            file.refuses(new + old[100:])
        else:
            file.sees(new[:30] + old[30:60] + new[60:] + old[100:])


def test_what_a_look_saw_of_the_part_that_failed_is_that_write_s() -> None:
    """It began before it was known that the call would fail. [I-17]"""
    file = File()
    copy = Write("copy", "direct", 1, 1, 0, 7, 10, 40)
    file.model.begin(copy)
    observation = file.seen()
    copy.literal = [(10, (b"c" * 40,))]
    file.model.resolve(copy)
    rest = file.model.split(copy, 0)
    file.model.finish(copy)
    file.model.finish(rest, certain=False)
    old = bytes(file.bytes)
    assert verdict(observation, old[:10] + b"c" * 40 + old[50:]) is None


def test_an_append_that_still_runs_is_a_doubt_until_it_says_where_it_went() -> None:
    """Bytes that a reader saw of it are judged then. [I-17]"""
    for right in (True, False):
        file = File()
        append = file.append(50, "buffered")
        data = made(7, APPENDED, 1, 1, 0, 50)
        observation = file.seen()
        doubt = verdict(observation, bytes(file.bytes) + (data if right else data[::-1]))
        assert doubt is not None
        assert doubt.recheck() is not None
        file.model.place(append, SIZE)
        file.model.finish(append)
        if right:
            assert doubt.recheck() is None
        else:
            raises(Broken, doubt.recheck)


def test_appends_do_not_lie_on_each_other_and_begin_at_an_end() -> None:
    """[I-17]"""
    file = File()
    one, other, third = (file.append(50, "buffered", n) for n in (1, 2, 3))
    file.model.place(one, SIZE)
    raises(Broken, file.model.place, other, SIZE + 20, match="lies on")
    file.model.place(other, SIZE + 50)
    file.model.finish(one)
    file.model.finish(other)
    raises(Broken, file.model.place, third, SIZE + 300, match="where the end was")


def test_a_copy_may_have_any_value_that_its_source_had_during_it() -> None:
    """[I-17]"""
    file = File()
    old = bytes(file.bytes[:100])
    observation = file.observe(0, 100)
    copy = Write("copy", "buffered", 1, 50, 0, 7, 5000, 100)
    file.model.begin(copy)
    write = file.done(0, 100)
    observation.returned()
    copy.literal = copied(observation, copy, 5000)
    file.model.finish(copy)
    new = write.data(0, 100)
    for data in (old, new, old[:30] + new[30:]):
        file.sees(bytes(file.bytes[:5000]) + data + bytes(file.bytes[5100:]))
    file.refuses()


def test_a_store_after_fsync_is_as_new_as_the_call() -> None:
    """Newer is right too, older is not. [I-18]"""
    file = File()
    old = bytes(file.bytes)
    file.done(0, 100)
    at_call = bytes(file.bytes)
    observation = file.observe(0, FOREVER)
    file.done(50, 100)
    observation.returned()
    assert verdict(observation, at_call, store=True) is None
    assert verdict(observation, bytes(file.bytes), store=True) is None
    raises(Broken, verdict, observation, old, store=True, match="should be one of: writer 1, write 1")


def test_a_read_that_goes_on_is_judged_by_earlier_calls() -> None:
    """Later calls are not part of it, and the read itself goes on. [I-18]"""
    file = File()
    observation = file.observe()
    first = file.done(0, 100)
    now = observation.until_now()
    second = file.done(0, 100)
    first_bytes, second_bytes = (write.data(0, 100) + bytes(file.bytes[100:]) for write in (first, second))
    assert verdict(now, first_bytes, store=True) is None
    raises(Broken, verdict, now, second_bytes, store=True, match="wrong")
    observation.returned()
    assert verdict(observation, second_bytes, store=True) is None


def test_a_story_names_where_wrong_bytes_come_from() -> None:
    """It names the file, the write, and that it is over."""
    file = File()
    file.done(200, 100)
    wrong = bytearray(file.bytes)
    wrong[400:500] = made(7, 3, 4, 17, 5000, 5100)
    file.refuses(bytes(wrong), match=r"bytes 400 to 500: wrong\n.*began with\n  are: of file 3: writer 4, write 17")
    wrong = bytearray(file.bytes)
    wrong[250:260] = bytes(10)
    file.refuses(bytes(wrong), match=r"should be of: writer 1, write 1: write \[200, 300\).*\n  are: 10 zeros")


def test_a_store_may_lack_what_readers_saw_of_a_write_that_ran_when_fsync_was_called() -> None:
    """The bytes are in memory before they count as dirty; once the write has returned they have to be there. [I-18]"""
    file = File()
    old = bytes(file.bytes)
    write = file.begin(0, 100)
    file.put(write)
    file.sees()
    observation = Observation(file.model, 0, FOREVER, 9, "the store after fsync", store=True)
    file.model.finish(write)
    observation.returned()
    assert verdict(observation, old, store=True) is None
    file.refuses(old)
    observation = Observation(file.model, 0, FOREVER, 9, "the store after fsync", store=True)
    observation.returned()
    raises(Broken, verdict, observation, old, store=True)


def test_an_append_that_failed_ends_anywhere_up_to_its_length() -> None:
    """Earlier reads of it fit, and so does an append that begins within. [I-17]"""
    file = File()
    append, observation = file.append(50), file.seen()
    data = made(7, APPENDED, 1, 1, 0, 50)
    later = file.append(10, "buffered", 2)
    doubts = [verdict(observation, bytes(file.bytes) + got) for got in (b"", data[:20], data[:30], data[10:])]
    rest = file.model.place(append, SIZE, 20)
    assert rest is not None
    file.model.finish(append)
    file.model.finish(rest, certain=False)
    for doubt in doubts[1:3]:
        assert doubt is not None
        assert doubt.recheck() is None
    assert doubts[3] is not None
    raises(Broken, doubts[3].recheck)
    file.model.place(later, SIZE + 30)


def test_an_append_that_was_not_found_may_be_anywhere_behind_the_least_end() -> None:
    """This includes places behind concurrent calls. [I-17]"""
    file = File()
    append = file.append(50)
    write = file.begin(SIZE + 100, 100)
    file.model.lose(append)
    file.put(write)
    file.model.finish(write)
    data = made(7, APPENDED, 1, 1, 0, 50)
    for at in (SIZE, SIZE + 200):
        content = bytearray(file.bytes.ljust(SIZE + 250, b"\0"))
        content[at : at + 50] = data
        content = content[: max(SIZE + 200, at + 50)]
        file.sees(bytes(content))
    wrong = bytearray(file.bytes)
    wrong[SIZE - 50 : SIZE] = data
    file.refuses(bytes(wrong))


def test_an_append_that_was_not_found_may_be_behind_another_that_runs() -> None:
    """The place of that one is not known yet. [I-17]"""
    file = File()
    other = file.append(100, "through", 2)
    file.model.lose(file.append(50, "through"))
    file.model.place(other, SIZE)
    file.model.finish(other)
    file.sees(bytes(file.bytes) + made(7, APPENDED, 2, 1, 0, 100) + made(7, APPENDED, 1, 1, 0, 50))


def test_an_append_that_was_not_found_may_have_been_behind_an_end_that_is_gone() -> None:
    """A store that was read before the truncate shows it there. [I-18]"""
    file = File()
    append, observation = file.append(50), file.seen()
    cut = file.truncate(100)
    file.model.finish(cut)
    doubt = verdict(observation, bytes(file.bytes) + made(7, APPENDED, 1, 1, 0, 30))
    file.model.lose(append)
    assert doubt is not None
    assert doubt.recheck() is None


def test_an_append_that_a_crash_left_without_an_answer_may_be_behind_an_end_that_is_gone() -> None:
    """The store has it, and not the truncate that came after it. [I-18]"""
    file = File()
    durable = Durable([file.model])
    file.append(50, "through")
    cut = file.truncate(100)
    file.model.finish(cut)
    before = bytes(file.bytes) + made(7, APPENDED, 1, 1, 0, 50)
    durable.judge(0, before[: SIZE + 50])
    with pytest.raises(Broken, match=f"{SIZE + 51} bytes, where the file had 100 to {SIZE + 50}"):
        durable.judge(0, before[: SIZE + 50] + b"x")


def test_a_former_name_may_come_back_with_a_part_of_the_bytes_that_were_on_disk_alone() -> None:
    """It was whole before its rename, so otherwise it is whole or not there. [I-21, D10]"""
    for gives_up in (True, False):
        durable = Durable([], gives_up=gives_up)
        with durable.recording("publish", ("own", b"all of it", 2)):
            pass
        raises(Broken, durable.judge_name, "own", b"all", match="an object of 3 bytes")
        with durable.recording("rename", ("own", "next")):
            pass
        raises(Broken, durable.judge_name, "next", b"all", match="an object of 3 bytes")
        with durable.recording("remove", ("next",)):
            pass
        for name in ("own", "next"):
            durable.judge_name(name, b"all of it")
            if gives_up:
                durable.judge_name(name, b"all")
            else:
                raises(Broken, durable.judge_name, name, b"all", match="an object of 3 bytes")


def test_a_byte_that_is_the_same_by_chance_is_not_of_a_part_that_did_nothing() -> None:
    """A read ends with it, behind bytes of the part that was done. [I-17]"""
    file = File()
    old = file.done(0, 100)
    write = file.begin(0, 50, literal=[(0, (b"n" * 10 + old.data(10, 50),))])
    file.bytes[:10] = b"n" * 10
    observation = file.observe(0, 11)
    observation.returned()
    assert verdict(observation, bytes(file.bytes[:11])) is None
    rest = file.model.split(write, 10)
    file.model.finish(write)
    file.model.cancel(rest)
    file.sees()
    file.refuses(b"x" + bytes(file.bytes[1:]))


def test_report_to_handles_explained_where_something_went_past_the_cache() -> None:
    """A direct write explains them, also its part that failed; other calls do not. [I-22]"""
    file = File()
    direct = Write("write", "direct", 1, 1, 0, 7, 100, 50)
    file.model.begin(direct)
    rest = file.model.split(direct, 20)
    file.model.finish(direct)
    file.model.finish(rest, certain=False)
    file.done(500, 50)
    hole = file.begin(700, 50, size=-1, zero=True)
    file.model.finish(hole)
    assert [at for at in (90, 110, 140, 150, 500, 700) if file.model.went_past(at, at + 10)] == [110, 140]


def test_a_write_that_fails_beside_a_judgement_is_whole_or_in_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call takes it apart in one section, and a judgement covers all of it in one. [I-17]"""
    file = File()
    observation = file.observe()
    write = file.begin(100, 50, size=None)
    file.put(write)
    observation.returned()
    beside = Observation._beside
    parts: list[Write] = []

    def failing(self: Observation) -> list[Write]:
        found = beside(self)
        if sys._getframe(1).f_code.co_name == "segments" and not parts and not file.model.lock.locked():
            parts.append(file.model.split(write, 0))
        return found

    monkeypatch.setattr(Observation, "_beside", failing)
    assert verdict(observation, bytes(file.bytes)) is None


class Releases:
    """The lock of a model: the release number `nth` is followed by a call."""

    def __init__(self, lock: threading.Lock, nth: int, then: Callable[[], object]) -> None:
        self._lock, self.left, self._then = lock, nth, then

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        self.left -= 1
        if self.left == 0:
            self._then()


def test_a_size_that_a_failing_write_made_is_possible_wherever_the_failure_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An extending write fails after its bytes were read; the model records that after each section of the judgement in
    turn. [I-17]
    """
    for nth in itertools.count(1):
        file = File()
        write = file.begin(2 * SIZE, 50)
        file.put(write)
        observation = file.observe(SIZE - 1, 2 * SIZE)
        observation.returned()
        releases = Releases(file.model.lock, nth, partial(file.model.split, write, 0))
        monkeypatch.setattr(file.model, "lock", releases)
        assert verdict(observation, bytes(file.bytes[SIZE - 1 : 2 * SIZE])) is None
        if releases.left > 0:
            break
    assert nth > 3  # the judgement has that many sections


def test_the_possible_sizes_of_a_file_whose_writes_are_never_certain_are_bounded() -> None:
    """Each call costs time for each of them. A range allows those that were told apart before."""
    model = Model(0, Write("content", "", 0, 0, 0, 1, 0, 10), Clock())
    model.loose = True
    for number in range(1, 1000):
        write = Write("write", "buffered", 1, number, 0, 1, 10 * number, 10)
        model.begin(write)
        model.finish(write)
        assert len(model.sizes) <= SIZES_MAX + 1
    observation = Observation(model, 0, 1 << 20, 2, "a read")
    observation.returned()
    assert observation.sizes_meanwhile() == (10, 10000)


# -- bytes that name their origin

FILES = st.integers(0, 1000)
NUMBERS = st.integers(0, 60_000)
OFFSETS = st.integers(0, 1 << 32)


@given(FILES, NUMBERS, NUMBERS, OFFSETS, st.integers(16, 300))
def test_a_fragment_at_its_place_names_its_write(file: int, worker: int, sequence: int, offset: int, size: int) -> None:
    origin = decode(made(7, file, worker, sequence, offset, offset + size), offset, file)
    assert origin is not None
    assert (origin.tag, origin.file, origin.worker, origin.sequence) == (7, file, worker, sequence)
    assert (origin.offset, origin.appended) == (offset, False)


@given(st.integers(0, 50), NUMBERS, NUMBERS, st.integers(0, 900_000), st.integers(24, 100), st.integers(0, 900_000))
def test_a_fragment_at_another_place_names_its_own(
    file: int, worker: int, sequence: int, offset: int, size: int, found: int
) -> None:
    origin = decode(made(7, file, worker, sequence, offset, offset + size), found, 3)
    assert origin is not None
    assert (origin.file, origin.worker, origin.sequence, origin.offset) == (file, worker, sequence, offset)


def test_an_append_names_its_own_offsets() -> None:
    origin = decode(made(7, 2 | APPENDED, 5, 6, 100, 140), 987, 2)
    assert origin is not None
    assert (origin.file, origin.worker, origin.sequence, origin.offset, origin.appended) == (2, 5, 6, 100, True)


def test_other_calls_than_writes_have_no_origin() -> None:
    rng = random.Random(1)
    assert decode(bytes(100), 5, 1) is None
    assert all(decode(rng.randbytes(64), rng.randrange(1 << 20), 1) is None for _ in range(200))
    assert decode(made(7, 1, 2, 3, 0, 100)[:15], 0, 1) is None


def test_two_writes_of_a_place_differ_in_nearly_every_byte() -> None:
    one, other = made(7, 1, 2, 3, 5, 5005), made(7, 1, 2, 4, 5, 5005)
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 600
