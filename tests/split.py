"""Which Python tests `make test` runs, and which are left to `make test-all`.

    --part first    the tests that name an id of the contract [docs/contract.md]; one test for each way in, and the
                    conformance suite of each backend, which are marked `smoke`; the files that check the rules of the
                    project
    --part rest     all other tests, and the tests that name an id and are marked `long`

The first part proves each id at least once, in minutes; tests/test_split.py checks that. A test that takes seconds, or
whose verdict needs luck, is marked `long` if cheaper tests prove its ids. Tests that are `slow` or `soak` are in
neither part.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from .catalogue import IDS, ONE

__all__ = ["BACKENDS", "RULES", "WAYS", "Test", "first", "found_in"]

ROOT = Path(__file__).parent.parent
WAYS = ["asyncio", "fsspec", "mount", "S3", "command line", "stress", "top", "docs"]
BACKENDS = ["memory:", "dir:", "s3:", "fsspec:", "TransformBackend", "asynchronous backend"]
RULES = ["tests/test_catalogue.py", "tests/test_layers.py", "tests/test_public_api.py", "tests/test_split.py"]
ELSEWHERE = {"long", "slow", "soak"}
NAMED = re.compile(r"\b[TI]-\d+[a-z]?(?:, [^\]]*)?\]|mark\.(?:contract|smoke)\b")
"""What the text of a file has if a test of it may be of the first part."""


class Test:
    """A test function as its file shows it: the ids and ways in that it is for, and the names of its marks."""

    __test__ = False

    def __init__(self, name: str, nodes: list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]) -> None:
        self.name = name
        decorators = [ast.unparse(one) for node in nodes for one in node.decorator_list]
        claims = [found[1] for node in nodes if (found := IDS.search(ast.get_docstring(node) or ""))]
        claims += [one for one in decorators if "mark.contract" in one]
        self.ids = set(ONE.findall(" ".join(claims)))
        self.marks = {name for one in decorators for name in re.findall(r"^pytest\.mark\.(\w+)", one)}
        self.ways = {way for one in decorators for way in re.findall(r"mark\.smoke\('([^']+)'\)", one)}

    @property
    def is_first(self) -> bool:
        return bool(self.ids or self.ways) and not self.marks & ELSEWHERE


def found_in(text: str) -> Iterator[Test]:
    """The tests of a file."""
    tree = ast.parse(text)
    common: set[str] = set()
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="pytestmark")], value=value):
                common = set(re.findall(r"\bmark\.(\w+)", ast.unparse(value)))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                yield marked(Test(name, [node]), common)
            case ast.ClassDef(name=owner, body=body, bases=bases) if owner.startswith("Test"):
                if bases:  # of the tests that it inherits
                    yield marked(Test(owner, [node]), common)
                for inner in body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name.startswith("test_"):
                        yield marked(Test(f"{owner}::{inner.name}", [node, inner]), common)


def marked(test: Test, common: set[str]) -> Test:
    test.marks |= common
    return test


def first(path: Path) -> dict[str, dict[str, set[str]]]:
    """What the first part has of the tests below `path`: "ids" and "ways", each with the tests of it."""
    found: dict[str, dict[str, set[str]]] = {"ids": defaultdict(set), "ways": defaultdict(set)}
    for file in sorted(path.rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        for test in found_in(text) if NAMED.search(text) else ():
            for kind, names in (("ids", test.ids), ("ways", test.ways)):
                for name in names if test.is_first else ():
                    found[kind][name].add(f"{file.relative_to(path)}::{test.name}")
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=["first", "rest"], help="the tests of `make test`, or those of `make test-all`")


def is_rule(path: Path, config: pytest.Config) -> bool:
    return path.is_relative_to(config.rootpath) and path.relative_to(config.rootpath).as_posix() in RULES


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files without a test of the first part are not imported for it."""
    if config.getoption("part") != "first" or collection_path.suffix != ".py" or is_rule(collection_path, config):
        return None
    return None if NAMED.search(collection_path.read_text(encoding="utf-8")) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Turn the ids of docstrings, of tests and classes, into the marker `contract`; keep the tests of the part."""
    kept: list[pytest.Item] = []
    others: list[pytest.Item] = []
    part = config.getoption("part")
    for item in items:
        for named in (getattr(item, "obj", None), getattr(item, "cls", None)):
            found = IDS.search(getattr(named, "__doc__", None) or "")
            if found is not None:
                item.add_marker(pytest.mark.contract(*found[1].split(", ")))
        marks = {mark.name for mark in item.iter_markers()}
        ids = [one for mark in item.iter_markers("contract") for one in mark.args if ONE.fullmatch(one)]
        is_first = is_rule(item.path, config) or bool((ids or "smoke" in marks) and not marks & ELSEWHERE)
        wanted = part is None or (is_first if part == "first" else not is_first and not marks & {"slow", "soak"})
        (kept if wanted else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = kept
