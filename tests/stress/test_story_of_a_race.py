"""The report on a backend that loses an update when two calls run side by side."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any, cast

from pagecache.stress import Plan, run
from pagecache.stress.oracle import values

from ..plain import Blob, Blobs

BLOCK = 1 << 14


class Racy(Blobs):
    """A backend that stores whole blocks, without a lock between reading and storing one."""

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        found = super().open(key, create=create, exclusive=exclusive)
        return _RacyBlob(found.content, found.lock)


class _RacyBlob(Blob):
    beside = threading.Event()

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)
        begin, end = offset // BLOCK * BLOCK, offset + len(data)
        with self.lock:
            self.content.extend(bytes(max(0, end - len(self.content))))
            changed = self.content[begin : -(-end // BLOCK) * BLOCK]
        changed[offset - begin : end - begin] = data
        self.beside.wait(0.002)  # never set: another call may come in between
        with self.lock:
            size = min(len(changed), len(self.content) - begin)
            self.content[begin : begin + size] = changed[:size]
        return len(data)


def test_a_lost_update_is_reported_with_both_values() -> None:
    report = run(Plan(seed=3, threads=6, tasks=0, files=1, size="64KiB", duration=20, operations=60), cast(Any, Racy))
    assert not report.ok
    assert report.kind == "data"
    assert "seen: " not in report.story
    if "bytes" in report.story.splitlines()[1] and "wrong" in report.story.splitlines()[1]:
        assert re.search(r"\n  expected (zero|hex|0x|one of).*, found (zero|hex|0x)", report.story)


def test_values_say_in_which_base_they_are() -> None:
    assert values(bytes(1)) == "zero"
    assert values(bytes(8)) == "zeros"
    assert values(b"\x74") == "0x74 (116)"
    assert values(b"\x74\x00\xff") == "hex 74 00 ff"
