"""Bytes by state, and bars."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pagecache.cli.top.states import ABSENT, BAR_ORDER, BY_NAME, OTHER, STATES, bar, local_bytes, parts

from . import documents


def drawn(amounts: dict[str, float], total: float, width: int) -> str:
    return "".join(state.letter * columns for state, columns in bar(amounts, total, width))


def test_failed_bytes_are_taken_out_of_dirty_ones_and_pinned_ones_out_of_clean_ones() -> None:
    found = parts(documents.counters(dirty=100, failed=30, clean=50, pinned=20, writeback=5))
    assert found == {
        "clean": 30, "pinned": 20, "staged": 0, "unstable": 0, "writeback": 5, "dirty": 70, "failed": 30
    }  # fmt: skip
    assert parts(documents.counters(dirty=1, failed=3))["dirty"] == 0
    assert parts({})["clean"] == 0


def test_failed_bytes_that_the_backend_has_are_no_unstable_ones() -> None:
    """The bytes of a failed commit are counted once."""
    found = parts(documents.counters(dirty=2, failed=10, unstable=9))
    assert (found["failed"], found["dirty"], found["unstable"]) == (10, 0, 1)


def test_unsaved_bytes_are_dirty_in_flight_or_unstable() -> None:
    assert local_bytes(documents.counters(dirty=4, failed=2, writeback=8, unstable=16, staged=32)) == 28


def test_a_bar_shows_shares_and_what_is_absent() -> None:
    assert drawn({"clean": 50, "dirty": 25}, 100, 8) == "CCCCDD··"
    assert drawn({}, 100, 4) == "····"
    assert drawn({}, 0, 4) == "····"


def test_one_failed_byte_is_seen() -> None:
    assert drawn({"clean": 1 << 40, "failed": 1}, 1 << 40, 8) == "CCCCCCCF"


def test_the_urgent_ones_are_seen_where_there_is_no_room() -> None:
    everything = dict.fromkeys(BAR_ORDER, 1.0)
    assert drawn(everything, 7, 3) == "WDF"
    assert drawn(everything, 7, 0) == ""


def test_a_full_bar_shows_nothing_absent() -> None:
    assert "·" not in drawn({"clean": 1, "dirty": 1, "failed": 1}, 3, 10)
    assert "·" not in drawn({"clean": 5, "dirty": 5}, 3, 7)  # more than the capacity


@given(
    st.dictionaries(st.sampled_from(BAR_ORDER), st.integers(0, 1 << 50)), st.integers(0, 1 << 50), st.integers(0, 80)
)
def test_a_bar_is_as_wide_as_asked(amounts: dict[str, float], total: int, width: int) -> None:
    columns = bar(amounts, total, width)
    assert sum(count for _, count in columns) == width
    assert all(count > 0 for _, count in columns)


def test_states_can_be_distinguished_without_colour() -> None:
    letters = [state.letter for state in (*STATES, ABSENT, OTHER)]
    assert len(set(letters)) == len(letters)
    assert len({letter.lower() for letter in letters}) == len(letters)
    assert list(BY_NAME) == documents.STATES


def test_states_can_be_distinguished_by_colour() -> None:
    assert len({state.colour for state in STATES}) == len(STATES)
