"""Plant all bugs in a copy of the package: each `*.patch` adds a switch for one, `PC_FIX`.

    python3 tests/planted/patches.py FOLDER

brings FOLDER up to date: it has the modules of the package and the patched C files. Files that stay the same are not
touched, so that make compiles only the others. All patches are made against the sources without bugs. Two may insert
lines at the same place, in the order of their names, but only one may replace a line.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = re.compile(r"(?P<sentence>.+: .+)\n\nrule: (?P<rule>.+)\nfound by: (?P<searcher>.+), (?P<place>\S+)\n")


@dataclass(frozen=True, slots=True)
class Bug:
    """The head of a patch, and the patch."""

    sentence: str  # the mistake: the user's loss
    rule: str  # the broken rules, as named by the contract
    searcher: str  # "schedules", "tester", "test" or "C test"
    place: str  # kind of world of the schedules, settings of the tester, or the test
    patch: str


def bugs() -> dict[str, Bug]:
    """Return the bugs by the names of their patches."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.patch")):
        text = path.read_text(encoding="utf-8")
        head = HEAD.match(text)
        if head is None:
            raise ValueError(f"{path.name} has no head: a sentence, the broken rules, and the search that finds it")
        found[path.stem] = Bug(**head.groupdict(), patch=text[head.end() :])
    return found


def planted(patches: dict[str, str]) -> dict[str, str]:
    """Return the patched files by path; `patches` have names.

    A hunk belongs where its old lines are, comments of C aside; its line number is not used.

    Raises:
        ValueError: a hunk fits no place, or several; or two patches replace the same line.
    """
    found: dict[str, list[list[str]]] = {}  # for each line: the lines before it, and itself or its replacement
    for name, patch in patches.items():
        for part in re.split(r"^--- a/.*\n", patch, flags=re.MULTILINE)[1:]:
            head, *hunks = re.split(r"^@@ .*\n", part, flags=re.MULTILINE)
            path = head.removeprefix("+++ b/").strip()
            source = [*(ROOT / path).read_text(encoding="utf-8").splitlines(keepends=True), ""]
            texts = found.setdefault(path, [["", line] for line in source])
            for lines in (hunk.splitlines(keepends=True) for hunk in hunks):
                old = [_code(line[1:]) for line in lines if line[0] != "+"]
                places = [at for at in range(len(source)) if [*map(_code, source[at : at + len(old)])] == old]
                if len(places) != 1:
                    shown = "\n".join(old)
                    raise ValueError(f"{name}.patch fits {len(places)} places of {path}, by the lines\n{shown}")
                start = at = places[0]
                for line in lines:
                    if line[0] == "+":
                        texts[start][at > start] += line[1:]
                        continue
                    if line[0] == "-":
                        if texts[at][1] != source[at]:
                            raise ValueError(f"{name}.patch replaces line {at + 1} of {path}, as another patch does")
                        texts[at][1] = ""
                    at += 1
                    start = start if line[0] == "-" else at
    return {path: "".join(map("".join, texts)) for path, texts in found.items()}


def _code(line: str) -> str:
    """Return a line without its comment."""
    return re.sub(r"/\*.*?(\*/|$)", "", line).rstrip()


def outdated(folder: Path) -> dict[Path, str]:
    """Return the files of the copy that differ from the present sources and patches, with their proper content."""
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "pagecache").rglob("*.py")]
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in modules}
    texts |= planted({name: bug.patch for name, bug in bugs().items()})
    files = {folder / path: text for path, text in texts.items()}
    return {file: text for file, text in files.items() if not file.exists() or file.read_text(encoding="utf-8") != text}


if __name__ == "__main__":
    for changed, content in outdated(Path(sys.argv[1])).items():
        changed.parent.mkdir(parents=True, exist_ok=True)
        changed.write_text(content, encoding="utf-8")
