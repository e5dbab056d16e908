"""The report on supported features and broken promises: for a person, and as one document."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pagecache.cli.check_backend.checking import Kept
from pagecache.cli.check_backend.job import Report
from pagecache.cli.check_backend.limits import Finding, text_of
from pagecache.cli.check_backend.measuring import Rates, saturated
from pagecache.quantities import duration_text, printable, size_text

__all__ = ["as_dict", "print_report"]

STYLES = {"yes": "green", "no": "dim", "FAILED": "bold red", "hangs": "bold red", "wrong": "bold red", "hint": "yellow"}
LEFT_SHOWN = 10
SAME_SHOWN = 3
NOT_TRIED = "calls of many threads for minutes, reads and writes through a cache, calls that fail, crashes"


def as_dict(report: Report) -> dict[str, Any]:
    """Return everything, for a program."""
    return {
        "ok": report.ok,
        "target": report.target,
        "backend": report.backend,
        "capabilities": dict(report.capabilities()),
        "server": {name: has for name, has, _, _ in report.server},
        "checks": [_check(kept) for kept in report.kept],
        "limits": {
            "declared": dataclasses.asdict(report.declared),
            "findings": [dataclasses.asdict(finding) for finding in report.findings],
            "suggested": None if report.suggested is None else dataclasses.asdict(report.suggested),
            "growing": report.growing(),
            "text": None if report.suggested is None else text_of(report.suggested),
        },
        "measures": dataclasses.asdict(report.measures)
        | {f"best_{verb}_size": saturated(report.measures.sizes, verb) for verb in ("read", "write")}
        | {f"best_{verb}_parallel": saturated(report.measures.parallel, verb) for verb in ("read", "write")},
        "stopped": report.stopped,
        "not_tried": NOT_TRIED,
        "prefix": report.prefix,
        "left": report.left,
    }


def _check(kept: Kept) -> dict[str, Any]:
    known = dataclasses.asdict(kept)
    return {**known.pop("promise"), **known}


def print_report(report: Report) -> None:
    """Print tables, then violations, then recommended limits."""
    console = Console()
    console.print(Text(f"{report.backend} of {printable(report.target)}"))
    if report.kept:
        console.print(_capabilities(report))
    if report.server:
        console.print(_server(report.server))
    causes: dict[str, list[Kept]] = {}
    for kept in report.broken:
        causes.setdefault(kept.found, []).append(kept)
    for first, *rest in causes.values():
        _print_broken(console, first, rest)
    if report.findings:
        console.print(_findings(report.findings))
    if report.measures.latency:
        console.print(Text(_latency(report)))
    if report.measures.sizes:
        console.print(_rates("one call at a time", "bytes of a call", report.measures.sizes, size_text))
    if report.measures.parallel:
        console.print(_rates("of the best size", "calls at once", report.measures.parallel, str))
    if report.suggested is not None:
        console.print(Text("to write down:"))
        console.print(Text(f"    limits = {text_of(report.suggested)}"), soft_wrap=True)
        for limit in report.growing():
            console.print(Text(f"    {limit}: the most that was measured was the fastest; more may be faster still"))
        console.print()
    _print_end(console, report)


def _capabilities(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("capability")
    table.add_column("offered")
    table.add_column("why not")
    for name, word in report.capabilities():
        of_it = [kept for kept in report.kept if kept.promise.capability == name]
        reasons = dict.fromkeys(kept.found for kept in of_it if kept.status == "not offered")
        bad = [kept for kept in of_it if kept.status in ("broken", "hangs")]
        why = f"{len(bad)} of {len(of_it)} checks, see below" if bad else "; ".join(reasons) if word == "no" else ""
        table.add_row(name, Text(word, style=STYLES[word]), Text(printable(why)))
    return table


def _server(properties: list[tuple[str, bool, str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("server", "has it", "meaning", "cost if not"):
        table.add_column(heading)
    for name, has, meaning, cost in properties:
        word = Text("yes", style="green") if has else Text("no", style="yellow")
        table.add_row(name, word, Text(meaning), Text("" if has else cost))
    return table


def _print_broken(console: Console, kept: Kept, rest: list[Kept]) -> None:
    """Print one broken promise; `rest`: the checks with an equal finding."""
    word = "HANGS" if kept.status == "hangs" else "BROKEN"
    sentence = f" {kept.promise.capability}: {kept.promise.sentence}"
    console.print(Text.assemble((word, STYLES["FAILED"]), sentence), soft_wrap=True)
    console.print(Text(f"    found: {printable(kept.found)}"), soft_wrap=True)
    console.print(Text(f"    rule:  {kept.promise.rule}"), soft_wrap=True)
    console.print(Text(f"    check: {kept.check}{f' ({printable(kept.where)})' if kept.where else ''}"), soft_wrap=True)
    if rest:
        names = ", ".join(one.check for one in rest[:SAME_SHOWN]) + (", ..." if len(rest) > SAME_SHOWN else "")
        console.print(Text(f"    same:  found by {len(rest)} more checks: {names}"), soft_wrap=True)
    console.print()


def _findings(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("limit", "declared", "is", "seen"):
        table.add_column(heading)
    for finding in findings:
        status = Text(finding.status, style=STYLES.get(finding.status, ""))
        table.add_row(finding.limit, str(finding.declared), status, Text(printable(finding.found)))
    return table


def _latency(report: Report) -> str:
    parts = [
        f"{verb} {duration_text(median)} (slowest tenth {duration_text(slow)})"
        for verb, (median, slow) in report.measures.latency.items()
    ]
    return f"one call of {size_text(report.measures.unit)}: {', '.join(parts)}"


def _rates(title: str, heading: str, rates: list[Rates], text: Any) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (f"{heading}, {title}", "read", "write"):
        table.add_column(column, justify="right")
    best = {verb: saturated(rates, verb) for verb in ("read", "write")}
    for entry in rates:
        cells = [
            Text("" if rate is None else f"{size_text(rate)}/s", style="bold green" if best[verb] == entry.at else "")
            for verb, rate in (("read", entry.read), ("write", entry.write))
        ]
        table.add_row(text(entry.at), *cells)
    return table


def _print_end(console: Console, report: Report) -> None:
    for sentence in report.stopped:
        console.print(Text(f"stopped: {printable(sentence)}"), soft_wrap=True)
    if report.left:
        shown = ", ".join(report.left[:LEFT_SHOWN]) + (", ..." if len(report.left) > LEFT_SHOWN else "")
        console.print(Text(f"left behind: {len(report.left)} objects: {printable(shown)}"), soft_wrap=True)
    kept = sum(entry.status == "kept" for entry in report.kept)
    not_offered = sum(entry.status == "not offered" for entry in report.kept)
    counts = (
        f"{kept} checks passed, {not_offered} are about what is not offered" if report.kept else "no checks were made"
    )
    if report.ok:
        verdict = Text.assemble(("KEPT", "bold green"), f": {counts}")
        verdict.append(f"\nnot tried: {NOT_TRIED}; `pagecache stress {printable(report.target)}` tries that")
    else:
        bad = f"{len(report.broken)} checks failed, {len(report.wrong)} limits are wrong"
        verdict = Text.assemble(("BROKEN", "bold red"), f": {bad}; {counts}")
    console.print(verdict, soft_wrap=True)
