"""Which clean pages stay when more is read than fits. [2.23]"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pagecache import CachedFile, PageCache, Volume
from pagecache.config import Policy

from .rig import PAGE

PAGES, FIT = 2000, 1000


@pytest.fixture(params=["adaptive", "sticky"])
def volume(request: pytest.FixtureRequest) -> Iterator[Volume]:
    policy: Policy = request.param
    with PageCache(FIT * PAGE, max_folio=PAGE) as cache:
        volume = cache.attach("memory:", read_ahead=0, policy=policy)
        for key, size in (("data", PAGES), ("other", 2 * FIT)):
            with volume.open(key, "w") as file:
                file.write(bytes(size * PAGE))
                file.fsync()
        volume.drop_clean()
        yield volume
        cache.check()


def misses(file: CachedFile, pages: list[int], parts: int = 1) -> int:
    """Read these pages, each by so many reads; return how many of them were not cached."""
    before, size = file.volume.stats().misses, PAGE // parts
    for page in pages:
        for part in range(parts):
            file.pread(size, page * PAGE + part * size)
    return file.volume.stats().misses - before


@pytest.mark.parametrize("parts", [1, 4], ids=["by whole pages", "by parts of pages"])
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
def test_epochs_over_more_than_fits_hit_what_fits(volume: Volume, shuffled: bool, parts: int) -> None:
    pages, rng = list(range(PAGES)), random.Random(1)
    with volume.open("data") as file:
        for _ in range(4):
            missed = misses(file, rng.sample(pages, PAGES) if shuffled else pages, parts)
    assert PAGES - missed >= 0.95 * FIT


def test_a_part_of_a_page_that_is_read_again_and_again_stays_beside_a_scan(volume: Volume) -> None:
    """Read by one handle, and by nothing else in between: it is no sequential read."""
    if volume.options.policy == "sticky":
        return  # its pages stay once they are there
    with volume.open("data") as file, volume.open("other") as other:
        misses(other, list(range(FIT)))
        for page in range(10):
            for _ in range(4):
                file.pread(100, page * PAGE + 512)
        misses(other, list(range(FIT, 2 * FIT)))
        before = volume.stats().misses
        for page in range(10):
            file.pread(100, page * PAGE + 512)
        assert volume.stats().misses == before


def test_a_scan_leaves_what_is_read_often(volume: Volume) -> None:
    often = list(range(FIT // 2))
    with volume.open("data") as file, volume.open("other") as other:
        for _ in range(6):
            misses(file, often)
        misses(other, list(range(2 * FIT)))
        assert misses(file, often) <= len(often) // 10


@pytest.mark.parametrize("volume", ["sticky"], indirect=True)
def test_a_sticky_volume_keeps_its_pages_beside_bursts_of_other_reads(volume: Volume) -> None:
    """An adaptive one gives up those that are read once an epoch for those that are read several times at once."""
    with volume.open("data") as file, volume.open("other") as other:
        for _ in range(4):
            misses(file, list(range(PAGES)))
        for first in range(0, FIT, 5):
            for _ in range(5):
                misses(other, list(range(first, first + 5)))
        assert PAGES - misses(file, list(range(PAGES))) >= 0.95 * FIT


def test_volumes_of_both_policies_share_a_cache(volume: Volume) -> None:
    other: Policy = "sticky" if volume.options.policy == "adaptive" else "adaptive"
    beside = volume.cache.attach("memory:", read_ahead=0, policy=other)
    with beside.open("k", "w") as file:
        file.write(bytes(FIT // 2 * PAGE))
        file.fsync()
    with volume.open("data") as file, beside.open("k") as second:
        for _ in range(4):
            misses(file, list(range(PAGES)))
        found = [misses(second, list(range(FIT // 4))) for _ in range(20)]
        assert found[-1] <= FIT // 40
        assert PAGES - misses(file, list(range(PAGES))) >= FIT // 2


def test_an_unknown_policy_is_refused_by_name() -> None:
    with PageCache("1MiB") as cache, pytest.raises(ValueError, match=r"^policy: 'lru' is not .*'adaptive'.*'sticky'"):
        cache.attach("memory:", policy="lru")  # type: ignore[arg-type]
