"""Files that `pagecache stress` leaves when a run is over: the replay, and the shrunk replay.

They are written to the current directory, or to the directory for temporary files if that fails.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.status import Status

from pagecache.stress.report import Report
from pagecache.stress.shrinker import NotFailing, Shrunk, shrink

__all__ = ["Outcome", "write_replay"]

STEM = "pagecache-stress-{}-{}"
WIDE = 110  # columns of a replay


def write(name: str, text: str) -> Path:
    """Write a file whose path is printed.

    Raises:
        OSError: neither directory is writable.
    """
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            _replace(folder / name, text)
        except OSError:
            continue
        return folder / name
    raise OSError(f"{name} can be written nowhere")


def _replace(path: Path, text: str) -> None:
    """Replace a file, or a link of that name: other users may have made it if they can write in the directory."""
    number, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.replace(made, path)
    except BaseException:
        os.unlink(made)
        raise


def stem(report: Report) -> str:
    """Return the common prefix of a failure's file names."""
    plan = report.replay["plan"]
    return STEM.format(plan["seed"], plan["first_round"])


def readable(value: Any, indent: str = "") -> str:
    """Format a value as JSON, with short values on one line."""
    text = json.dumps(value)
    if len(indent) + len(text) <= WIDE or not value or not isinstance(value, dict | list):
        return text
    inner = indent + "    "
    if isinstance(value, dict):
        ends, parts = "{}", [f"{json.dumps(name)}: {readable(one, inner)}" for name, one in value.items()]
    else:
        ends, parts = "[]", [readable(one, inner) for one in value]
    return f"{ends[0]}\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}{ends[1]}"


def write_replay(report: Report, more: str = "") -> Path:
    """Write the replay of a failure as JSON."""
    return write(f"{stem(report)}{more}.json", readable(report.replay) + "\n")


class Outcome:
    """The output for a failure: each step adds to the text that is printed at the end.

    Attributes:
        shrunk: the smallest failing script, if the shrinker was requested and succeeded.
    """

    def __init__(self, report: Report, err: TextIO | None = None) -> None:
        self.report = report
        self.shrunk: Shrunk | None = None
        self._err = err if err is not None else sys.stderr

    def save(self) -> None:
        """Write the replay and print its path, first of all: later steps may be interrupted."""
        print(f"again: pagecache stress --replay {write_replay(self.report)}", file=self._err)
        if self.report.replay["target"] not in (None, "memory:"):
            begin = f"'{stem(self.report)}'"
            print(f"left in the target: what begins with {begin}; --replay removes it, and begins anew", file=self._err)

    def shrink(self, target: str | None, seconds: float) -> None:
        """Shrink the failure, with a line of progress, and write the result."""
        try:
            with Status("shrinking", console=Console(file=self._err, highlight=False)) as status:
                self.shrunk = shrink(self.report, target, seconds=seconds, progress=status.update)
        except NotFailing as error:
            print(f"not shrunk: {error}", file=self._err)
            return
        print(f"shrunk: pagecache stress --replay {write_replay(self.shrunk.report, '-small')}", file=self._err)

    def text(self, *, verbose: bool = False) -> str:
        """Return the text for a person: one line for a run without a finding, unless `verbose`."""
        if self.report.ok and not verbose:
            return self.report.story.partition("\n")[0]
        if self.shrunk is None:
            return self.report.story
        return f"{self.report.story.splitlines()[0]}\n{self.shrunk.story}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report and the shrunk report in JSON form."""
        return self.report.to_dict() | ({"shrunk": self.shrunk.to_dict()} if self.shrunk is not None else {})
