"""The screen of a demo: what was gained or paid comes from the figures of the run."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pagecache.cli.demo.job import PHASES, Course, Part, Report
from pagecache.cli.demo.report import conclusion, describe, print_report, rate
from pagecache.cli.demo.tree import Source, Tree
from pagecache.cli.demo.verify import Difference


def part(own: float, other: float, beside: str, requests: dict[str, int]) -> Part:
    """The job on one store: seconds of the cache and of the other side."""
    counters: dict[str, int | float] = {"hits": 3, "misses": 1, "read_requests": 5, "write_requests": 5}
    return Part(
        tree=Tree(Path("/tree"), (Source("a", 1 << 20, 0),), 0),
        capacity=1 << 18,
        cached=Course(
            moved={"copy": 2 << 20}, seconds={"cache": dict.fromkeys(PHASES, own / len(PHASES))}, counters=counters
        ),
        beside=beside,
        beside_seconds=dict.fromkeys(PHASES, other / len(PHASES)),
        requests=requests,
        difference=None,
        compared_bytes=1 << 20,
    )


@pytest.mark.parametrize(
    ("own", "other", "sentence"),
    [
        (1.0, 3.0, "Gained: 3.0 times as fast as plain files, which the kernel caches already."),
        (1.0, 1.02, "Even: as fast as plain files, which the kernel caches already."),
        (1.02, 1.0, "Even: as fast as plain files, which the kernel caches already."),
        (3.0, 1.0, "Paid: 3.0 times the time of plain files, which the kernel caches already."),
    ],
)
def test_the_sentence_names_gain_and_loss_beside_plain_files(own: float, other: float, sentence: str) -> None:
    assert conclusion(part(own, other, "plain files", {})) == sentence


@pytest.mark.parametrize(
    ("own", "other", "sentence"),
    [
        (1.0, 3.0, "Gained: 3.0 times as fast as direct calls; 900 requests instead of 1,200."),
        (3.0, 1.0, "Paid: 3.0 times the time of direct calls; 900 requests instead of 1,200."),
    ],
)
def test_the_sentence_counts_the_requests_to_the_object_store(own: float, other: float, sentence: str) -> None:
    requests = {"cache": 900, "direct calls": 1200}
    assert conclusion(part(own, other, "direct calls", requests)) == sentence


def test_the_report_is_one_screen() -> None:
    report = Report(
        seed=1,
        rounds=2,
        directory=part(12.0, 8.0, "plain files", {}),
        object_store=part(12.0, 36.0, "direct calls", {"cache": 900, "direct calls": 1200}),
        elapsed=42.0,
        kept=None,
    )
    screen = StringIO()
    print_report(report, Console(file=screen, width=80))
    lines = screen.getvalue().splitlines()
    assert len(lines) <= 25
    assert max(len(line) for line in lines) <= 80
    assert lines[0] == "Copy files of /tree, edit and read back all of them twice"
    assert lines[-1] == "VERIFIED: 1 files, 2,097,152 bytes, all as plain files have them (42.0 s)"


def test_a_difference_is_reported_in_one_line() -> None:
    line = describe(Difference("lib/a.py", 4097, b"\x01\xff", b"", "read through the cache"))
    assert line == (
        "DIFFERENT: lib/a.py at offset 4097: expected 01 ff, found the end of the file (read through the cache)"
    )


def test_a_rate_has_its_time() -> None:
    assert rate(10 << 20, 2.0) == "5 MiB/s  2.00 s"
    assert rate(None, 2.0) == "2.00 s"
