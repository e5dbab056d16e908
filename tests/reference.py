"""The API reference: one page for each public module, made by pdoc from the docstrings.

`python -m tests.reference FOLDER` writes the pages; `make docs` does so. They are not kept in git.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pdoc
import pdoc.doc

from .promise import PROMISE, modules

__all__ = ["MODULES", "Name", "described", "page", "promised", "write"]

MODULES = (
    "pagecache",
    "pagecache.aio",
    "pagecache.backends",
    "pagecache.backends.fsspec",
    "pagecache.backends.s3",
    "pagecache.fsspec",
    "pagecache.fuse",
    "pagecache.metrics",
    "pagecache.options",
    "pagecache.stress",
    "pagecache.testing",
    "pagecache.testing.conformance",
)
TEMPLATES = Path(__file__).parent.parent / "docs" / "api"
LAZY = {
    "FsspecBackend": "pagecache.backends.fsspec",
    "S3Backend": "pagecache.backends.s3",
    "BackendConformance": "pagecache.testing.conformance",
}
"""Classes that need an extra -> the module with their page. Their packages import them at first use."""


def page(module: str) -> pdoc.doc.Module:
    """Return the page of a module, with the names that it imports on first use."""
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", ()):
        if name not in LAZY:
            vars(found).setdefault(name, getattr(found, name))
    return pdoc.doc.Module(found)


@dataclass(frozen=True, slots=True)
class Name:
    """One promised name: `module` has its page, `path` is "Volume" or "Volume.open"."""

    module: str
    path: str


def promised() -> Iterator[Name]:
    """Yield the classes, functions, methods and attributes of public_api.pyi."""
    for module, text in modules(PROMISE.read_text(encoding="utf-8")).items():
        for node in ast.parse(text).body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef):
                continue
            page = LAZY.get(node.name, module)
            yield Name(page, node.name)
            if isinstance(node, ast.ClassDef):
                yield from (Name(page, f"{node.name}.{member}") for member in members(node))


def members(node: ast.ClassDef) -> Iterator[str]:
    """Yield the public methods and attributes of a class."""
    for statement in node.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                if not name.startswith("_"):
                    yield name


def described(page: pdoc.doc.Module, path: str) -> bool:
    """Return whether a name has a docstring; for an attribute, an entry of its class will do."""
    found = page.get(path)
    if found is None:
        return False
    if found.docstring:
        return True
    owner = page.get(path.rpartition(".")[0])
    if found.kind != "variable" or owner is None:
        return False
    entry = rf"(^ *(\w+, )*{found.name}(, \w+)*:)|`{found.name}`"
    bases = [owner.docstring, *(base.__doc__ or "" for base in owner.obj.__mro__)]
    return any(re.search(entry, text, re.MULTILINE) for text in bases)


def write(folder: Path) -> None:
    """Write the pages into a folder."""
    pdoc.render.configure(
        docformat="google", include_undocumented=False, show_source=False, template_directory=TEMPLATES
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # annotations that only type checkers resolve; extras that are not installed
        for module in MODULES:
            page(module)  # pdoc sees the names that are there
        pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
