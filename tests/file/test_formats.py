"""Libraries that take a file take a handle."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from pagecache import PageCache, Volume

from .rig import Rig, pattern

Make = Callable[..., Rig]


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


def test_csv_and_json(volume: Volume) -> None:
    """Text formats on top of the text wrapper."""
    rows = [[str(i), "x" * (i % 50), "a,b"] for i in range(2000)]
    with io.TextIOWrapper(volume.open("t.csv", "w+b"), encoding="utf-8", newline="") as text:
        csv.writer(text).writerows(rows)
        text.flush()
        text.seek(0)
        assert list(csv.reader(text)) == rows
    with io.TextIOWrapper(io.BufferedRandom(volume.open("t.json", "w+b"))) as text:
        json.dump({"rows": rows}, text)
        text.seek(0)
        assert json.load(text) == {"rows": rows}


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


@pytest.mark.parametrize("kind", ["", "gz"])
def test_tarfile(volume: Volume, kind: str) -> None:
    """Written and read, plain and compressed."""
    members = {f"member{i}": pattern(30_000 + i, i) for i in range(10)}
    with volume.open("t", "w+b") as file, tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with volume.open("t", "rb") as file, tarfile.open(fileobj=file, mode=f"r:{kind}") as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = archive.extractfile(name)
            assert member is not None
            assert member.read() == data


def test_gzip_and_pickle(volume: Volume) -> None:
    """Stream formats."""
    value = {i: pattern(1000, i) for i in range(200)}
    with volume.open("p.gz", "wb") as file, gzip.GzipFile(fileobj=file, mode="wb") as packed:
        pickle.dump(value, packed)
    with volume.open("p.gz", "rb") as file, gzip.GzipFile(fileobj=file) as packed:
        assert pickle.load(packed) == value


def test_copyfileobj(make: Make, tmp_path: Path) -> None:
    """shutil.copyfileobj between a volume, another volume and a plain file."""
    data = pattern(700_001)
    (tmp_path / "plain").write_bytes(data)
    with PageCache("256KiB") as cache:
        one, two = cache.attach("memory:", name="one"), cache.attach(f"dir:{tmp_path}", name="two")
        with (tmp_path / "plain").open("rb") as source, one.open("a", "wb") as target:
            shutil.copyfileobj(source, target)
        with one.open("a", "rb") as source, two.open("b", "wb") as target:
            shutil.copyfileobj(source, target, 12_345)
        with two.open("b", "rb") as source, (tmp_path / "back").open("wb") as target:
            shutil.copyfileobj(source, target)
    assert (tmp_path / "b").read_bytes() == data
    assert (tmp_path / "back").read_bytes() == data


def test_numpy_save_and_load(volume: Volume) -> None:
    """Arrays larger than the cache, a single one and an archive of several."""
    array = numpy.random.default_rng(10).random((300, 200))
    with volume.open("a.npy", "w+b") as file:
        numpy.save(file, array)
        file.seek(0)
        assert numpy.array_equal(numpy.load(file), array)
    with volume.open("a.npz", "w+b") as file:
        numpy.savez(file, one=array, two=array.T.copy())
    with volume.open("a.npz", "rb") as file, numpy.load(file) as archive:
        assert numpy.array_equal(archive["one"], array)
        assert numpy.array_equal(archive["two"], array.T)


def test_numpy_reads_into_its_own_memory(volume: Volume) -> None:
    """readinto and pread_into of an array's memory."""
    array: Any = numpy.arange(50_000, dtype=numpy.int64)
    with volume.open("raw", "w+b") as file:
        assert file.write(array) == array.nbytes
        target: Any = numpy.empty_like(array)
        file.seek(0)
        assert file.readinto(target) == array.nbytes
        assert numpy.array_equal(target, array)
        middle: Any = numpy.empty(100, dtype=numpy.int64)
        assert file.pread_into(middle, 800) == 800
        assert numpy.array_equal(middle, array[100:200])
