"""Lines of text about caches, volumes, waits and errors, as the live view and `--once` show them.

All are rich Texts, one per line; the caller cuts them to its width.
"""

from collections import Counter
from collections.abc import Hashable, Iterable

from rich.text import Text

from pagecache.cli.top.columns import bar_text
from pagecache.cli.top.rates import quantile, sparkline
from pagecache.cli.top.rows import CacheRow, VolumeRow
from pagecache.cli.top.states import ABSENT, BAR_ORDER, BY_NAME, STATES, State
from pagecache.observe.answers import Histogram, Trouble, Waits
from pagecache.quantities import (
    clean_in_text,
    count_text,
    duration_text,
    percent_text,
    printable,
    range_text,
    short_size,
)

SPARKLINE = 12


def cache_line(row: CacheRow) -> Text:
    """Return the name of a cache and its most important figures."""
    line = Text(no_wrap=True).append(printable(row.name), style="bold")
    if row.status:
        line.append(f"  {row.status}", style="bold red")
        if row.gone is not None:
            line.append(f" for {duration_text(row.gone)}")
        line.append(f"  {printable(row.message)}", style="dim")
        return line
    assert row.cache is not None
    assert row.traffic is not None
    counters = row.traffic.counters
    saved = clean_in_text(row.clean_in, local=row.traffic.local)
    if row.traffic.local:
        line.append(f"  {short_size(row.traffic.local)} not saved", style="bold yellow")
        line.append(f", oldest {duration_text(row.oldest)}, clean in {saved}")
    else:
        line.append("  all saved", style="bold green")
    if counters.get("failed"):
        line.append(f"  {short_size(counters['failed'])} FAILED", style="bold red")
    if row.traffic.hit_rate is not None:
        line.append(f"  hit {percent_text(row.traffic.hit_rate)}% of {count_text(row.traffic.accesses)}/s")
    if row.traffic.total_hit_rate is not None:
        line.append(f"  hit {percent_text(row.traffic.total_hit_rate)}% in all")
    if row.throttled or row.cache.waiting:
        line.append(f"  {count_text(max(row.throttled, row.cache.waiting))} writers wait", style="bold yellow")
    line.append(f"  {printable(row.command or '')} ({row.pid}) up {duration_text(row.uptime)}", style="dim")
    return line


def cache_bar(row: CacheRow, width: int) -> Text:
    """Return the memory of a cache by state, with the amounts behind it."""
    if row.cache is None or row.traffic is None:
        return Text(ABSENT.letter * width, style=ABSENT.style, no_wrap=True)
    line = bar_text(row.traffic.parts, row.cache.capacity, width)
    line.append(f" {short_size(row.cache.capacity)}")
    for name in BAR_ORDER:
        if row.traffic.parts[name]:
            state = BY_NAME[name]
            line.append("  ")
            line.append_text(swatch(state, row.traffic.parts[name]))
    return line


def swatch(state: State, amount: float | None = None) -> Text:
    """Return a state's letter in its colour, its name, and its amount."""
    label = f" {state.label}" if amount is None else f" {state.label} {short_size(amount)}"
    return Text.assemble((f" {state.letter} ", state.style), label)


def swatches(amounts: Iterable[tuple[State, float | None]], width: int) -> Text:
    """Return letters, colours and amounts in lines of `width`, none of them cut in two."""
    lines = [Text()]
    for state, amount in amounts:
        one = swatch(state, amount)
        if lines[-1] and lines[-1].cell_len + 2 + one.cell_len > width:
            lines.append(Text())
        elif lines[-1]:
            lines[-1].append("  ")
        lines[-1].append_text(one)
    return Text("\n").join(lines)


def legend(width: int) -> Text:
    """Return all letters and colours."""
    return swatches(((state, None) for state in (*STATES, ABSENT)), width)


def latency_line(label: str, histogram: Histogram, calls: float | None) -> Text:
    """Return one kind of call: its histogram, its median and its 99th percentile."""
    line = Text(no_wrap=True).append(f"{label:<7}", style="bold")
    line.append(sparkline(histogram, SPARKLINE), style="cyan")
    line.append(
        f"  p50 {duration_text(quantile(histogram, 0.5)):>6}  p99 {duration_text(quantile(histogram, 0.99)):>6}"
    )
    line.append(f"  {count_text(calls)}/s")
    return line


def volume_lines(row: VolumeRow) -> list[Text]:
    """Return latency, queue and throttle of one volume."""
    volume, now = row.volume, row.traffic
    lines = []
    if volume.state != "attached":
        reason = f": {printable(volume.reason)}" if volume.reason else ""
        lines.append(Text(f"{volume.state}{reason}", style="bold red"))
    lines += [
        latency_line("read", row.latency.read, now.reads),
        latency_line("write", row.latency.write, now.writes),
        latency_line("commit", row.latency.commit, now.commits),
    ]
    bounds = next((one.bounds for one in (row.latency.read, row.latency.write, row.latency.commit) if one.bounds), ())
    if bounds:
        span = f"{duration_text(bounds[0])}"
        lines[-3].append(f"  (bars: {span} to {duration_text(bounds[-1])})", style="dim")
    queue = "  ".join(f"{printable(name)} {count_text(count)}" for name, count in volume.queue.waiting.items() if count)
    lines.append(Text.assemble(("queue  ", "bold"), f"{volume.queue.running} running  {queue or 'nothing waits'}"))
    throttle = volume.throttle
    limit = f"{short_size(throttle.local)} of {short_size(throttle.limit)}"
    style = "bold yellow" if throttle.waiting else ""
    lines.append(
        Text.assemble(
            ("limit  ", "bold"),
            limit,
            (f"  {count_text(throttle.waiting)} writers wait", style),
            f"  position {throttle.position:.2f}",
        )
    )
    saved = f"clean in {clean_in_text(volume.clean_in, local=now.local)}" if now.local else "all saved"
    lines.append(Text.assemble(("saving ", "bold"), f"{short_size(volume.rate)}/s, {saved}"))
    return lines


def trouble_line(volume: str, one: Trouble) -> Text:
    """Return an error and the next step."""
    line = Text(f"{duration_text(one.age)} ago ", no_wrap=True)
    line.append(printable(one.kind), style="bold red")
    line.append(f" {printable(volume)}")
    if one.key is not None:
        line.append(f" {printable(one.key)} {range_text(one.offset, one.length)}")
    reason = " ".join(printable(part) for part in (one.name, one.message) if part)
    line.append(f": {reason}" if reason else "")
    if one.next:
        line.append(f" → {printable(one.next)}", style="bold")
    return line


def single(errors: Iterable[Trouble]) -> list[Trouble]:
    """Return events newest first, one for each trouble: a parked failure has two events, `parked` and `failed`."""
    found: list[Trouble] = []
    parked: Counter[Hashable] = Counter()
    for one in errors:
        same = (one.key, one.offset, one.length, one.errno, one.message, one.next)
        if one.kind == "parked":
            parked[same] += 1
        elif one.kind == "failed" and parked[same]:
            parked[same] -= 1
            continue
        found.append(one)
    return found


def trouble_lines(rows: Iterable[VolumeRow]) -> list[Text]:
    """Return the errors of all volumes, newest first."""
    found = [(one.age, row.volume.name, one) for row in rows for one in single(row.volume.errors)]
    found.sort(key=lambda entry: entry[0])
    return [trouble_line(volume, one) for _, volume, one in found]


def wait_lines(waits: Iterable[Waits]) -> list[Text]:
    """Return the waits, longest first, each with its chain."""
    found = sorted((wait for one in waits for wait in one.waits), key=lambda wait: -wait.seconds)
    lines = []
    for wait in found:
        line = Text(f"{duration_text(wait.seconds):>6} ", no_wrap=True)
        line.append(printable(wait.name or f"thread {wait.thread}"), style="bold")
        line.append(f" waits for {printable(wait.what)}")
        if wait.key is not None:
            line.append(f" of {printable(wait.volume or '')} {printable(wait.key)}".rstrip())
        lines.append(line)
        lines += [Text(f"       ↳ {printable(link)}", style="dim", no_wrap=True) for link in wait.chain[1:]]
        if not wait.chain and wait.owner:
            owner = f"{wait.owner.name or wait.owner.thread}: {wait.owner.what}"
            lines.append(Text(f"       ↳ {printable(owner)}", style="dim", no_wrap=True))
    return lines
