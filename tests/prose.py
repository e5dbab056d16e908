"""Count turns of phrase that plain technical English avoids: `python -m tests.prose`, run by `make lint`.

The texts are comments, docstrings, help of commands and documentation, without code. Each kind of text has a limit, in
turns of phrase per 1,000 words. Above the limit, the places in the files with most of them are printed, and the exit
status is 1. One hit is often fine English; many of them make a text hard to read. Rewrite the sentence: name the actor
or the thing with its noun; subject, verb, object; one fact a sentence.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LIMITS", "PATTERNS", "Hit", "Text", "hits", "texts"]

# Turns of phrase per 1,000 words; the packages of CPython have about 1.
LIMITS = {"C": 2.5, "Python": 2.5, "tests": 2.5, "docs": 4.0}

ROOT = Path(__file__).parent.parent
NAMES = ["pagecache", "pagecache_pytest", "tests", "examples", "benchmarks", "docs", "setup.py"]
PLACES = [*(ROOT / name for name in NAMES), *ROOT.glob("*.md")]
AFTER_WHAT = (
    "is was are were has had it they he come comes came goes went stand stands can cannot could may must one no nobody "
    "somebody somebody's other others wait waits remain remains leave leaves left happens"
)
BEFORE_WHO = "by for of to and or that than with from wake wakes let lets tell tells told ask asks is"
PATTERNS = {
    "a clause with 'what' as a noun": rf"\b[Ww]hat (?:{AFTER_WHAT.replace(' ', '|')})\b",
    "'who' as a noun": rf"(?:^|[.;:,(] |\b(?:{BEFORE_WHO.replace(' ', '|')}) )[Ww]ho(?:ever)? (?!is this|are you)\w+",
    "'nobody', 'somebody'": r"\b(?:[Nn]obody|[Ss]omebody|[Nn]o one|[Ss]omeone|[Ee]verybody)\b",
    "'tells', 'knows', 'hears' of code": r"\b(?:[Tt]old|[Tt]ells?|[Bb]elieves?|[Kk]nows?|[Hh]ears?|[Hh]eard)\b",
    "'he' of a thread": r"\b[Hh](?:e|is|im|imself)\b",
    "'any more', 'for ever', 'meanwhile'": r"\b(?:any more|for ever|[Mm]eanwhile|[Bb]esides|thereby|therefore it)\b",
    "'where' for if or when": r"(?:^|[.;:] )Where (?:it|there|that|this|the|a|an|nothing|something|one|no)\b",
    "'of its own', 'of ours'": r"\bof (?:(?:its|his|their|one's) own|ours|his|theirs)\b",
    "'The same ...'": r"(?:^|[.:] )The same\b[^.]{0,60}",
}
SEARCH = {name: re.compile(pattern, re.MULTILINE) for name, pattern in PATTERNS.items()}
SHOWN = 40  # characters around a phrase that is printed


@dataclass(frozen=True, slots=True)
class Text:
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    path: str
    line: int
    pattern: str
    phrase: str


def of_python(source: str) -> Iterator[Text]:
    """Comments, docstrings and the help of commands."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string.lstrip("#! "))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield Text(node.lineno, text)
            case ast.keyword(arg="help" | "short_help" | "epilog", value=ast.Constant(value=str(text))):
                yield Text(node.value.lineno, text)


def of_c(source: str) -> Iterator[Text]:
    for comment in re.finditer(r"/\*.*?\*/|//[^\n]*", source, re.DOTALL):
        text = re.sub(r"^\s*\*+ ?|/\*+|\*+/", " ", comment[0], flags=re.MULTILINE)
        yield Text(source.count("\n", 0, comment.start()) + 1, text)


def of_markdown(source: str) -> Iterator[Text]:
    """Lines without fences, code and headings of tables; a row of a table is text."""
    source = re.sub(r"^```.*?^```", lambda fence: "\n" * fence[0].count("\n"), source, flags=re.DOTALL | re.MULTILINE)
    for number, line in enumerate(source.splitlines(), 1):
        if not re.match(r"\s*<!--", line) or line.count("|") > 1:
            yield Text(number, re.sub(r"`[^`]*`", "X", line))


READERS = {".py": of_python, ".pyi": of_python, ".c": of_c, ".h": of_c, ".md": of_markdown}


def kind_of(path: Path) -> str:
    """Return the kind of text, whose limit applies; `path` is relative to the project."""
    if path.suffix == ".md":
        return "docs"
    if path.parts[0] == "tests" or path.name.startswith("test_"):
        return "tests"
    return "C" if path.suffix in (".c", ".h") else "Python"


def texts(path: Path) -> list[Text]:
    return list(READERS[path.suffix](path.read_text(encoding="utf-8")))


def hits(path: str, pieces: list[Text]) -> Iterator[Hit]:
    for piece in pieces:
        for pattern, search in SEARCH.items():
            for found in search.finditer(piece.text):
                line = piece.line + piece.text.count("\n", 0, found.start())
                around = piece.text[max(0, found.start() - SHOWN) : found.end() + SHOWN]
                yield Hit(path, line, pattern, " ".join(around.split()))


def files(places: list[Path]) -> Iterator[Path]:
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix in READERS and not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                yield path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.prose", description=__doc__)
    parser.add_argument("places", nargs="*", type=Path, default=PLACES)
    parser.add_argument("--worst", type=int, default=5, help="files to print of each kind that is above its limit")
    parser.add_argument("--table", action="store_true", help="print the figures even if no limit is exceeded")
    arguments = parser.parse_args()
    words, counts = Counter[str](), Counter[str]()
    found: dict[str, list[tuple[float, list[Hit]]]] = {kind: [] for kind in LIMITS}
    for path in files([place.resolve() for place in arguments.places]):
        inside = path.relative_to(ROOT)
        pieces = texts(path)
        many = sum(len(re.findall(r"[A-Za-z']+", piece.text)) for piece in pieces)
        these = list(hits(str(inside), pieces))
        words[kind_of(inside)] += many
        counts[kind_of(inside)] += len(these)
        found[kind_of(inside)].append((len(these) / max(many, 200), these))
    above = [kind for kind in LIMITS if counts[kind] > LIMITS[kind] * words[kind] / 1000]
    for kind in above:
        for _density, these in sorted(found[kind], key=lambda one: -one[0])[: arguments.worst]:
            for hit in sorted(these, key=lambda one: one.line):
                print(f"{hit.path}:{hit.line}: {hit.pattern}: ... {hit.phrase} ...")
    for kind in LIMITS if arguments.table or above else []:
        density = counts[kind] / max(words[kind], 1) * 1000
        verdict = "above" if kind in above else "within"
        print(f"{kind}: {density:.1f} turns of phrase per 1,000 words, {verdict} the limit of {LIMITS[kind]}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
