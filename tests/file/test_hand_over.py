"""Write-back: how dirty bytes are divided into calls, and from which memory."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ..stores import address
from .rig import KEY, PAGE, Make, pattern

MIB = 1 << 20


@pytest.mark.parametrize(("max_write", "nr_calls"), [("4KiB", 256), ("64KiB", 16), ("1MiB", 1)])
@pytest.mark.parametrize("order", ["ascending", "shuffled", "one write"])
def test_a_dirty_mib_is_as_few_calls_as_allowed(make: Make, max_write: str, nr_calls: int, order: str) -> None:
    """Contiguous dirty pages become one call up to `max_write`, in whatever pieces they were written. [T-08, 2.12]"""
    rig, file = make({KEY: b""}, limits={"max_write": max_write}).opened("r+b")
    data = pattern(MIB)
    length = MIB if order == "one write" else PAGE
    offsets = list(range(0, MIB, length))
    if order == "shuffled":
        random.Random(4).shuffle(offsets)
    for offset in offsets:
        file.pwrite(data[offset : offset + length], offset)
    file.fsync()
    assert len(rig.backend.spans("write_from")) == nr_calls
    assert sum(length for _offset, length in rig.backend.spans("write_from")) == MIB
    assert len(rig.backend.seen("commit")) == 1
    assert rig.backend.committed(KEY) == data


# Writes as (offset, length) into a file of `size` bytes, limits, and the calls that must follow.
SPLITS: dict[str, tuple[int, dict[str, object], list[tuple[int, int]], list[tuple[int, int]]]] = {
    "a gap ends a call": (0, {}, [(0, PAGE), (2 * PAGE, PAGE)], [(0, PAGE), (2 * PAGE, PAGE)]),
    "neighbours share a call": (0, {}, [(PAGE, PAGE), (0, PAGE), (2 * PAGE, PAGE)], [(0, 3 * PAGE)]),
    "a gap of one byte": (2 * PAGE, {}, [(0, 100), (101, 100)], [(0, 100), (101, 100)]),
    "max_write": (0, {"max_write": 2 * PAGE}, [(0, 5 * PAGE)], [(0, 2 * PAGE), (2 * PAGE, 2 * PAGE), (4 * PAGE, PAGE)]),
    "boundary": (0, {"boundary": "16KiB"}, [(2 * PAGE, 6 * PAGE)], [(2 * PAGE, 2 * PAGE), (4 * PAGE, 4 * PAGE)]),
    "the end of the file": (0, {}, [(0, 10_001)], [(0, 10_001)]),
    "a partial head and tail": (4 * PAGE, {}, [(100, 2 * PAGE)], [(100, 2 * PAGE)]),
    "two pieces of one page": (PAGE, {}, [(10, 10), (3000, 10)], [(10, 10), (3000, 10)]),
}


@pytest.mark.parametrize("case", SPLITS)
def test_requests_end_where_they_must(make: Make, case: str) -> None:
    """One contiguous range a call; it ends at gaps, limits, boundaries and the end of the file. [T-09, 2.12]"""
    size, limits, writes, expected = SPLITS[case]
    content = bytearray(pattern(size))
    rig, file = make({KEY: bytes(content)}, limits=limits).opened("r+b")
    for seed, (offset, length) in enumerate(writes, 1):
        data = pattern(length, seed)
        file.pwrite(data, offset)
        content.extend(bytes(max(0, offset + length - len(content))))
        content[offset : offset + length] = data
    file.fsync()
    assert sorted(rig.backend.spans("write_from")) == expected
    assert rig.backend.committed(KEY) == bytes(content)


@pytest.mark.parametrize("limits", [{"max_vectors": 3}, {"max_write": "16KiB", "ordered_writes": True}], ids=str)
def test_calls_have_few_buffers_and_go_up(make: Make, limits: dict[str, Any]) -> None:
    """`max_vectors` counts segments of memory; `ordered_writes` allows one call at a time, ascending. [T-09, 2.12]"""
    rig, file = make({KEY: b""}, limits=limits).opened("r+b")
    data = pattern(64 * PAGE)
    for page in random.Random(5).sample(range(64), 64):
        file.pwrite(data[page * PAGE : (page + 1) * PAGE], page * PAGE)
    file.fsync()
    if "max_vectors" in limits:
        assert all(call.nr_buffers <= 3 for call in rig.backend.seen("write_from"))
    else:
        assert rig.backend.spans("write_from") == [(offset, 4 * PAGE) for offset in range(0, 64 * PAGE, 4 * PAGE)]
    assert rig.backend.committed(KEY) == data


def test_a_page_that_is_wholly_valid_keeps_its_block(make: Make) -> None:
    """A small change of a cached page sends bytes of that page only. [T-09, M6]"""
    rig, file = make({KEY: pattern(3 * PAGE)}).opened("r+b")
    file.pread(3 * PAGE, 0)
    file.pwrite(b"!", PAGE + 5)
    file.fsync()
    ((offset, length),) = rig.backend.spans("write_from")
    assert PAGE <= offset <= PAGE + 5 < offset + length <= 2 * PAGE


def test_buffers_lie_in_cache_memory(make: Make) -> None:
    """The backend gets the memory that a view shows, not a copy of it. [T-10]"""
    rig = make({KEY: b""})
    rig.backend.capture = True
    file = rig.open("r+b")
    data = pattern(MIB)
    for offset in random.Random(7).sample(range(0, MIB, PAGE), MIB // PAGE):
        file.pwrite(data[offset : offset + PAGE], offset)
    with file.view(0, MIB) as view:
        shown = [address(segment) for segment in view.segments]
    file.fsync()
    (call,) = rig.backend.seen("write_from")
    assert call.data == data
    assert merged(call.addresses) == merged(shown)
    stats = rig.cache.stats()
    assert (stats.staged_copies, stats.cow_copies) == (0, 0)


def merged(spans: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """(address, length) spans with neighbours in memory joined."""
    result: list[tuple[int, int]] = []
    for start, length in spans:
        if result and sum(result[-1]) == start:
            result[-1] = (result[-1][0], result[-1][1] + length)
        else:
            result.append((start, length))
    return result


def test_clean_data_is_not_sent_again(make: Make) -> None:
    """flush and fsync without anything dirty call no backend. [2.15]"""
    rig, file = make({KEY: b""}).opened("r+b")
    file.pwrite(b"x", 0)
    file.fsync()
    rig.backend.forget_calls()
    file.flush()
    file.fsync()
    file.sync_range(0, PAGE)
    assert [call.op for call in rig.backend.calls if call.op in ("write_from", "commit", "truncate")] == []
