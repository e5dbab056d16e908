"""The picture of README.md shows the figures of docs/performance.md."""

import xml.etree.ElementTree as ElementTree

from .picture import LABELS, PICTURE, ROOT, TABLE, Bar, bars, drawn, position

PAGE = TABLE.read_text(encoding="utf-8")


def test_the_picture_in_the_repository_has_the_figures_of_the_table() -> None:
    assert PICTURE.read_text(encoding="utf-8") == drawn(bars(PAGE)), "run .venv/bin/python -m tests.bench.picture"


def test_every_label_has_a_goal_in_the_table() -> None:
    assert len(bars(PAGE)) == len(LABELS)


def test_the_readme_shows_the_picture() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"]({PICTURE.relative_to(ROOT)})" in readme


def test_a_time_becomes_a_speed() -> None:
    page = "| P2/64K | hit | mmap slice | ≤ 1 × time | 2.00 | ±2 % | no |"
    assert bars(page) == [Bar(LABELS["P2/64K"], "mmap slice", 0.5)]


def test_a_slower_bar_goes_to_the_left_and_a_long_one_is_cut() -> None:
    assert position(0.5) < position(1) < position(2) < position(100) == position(1000)
    document = ElementTree.fromstring(drawn([Bar("a & b", "c < d", 0.5), Bar("e", "f", 1000)]))
    texts = ["".join(text.itertext()) for text in document.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a & b vs c < d", "0.50", "e vs f", "1000.00"} <= set(texts)
