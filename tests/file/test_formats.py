"""Libraries that take a file take a handle."""

from __future__ import annotations

import io
import random

import pytest

from pagecache import Volume

from .rig import Make


@pytest.fixture
def volume(make: Make) -> Volume:
    """A volume on a cache smaller than the files of these tests."""
    return make(capacity="256KiB", options={"read_ahead": "32KiB"}, dirty_background=0.2, dirty_limit=0.5).volume


def test_buffered_random(volume: Volume) -> None:
    """io.BufferedRandom: mixed reads, writes and seeks against BytesIO."""
    rng = random.Random(8)
    model = io.BytesIO()
    with io.BufferedRandom(volume.open("f", "w+b"), 1000) as file:
        for _ in range(400):
            position, data = rng.randrange(300_000), rng.randbytes(rng.randrange(3000))
            for target in (file, model):
                target.seek(position)
            if rng.random() < 0.5:
                assert file.write(data) == model.write(data)
            else:
                assert file.read(len(data)) == model.read(len(data))
            assert file.tell() == model.tell()
    with io.BufferedReader(volume.open("f", "rb")) as file:
        assert file.read() == model.getvalue()


def test_text_wrapper(volume: Volume) -> None:
    """io.TextIOWrapper: lines, encodings, tell and seek."""
    lines = [f"Zeile {i}: größer als ⌀{i * i}\n" for i in range(5000)]
    with io.TextIOWrapper(io.BufferedWriter(volume.open("t", "wb")), encoding="utf-8", newline="\n") as text:
        text.writelines(lines)
    with io.TextIOWrapper(io.BufferedReader(volume.open("t", "rb")), encoding="utf-8", newline="\n") as text:
        assert text.readline() == lines[0]
        mark = text.tell()
        assert text.readlines() == lines[1:]
        text.seek(mark)
        assert text.readline() == lines[1]
