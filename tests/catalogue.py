"""Which test proves which behaviour: docs/tests.md, made from docs/contract.md and from the tests themselves.

    id -> behaviour        the tables of docs/contract.md, sections 4 and 5; LATER for parts that are not built yet
    id -> Python tests     ids in brackets at the end of a docstring, or the marker `contract`
    id -> C tests          ids in the comment before a check, in the heading of a part, in the first comment of a file

`python -m tests.catalogue` writes the page, as `make docs` does; the page is not kept in git. It shows the claims of
tests, not proofs.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["LATER", "PAGE", "behaviours", "page", "proofs"]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tests.md"
CONTRACT = ROOT / "docs" / "contract.md"

# Behaviours of parts that are not built yet: part -> id -> behaviour.
LATER: dict[str, dict[str, str]] = {}

ROW = re.compile(r"^\| ([TI]-\d+[a-z]?) \| (.*) \|$", re.MULTILINE)
IDS = re.compile(r"\[((?:[A-Z]-?\d+[a-z]?|\d+\.\d+)(?:,\s+(?:[A-Z]-?\d+[a-z]?|\d+\.\d+))*)\]\s*$")
ONE = re.compile(r"\b[TI]-\d+[a-z]?\b")
# C: a heading of a part, another comment, the definition of a check.
PIECE = re.compile(
    r"(?P<heading>/\* -{8,}.*?\*/)|(?P<comment>/\*.*?\*/)|^static void (?P<check>check_\w+)\(", re.S | re.M
)


def behaviours() -> dict[str, str]:
    """Every id of the contract that tests prove, and of LATER, in order."""
    found = dict(ROW.findall(CONTRACT.read_text(encoding="utf-8")))
    for ids in LATER.values():
        found |= {one: text for one, text in ids.items() if one not in found}
    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def order(one: str) -> tuple[str, int, str]:
    kind, number, letter = re.fullmatch(r"([TI])-(\d+)([a-z]?)", one).groups()  # type: ignore[union-attr]
    return kind, int(number), letter


@cache
def proofs() -> dict[str, dict[str, list[str]]]:
    """id -> file -> tests; the empty name is the file as a whole."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((ROOT / "tests").rglob("test_*.*")):
        claims = {".py": python_claims, ".c": c_claims}.get(path.suffix)
        if claims is not None:
            for one, name in claims(path.read_text(encoding="utf-8")):
                names = found[one][path.relative_to(ROOT).as_posix()]
                if name not in names:
                    names.append(name)
    return found


def python_claims(text: str) -> Iterator[tuple[str, str]]:
    """The claims of tests, and of classes and their methods: a state machine's checks are methods, not tests."""
    tree = ast.parse(text)
    inside = {node for owner in ast.walk(tree) if isinstance(owner, ast.ClassDef) for node in owner.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) or (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.name.startswith("test_") or node in inside)
        ):
            ids = IDS.search(ast.get_docstring(node) or "")
            marked = [ast.unparse(mark) for mark in node.decorator_list if "mark.contract" in ast.unparse(mark)]
            for one in ONE.findall(" ".join([ids[1] if ids else "", *marked])):
                yield one, node.name


def c_claims(text: str) -> Iterator[tuple[str, str]]:
    part: list[str] = []
    pending: list[str] = []
    for piece in PIECE.finditer(text):
        if piece["heading"]:
            part, pending = ONE.findall(piece[0]), []
        elif piece["comment"] and piece.start() == 0:
            yield from ((one, "") for one in ONE.findall(piece[0]))
        elif piece["comment"]:
            pending += ONE.findall(piece[0])
        else:
            yield from ((one, piece["check"]) for one in [*part, *pending])
            pending = []


def page() -> str:
    """Return the text of docs/tests.md."""
    proved = proofs()
    lines = [
        "# Which test proves what",
        "",
        "Made by `make docs` from the ids that tests name; behaviours are those of the [contract](contract.md).",
        "`PageCache.check()`, which many tests call, also verifies the invariants I-1 to I-16.",
    ]
    for kind, title in (("T", "Behaviours"), ("I", "Invariants")):
        lines += ["", f"## {title}"]
        for one, text in behaviours().items():
            if one.startswith(kind):
                lines += ["", f"### {one}", "", capitalized(text) + ".", ""]
                lines += tests_of(one, proved.get(one, {}))
    return "\n".join(lines) + "\n"


def capitalized(text: str) -> str:
    return text if text.startswith("`") else text[0].upper() + text[1:]


def tests_of(one: str, files: dict[str, list[str]]) -> list[str]:
    part = next((part for part, ids in LATER.items() if one in ids), None)
    listed = [f"* **Later:** {part}."] if part is not None else []
    for file, names in sorted(files.items()):
        shown = ", ".join(f"`{name}`" for name in names if name)
        listed.append(f"* `{file}`" + (f": {shown}" if shown else ""))
    return listed or ["* `PageCache.check()`"]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
