"""The coverage of a run: which operations overlapped which others, and in which state the bytes were.

    beside    the other operation ran when this one began, and their ranges overlap
    after     the other one was the last before this one on the page where this one begins
    alone     no operation was there before

The state is that of the page where the operation begins, as the cache shows it (absent, clean, dirty, writeback,
unstable, failed, ...), before the operation. One in SAMPLE operations checks it, since that takes a lock of the file;
for others it is UNSEEN. Past the end of a file, and without a cache, the model supplies the state of the first byte:
past the end, zeros, original, written, synced, contended (a write of it is running).
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pagecache.stress.profiles import CROSSING, IO, KINDS, Profile
from pagecache.stress.report import counted

__all__ = ["PLACELESS", "RELATIONS", "STATES", "UNSEEN", "Coverage", "Key", "kinds_of", "summary", "table"]

SAMPLE = 4
PAGE = 4096
PAGES = 64  # pages at the end of a long operation that are recorded for it, and as many at its beginning

PLACELESS = {"fsync", "sync", "ticket", "flush", "publish", "rename", "remove", "look"}
PLACELESS |= {kind for kind, way in KINDS.items() if way in CROSSING and kind.startswith("name_")}
PLACELESS |= {"held_fsync", "held_close"}
"""Kinds without a byte range: they are beside any running operation, and after none."""
EVERYWHERE = {"sync", "ticket"}
"""Kinds that concern all files."""
APART = {"foreign", "rivals", *CROSSING}
"""Ways with a separate file, or with objects of their own."""
NAMED = 4  # states that are listed
MISSED = 3  # kinds that are named, of those that met the fewest others

RELATIONS = ("beside", "after")
UNSEEN = "not looked at"
CACHED = ("absent", "clean", "dirty", "writeback", "unstable", "failed", "staged", "filling", "pinned")
MODELLED = ("past the end", "zeros", "original", "written", "synced", "contended")
STATES = (*CACHED, *MODELLED)

Key = tuple[str, str, str]
"""Operation, "beside X", "after X" or "alone", state."""


class Coverage:
    """The coverage of one round. `_lock` protects all of it."""

    def __init__(self) -> None:
        self.counts: Counter[Key] = Counter()
        self._last: dict[tuple[int | None, int], str] = {}  # page -> the last operation on it
        self._lock = threading.Lock()
        self._number = 0

    def now(self) -> Counter[Key]:
        """Return the counts so far, in one step without the lock: the display is not one of the simulated threads."""
        return Counter(dict(self.counts))

    def sampled(self) -> bool:
        """Return whether this operation checks the state in the cache."""
        with self._lock:
            self._number += 1
            return self._number % SAMPLE == 1

    def met(self, kind: str, file: int | None, start: int, end: int, others: Iterable[str], state: str) -> list[Key]:
        """Count an operation that begins on a file, beside `others`; `file` None: an object of the worker alone. Return
        the counted keys.
        """
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
        """Take counts back: the operation could not be done."""
        with self._lock:
            self.counts.subtract(counted)
            self.counts = +self.counts


def pages_of(start: int, end: int) -> Iterable[int]:
    """Return the pages of a range; for a long range, those at its ends."""
    first, last = start // PAGE, max(start, end - 1) // PAGE
    if last - first < 2 * PAGES:
        return range(first, last + 1)
    return itertools.chain(range(first, first + PAGES), range(last - PAGES, last + 1))


def kinds_of(profile: Profile, ways: Iterable[str]) -> list[str]:
    """Return the kinds of a profile in these ways, without those on the worker's own objects, which cannot overlap."""
    has = set(ways)
    return [
        kind
        for kind in profile.weights
        if KINDS[kind] != "names" and (KINDS[kind] in has if KINDS[kind] else has & set(IO))
    ]


def table(counts: Mapping[Key, int]) -> dict[str, dict[str, Counter[str]]]:
    """Return relation, "state" or "times" -> operation -> the other operation or state -> count."""
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
    """Return the kinds that can share bytes with a kind: some kinds have a separate file."""
    if kind in EVERYWHERE:
        return list(kinds)
    return [other for other in kinds if file_of(other) == file_of(kind) or other in EVERYWHERE]


def file_of(kind: str) -> str:
    """Return the way whose separate file the kind uses, or ""."""
    way = KINDS[kind]
    return "" if way not in APART else CROSSING[0] if way in CROSSING else way


def summary(counts: Mapping[Key, int], kinds: Sequence[str]) -> list[str]:
    """Return a table of the exercised and missed pairs, as lines. `kinds`: all kinds that could have met."""
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
    """Return the most frequent states."""
    shown = [f"{state} {count}" for state, count in counts.most_common(NAMED)]
    left = len(counts) - len(shown)
    return ", ".join(shown) + (f", {left} more" if left > 0 else "")


def missed(met: set[tuple[str, str]], kinds: Sequence[str]) -> list[str]:
    """Return lines on the pairs that never overlapped, with advice; none if all did."""
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
