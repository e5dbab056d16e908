"""Text in cells."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pagecache.cli.top.text import clip_end, clip_start


@given(st.text(alphabet="ab/写真é́", max_size=30), st.integers(0, 20))
def test_clipped_text_is_as_wide_as_there_is_room(text: str, width: int) -> None:
    for clip in (clip_start, clip_end):
        clipped = clip(text, width)
        assert cell_len(clipped) <= width
        if cell_len(text) <= width:
            assert clipped == text
        elif width > 2:
            assert cell_len(clipped) >= width - 1  # a wide letter leaves one column at most


def test_a_path_keeps_its_end_and_a_sentence_its_beginning() -> None:
    assert clip_start("some/long/path.txt", 9) == "…path.txt"
    assert clip_end("a long sentence", 7) == "a long…"
