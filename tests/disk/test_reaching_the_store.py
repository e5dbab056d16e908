"""Calls that need the bytes in the store, at a volume whose `durability` is "disk"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecache import DiskTier, PageCache, Volume
from pagecache.backends import MemoryBackend
from tests.commands import call

MIB = 1 << 20


@pytest.fixture
def store() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def volume(store: MemoryBackend, tmp_path: Path) -> Iterator[Volume]:
    tier = DiskTier(tmp_path / "tier", size="64MiB", segment="4MiB")
    with PageCache("16MiB", disk=tier, dirty_expire=3600.0, dirty_background=0.4, dirty_limit=0.8) as cache:
        yield cache.attach(store, name="V", durability="disk")


def test_drain_saves_in_the_store_what_only_the_journal_has(
    volume: Volume, store: MemoryBackend, tmp_path: Path
) -> None:
    socket = str(tmp_path / "s")
    volume.cache.serve_stats(socket)
    with volume.open("a", "w+b") as file:
        file.write(b"x" * 5000)
        file.fsync()
        assert call("drain", socket).exit_code == 0
        found = bytearray(5000)
        with memoryview(found) as room:
            assert store.open("a").read_into(0, [room]) == 5000
        assert found == b"x" * 5000


def test_a_smaller_capacity_finds_its_memory_by_saving_in_the_store(volume: Volume) -> None:
    with volume.open("a", "w+b") as file:
        file.write(b"x" * 3 * MIB)
        file.fsync()
        volume.cache.resize(MIB, timeout=20)
        file.seek(0)
        assert file.read() == b"x" * 3 * MIB
