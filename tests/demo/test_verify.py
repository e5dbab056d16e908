"""The comparison finds differences and their places; the files of a run are chosen within limits."""

from pathlib import Path

import pytest

from pagecache.cli.demo.tree import WrongInput, scan
from pagecache.cli.demo.verify import Difference, compare_pieces, compare_trees, first_difference


@pytest.mark.parametrize("length", [1, 2, 3, 100, 4097])
def test_every_position_of_a_single_wrong_byte_is_found(length: int) -> None:
    right = bytes(length)
    for position in {0, length // 2, length - 1}:
        wrong = bytearray(right)
        wrong[position] = 1
        assert first_difference(right, bytes(wrong)) == position


def test_a_shorter_string_differs_where_it_ends() -> None:
    assert first_difference(b"abc", b"ab") == 2
    assert first_difference(b"", b"a") == 0
    assert first_difference(b"same", b"same") is None


def test_a_difference_in_a_piece_has_its_offset_in_the_file() -> None:
    found = compare_pieces("key", [(0, 4), (100, 4)], [b"abcd", b"efgh"], [b"abcd", b"efXh"], "stage")
    assert found == Difference("key", 102, b"gh", b"Xh", "stage")


def trees(tmp_path: Path) -> tuple[Path, Path]:
    for side in ("expected", "found"):
        (tmp_path / side / "sub").mkdir(parents=True)
        (tmp_path / side / "a").write_bytes(b"x" * 3_000_000)
        (tmp_path / side / "sub" / "b").write_bytes(b"")
    return tmp_path / "expected", tmp_path / "found"


def compare(tmp_path: Path) -> Difference | None:
    return compare_trees(tmp_path / "expected", tmp_path / "found", ["a", "sub/b"], "after", lambda: None)


def test_equal_trees_have_no_difference(tmp_path: Path) -> None:
    trees(tmp_path)
    assert compare(tmp_path) is None


def test_one_byte_far_inside_a_file_is_found(tmp_path: Path) -> None:
    _, found = trees(tmp_path)
    with open(found / "a", "r+b") as file:
        file.seek(2_345_678)
        file.write(b"y")
    different = compare(tmp_path)
    assert different == Difference("a", 2_345_678, b"x" * 16, b"y" + b"x" * 15, "after")


def test_a_longer_a_missing_and_a_surplus_file_are_differences(tmp_path: Path) -> None:
    expected, found = trees(tmp_path)
    (found / "sub" / "b").write_bytes(b"z")
    assert compare(tmp_path) == Difference("sub/b", 0, b"", b"z", "after")
    (found / "sub" / "b").unlink()
    assert (compare(tmp_path) or pytest.fail("no difference")).found == b"(no file)"
    (expected / "sub" / "b").unlink()
    (found / "more").touch()
    assert (compare(tmp_path) or pytest.fail("no difference")).key == "more"


def test_only_regular_files_count_and_the_limit_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for number in range(10):
        (tmp_path / "sub" / f"{number}").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("sub/1")
    tree = scan(tmp_path, 4500, 1)
    assert (len(tree.files), tree.left_over, tree.size) == (4, 6, 4000)
    assert scan(tmp_path, 4500, 1).files == tree.files
    with pytest.raises(WrongInput, match="no file fits into --limit 10"):
        scan(tmp_path, 10, 1)


def test_the_largest_files_within_a_limit_are_chosen(tmp_path: Path) -> None:
    for size in (10, 500, 40, 30, 20, 50):
        (tmp_path / f"{size}").write_bytes(bytes(size))
    tree = scan(tmp_path, 1000, 1)

    def chosen(limit: int) -> list[int]:
        return [file.size for file in tree.largest(lambda file: file.size, limit).files]

    assert chosen(125) == [50, 40, 30]
    assert chosen(1000) == [500, 50, 40, 30, 20, 10]
    assert chosen(5) == [10]  # none is so cheap: the smallest
