"""The report on a backend that loses an update when two calls run side by side."""

from __future__ import annotations

import re

from pagecache.stress import Plan, run
from pagecache.stress.oracle import values

from ..check_backend.backends import files, not_safe


def test_a_lost_update_is_reported_with_both_values() -> None:
    report = run(
        Plan(seed=3, threads=6, tasks=0, files=1, size="64KiB", duration=20, operations=60), files(write_from=not_safe)
    )
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
