"""Libraries that take a file take a handle."""

from __future__ import annotations

import io
import random
import zipfile

import pytest

from pagecache import Volume

from .rig import Make, pattern


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


def test_buffered_reader_and_writer(volume: Volume) -> None:
    """io.BufferedWriter and io.BufferedReader, peek and read1 included."""
    data = pattern(500_000)
    with io.BufferedWriter(volume.open("f", "wb")) as file:
        for start in range(0, len(data), 7777):
            file.write(data[start : start + 7777])
    with io.BufferedReader(volume.open("f", "rb")) as file:
        assert data.startswith(file.peek(10))
        assert file.read1(100) == data[:100]
        assert file.read() == data[100:]


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


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zipfile(volume: Volume, compression: int) -> None:
    """Written, read back, appended to, directly over the raw handle. [K13]"""
    rng = random.Random(9)
    members = {f"dir/member{i}": rng.randbytes(20_000) + bytes(20_000) for i in range(10)}
    with volume.open("z", "w+b") as file, zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with volume.open("z", "r+b") as file, zipfile.ZipFile(file, "a", compression) as archive:
        archive.writestr("late", b"late" * 10_000)
    with volume.open("z", "rb") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.read("late") == b"late" * 10_000
        assert {name: archive.read(name) for name in members} == members
