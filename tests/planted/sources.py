"""Plant all bugs of the C core in a copy of its sources: each `*.patch` adds a switch for one, `PC_FIX` of planted.h.

    python3 tests/planted/sources.py FOLDER

writes the patched files below FOLDER, by their path in `pagecache/_native`; files that stay the same are not touched,
so that make compiles only the others. All patches are made against the sources without bugs. Two
may insert lines at the same place, in the order of their names, but only one may replace a line.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NATIVE", "Edit", "edits", "patches", "planted"]

NATIVE = Path("pagecache") / "_native"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines [start, end) of a file are replaced by others: one change of a patch."""

    start: int
    end: int
    lines: tuple[str, ...]
    patch: str


def patches() -> dict[str, Path]:
    """Return the patches by the name of their bug."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.patch"))}


def edits(name: str, patch: str, root: Path = ROOT) -> dict[str, list[Edit]]:
    """Return the changes of a patch by file, as places in the present sources.

    A hunk belongs where its old lines are, comments aside; its line number is not used.

    Raises:
        ValueError: a hunk fits no place, or several.
    """
    found: dict[str, list[Edit]] = defaultdict(list)
    for part in re.split(r"^--- a/.*\n", patch, flags=re.MULTILINE)[1:]:
        head, *hunks = re.split(r"^@@ .*\n", part, flags=re.MULTILINE)
        path = head.removeprefix("+++ b/").strip()
        source = [_code(line) for line in (root / path).read_text(encoding="utf-8").splitlines()]
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            old = [_code(line[1:]) for line in lines if line[0] in " -"]
            places = [k for k in range(len(source) - len(old) + 1) if source[k : k + len(old)] == old]
            if len(places) != 1:
                shown = "\n".join(old)
                raise ValueError(f"{name}.patch fits {len(places)} places of {path}, expected 1, by the lines\n{shown}")
            found[path] += _changes(lines, places[0], name)
    return found


def _code(line: str) -> str:
    """Return a line without its comment."""
    return re.sub(r"/\*.*?(\*/|$)", "", line).rstrip()


def _changes(lines: list[str], at: int, name: str) -> list[Edit]:
    """Return the changes of a hunk whose old lines begin at `at`."""
    found = []
    start, new = at, list[str]()
    for line in [*lines, " "]:
        if line[0] == "+":
            new.append(line[1:])
        elif line[0] == "-":
            at += 1
        else:
            if new or start < at:
                found.append(Edit(start, at, tuple(new), name))
            at += 1
            start, new = at, []
    return found


def planted(names: list[str] | None = None, root: Path = ROOT) -> dict[str, str]:
    """Return the patched files by path; all patches, or some.

    Raises:
        ValueError: a patch does not fit the sources, or two replace the same line.
    """
    every: dict[str, list[Edit]] = defaultdict(list)
    for name, path in patches().items():
        if names is None or name in names:
            for file, some in edits(name, path.read_text(encoding="utf-8"), root).items():
                every[file] += some
    found = {}
    for file, some in every.items():
        source = (root / file).read_text(encoding="utf-8").splitlines(keepends=True)
        lines, done, last = list[str](), 0, ""
        for edit in sorted(some, key=lambda edit: (edit.start, edit.end, edit.patch)):
            if edit.start < done:
                raise ValueError(f"{last}.patch and {edit.patch}.patch replace line {edit.start + 1} of {file}")
            lines += [*source[done : edit.start], *edit.lines]
            done, last = edit.end, edit.patch
        found[file] = "".join(lines + source[done:])
    return found


def main(folder: Path) -> None:
    for path, text in planted().items():
        target = folder / Path(path).relative_to(NATIVE)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
