"""The output of a demo: a few lines for a person, one document for a program."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pagecache.cli.demo.job import PHASES, Report
from pagecache.cli.demo.sides import CachedSide, PlainSide
from pagecache.cli.demo.verify import Difference
from pagecache.quantities import printable, size_text

MIB = 1024 * 1024


def facts(report: Report) -> list[tuple[str, str]]:
    """Return the lines of the report, as pairs of name and text."""
    counters = report.counters
    edits = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.edits.items()))
    files = f"{report.files:,} files, {size_text(report.tree_bytes)} of {printable(str(report.root))}"
    if report.left_over:
        files += f" ({report.left_over:,} more left out by --limit)"
    metadata = counters.get("metadata_bytes")
    memory = f"at most {size_text(report.peak_used)} of {size_text(report.capacity)}"
    if metadata is not None:
        memory += f", and {size_text(metadata)} of metadata"
    calls, by_page = report.backend_calls(), report.page_calls()
    fewer = f", {by_page / calls:.1f}× as many" if calls else ""
    copies = f"{int(counters['cow_copies']):,} pages written again in flight, {int(counters['staged_copies']):,} staged"
    return [
        ("tree", files),
        ("edits", edits),
        ("moved", f"{size_text(sum(report.moved.values()))} by {report.calls:,} calls of the program"),
        ("hit rate", f"{100 * report.hit_rate():.1f} %, {int(counters['evicted']):,} evictions"),
        ("backend calls", f"{calls:,} reads and writes; page by page: {by_page:,}{fewer}"),
        ("extra copies", copies),
        ("memory", memory),
    ]


def speed_table(report: Report) -> Table:
    """Return a table with the throughput of both sides by phase."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase")
    for heading in (CachedSide.name, PlainSide.name, "cache / plain"):
        table.add_column(heading, justify="right")
    for phase in PHASES:
        own, plain = (report.seconds[side][phase] for side in (CachedSide.name, PlainSide.name))
        moved = report.moved.get(phase)
        cells = [rate(moved, own), rate(moved, plain)]
        table.add_row(phase, *cells, f"{plain / own:.2f}×" if own else "")
    own, plain = report.total_seconds(CachedSide.name), report.total_seconds(PlainSide.name)
    total = sum(report.moved.values())
    table.add_row("all", rate(total, own), rate(total, plain), f"{report.speed_ratio():.2f}×")
    return table


def rate(moved: int | None, seconds: float) -> str:
    """Format throughput with its time; the time alone if the program moves no bytes."""
    if not moved or not seconds:
        return f"{seconds:.2f} s"
    return f"{moved / MIB / seconds:,.0f} MiB/s  {seconds:.2f} s"


def verdict(report: Report) -> str:
    """Return the last line."""
    if report.difference is None:
        return (
            f"VERIFIED: {report.files:,} files, {report.compared_bytes:,} bytes, all as plain file operations give them"
        )
    return describe(report.difference)


def describe(found: Difference) -> str:
    """Describe the first difference of two files, in one line."""
    return (
        f"DIFFERENT: {printable(found.key)} at offset {found.offset}: expected {shown(found.expected)}, "
        f"found {shown(found.found)} ({found.stage})"
    )


def shown(data: bytes) -> str:
    """Format some bytes as hex; the end of a file in words."""
    return data.hex(" ") if data else "the end of the file"


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the report on stdout."""
    console = console or Console(soft_wrap=True)
    for name, text in facts(report):
        console.print(Text.assemble((f"{name:>14}  ", "bold"), text), soft_wrap=True)
    console.print(speed_table(report))
    if report.kept:
        console.print(f"the copies are in {printable(str(report.kept))}", highlight=False, markup=False)
    style = "bold green" if report.verified else "bold red"
    console.print(
        f"{verdict(report)}  ({report.elapsed:.1f} s)", style=style, highlight=False, soft_wrap=True, markup=False
    )


def as_dict(report: Report) -> dict[str, Any]:
    """The report for JSON."""
    different = report.difference
    return {
        "verified": report.verified,
        "difference": None
        if different is None
        else {
            "file": printable(different.key),
            "offset": different.offset,
            "expected": different.expected.hex(),
            "found": different.found.hex(),
            "stage": different.stage,
        },
        "tree": printable(str(report.root)),
        "seed": report.seed,
        "files": report.files,
        "left_over": report.left_over,
        "bytes": report.tree_bytes,
        "compared_bytes": report.compared_bytes,
        "edits": report.edits,
        "program_calls": report.calls,
        "moved_bytes": report.moved,
        "hit_rate": report.hit_rate(),
        "backend_calls": report.backend_calls(),
        "page_by_page_calls": report.page_calls(),
        "capacity": report.capacity,
        "peak_used": report.peak_used,
        "seconds": report.seconds,
        "speed_ratio": report.speed_ratio(),
        "elapsed": report.elapsed,
        "counters": report.counters,
    }
