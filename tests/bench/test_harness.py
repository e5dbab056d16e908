"""The measuring itself, with clocks that tests set."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from pagecache.bench.harness import Ratio, Variant, calibrate, compare, ratio_of, real_difference, shuffled, slice_of


class FakeClock:
    """Time that passes only while a worker runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def worker(self, name: str, seconds_per_item: float, log: list[str] | None = None) -> Variant:
        """A variant that takes a given time per item."""

        def run(items: Sequence[Any]) -> None:
            self.now += seconds_per_item * len(items)
            if log is not None:
                log.append(name)

        return Variant(name=name, run=run, items=range(100))


def measure(clock: FakeClock, variants: Sequence[Variant], rounds: int = 7) -> Any:
    return compare(variants, rounds=rounds, seconds=0.003, clock=clock, rng=random.Random(1))


def test_a_variant_that_takes_half_the_time_is_twice_as_fast() -> None:
    clock = FakeClock()
    result = measure(clock, [clock.worker("fast", 1e-6), clock.worker("slow", 2e-6)])
    assert result.speed("fast", "slow").median == pytest.approx(2.0)
    assert result.times("fast", "slow").median == pytest.approx(0.5)
    assert result.seconds("slow") == pytest.approx(2e-6)


def test_each_round_runs_every_variant_once_in_a_changing_order() -> None:
    clock = FakeClock()
    log: list[str] = []
    variants = [clock.worker(name, 1e-6, log) for name in "abc"]
    counts = dict.fromkeys("abc", 10)
    compare(variants, rounds=8, seconds=0.003, clock=clock, rng=random.Random(1), counts=counts)
    rounds = ["".join(log[start : start + 3]) for start in range(0, 24, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 2


def test_a_machine_that_slows_down_during_a_run_does_not_move_the_ratio() -> None:
    """Both variants become ten times slower half way; a quotient of two averages over all rounds would be right only by
    luck, the ratio of each round is always right.
    """
    clock = FakeClock()
    pace = {"factor": 1.0, "slices": 0}

    def worker(name: str, seconds: float) -> Variant:
        def run(items: Sequence[Any]) -> None:
            pace["slices"] += 1
            if pace["slices"] > 10:
                pace["factor"] = 10.0
            clock.now += seconds * len(items) * pace["factor"]

        return Variant(name=name, run=run, items=range(10))

    counts = {"own": 10, "base": 10}
    result = compare(
        [worker("own", 1e-6), worker("base", 3e-6)],
        rounds=11,
        seconds=0.003,
        clock=clock,
        rng=random.Random(1),
        counts=counts,
    )
    assert result.speed("own", "base").median == pytest.approx(3.0)


def test_two_variants_of_one_name_are_refused() -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="share a name"):
        measure(clock, [clock.worker("same", 1e-6), clock.worker("same", 1e-6)])


def test_calibration_finds_a_slice_of_at_least_the_wanted_length() -> None:
    clock = FakeClock()
    variant = clock.worker("x", 1e-6)
    count = calibrate(variant, 0.003, clock)
    assert slice_of(variant, count, clock) >= 0.003
    assert count < 9 * 3000


def test_calibration_stops_at_the_bound_of_a_variant() -> None:
    clock = FakeClock()
    variant = clock.worker("x", 1e-9)
    variant.most = 50
    assert calibrate(variant, 0.003, clock) == 50


def test_a_slow_operation_runs_at_least_once_per_slice() -> None:
    clock = FakeClock()
    assert calibrate(clock.worker("x", 1.0), 0.003, clock) == 1


def test_the_surroundings_of_a_slice_are_not_timed() -> None:
    clock = FakeClock()
    variant = clock.worker("x", 1e-6)

    def pause() -> None:
        clock.now += 100.0

    variant.before = variant.after = pause
    assert slice_of(variant, 10, clock) == pytest.approx(1e-5)


def test_a_failing_slice_is_cleaned_up_after() -> None:
    cleaned = []

    def fail(items: Sequence[Any]) -> None:
        raise OSError("no")

    variant = Variant(name="x", run=fail, items=[1], after=lambda: cleaned.append(True))
    with pytest.raises(OSError, match="no"):
        slice_of(variant, 1, FakeClock())
    assert cleaned == [True]


def test_items_are_walked_in_order_and_a_slice_never_wraps() -> None:
    variant = Variant(name="x", run=len, items=range(10))
    assert [variant.take(4), variant.take(4), variant.take(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_a_slice_longer_than_the_cycle_repeats_it() -> None:
    variant = Variant(name="x", run=len, items=range(3))
    assert variant.take(7) == [0, 1, 2, 0, 1, 2, 0]


def test_the_spread_ignores_single_outliers_and_grows_with_noise() -> None:
    quiet = ratio_of([1.0] * 30 + [9.0])
    noisy = ratio_of([1.0 + 0.1 * (n % 10) for n in range(31)])
    assert (quiet.median, quiet.low, quiet.high, quiet.spread) == (1.0, 1.0, 9.0, 0.0)
    assert 0.03 < noisy.spread < 0.3


def test_what_an_a_a_comparison_calls_real() -> None:
    assert real_difference(Ratio(1.04, 0.9, 1.2, 0.02)) == pytest.approx(0.04)
    assert real_difference(Ratio(0.99, 0.9, 1.2, 0.05)) == pytest.approx(0.05)


def test_a_random_order_has_every_value_once() -> None:
    values = shuffled(range(0, 4_096_000, 4096), random.Random(1))
    assert sorted(values) == list(range(0, 4_096_000, 4096))
    assert values != sorted(values)
