"""A file's runs as a map of letters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pagecache.cli.top.folio_map import MARGIN, amounts, map_lines, piece_size, pieces
from pagecache.cli.top.states import BY_NAME
from pagecache.observe.answers import Folios

PAGE = 4096


def folios(runs: list[tuple[int, int, str]], *, size: int, offset: int = 0, length: int | None = None) -> Folios:
    """Runs in pages; sizes and offsets in bytes."""
    length = size - offset if length is None else length
    in_bytes = tuple((first * PAGE, count * PAGE, state) for first, count, state in runs)
    return Folios(1, 7, "V", "key", size, PAGE, offset, length, len(runs), in_bytes)


def letters(document: Folios, cells: int) -> str:
    return "".join(cell.letter for cell in pieces(document, cells))


def test_each_page_has_its_letter_where_there_is_room() -> None:
    document = folios([(0, 2, "clean"), (2, 1, "dirty"), (5, 1, "failed")], size=8 * PAGE)
    assert letters(document, 100) == "CCD··F··"


def test_a_piece_shows_its_most_urgent_state_small_where_it_is_not_all_of_it() -> None:
    document = folios([(0, 4, "clean"), (4, 1, "dirty"), (5, 3, "clean"), (8, 2, "unstable")], size=16 * PAGE)
    assert letters(document, 4) == "Cdu·"
    assert letters(document, 2) == "du"
    assert letters(document, 1) == "d"


def test_the_least_urgent_state_never_hides_another() -> None:
    order = list(BY_NAME)
    for number, urgent in enumerate(order):
        for other in order[number + 1 :]:
            for runs in ([(0, 1, urgent), (1, 1, other)], [(0, 1, other), (1, 1, urgent)]):
                assert letters(folios(runs, size=2 * PAGE), 1) == BY_NAME[urgent].letter.lower()


def test_the_last_piece_is_whole_where_the_file_ends_in_it() -> None:
    assert letters(folios([(0, 3, "dirty")], size=2 * PAGE + 10), 2) == "DD"


def test_a_part_of_a_file_is_mapped_from_its_offset() -> None:
    document = folios([(2, 4, "dirty")], size=100 * PAGE, offset=4 * PAGE, length=4 * PAGE)
    assert letters(document, 4) == "DD··"


def test_an_empty_file_is_an_empty_map() -> None:
    assert letters(folios([], size=0), 10) == ""
    assert list(map_lines(folios([], size=0), 80, 10)) == []


def test_a_state_of_a_later_version_is_shown_as_another() -> None:
    assert letters(folios([(0, 1, "shadowed")], size=PAGE), 1) == "?"


def test_lines_begin_with_their_offset_and_fit() -> None:
    document = folios([(0, 300, "clean")], size=1 << 20)
    lines = [line.plain for line in map_lines(document, 40, 4)]
    assert [line[:MARGIN] for line in lines] == ["     0  ", "  256K  ", "  512K  ", "  768K  "]
    assert all(len(line) <= 40 for line in lines)


def test_amounts_are_of_all_states_and_of_what_is_not_cached() -> None:
    found = amounts(folios([(0, 2, "clean"), (2, 1, "failed"), (4, 1, "clean")], size=8 * PAGE))
    assert {state.label: amount // PAGE for state, amount in found.items()} == {
        "failed": 1,
        "clean": 3,
        "not cached": 4,
    }


def test_parts_of_runs_beyond_the_range_are_not_counted() -> None:
    document = folios([(0, 4, "dirty")], size=3 * PAGE + 10, offset=PAGE)
    assert [(state.label, amount) for state, amount in amounts(document).items()] == [("dirty", 2 * PAGE + 10)]
    assert letters(document, 10) == "DDD"


@given(st.integers(0, 1 << 50), st.integers(1, 5000))
def test_every_file_fits_the_map(length: int, cells: int) -> None:
    size = piece_size(length, PAGE, cells)
    assert size % PAGE == 0
    assert -(-length // size) <= cells


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from(list(BY_NAME)))), st.integers(1, 50))
def test_runs_and_pieces_agree_page_by_page(steps: list[tuple[int, int, str]], cells: int) -> None:
    """They are compared with a simple computation: the state of every page, and the most urgent of every piece."""
    runs, page = [], 0
    for gap, count, state in steps:
        runs.append((page + gap, count, state))
        page += gap + count
    size = (page + 3) * PAGE
    by_page = ["·"] * (page + 3)
    for first, count, state in runs:
        by_page[first : first + count] = [state] * count
    step = piece_size(size, PAGE, cells) // PAGE
    expected = ""
    for first in range(0, len(by_page), step):
        piece = by_page[first : first + step]
        urgent = next((state for state in BY_NAME if state in piece), None)
        letter = BY_NAME[urgent].letter if urgent else "·"
        expected += letter if set(piece) <= {urgent} else letter.lower()
    assert letters(folios(runs, size=size), cells) == expected
