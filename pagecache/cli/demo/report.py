"""The output of a demo: one screen for a person, one document for a program."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pagecache.cli.demo.job import BANDWIDTH, PHASES, REQUEST_SECONDS, Part, Report
from pagecache.cli.demo.sides import CachedSide
from pagecache.cli.demo.verify import Difference
from pagecache.quantities import printable, size_text

MIB = 1024 * 1024
ALIKE = 1.05  # a smaller ratio of two times is neither gain nor loss


def job_text(report: Report) -> str:
    """Return the first line."""
    times = {1: "once", 2: "twice"}.get(report.rounds, f"{report.rounds} times")
    return f"Copy files of {printable(str(report.directory.tree.root))}, edit and read back all of them {times}"


def headings(report: Report) -> tuple[str, str]:
    """Return the lines above the two tables."""
    rate = f"{1000 * REQUEST_SECONDS:.0f} ms, {BANDWIDTH / 1e6:.0f} MB/s"
    return (
        f"Directory: {amounts(report.directory)}",
        f"Simulated object store ({rate}): {amounts(report.object_store)}",
    )


def amounts(part: Part) -> str:
    """Return the amount of files, and the capacity."""
    return f"{len(part.tree.files):,} files ({size_text(part.tree.size)}), cache of {size_text(part.capacity)}"


def speed_table(part: Part) -> Table:
    """Return a table with the throughput of both sides by phase."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("phase")
    for name in (CachedSide.name, part.beside, "speed"):
        table.add_column(name, justify="right")
    for phase in PHASES:
        own, other = (part.seconds[side][phase] for side in (CachedSide.name, part.beside))
        moved = part.cached.moved.get(phase)
        table.add_row(phase, rate(moved, own), rate(moved, other), f"{other / own:.2f}×" if own else "")
    own, other = part.total_seconds(CachedSide.name), part.total_seconds(part.beside)
    total = sum(part.cached.moved.values())
    table.add_row("all", rate(total, own), rate(total, other), f"{part.speed_ratio():.2f}×")
    table.add_row("hit rate", f"{100 * part.hit_rate():.1f} %")
    return table


def conclusion(part: Part) -> str:
    """Say in one sentence what the cache gained or cost on a store."""
    ratio = part.speed_ratio()
    if ratio >= ALIKE:
        speed = f"Gained: {ratio:.1f} times as fast as"
    elif ratio > 1 / ALIKE:
        speed = "Even: as fast as"
    else:
        speed = f"Paid: {1 / ratio:.1f} times the time of"
    if not part.requests:
        return f"{speed} plain files, which the kernel caches already."
    own, other = part.requests[CachedSide.name], part.requests[part.beside]
    return f"{speed} direct calls; {own:,} requests instead of {other:,}."


def rate(moved: int | None, seconds: float) -> str:
    """Format throughput with its time; the time alone if the program moves no bytes."""
    if not moved or not seconds:
        return f"{seconds:.2f} s"
    return f"{moved / MIB / seconds:,.0f} MiB/s  {seconds:.2f} s"


def verdict(report: Report) -> str:
    """Return the last line."""
    if report.difference is None:
        files = len(report.directory.tree.files)
        compared = report.directory.compared_bytes + report.object_store.compared_bytes
        return f"VERIFIED: {files:,} files, {compared:,} bytes, all as plain files have them"
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

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)

    line(job_text(report))
    for heading, part in zip(headings(report), (report.directory, report.object_store), strict=True):
        line("")
        line(heading, "bold")
        console.print(speed_table(part))
        line(conclusion(part))
    if report.kept:
        line(f"the copies are in {printable(str(report.kept))}")
    line(f"{verdict(report)} ({report.elapsed:.1f} s)", "bold green" if report.verified else "bold red")


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report for JSON: the figures of the directory, and below `object_store` those of the other part."""
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
        "tree": printable(str(report.directory.tree.root)),
        "seed": report.seed,
        "elapsed": report.elapsed,
        **figures(report.directory),
        "object_store": figures(report.object_store) | {"requests": report.object_store.requests},
    }


def figures(part: Part) -> dict[str, Any]:
    """Return the figures of one store."""
    course = part.cached
    return {
        "files": len(part.tree.files),
        "left_over": part.tree.left_over,
        "bytes": part.tree.size,
        "compared_bytes": part.compared_bytes,
        "edits": course.edits,
        "program_calls": course.calls,
        "moved_bytes": course.moved,
        "hit_rate": part.hit_rate(),
        "backend_calls": part.backend_calls(),
        "page_by_page_calls": part.page_calls(),
        "capacity": part.capacity,
        "peak_used": course.peak_used,
        "seconds": part.seconds,
        "speed_ratio": part.speed_ratio(),
        "counters": course.counters,
    }
