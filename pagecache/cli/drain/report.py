"""The result: a line for each cache and each unsaved range, or one document."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator, Sequence
from typing import Any

from pagecache.cli.drain.display import name_of
from pagecache.cli.drain.following import Outcome, Unsaved
from pagecache.quantities import duration_text, printable, size_text

__all__ = ["as_dict", "lines"]


def as_dict(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the outcomes for JSON."""
    return {"saved": all(outcome.saved for outcome in outcomes), "caches": [_cache(outcome) for outcome in outcomes]}


def _cache(outcome: Outcome) -> dict[str, Any]:
    known = dataclasses.asdict(outcome)
    del known["errors"], known["silent"]
    known["socket"] = printable(outcome.socket)
    return {**known, "saved": outcome.saved, "unknown": outcome.unknown or None}


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the outcomes as lines for a person."""
    for outcome in outcomes:
        yield f"{name_of(outcome)}: {_verdict(outcome)}"
        for unsaved in outcome.unsaved:
            yield f"  {_unsaved(unsaved)}"


def _verdict(outcome: Outcome) -> str:
    if outcome.saved:
        return f"saved: all that was written before, {size_text(outcome.total)} in {duration_text(outcome.seconds)}"
    left = f"{size_text(outcome.remaining)} of {size_text(outcome.total)}"
    if outcome.unknown:
        seen = f"; the last that was seen is {left} left" if outcome.total else ""
        return f"NOT KNOWN: {outcome.unknown}{seen}"
    if outcome.done:
        return f"NOT SAVED: {left}, kept in memory by its process"
    return f"NOT SAVED YET: {left} left at the deadline; what was begun goes on"


def _unsaved(unsaved: Unsaved) -> str:
    if unsaved.key is None:
        return f"{printable(unsaved.volume)}: {printable(unsaved.message)}"
    where = f"{printable(unsaved.volume)}: {unsaved.key!r} [{unsaved.offset}, {unsaved.offset + unsaved.length})"
    code = errno.errorcode.get(unsaved.errno, str(unsaved.errno))
    after = f"; {unsaved.next}" if unsaved.next else ""
    return f"{where}: {code}: {printable(unsaved.message)}{after}"
