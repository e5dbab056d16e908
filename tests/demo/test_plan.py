"""The plan: equal for equal seeds, and never outside the file."""

from random import Random

import pytest

from pagecache.cli.demo import plan

SIZES = (0, 1, 4095, 4096, 100_000, 5_000_000)


@pytest.mark.parametrize("size", SIZES)
def test_pieces_of_a_copy_cover_the_file_once_in_order(size: int) -> None:
    pieces = plan.copy_pieces(1, "key", size)
    assert sum(length for _, length in pieces) == size
    assert [offset for offset, _ in pieces] == [
        sum(length for _, length in pieces[:number]) for number in range(len(pieces))
    ]
    assert all(length > 0 for _, length in pieces)


def test_pieces_of_reading_are_the_same_kind_in_random_order() -> None:
    pieces = plan.read_pieces(1, "key", 5_000_000)
    assert pieces != sorted(pieces)
    assert sum(length for _, length in pieces) == 5_000_000
    assert len({offset for offset, _ in pieces}) == len(pieces)


def test_the_same_seed_gives_the_same_edits_and_another_gives_others() -> None:
    assert plan.edits_of(1, "key", 100_000) == plan.edits_of(1, "key", 100_000)
    assert plan.edits_of(1, "key", 100_000) != plan.edits_of(2, "key", 100_000)
    assert plan.edits_of(1, "key", 100_000) != plan.edits_of(1, "other", 100_000)


@pytest.mark.parametrize("size", SIZES)
def test_the_size_after_the_edits_is_what_they_make_of_it(size: int) -> None:
    """The edits are applied to a bytearray, as any file would take them."""
    for seed in range(20):
        edits, after = plan.edits_of(seed, "key", size)
        content = bytearray(size)
        for edit in edits:
            if edit.kind == "truncate":
                content[edit.offset :] = b""
                content.extend(bytes(edit.offset - len(content)))
                continue
            if edit.kind == "overwrite":
                assert edit.offset + len(edit.data) <= len(content)
            if edit.kind == "append":
                assert edit.offset == len(content)
            content.extend(bytes(max(0, edit.offset - len(content))))
            content[edit.offset : edit.offset + len(edit.data)] = edit.data
        assert len(content) == after


def test_all_kinds_of_edits_occur_and_most_begin_inside_a_page() -> None:
    edits = [edit for number in range(200) for edit in plan.edits_of(1, f"key{number}", 200_000)[0]]
    assert {edit.kind for edit in edits} == {"overwrite", "grow", "append", "truncate"}
    assert sum(edit.offset % 4096 != 0 for edit in edits) > 0.9 * len(edits)


def test_the_calls_of_a_file_are_those_of_all_phases() -> None:
    edits, after = plan.edits_of(1, "key", 100_000)
    more, last = plan.edits_of(2, "key", after)
    writes = sum(edit.kind != "truncate" for edit in [*edits, *more])
    reads = len(plan.read_pieces(1, "key", after)) + len(plan.read_pieces(2, "key", last))
    assert plan.calls_of(1, "key", 100_000, rounds=2) == 2 * len(plan.copy_pieces(1, "key", 100_000)) + writes + reads


def test_mixed_edits_keep_the_order_of_each_file() -> None:
    edits = [plan.edits_of(1, f"key{number}", 500_000)[0] for number in range(5)]
    mixed = plan.interleaved(Random(1), edits)
    assert [[edit for number, edit in mixed if number == file] for file in range(5)] == edits
    assert [number for number, _ in mixed] != sorted(number for number, _ in mixed)


def test_groups_of_pieces_are_bounded_unless_one_piece_is_larger() -> None:
    pieces = [(0, 5), (5, 5), (10, 20), (30, 1)]
    assert list(plan.grouped(pieces, most=10)) == [[(0, 5), (5, 5)], [(10, 20)], [(30, 1)]]
    assert list(plan.grouped([], most=10)) == []
