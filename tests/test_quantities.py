"""Figures and names as the commands print them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecache.quantities import (
    clean_in_text,
    count_text,
    duration_text,
    percent_text,
    printable,
    range_text,
    short_size,
    size_text,
)

NASTY = "evil\x1b]0;owned\x07\x1b[2Jname\r\n\u202etxt"
"""A name that would command a terminal."""


def test_nothing_that_a_terminal_acts_on_is_left() -> None:
    assert printable(NASTY) == r"evil\x1b]0;owned\x07\x1b[2Jname\r\n\u202etxt"
    assert printable("\x9b31m \x7f \ud800 \u200b \u2028") == r"\x9b31m \x7f \ud800 \u200b \u2028"
    assert printable("写真 é ü") == "写真 é ü"
    assert printable(b"a\xff\x80b".decode("utf-8", "surrogateescape")) == r"a\xff\x80b"


@given(st.text())
def test_whatever_is_made_printable_is_printable(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()  # no surrogate is left


@given(st.integers(0, 1 << 59))
def test_a_size_has_five_columns_at_most(size: int) -> None:
    assert len(short_size(size)) <= 5


TEXTS: dict[Callable[[Any], str], dict[float | None, str]] = {
    short_size: {  # in a column
        None: "-", 0: "0", 1: "1B", 1023: "1023B", 1024: "1.0K", 1535: "1.5K", 10_188: "9.9K", 10_189: "10K",
        1_047_999: "1023K", 1_048_300: "1.0M", 1 << 20: "1.0M", 5 << 40: "5.0T", 1023 << 50: "1023P", 1 << 62: "4096P",
    },
    size_text: {  # in a sentence
        0: "0 B", 12: "12 B", 1023: "1023 B", 2048: "2.0 KiB", 976.6 * 1024: "976.6 KiB", (1 << 20) - 1: "1.0 MiB",
        5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB", 7 << 40: "7.0 TiB", 1 << 62: "4096.0 PiB",
    },
    count_text: {
        None: "-", 0: "0", 0.04: "0.0", 1: "1", 1.26: "1.3", 9.96: "10", 999: "999", 999.6: "1.0k", 12_345: "12k",
        1_234_567: "1.2M",
    },
    percent_text: {None: "-", 0: "0.0", 0.5: "50.0", 0.9999: "99.9", 1: "100"},  # all is said only where it is all
    duration_text: {
        None: "-", 0: "0s", 1.5e-6: "1.5µs", 0.00085: "850µs", 0.0012: "1.2ms", 0.9994: "999ms", 0.9996: "1.0s",
        3.25: "3.2s", 59.94: "59.9s", 59.96: "1m00s", 95: "1m35s", 3599.6: "1h00m", 7500: "2h05m", 200_000: "2d07h",
    },
}  # fmt: skip


@pytest.mark.parametrize("show", TEXTS)
def test_figures_are_shown_with_their_units(show: Callable[[Any], str]) -> None:
    assert {figure: show(figure) for figure in TEXTS[show]} == TEXTS[show]


def test_clean_is_said_only_where_nothing_is_unsaved() -> None:
    assert clean_in_text(0.0, local=0) == "clean"
    assert clean_in_text(None, local=0) == "?"
    assert clean_in_text(None, local=1) == "?"
    assert clean_in_text(0.0, local=1) == "0s"
    assert clean_in_text(2.0, local=1) == "2.0s"


def test_a_range_is_half_open() -> None:
    assert range_text(4096, 4096) == "[4096, 8192)"
    assert range_text(None, 5) == ""
