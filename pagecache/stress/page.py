"""A report as one page: without scripts or external resources, light or dark like the reader's machine.

Plain templates format the output of `--json`. All foreign text (names, keys, stories) passes through `text` or
`attribute`; nothing else is put between tags. page_style.py has the style sheet.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from pagecache.stress.coverage import RELATIONS, STATES, Key, partners, table
from pagecache.stress.hang import said
from pagecache.stress.page_style import STYLE
from pagecache.stress.pytest_file import readable

__all__ = ["page"]

ROW = 16  # bytes
COLUMN = 18  # minimum width in pixels of a moment of the clock
FOREVER = 1 << 60

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def text(value: object) -> str:
    """Escape text for use between tags: control characters are shown by their code."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in str(value))
    return escape(shown, quote=True)


attribute = text  # quotes are escaped as well


def section(title: str, body: str, name: str) -> str:
    """Return a part of the page; nothing if it is empty."""
    return f'<section id="{name}"><h2>{text(title)}</h2>\n{body}\n</section>' if body else ""


def folded(title: str, body: str) -> str:
    """Return a part that a click opens."""
    return f"<details><summary>{text(title)}</summary>{body}</details>" if body else ""


def pre(value: object, name: str = "") -> str:
    """Return preformatted text."""
    return f"<pre{f' class={name}' if name else ''}>{text(value)}</pre>" if value else ""


def page(report: Mapping[str, Any]) -> str:
    """Return the page of a report in the form of `--json`, with or without the shrunk report."""
    shrunk = report.get("shrunk")
    shown = shrunk["report"] if shrunk is not None else report
    plan = report["replay"]["plan"]
    title = "nothing wrong" if report["ok"] else f"{report['kind']} found"
    parts = [
        header(report, plan),
        section("What happened", story(report, shrunk), "story"),
        section("Who waits for whom", hang(report["hang"]), "hang"),
        section("The bytes", hexes(shown["timeline"]), "bytes"),
        section("In the order of the clock", lanes(shown["timeline"]), "timeline"),
        section("Again", again(report, shrunk), "again"),
        section("What was exercised", exercised(report), "coverage"),
        section("How often what was done", counters(report), "counters"),
    ]
    return PAGE.format(title=text(f"pagecache stress: {title}"), style=STYLE, body="\n".join(filter(None, parts)))


def header(report: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Return the verdict, and the run that it is about."""
    verdict = "Nothing wrong" if report["ok"] else f"Found: {report['kind']}"
    first = report["story"].partition("\n")[0]
    shown = first.rpartition(", on ")[2] if report["ok"] else first.partition(", round ")[0]
    target = report["replay"].get("target") or shown
    counts = report["counters"]
    facts = {
        "target": target,
        "seed": plan["seed"],
        "round": plan["first_round"],
        "profile": plan["profile"],
        "faults": plan["faults"],
        "workers": f"{plan['threads']} threads, {plan['tasks']} tasks",
        "operations": counts.get("operations", 0),
        "rounds": counts.get("rounds", 0),
    }
    listed = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items())
    state = "ok" if report["ok"] else "bad"
    return f'<header class="{state}"><p>pagecache stress</p><h1>{text(verdict)}</h1><dl>{listed}</dl></header>'


def story(report: Mapping[str, Any], shrunk: Mapping[str, Any] | None) -> str:
    """Return the stories, the shortest one first."""
    if shrunk is None:
        steps = "\n".join(report["steps"])
        return pre(report["story"], "story") + folded("what was done there before", pre(steps))
    return pre(shrunk["story"], "story") + folded("as it was found first", pre(report["story"]))


# -- bytes


def hexes(timeline: Mapping[str, Any]) -> str:
    """Return seen and expected bytes, a row of 16 each, with differences marked."""
    if not timeline:
        return ""
    parts = []
    if timeline["length"]:
        parts.append(f"<p>file {text(timeline['file'])}: {text(timeline['length'])}</p>")
    for piece in timeline["bytes"]:
        seen, expected = bytes.fromhex(piece["seen"]), bytes.fromhex(piece["expected"])
        wrong = {n for low, high in piece["wrong"] for n in range(low, high)}
        rows = []
        for at in range(0, len(seen), ROW):
            offset = piece["offset"] + at
            cells = [marked(data[at : at + ROW], offset, wrong) for data in (seen, expected)]
            rows.append(f"<tr><th>{offset}</th><td>{cells[0]}</td><td>{cells[1]}</td></tr>")
        head = "<tr><th>offset</th><td>seen</td><td>should be</td></tr>"
        body = f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody>"
        parts.append(f'<div class="scroll"><table class="hex">{body}</table></div>')
    if len(timeline["ranges"]) > len(timeline["bytes"]):
        ranges = ", ".join(f"[{low}, {high})" for low, high in timeline["ranges"])
        parts.append(folded(f"all {len(timeline['ranges'])} ranges", pre(ranges)))
    return "\n".join(parts)


def marked(data: bytes, offset: int, wrong: set[int]) -> str:
    """Format bytes in hexadecimal."""
    return " ".join(f"<mark>{byte:02x}</mark>" if offset + n in wrong else f"{byte:02x}" for n, byte in enumerate(data))


# -- the clock


def lanes(timeline: Mapping[str, Any]) -> str:
    """Return a lane for each worker, and a bar for each operation; moments without a begin or end have no width."""
    if not timeline or not timeline["lanes"]:
        return ""
    last = timeline["clock"][1] + 1
    moments = sorted(
        {bar["begun"] for lane in timeline["lanes"] for bar in lane["bars"]}
        | {bar["ended"] or last for lane in timeline["lanes"] for bar in lane["bars"]}
    )
    place = {moment: number for number, moment in enumerate(moments)}
    width = max(1, len(moments) - 1)
    rows = []
    for lane in timeline["lanes"]:
        bars = "".join(bar(each, place, width, last) for each in lane["bars"])
        rows.append(
            f'<div class="lane"><span class="who">{text(lane["name"])}</span><div class="track">{bars}</div></div>'
        )
    legend = "".join(
        f'<span><i class="bar {sort}"></i>{text(name)}</span>'
        for sort, name in (
            ("write", "write"),
            ("cut", "truncate, hole"),
            ("read", "read"),
            ("save", "fsync, sync"),
            ("crash", "crash"),
            ("other", "other"),
            ("marked", "saw it"),
        )
    )
    about = (
        f"bytes of file {timeline['file']} that are wrong: {observer_of(timeline)}"
        if timeline["file"] is not None
        else "the last operations of all workers"
    )
    return (
        f"<p>{text(about)}</p>"
        f'<div class="scroll"><div class="lanes" style="min-width:{width * COLUMN + 120}px">{"".join(rows)}</div></div>'
        f'<p class="legend">{legend}</p>'
    )


def observer_of(timeline: Mapping[str, Any]) -> str:
    ranges = ", ".join(f"[{low}, {high})" for low, high in timeline["ranges"][:3])
    return (ranges or "its length") + (" and others" if len(timeline["ranges"]) > 3 else "")


def bar(each: Mapping[str, Any], place: Mapping[int, int], width: int, last: int) -> str:
    """Return the bar of one operation; its text appears under the pointer or finger."""
    left, right = place[each["begun"]], place[each["ended"] or last]
    names = ["bar", each["sort"]]
    names += ["marked"] if each["marked"] else []
    names += ["failed"] if each["errors"] else []
    names += ["right"] if left > width / 2 else []
    ended = each["ended"] if each["ended"] is not None else "still running"
    label = f"{each['text']}; {each['begun']} to {ended}"
    style = f"left:{100 * left / width:.3f}%;width:{100 * max(right - left, 0.4) / width:.3f}%"
    return (
        f'<b class="{attribute(" ".join(names))}" style="{style}" tabindex="0" aria-label="{attribute(label)}">'
        f"<span>{text(label)}</span></b>"
    )


# -- a hang


def hang(found: Mapping[str, Any]) -> str:
    """Return the waits, the stacks, and the last events of the cache."""
    if not found:
        return ""
    first = [*found["late"], *([f"the cache is broken: {found['broken']}"] if found["broken"] else [])]
    parts = [f"<ul>{''.join(f'<li>{text(line)}</li>' for line in first)}</ul>"]
    for wait in found["waits"]:
        chain = "".join(f"<li>{text(step)}</li>" for step in wait["chain"])
        after = f"<p>{text(wait['next'])}</p>" if wait["next"] else ""
        parts.append(f'<div class="wait"><strong>{text(said(wait))}</strong><ol>{chain}</ol>{after}</div>')
    for name, frames in found["stacks"].items():
        parts.append(folded(name, pre("\n".join(frames))))
    records = "\n".join(found["records"]) or "no trace ran in this round; a replay of a script has one"
    parts.append(folded("the end of the trace", pre(records)))
    parts.append(folded("the last transitions of the core", pre("\n".join(found["transitions"]))))
    return "\n".join(parts)


# -- reproduction


def again(report: Mapping[str, Any], shrunk: Mapping[str, Any] | None) -> str:
    """Return commands, the replay, the test."""
    plan = (shrunk["report"] if shrunk is not None else report)["replay"]["plan"]
    parts = []
    if not report["ok"]:
        parts.append("<p>Save the replay as <code>replay.json</code>, and run:</p>")
        smaller = "" if shrunk is not None else "\npagecache stress --replay replay.json --shrink"
        parts.append(pre(f"pagecache stress --replay replay.json{smaller}"))
        replay = (shrunk["report"] if shrunk is not None else report)["replay"]
        parts.append(folded("the replay", pre(readable(replay))))
    else:
        target = report["replay"].get("target")
        named = f" {shlex.quote(target)}" if target else ""
        parts.append(pre(f"pagecache stress{named} --seed {plan['seed']} --profile {plan['profile']}"))
        parts.append(folded("the whole plan", pre(json.dumps(plan, indent=2))))
    if shrunk is not None and shrunk["test"]:
        parts.append(folded("a test", pre(shrunk["test"])))
    return "\n".join(parts)


# -- coverage


def exercised(report: Mapping[str, Any]) -> str:
    """Return heat tables: operations that overlapped, and the states of their bytes."""
    counts: dict[Key, int] = {}
    for name, count in report["coverage"].items():
        kind, met, state = name.split(" | ")
        counts[kind, met, state] = count
    if not counts:
        return ""
    found = table(counts)
    kinds = report["kinds"] or sorted(found["times"])
    parts = []
    possible = sum(len(partners(kind, kinds)) for kind in kinds)
    for relation, verb in zip(RELATIONS, ("ran beside", "came after"), strict=True):
        rows = found[relation]
        met = sum(len(row) for row in rows.values())
        parts.append(
            f"<h3>Which operation {verb} which, on the same bytes: {met} of {possible} pairs</h3>"
            + heat(rows, kinds, kinds, f"{{}} {relation} {{}}: {{}}")
        )
    used = Counter[str]()
    for row in found["state"].values():
        used += row
    states = [state for state in STATES if used[state]]
    if states:
        order = sorted(found["state"])
        parts.append("<h3>In which state the page was</h3>" + heat(found["state"], order, states, "{} on {}: {}"))
    skipped = "".join(f"<li>{text(what)}: {text(why)}</li>" for what, why in sorted(report["skipped"].items()))
    parts.append(f"<h3>Not tried</h3><ul>{skipped}</ul>" if skipped else "")
    return "\n".join(parts)


def heat(rows: Mapping[str, Counter[str]], names: Iterable[str], columns: Iterable[str], template: str) -> str:
    """Return a table with darker cells for higher counts; 0 is printed, too."""
    columns = list(columns)
    most = max((count for row in rows.values() for count in row.values()), default=1)
    head = "".join(f"<th><span>{text(column)}</span></th>" for column in columns)
    body = []
    for name in names:
        cells = []
        for column in columns:
            count = rows.get(name, Counter())[column]
            warmth = round(math.log1p(count) / math.log1p(most), 2) if count else 0
            label = attribute(template.format(name, column, count))
            kind = "warm" if count else "cold"
            cells.append(f'<td class="{kind}" style="--h:{warmth}" title="{label}">{short(count)}</td>')
        body.append(f"<tr><th>{text(name)}</th>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def short(count: int) -> str:
    """Format a number in three characters."""
    if count < 1000:
        return str(count) if count else ""
    return f"{count // 1000}k" if count < 1_000_000 else f"{count // 1_000_000}M"


def counters(report: Mapping[str, Any]) -> str:
    """Return a table of all counters."""
    rows = "".join(
        f"<tr><td>{text(name)}</td><td>{text(count)}</td></tr>" for name, count in sorted(report["counters"].items())
    )
    return f'<div class="scroll"><table class="plain">{rows}</table></div>' if rows else ""
