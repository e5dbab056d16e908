"""Simulated threads: running, sleeping and waiting, without a cache."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends import MemoryBackend
from pagecache.engine.report.reason import Reason, during
from pagecache.native import NativeVolume, wait
from pagecache.native.simulated import passed
from pagecache.stress.coverage import Coverage
from pagecache.stress.deterministic import substitution, threads
from pagecache.stress.deterministic.policies import Pct, Policy, Walk
from pagecache.stress.deterministic.scheduler import Scheduler, Stuck, here

POLICIES = {"walk": Walk, "priorities": Pct}
SEEDS = range(12)


class Played:
    """A few threads under a scheduler, in a new system thread."""

    def __init__(self, kind: type[Any], seed: int, call: Callable[[Scheduler], object]) -> None:
        self.error: BaseException | None = None
        self.value: Any = None
        rng = random.Random(seed)
        policy: Policy = kind(rng)

        def play() -> None:
            scheduler = self.scheduler = Scheduler(policy, rng)

            def first() -> None:
                try:
                    self.value = call(scheduler)
                except BaseException as error:
                    self.error = error

            try:
                scheduler.run(first)
            except Stuck as error:
                self.error = error
            over.set()
            if scheduler.threads:
                threading.Event().wait()  # greenlets that wait forever are left on the stack of this thread

        over = threading.Event()
        threading.Thread(target=play, daemon=True).start()
        assert over.wait(60)


def together(scheduler: Scheduler, *calls: Callable[[], object]) -> None:
    started = [threads.Thread(scheduler, call, f"number {k}") for k, call in enumerate(calls)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


@pytest.fixture(params=POLICIES)
def kind(request: pytest.FixtureRequest) -> type[Any]:
    found: type[Any] = POLICIES[request.param]
    return found


def counting(scheduler: Scheduler) -> list[str]:
    said: list[str] = []

    def count(name: str) -> None:
        for number in range(50):
            passed("count")
            said.append(f"{name}{number}")

    together(scheduler, lambda: count("a"), lambda: count("b"), lambda: count("c"))
    return said


def test_a_seed_is_an_order_and_another_seed_another_one(kind: type[Any]) -> None:
    """One seed gives equal points, switches and digest, twice; all seeds give many orders."""
    orders: set[tuple[str, ...]] = set()
    for seed in SEEDS:
        one, other = Played(kind, seed, counting), Played(kind, seed, counting)
        assert one.value == other.value
        assert (one.scheduler.digest, one.scheduler.points) == (other.scheduler.digest, other.scheduler.points)
        orders.add(tuple(one.value))
    assert len(orders) > len(SEEDS) // 2


def test_a_lock_is_had_by_one(kind: type[Any]) -> None:
    """A thread that comes in between finds it taken, and gets it in the end."""

    def world(scheduler: Scheduler) -> int:
        lock, counted = threads.Lock(scheduler), [0]

        def add() -> None:
            for _ in range(20):
                with lock:
                    before = counted[0]
                    passed("in between")
                    counted[0] = before + 1

        together(scheduler, add, add, add)
        return counted[0]

    for seed in SEEDS:
        assert Played(kind, seed, world).value == 60


def test_without_the_lock_some_order_loses_a_count() -> None:
    """This shows that the test before this one can fail."""

    def world(scheduler: Scheduler) -> int:
        counted = [0]

        def add() -> None:
            for _ in range(20):
                before = counted[0]
                passed("in between")
                counted[0] = before + 1

        together(scheduler, add, add, add)
        return counted[0]

    assert min(Played(Walk, seed, world).value for seed in SEEDS) < 60


def test_threads_that_wait_for_each_other_are_reported_with_their_locks_and_places() -> None:
    """Two locks are taken in two orders: with some seed they wait for each other, which ends the run."""

    def world(scheduler: Scheduler) -> None:
        one, other = threads.Lock(scheduler), threads.Lock(scheduler)

        def take(first: threads.Lock, second: threads.Lock) -> None:
            with first:
                passed("in between")
                with second:
                    pass

        together(scheduler, lambda: take(one, other), lambda: take(other, one))

    found = [error for seed in SEEDS if (error := Played(Walk, seed, world).error) is not None]
    assert found
    assert all(isinstance(error, Stuck) for error in found)
    said = str(found[0])
    assert "number 0: waits for a lock" in said
    assert "number 1: waits for a lock" in said
    assert "with second" in said


def test_time_passes_when_no_thread_runs(kind: type[Any]) -> None:
    """An hour of sleep is over at once, in order; a waiter is woken by its event, and otherwise by the time."""

    def world(scheduler: Scheduler) -> list[object]:
        said: list[object] = []
        event, queue = threads.Event(scheduler), threads.SimpleQueue(scheduler)

        def sleep(seconds: float) -> None:
            substitution.TIME.sleep(seconds)
            said.append(seconds)

        def wait() -> None:
            said.append(event.wait(1.0))
            said.append(event.wait(3600.0))
            said.append(queue.get(timeout=60))

        def set_later() -> None:
            substitution.TIME.sleep(1800)
            event.set()
            queue.put("came")

        together(scheduler, lambda: sleep(3600), lambda: sleep(60), wait, set_later)
        said.append(substitution.TIME.monotonic() > 3600)
        return said

    for seed in SEEDS:
        played = Played(kind, seed, world)
        assert played.error is None
        assert played.value == [False, 60, True, "came", 3600, True]


def test_a_condition_gives_its_lock_away_while_it_waits(kind: type[Any]) -> None:
    """It does so like `threading`, even if the lock is held twice."""

    def world(scheduler: Scheduler) -> list[str]:
        condition = threads.Condition(scheduler)
        said: list[str] = []

        def wait() -> None:
            with condition, condition:
                assert condition.wait_for(lambda: "told" in said)
                said.append("heard")

        def tell() -> None:
            with condition:
                said.append("told")
                condition.notify_all()

        together(scheduler, wait, tell, wait)
        return said

    for seed in SEEDS:
        assert Played(kind, seed, world).value == ["told", "heard", "heard"]


def test_modules_of_the_product_get_what_is_simulated_in_the_threads_of_the_scheduler_alone() -> None:
    """In other threads, and afterwards, the modules get the real locks and the real time."""
    from pagecache.engine import runner

    names = vars(runner)

    def world(scheduler: Scheduler) -> tuple[type, bool]:
        return type(names["threading"].Lock()), here() is scheduler

    with substitution.substituted():
        assert Played(Walk, 1, world).value == (threads.Lock, True)
        assert isinstance(names["threading"].Lock(), type(threading.Lock()))
        assert names["threading"].current_thread() is threading.current_thread()
    assert names["threading"] is threading
    assert here() is None


def test_a_wait_of_a_part_of_a_nanosecond_lets_time_pass() -> None:
    """Otherwise a waiter for the rest of a time would wake forever at the same time."""

    def waiting(scheduler: Scheduler) -> tuple[int, int]:
        begun = scheduler.now_ns()
        scheduler.sleep("time", 1e-10)
        slept = scheduler.now_ns()
        native = cache.native
        wait("flusher", native.address, native.flusher_seq(), 1e-10)
        return slept - begun, scheduler.now_ns() - slept

    with PageCache(capacity=1 << 20) as cache:
        played = Played(Walk, 1, waiting)
    assert played.error is None
    assert min(played.value) > 0


def test_a_simulated_thread_that_waits_has_not_ended() -> None:
    """Reports and the check for remaining waiters ask the interpreter which threads exist. [I-16]"""

    def checked(scheduler: Scheduler) -> tuple[list[str], list[str]]:
        over = threads.Event(scheduler)
        with PageCache("1MiB") as cache:
            reason = Reason("a word", cache.attach(MemoryBackend()).engine.native, lambda snapshot: None)
            waiter = threads.Thread(scheduler, lambda: during(reason, over.wait), "who waits")
            waiter.start()
            while not (waits := cache.waits()):
                passed("waits")
            cache.check()
            over.set()
            waiter.join()
            return [wait.what for wait in waits], [wait.what for wait in cache.waits()]

    with substitution.substituted():
        played = Played(Walk, 1, checked)
    assert played.error is None
    assert played.value == (["a word"], [])


PIECES = 300


def working(scheduler: Scheduler) -> list[str]:
    """One thread does pieces of work that the core provides, and nothing in between; another one records a word."""
    said: list[str] = []
    with PageCache("1MiB") as cache:
        volume = NativeVolume(cache.native, 1)
        for _ in range(PIECES):
            volume.push_job(0)

        def work() -> None:
            for _ in range(PIECES):
                volume.work(lambda cls: said.append("piece"), 0)

        together(scheduler, work, lambda: said.append("word"))
        volume.stop()
        volume.end()
    return said


def test_the_interpreter_lock_changes_hands_between_two_pieces_of_work(kind: type[Any]) -> None:
    """A thread that works forever without a sleep does not block the others."""
    said = []
    with substitution.substituted():
        for seed in SEEDS:
            played = Played(kind, seed, working)
            assert played.error is None
            assert sorted(played.value) == ["piece"] * PIECES + ["word"]
            said.append(played.value)
    assert any(words[0] == words[-1] == "piece" for words in said)


def test_the_display_of_a_run_reads_its_coverage_while_a_simulated_thread_has_it() -> None:
    """The display thread is real: no simulated lock applies to it."""

    def asked(scheduler: Scheduler) -> list[Any]:
        coverage, found = Coverage(), []
        coverage.met("read", 0, 0, 1, (), "clean")
        with coverage._lock:
            real = threading.Thread(target=lambda: found.append(coverage.now()), daemon=True)
            real.start()
            real.join(60)
        return found

    with substitution.substituted():
        played = Played(Walk, 1, asked)
    assert played.error is None
    assert played.value == [{("read", "alone", "clean"): 1}]
