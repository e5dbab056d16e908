"""What a run has exercised: which operations met which others on the same bytes, and in which state the bytes were.

    beside    the other one ran when this one began, and their ranges overlap
    after     the other one was the last before this one on the page where this one begins
    alone     nothing was there before

The state is that of the page where the operation begins, as the cache shows it (absent, clean, dirty, writeback,
unstable, failed, ...), before it does anything. One in SAMPLE operations looks, since it takes a lock of the file; of
others it is UNSEEN. Behind the end of a file, and where there is no cache to ask, it is what the model says of the
first byte: past the end, zeros, original, written, synced, contended (somebody writes it at this moment).
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pagecache.stress.profiles import IO, KINDS, Profile
from pagecache.stress.report import counted

__all__ = ["PLACELESS", "RELATIONS", "STATES", "UNSEEN", "Coverage", "Key", "kinds_of", "summary", "table"]

SAMPLE = 4
PAGE = 4096
PAGES = 64  # at the end of a long operation that are remembered as its own, and as many at its beginning

PLACELESS = {"fsync", "sync", "ticket", "flush", "publish", "rename", "remove", "look"}
"""Kinds that are about no bytes in particular: they are beside whatever runs, and after nothing."""
EVERYWHERE = {"sync", "ticket"}
"""Kinds that are about all files."""
APART = {"foreign", "rivals"}
"""Ways that have a file of their own."""
NAMED = 4  # states that are listed
MISSED = 3  # kinds that are named, of those that met the fewest

RELATIONS = ("beside", "after")
UNSEEN = "not looked at"
CACHED = ("absent", "clean", "dirty", "writeback", "unstable", "failed", "staged", "filling", "pinned")
MODELLED = ("past the end", "zeros", "original", "written", "synced", "contended")
STATES = (*CACHED, *MODELLED)

Key = tuple[str, str, str]
"""Operation, "beside X", "after X" or "alone", state."""


class Coverage:
    """Of one round. Everything that changes is under `_lock`."""

    def __init__(self) -> None:
        self.counts: Counter[Key] = Counter()
        self._last: dict[tuple[int | None, int], str] = {}  # of a page: the last operation
        self._lock = threading.Lock()
        self._number = 0

    def now(self) -> Counter[Key]:
        """What there is until now; without the lock, in one step: who shows a run is none of its simulated threads."""
        return Counter(dict(self.counts))

    def sampled(self) -> bool:
        """Whether it is this operation's turn to look at the cache."""
        with self._lock:
            self._number += 1
            return self._number % SAMPLE == 1

    def met(self, kind: str, file: int | None, start: int, end: int, others: Iterable[str], state: str) -> list[Key]:
        """An operation on a file begins, beside `others`; None: on what is its worker's own. Returns what it counts."""
        with self._lock:
            before = None if kind in PLACELESS else self._last.get((file, start // PAGE))
            relations = [f"beside {other}" for other in others]
            relations += [f"after {before}"] if before is not None else []
            counted = [(kind, relation, state) for relation in relations or ["alone"]]
            self.counts.update(counted)
            if kind not in PLACELESS:
                self._last.update(dict.fromkeys(((file, page) for page in pages_of(start, end)), kind))
            return counted

    def was_not(self, counted: Iterable[Key]) -> None:
        """The operation could not be done: there was none."""
        with self._lock:
            self.counts.subtract(counted)
            self.counts = +self.counts


def pages_of(start: int, end: int) -> Iterable[int]:
    """The pages of a range; of a long one those at its ends."""
    first, last = start // PAGE, max(start, end - 1) // PAGE
    if last - first < 2 * PAGES:
        return range(first, last + 1)
    return itertools.chain(range(first, first + PAGES), range(last - PAGES, last + 1))


def kinds_of(profile: Profile, ways: Iterable[str]) -> list[str]:
    """What a profile does in these ways, as far as operations can meet: not what has objects of its own."""
    has = set(ways)
    return [
        kind
        for kind in profile.weights
        if KINDS[kind] != "names" and (KINDS[kind] in has if KINDS[kind] else has & set(IO))
    ]


def table(counts: Mapping[Key, int]) -> dict[str, dict[str, Counter[str]]]:
    """By relation, and "state" and "times": operation -> what it met -> how often."""
    found: dict[str, dict[str, Counter[str]]] = {name: {} for name in (*RELATIONS, "state", "times")}
    for (kind, met, state), count in counts.items():
        relation, _, other = met.partition(" ")
        if other:
            found[relation].setdefault(kind, Counter())[other] += count
        if state != UNSEEN:
            found["state"].setdefault(kind, Counter())[state] += count
        found["times"].setdefault(kind, Counter())[""] += count
    return found


def partners(kind: str, kinds: Sequence[str]) -> list[str]:
    """With which of the kinds it can be on the same bytes: some have a file that nobody else uses."""
    if kind in EVERYWHERE:
        return list(kinds)
    return [other for other in kinds if file_of(other) == file_of(kind) or other in EVERYWHERE]


def file_of(kind: str) -> str:
    """The way that has the file for itself, or nothing."""
    return KINDS[kind] if KINDS[kind] in APART else ""


def summary(counts: Mapping[Key, int], kinds: Sequence[str]) -> list[str]:
    """What was exercised and what was not, as a table of lines. `kinds`: all that could have met each other."""
    found = table(counts)
    met = {name: {(kind, other) for kind, row in found[name].items() for other in row} for name in RELATIONS}
    possible = sum(len(partners(kind, kinds)) for kind in kinds)
    lines = [
        f"of {possible} pairs of operations {len(met['beside'])} ran side by side on the same bytes, "
        f"{len(met['after'])} one after the other",
        f"{'operation':<12}{'met':>8}  {'beside':>7}  {'after':>7}  state of the page where it began",
    ]
    for kind in sorted(found["times"], key=lambda kind: -found["times"][kind][""]):
        most = len(partners(kind, kinds))
        beside, after = (f"{len(found[name].get(kind, ()))}/{most}" for name in RELATIONS)
        if kind not in kinds:
            beside = after = "-"
        elif kind in PLACELESS:
            after = "-"
        line = f"{kind:<12}{found['times'][kind]['']:>8}  {beside:>7}  {after:>7}  "
        lines.append((line + states_of(found["state"].get(kind, Counter()))).rstrip())
    return lines + missed(met["beside"], kinds)


def states_of(counts: Counter[str]) -> str:
    """The most frequent ones."""
    shown = [f"{state} {count}" for state, count in counts.most_common(NAMED)]
    left = len(counts) - len(shown)
    return ", ".join(shown) + (f", {left} more" if left > 0 else "")


def missed(met: set[tuple[str, str]], kinds: Sequence[str]) -> list[str]:
    """On the pairs that never ran side by side, and what to do about it; nothing where all did."""
    never = [
        (kind, other)
        for number, kind in enumerate(kinds)
        for other in partners(kind, kinds[number:])
        if (kind, other) not in met and (other, kind) not in met
    ]
    if not never:
        return []
    often = ", ".join(kind for kind, _ in Counter(kind for pair in never for kind in set(pair)).most_common(MISSED))
    return [
        f"never side by side, in either order: {counted(len(never), 'pair')}, most often {often}",
        "  (a longer --duration, fewer --files or a smaller --size brings more of them together)",
    ]
