"""Faults happen where and as often as the plan says, and never depend on the interleaving of threads."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache.backends import BackendFile, MemoryBackend
from pagecache.errors import BackendError
from pagecache.testing import OPERATIONS, TOO_MANY, Call, FaultPlan, FaultyBackend, Gate, Rule
from pagecache.testing.faults import ALL, TRUTH

from ..file.rig import raises
from .stores import DATA, Store


def faulty(*rules: Rule) -> tuple[FaultyBackend, BackendFile]:
    """A backend with an object "a" of 100 bytes."""
    store = Store(*rules)
    return store.faulty, store.file


def test_nothing_happens_without_rules() -> None:
    backend, file = faulty()
    assert file.write_from(10, [DATA[:5], DATA[:3]]) == 8
    assert file.stat().size == 100
    assert file.commit() == backend.stat("a").version
    assert backend.calls == [Call("write", "a", 10, 8, 2), Call("stat", "a"), Call("commit", "a"), Call("stat", "a")]


def every_call(backend: FaultyBackend, file: BackendFile) -> dict[str, Callable[[], Any]]:
    return {
        "open": lambda: backend.open("a"),
        "stat": lambda: backend.stat("a"),
        "read": lambda: file.read_into(0, [memoryview(bytearray(10))]),
        "write": lambda: file.write_from(0, [DATA]),
        "commit": lambda: file.commit(),
        "truncate": lambda: file.truncate(10),
        "punch": lambda: file.punch_hole(0, 10),  # type: ignore[attr-defined]
        "list": lambda: list(backend.list()),
        "sync": lambda: backend.sync(),
        "rename": lambda: backend.rename("a", "a"),
        "remove": lambda: backend.remove("a"),
        "close": lambda: backend.close(),
    }


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation != "rollback"])
def test_rule_matches_its_operation_only(operation: str) -> None:
    backend, file = faulty(Rule(operation, error=errno.ENOSPC))
    for name, call in every_call(backend, file).items():
        if name == operation:
            raises(OSError, call, match="No space")
        else:
            call()


def test_nth_and_times_count_matching_calls() -> None:
    backend, file = faulty(Rule("write", nth=(2, 3), error=errno.EIO), Rule("write", times=2, error=errno.ENOSPC))
    seen = []
    for _ in range(6):
        try:
            seen.append(file.write_from(0, [DATA[:1]]))
        except OSError as error:
            seen.append(-(error.errno or 0))
    assert seen == [-errno.ENOSPC, -errno.EIO, -errno.EIO, -errno.ENOSPC, 1, 1]
    assert len(backend.calls_of("write")) == 6


def test_key_and_span() -> None:
    backend, file = faulty(Rule("write", span=(50, 60), error=errno.EIO), Rule("stat", key="b", error=errno.EIO))
    assert file.write_from(0, [DATA[:50]]) == 50
    assert file.write_from(60, [DATA[:10]]) == 10
    for offset in (41, 59, 55):
        raises(OSError, file.write_from, offset, [DATA[:10]])
    backend.stat("a")
    raises(OSError, backend.stat, "b")


def test_errors_are_raised_as_given_and_fresh() -> None:
    planned = BackendError(errno.EIO, "later", retry=True, max_write=10)
    _backend, file = faulty(Rule("read", error=planned), Rule("write", error=KeyError), Rule("commit", error=errno.EIO))
    raised = []
    for _ in range(2):
        caught = raises(BackendError, file.read_into, 0, [memoryview(bytearray(1))])
        raised.append(caught)
    assert raised[0] is not raised[1]
    assert [error.max_write for error in raised] == [10, 10]
    raises(KeyError, file.write_from, 0, [DATA])
    assert raises(OSError, file.commit).filename == "a"


@pytest.mark.parametrize(
    ("short", "answer", "count"),
    [
        ("half", TRUTH, 25),
        ("half", ALL, 25),
        ("all but one", TRUTH, 49),
        (7, TRUTH, 7),
        (0, TRUTH, 0),
        (1000, TRUTH, 50),
    ],
)
def test_short_calls_move_exactly_so_much_whatever_they_answer(short: Any, answer: object, count: int) -> None:
    backend, file = faulty(Rule(("read", "write"), short=short, answer=answer))
    answered = 50 if answer is ALL else count
    ones = memoryview(b"\xff" * 25)
    assert file.write_from(0, [ones, ones]) == answered
    assert backend.snapshot("a") == b"\xff" * count + bytes(DATA[count:])
    buffer = bytearray(50)
    assert file.read_into(50, [memoryview(buffer)[:20], memoryview(buffer)[20:]]) == answered
    assert buffer[:count] == DATA[50 : 50 + count]
    assert buffer[count:] == bytes(50 - count)


@pytest.mark.parametrize(
    ("answer", "expected"), [(None, None), (TOO_MANY, 11), (-1, -1), ("10", "10"), (10**30, 10**30)]
)
def test_wrong_answers(answer: object, expected: object) -> None:
    _, file = faulty(Rule(("read", "write"), answer=answer))
    assert file.write_from(0, [DATA[:10]]) == expected
    assert file.read_into(0, [memoryview(bytearray(10))]) == expected


def test_gate_that_no_call_enters_times_out() -> None:
    with pytest.raises(TimeoutError, match="0 of 1 calls"):
        Gate().wait_entered(0.01)


def test_kept_buffers_are_kept() -> None:
    backend, file = faulty(Rule("write", keep=True))
    data = bytearray(10)
    view = memoryview(data)
    file.write_from(0, [view])
    assert backend.kept_buffers == [view]
    raises(BufferError, data.clear)


def test_use_changes_the_plan_and_counts_anew() -> None:
    backend, file = faulty(Rule("write", nth=1, error=errno.EIO))
    for _ in range(2):
        raises(OSError, file.write_from, 0, [DATA])
        backend.use([Rule("write", nth=1, error=errno.EIO)])
    backend.use([])
    assert file.write_from(0, [DATA]) == 100


def outcomes(seed: int, order: list[int]) -> dict[int, list[str]]:
    inner = MemoryBackend()
    inner.put("a", bytes(100_000))
    opened = FaultyBackend(inner, "nasty", seed=seed).open("a")
    seen: dict[int, list[str]] = {index: [] for index in order}
    for _ in range(5):
        for index in order:
            try:
                seen[index].append(str(opened.write_from(index * 1000, [DATA])))
            except OSError as error:
                seen[index].append(str(error))
    return seen


def test_seeded_faults_depend_on_the_calls_not_on_their_order() -> None:
    order = list(range(60))
    assert outcomes(7, order) == outcomes(7, order[::-1])
    assert outcomes(7, order) != outcomes(8, order)
    assert any("100" not in seen for answers in outcomes(7, order).values() for seen in answers)


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.9])
def test_chance_is_a_probability(chance: float) -> None:
    _, file = faulty(Rule("write", short=1, chance=chance))
    fired = sum(file.write_from(0, [DATA]) == 1 for _ in range(2000))
    assert abs(fired / 2000 - chance) < 0.04


def test_an_unknown_profile_is_refused() -> None:
    raises(ValueError, FaultPlan.profile, "nice", match="nasty")


def test_a_dead_backend_closes_the_files_of_the_inner_one() -> None:
    """A file that stays open there would count as an object that is not committed yet."""
    closed: list[Any] = []

    class Closing(MemoryBackend):
        def open(self, key: Any, **options: Any) -> Any:
            file: Any = super().open(key, **options)
            file.close = lambda: closed.append(key)
            return file

    inner = Closing()
    inner.put("a", bytes(DATA))
    backend = FaultyBackend(inner, FaultPlan((Rule("write", dies=True),)))
    file: Any = backend.open("a")
    for call in (lambda: file.write_from(0, [DATA]), file.close):
        assert raises(OSError, call).errno == errno.ENOTCONN
    assert closed == ["a"]
