"""Data and holes of a cached file, as os.lseek finds them in the same file of a plain directory."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import BackendError, BackendProtocolError, PageCache, RetryPolicy, Volume, aio
from pagecache.backends import DirectoryBackend
from pagecache.testing import FaultPlan, FaultyBackend, Gate, Rule

from .rig import PAGE, Task, cut_off, raises

KIB = 1024


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def cache() -> Iterator[PageCache]:
    with PageCache("8MiB", flush_interval=1000.0, dirty_expire=1000.0) as cache:
        yield cache


@pytest.fixture
def volume(cache: PageCache, store: Path) -> Volume:
    return cache.attach(f"dir:{store}")


def answer(file: Any, offset: int, whence: int) -> int | str:
    """The result of a seek of a handle or a descriptor; the name of the errno if it fails."""
    try:
        return os.lseek(file, offset, whence) if isinstance(file, int) else int(file.seek(offset, whence))
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def extents(file: Any) -> list[tuple[int, int]]:
    """All data of a file."""
    found, at = [], 0
    while (begin := answer(file, at, os.SEEK_DATA)) != "ENXIO":
        assert isinstance(begin, int)
        end = answer(file, begin, os.SEEK_HOLE)
        assert isinstance(end, int)
        assert end > begin  # else a copy would never end
        found.append((begin, end))
        at = end
    return found


def test_holes_of_the_store_are_found(volume: Volume, store: Path) -> None:
    """At every offset that matters the answers are those of a plain descriptor."""
    with (store / "a").open("wb") as plain:
        plain.truncate(1 << 20)
        os.pwrite(plain.fileno(), b"x" * 5000, 100 * KIB)
        os.pwrite(plain.fileno(), b"y" * PAGE, 500 * KIB)
        os.fsync(plain.fileno())
    with volume.open("a") as file, (store / "a").open("rb") as plain:
        for offset in (0, 1, 100 * KIB, 102 * KIB, 104 * KIB, 108 * KIB, 500 * KIB, 504 * KIB, 1 << 20, 2 << 20, -1):
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                assert answer(file, offset, whence) == answer(plain.fileno(), offset, whence), (offset, whence)
        assert extents(file) == extents(plain.fileno())


def test_the_position_moves_to_what_was_found(volume: Volume, store: Path) -> None:
    """It stays if nothing is found."""
    (store / "a").write_bytes(b"")
    os.truncate(store / "a", 1 << 20)
    with volume.open("a", "r+") as file:
        file.pwrite(b"data", 64 * KIB)
        assert file.seek(0, os.SEEK_DATA) == file.tell() == 64 * KIB
        assert file.read(4) == b"data"
        assert file.seek(64 * KIB, os.SEEK_HOLE) == file.tell()
        with pytest.raises(OSError, match="no data at or behind offset 131072 of a file of 1048576 bytes") as caught:
            file.seek(128 * KIB, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO
        assert file.tell() == 64 * KIB + PAGE
        raises(ValueError, file.seek, 0, 5, match=r"whence 5 is not 0, 1, 2, 3 \(SEEK_DATA\) or 4 \(SEEK_HOLE\)")


def test_dirty_bytes_are_data_before_they_are_written_back(volume: Volume, store: Path) -> None:
    """This also holds in a hole of the store; and the extension behind them is a hole."""
    (store / "a").write_bytes(b"")
    os.truncate(store / "a", 256 * KIB)
    with volume.open("a", "r+") as file:
        file.pwrite(b"x" * PAGE, 128 * KIB)
        file.pwrite(b"end", 1 << 20)
        assert extents(file) == [(128 * KIB, 132 * KIB), (1 << 20, (1 << 20) + 3)]
        file.fsync()
        with (store / "a").open("rb") as plain:
            assert extents(file) == extents(plain.fileno())


def test_random_changes_never_hide_data(volume: Volume, store: Path) -> None:
    """Every hole reads as zeros; after an fsync the extents are those of the store."""
    draw = random.Random(23)
    with volume.open("a", "w+") as file:
        for step in range(300):
            offset, length = draw.randrange(0, 1 << 20), draw.randrange(1, 40 * KIB)
            match draw.randrange(7):
                case 0 | 1 | 2:
                    file.pwrite(draw.randbytes(length), offset)
                case 3:
                    file.truncate(offset)
                case 4:
                    file.punch_hole(offset, length)
                case 5:
                    file.flush()
                case 6:
                    volume.drop_clean("a")
            at = 0
            for begin, end in [*extents(file), (file.size, file.size)] if step % 10 == 0 else []:
                assert file.pread(begin - at, at) == bytes(begin - at), f"data in the hole [{at}, {begin})"
                at = end
        file.fsync()
        with (store / "a").open("rb") as plain:
            assert extents(file) == extents(plain.fileno())


# What the store answers, and the error; None: it cannot report holes, so all is data.
WRONG = [{"answer": wrong} for wrong in [(5, 5), (-1, 3), (3, 8), "no", 7, (1,), (None, 3)]]
ANSWERS: list[tuple[dict[str, Any], type[OSError] | None, str]] = [
    *((wrong, BackendProtocolError, re.escape(repr(wrong["answer"]))) for wrong in WRONG),
    *(({"error": code}, None, "") for code in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)),
    ({"error": BackendError(errno.EIO, "gone", retry=False)}, OSError, "gone"),
    ({"error": OSError(errno.ENXIO, "gone")}, OSError, "gone"),
]


@pytest.mark.parametrize(("answer", "kind", "words"), ANSWERS, ids=str)
def test_answers_of_a_store_about_data(cache: PageCache, store: Path, answer: Any, kind: Any, words: str) -> None:
    """A missing device returns ENXIO, as the end of all data does: that is no answer about data. Errors are EIO."""
    (store / "a").write_bytes(b"0123456789")
    faulty = FaultyBackend(DirectoryBackend(store), FaultPlan([Rule("next_data", **answer)]))
    with cache.attach(faulty).open("a") as file:
        if kind is None:
            assert extents(file) == [(0, 10)]
        else:
            caught = raises(kind, file.seek, 5, os.SEEK_DATA, match=words)
            assert caught.errno == (errno.EPROTO if kind is BackendProtocolError else errno.EIO)
            assert len(faulty.calls_of("next_data")) == 1
        assert file.pread(4, 0) == b"0123"


def test_bytes_written_back_while_the_store_is_asked_are_data(cache: PageCache, store: Path) -> None:
    """Its answer is used for the range that was not local before that."""
    (store / "a").write_bytes(b"")
    os.truncate(store / "a", 64 * KIB)
    backend = FaultyBackend(DirectoryBackend(store))
    with cache.attach(backend).open("a", "r+") as file:
        file.pwrite(b"x" * PAGE, 32 * KIB)
        backend.use([Rule("next_data", nth=1, change=lambda *_call: Task(file.fsync).result(), answer=None)])
        assert file.seek(0, os.SEEK_DATA) == 32 * KIB
        assert [call.offset for call in backend.calls_of("next_data")] == [0, 32 * KIB]


def test_owed_holes_are_made_before_the_store_is_asked(cache: PageCache, store: Path) -> None:
    """A punch with an unknown outcome counts as done."""
    (store / "a").write_bytes(b"x" * 64 * KIB)
    rule = Rule("punch", nth=1, error=ConnectionResetError(errno.ECONNRESET, "lost"))
    faulty = FaultyBackend(DirectoryBackend(store), FaultPlan([rule]))
    cache.configure(retry=RetryPolicy(attempts=1))
    volume = cache.attach(faulty)
    with volume.open("a", "r+") as file:
        raises(OSError, file.punch_hole, 16 * KIB, 16 * KIB, match="lost")
        assert file.seek(0, os.SEEK_HOLE) == 16 * KIB
        assert file.seek(16 * KIB, os.SEEK_DATA) == 32 * KIB


def test_a_wait_for_the_store_ends_with_an_abort(cache: PageCache, store: Path) -> None:
    (store / "a").write_bytes(b"0123456789")
    with Gate() as gate:
        volume = cache.attach(FaultyBackend(DirectoryBackend(store), FaultPlan([Rule("next_data", gate=gate)])))
        file = volume.open("a")
        cut_off(volume, gate, file.seek, 0, os.SEEK_DATA)
    volume.detach(on_failed="discard")
    file.close()


def test_tasks_find_data(volume: Volume, store: Path) -> None:
    async def seek() -> tuple[int, int]:
        async with aio.open(volume, "a", "r+") as file:
            return await file.seek(0, os.SEEK_DATA), await file.tell()

    with (store / "a").open("wb") as plain:
        plain.seek(64 * KIB)
        plain.write(b"x")
    assert asyncio.run(seek()) == (64 * KIB, 64 * KIB)
