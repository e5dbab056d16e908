"""Whole screens, compared with those in `expected`; `python -m tests.top.pictures` writes them again."""

from __future__ import annotations

import pytest

from .pictures import DRAWN, EXPECTED, PICTURES
from .scenes import SCENES, show


@pytest.mark.parametrize("name", SCENES)
def test_a_screen_is_as_expected(name: str) -> None:
    text, svg = show(SCENES[name])
    assert text == (EXPECTED / f"{name}.txt").read_text(encoding="utf-8"), "look, then: python -m tests.top.pictures"
    assert svg.startswith("<svg")


def test_no_expected_screen_is_left_over() -> None:
    assert {path.stem for path in EXPECTED.glob("*.txt")} == set(SCENES)


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_of_the_documentation_are_drawn(name: str) -> None:
    svg = (PICTURES / DRAWN[name]).read_text(encoding="utf-8")
    assert "pagecache" in svg
    assert "url(http" not in svg, "a picture loads nothing"
