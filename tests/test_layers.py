"""Imports go down only, as the architecture says: backends do not use caches, and one module is the door to C."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pagecache"

# From the bottom up. A module belongs to the longest prefix that fits; modules of one layer may import each other.
LAYERS = [
    ["distribution", "errors", "config", "options", "stats"],
    ["native", "_native"],
    ["backends.protocol"],
    ["backends", "engine", "testing"],
    [
        "cache",
        "volume",
        "closing",
        "file",
        "aio",
        "observe",
        "metrics",
    ],
    ["observe.answers", "observe.client"],
    [
        "cli",
        "top",
        "demo",
        "stress",
        "bench",
        "drain",
        "check_backend",
        "fuse",
        "fsspec",
        "interrupts",
        "quantities",
        "__main__",
    ],
]
TOP = len(LAYERS)  # the package itself: public names of every layer

# Imports that the layers alone would allow, and that are forbidden.
FORBIDDEN = {
    "backends": ["native", "engine", "testing"],
    "testing": ["native", "engine"],
    "engine": ["testing", "backends.memory", "backends.directory"],
}


def modules() -> dict[str, Path]:
    """The name below the package, "" for the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def layer(module: str) -> int:
    if module == "":
        return TOP
    fits = [(len(prefix), number) for number, names in enumerate(LAYERS) for prefix in names if within(module, prefix)]
    assert fits, f"pagecache.{module} belongs to no layer: say in LAYERS where it stands"
    return max(fits)[1]


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Modules of the package that a module imports (anywhere in it, for types only left out), with the line."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                if within(alias.name, "pagecache"):
                    yield alias.name.partition(".")[2], node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parts = package.split(".") if package else []
                base = ".".join([*parts[: len(parts) - node.level + 1], *((node.module or "").split("."))]).strip(".")
            elif within(node.module or "", "pagecache"):
                base = (node.module or "").partition(".")[2]
            else:
                continue
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                yield (name if name in MODULES else base), node.lineno


@pytest.mark.parametrize("module", [name for name in MODULES if name], ids=str)
def test_imports_go_down_only(module: str) -> None:
    for imported, line in imports(module):
        where = f"{MODULES[module].name}:{line} imports pagecache.{imported}".rstrip(".")
        if imported == "" and layer(module) == TOP - 1:
            continue  # the top layer is a user of the public names
        assert layer(imported) <= layer(module), f"{where}, which is a layer above"
        for prefix, forbidden in FORBIDDEN.items():
            if within(module, prefix):
                assert not any(within(imported, name) for name in forbidden), f"{where}, which {prefix} must not know"


def test_only_native_imports_the_extension() -> None:
    doors = {
        module
        for module in MODULES
        if not within(module, "_native") and any(within(imported, "_native") for imported, _ in imports(module))
    }
    assert doors <= {"native.extension"}
