"""The report on supported features and broken promises: for a person, and as one document."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pagecache.cli.check_backend.checking import Measures, Report, Result
from pagecache.quantities import duration_text, printable, size_text

STYLES = {"yes": "green", "no": "dim", "FAILED": "bold red", "hangs": "bold red"}
LEFT_SHOWN, SAME_SHOWN = 10, 3
NOT_TRIED = "calls of many threads for minutes, reads and writes through a cache, calls that fail, crashes"


def as_dict(report: Report) -> dict[str, Any]:
    """Return everything, for a program."""
    return {
        "ok": report.ok,
        **dataclasses.asdict(report),
        "capabilities": report.capabilities(),
        "server": {name: has for name, has, _, _ in report.server},
        "not_tried": NOT_TRIED,
    }


def print_report(report: Report) -> None:
    """Print tables and violations."""
    console = Console()
    console.print(Text(f"{report.backend} of {printable(report.target)}"))
    if report.checks:
        console.print(_capabilities(report))
    if report.server:
        console.print(_server(report.server))
    causes: dict[str, list[Result]] = {}
    for result in report.broken:
        causes.setdefault(result.found, []).append(result)
    for first, *rest in causes.values():
        _print_broken(console, first, rest)
    if report.measures.rates:
        console.print(_measures(report.measures))
    for sentence in report.stopped:
        console.print(Text(f"stopped: {printable(sentence)}"), soft_wrap=True)
    if report.left:
        shown = ", ".join(report.left[:LEFT_SHOWN]) + (", ..." if len(report.left) > LEFT_SHOWN else "")
        console.print(Text(f"left behind: {len(report.left)} objects: {printable(shown)}"), soft_wrap=True)
    _print_verdict(console, report)


def _table(first: str, *headings: str, justify: Any = "left") -> Table:
    columns = [Column(heading, justify=justify) for heading in headings]
    return Table(first, *columns, box=box.SIMPLE_HEAD, pad_edge=False)


def _capabilities(report: Report) -> Table:
    table = _table("capability", "offered", "why not")
    for name, word in report.capabilities().items():
        of_it = [result for result in report.checks if result.capability == name]
        reasons = dict.fromkeys(result.found for result in of_it if result.status == "not offered")
        bad = [result for result in of_it if result.status in ("broken", "hangs")]
        why = f"{len(bad)} of {len(of_it)} checks, see below" if bad else "; ".join(reasons) if word == "no" else ""
        table.add_row(name, Text(word, style=STYLES[word]), Text(printable(why)))
    return table


def _server(properties: list[tuple[str, bool, str, str]]) -> Table:
    table = _table("server", "has it", "meaning", "cost if not")
    for name, has, meaning, cost in properties:
        word = Text("yes", style="green") if has else Text("no", style="yellow")
        table.add_row(name, word, Text(meaning), Text("" if has else cost))
    return table


def _print_broken(console: Console, result: Result, rest: list[Result]) -> None:
    """Print one broken promise; `rest`: the checks with an equal finding."""
    word = "HANGS" if result.status == "hangs" else "BROKEN"
    place = f" ({printable(result.where)})" if result.where else ""
    console.print(Text.assemble((word, "bold red"), f" {result.capability}: {result.sentence}"), soft_wrap=True)
    console.print(Text(f"    found: {printable(result.found)}"), soft_wrap=True)
    console.print(Text(f"    rule:  {result.rule}"), soft_wrap=True)
    console.print(Text(f"    check: {result.check}{place}"), soft_wrap=True)
    if rest:
        names = ", ".join(one.check for one in rest[:SAME_SHOWN]) + (", ..." if len(rest) > SAME_SHOWN else "")
        console.print(Text(f"    same:  found by {len(rest)} more checks: {names}"), soft_wrap=True)
    console.print()


def _measures(measures: Measures) -> Table:
    table = _table("measured now", "read", "write", "commit", justify="right")
    cells = [duration_text(measures.latency[verb]) for verb in ("read", "write", "commit")]
    table.add_row(f"one call of {size_text(min(measures.rates))}, median", *cells)
    for size, rates in sorted(measures.rates.items()):
        cells = [f"{size_text(rates[verb])}/s" if verb in rates else "" for verb in ("read", "write")]
        table.add_row(f"calls of {size_text(size)}", *cells)
    return table


def _print_verdict(console: Console, report: Report) -> None:
    kept = sum(result.status == "kept" for result in report.checks)
    missing = sum(result.status == "not offered" for result in report.checks)
    counts = f"{kept} checks passed, {missing} are about missing features" if report.checks else "no checks were made"
    if report.ok:
        verdict = Text.assemble(("KEPT", "bold green"), f": {counts}")
        verdict.append(f"\nnot tried: {NOT_TRIED}; `pagecache stress {printable(report.target)}` tries that")
    else:
        word = "BROKEN" if report.broken else "UNFINISHED"
        verdict = Text.assemble((word, "bold red"), f": {len(report.broken)} checks failed; {counts}")
    console.print(verdict, soft_wrap=True)
