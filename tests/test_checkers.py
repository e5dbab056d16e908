"""`PageCache.check` has a checker for every invariant whose state exists, except the order of locks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pagecache
from pagecache.backends import MemoryBackend

from .plain import Blobs

NATIVE = Path(pagecache.__file__).parent / "_native"
CHECKED = {f"I-{number}" for number in range(1, 17)}


def reported() -> set[str]:
    """Invariants that some checker of the core can name."""
    text = "".join(path.read_text(encoding="utf-8") for path in NATIVE.glob("*/*.c"))
    return set(re.findall(r'pc_violated\(out, "(I-\d+)"', text))


def test_every_invariant_has_a_checker_except_the_order_of_locks() -> None:
    """Debug builds assert the order, I-15, at every lock; others cannot see it."""
    assert CHECKED - reported() == {"I-15"}


def test_check_reports_a_wrong_count_of_handles() -> None:
    with pagecache.PageCache("1MiB") as cache:
        volume = cache.attach("memory:")
        with volume.open("k", "w+"):
            volume.handles += 1
            with pytest.raises(AssertionError, match="I-30"):
                cache.check()
            volume.handles -= 1
            cache.check()


@pytest.mark.parametrize("make", [MemoryBackend, Blobs])
def test_check_reports_names_and_identities_that_disagree(make: Callable[[], Any]) -> None:
    with pagecache.PageCache("1MiB") as cache:
        volume = cache.attach(make())
        with volume.open("k", "w+") as file:
            table, inode = volume.inodes, file._inode
            cache.check()
            table["other"] = inode
            with pytest.raises(AssertionError, match="I-31"):
                cache.check()
            del table["other"]
            table.objects["other"] = inode
            with pytest.raises(AssertionError, match="I-31"):
                cache.check()
            del table.objects["other"]
            cache.check()
