"""Show that each switch makes a bug: one directed scenario a bug, in forked children, with the bug and without it.

A scenario asserts the right behaviour. Without the bug it passes, and `PageCache.check()` finds nothing; with the bug
it fails, hangs, or the process dies. A child is given a few seconds; nothing of it is left afterwards.

`python -m tests.planted.directed [NAME ...]` runs all, or some, and prints one JSON object: name -> [without, with],
each "ok", "failed: ...", "hung" or "died of signal n". Bugs of the core need the planted extension
(planted.planted_environment).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from ..file.rig import Rig, make_rig
from . import shown_commits, shown_core, shown_engine, shown_locks, shown_names  # noqa: F401 (they register their scenarios)
from .planted import is_planted
from .scenario import SCENARIOS, Make
from .table import BUGS

__all__ = ["SCENARIOS", "outcomes"]


SECONDS = {False: 100.0, True: 4.0}
"""Time limits without the bug, and with it: some bugs hang."""
AT_ONCE = 8


def _in_child(scenario: Callable[[Make], None], bug: Any, answer: int) -> None:
    rigs: list[Rig] = []

    def make(*args: Any, **options: Any) -> Rig:
        rigs.append(make_rig(*args, **options))
        return rigs[-1]

    with bug.on() if bug is not None else contextlib.nullcontext():
        try:
            scenario(make)
            if bug is None:
                for rig in rigs:
                    rig.finish()
            outcome_text = "ok"
        except BaseException as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            outcome_text = (
                f"failed: {type(error).__name__}: {str(error)[:200]} ({os.path.basename(at.filename)}:{at.lineno})"
            )
        os.write(answer, outcome_text.encode())
        os._exit(0)  # with the bug still in: waiting could hang on the broken state


class Child:
    """A process that plays the scenario of a bug."""

    def __init__(self, name: str, *, planted: bool) -> None:
        bug = next(bug for bug in BUGS if bug.name == name)
        self.name = name
        self.answers, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # assertions of the core, warnings about leftovers
            _in_child(SCENARIOS[name], bug if planted else None, answer)
        os.close(answer)
        self.until = time.monotonic() + SECONDS[planted]

    def fileno(self) -> int:
        """A descriptor that is readable when the child has reported its end, or died."""
        return self.answers

    def outcome(self, *, hung: bool) -> str:
        """The child's outcome; a running child is killed."""
        if hung:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        with open(self.answers, "rb") as outcome_text:
            if hung:
                return "hung"
            return outcome_text.read().decode() or f"died of signal {os.WTERMSIG(status)}"


def outcomes(names: list[str], *, planted: bool) -> dict[str, str]:
    """The outcomes of the scenarios; a few are played side by side, since most of them wait."""
    found: dict[str, str] = {}
    playing: list[Child] = []
    left = list(names)
    while left or playing:
        while left and len(playing) < AT_ONCE:
            playing.append(Child(left.pop(0), planted=planted))
        remaining = max(0.0, min(child.until for child in playing) - time.monotonic())
        ended, _, _ = select.select(playing, [], [], remaining)
        now = time.monotonic()
        for child in [child for child in playing if child in ended or child.until <= now]:
            playing.remove(child)
            found[child.name] = child.outcome(hung=child not in ended)
    return found


def main(names: list[str]) -> None:
    wanted = names or list(SCENARIOS)
    if not is_planted() and any(bug.kind == "core" and bug.name in wanted for bug in BUGS):
        sys.exit("the planted extension is not imported: make planted, set PAGECACHE_EXTENSION")
    without, planted = outcomes(wanted, planted=False), outcomes(wanted, planted=True)
    print(json.dumps({name: [without[name], planted[name]] for name in wanted}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
