"""Imports go down only, those for annotations as well, and one module imports the extension.

LAYERS is the order; FOR_TYPES has the exceptions for annotations.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pagecache"

# From the bottom up. A module belongs to the longest prefix that fits; modules of one line may import each other.
LAYERS = [
    ["distribution", "errors", "config", "options", "stats"],
    ["native", "_native"],
    ["backends.protocol"],
    ["backends", "testing"],
    # The engine.
    ["engine.foreign", "engine.park"],
    ["engine.report"],
    ["engine.retryer"],
    ["engine.runner", "engine.loop", "engine.aside"],
    ["engine.attempts"],
    ["engine.names"],
    ["engine.commit"],
    ["engine.io"],
    ["engine.throttle", "engine.mirror"],
    ["engine.file"],
    ["engine.volume"],
    ["engine.flusher", "engine"],
    # Volumes, and the handles that they open. A handle ends through `lifetimes`, so that lies below it.
    ["volume.inode", "volume.keys"],
    ["volume.lifetimes"],
    ["file"],
    ["volume.opening"],
    ["volume.reconnect"],
    ["volume.names"],
    ["volume.conflicts", "volume.detach", "volume.ticket"],
    ["volume.volume"],
    ["volume"],
    # The cache.
    ["aio", "closing", "observe"],
    ["cache", "metrics"],
    ["observe.answers", "observe.client"],
    # Tools and adapters.
    ["interrupts", "quantities", "target"],
    ["bench", "cli", "fsspec", "fuse", "stress", "__main__"],
]
TOP = len(LAYERS)  # the package itself: public names of every layer

# Imports that a layer alone would allow.
FORBIDDEN = {
    "backends": ["testing"],
    "testing": ["native"],
    "engine": ["testing", "backends.memory", "backends.directory"],
    "observe.answers": ["cache", "volume", "file", "engine", "native"],
    "observe.client": ["cache", "volume", "file", "engine", "native"],
}

# Imports for annotations go down as well, except these: a part names the object that it works on.
FOR_TYPES = {
    "engine": ["engine.file", "engine.volume"],
    "engine.report": ["engine.runner"],  # the job that a wait is for
    "engine.volume": ["engine.flusher"],
    "volume": ["volume.volume"],
    "volume.inode": ["file", "volume.names"],  # its handles, and its removal or rename
    "volume.reconnect": ["volume.names"],
    "volume.volume": ["cache"],
    "file": ["volume.volume"],
    "closing": ["cache"],
    "observe": ["cache"],
    "options": ["file"],  # a handle of a class of the caller's own
}


def modules() -> dict[str, Path]:
    """Name below the package, "" for the package itself."""
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


def imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """Modules of the package that a module imports anywhere in it, each with the line and whether for types only."""
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
        if isinstance(node, ast.Import):
            for alias in node.names:
                if within(alias.name, "pagecache"):
                    yield alias.name.partition(".")[2], node.lineno, id(node) in for_types
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
                yield (name if name in MODULES else base), node.lineno, id(node) in for_types


def violations(module: str) -> Iterator[str]:
    """Sentences on the imports of a module that the tables do not allow."""
    for imported, line, for_types in imports(module):
        where = f"{MODULES[module].name}:{line} imports pagecache.{imported}".rstrip(".")
        if imported == "" and layer(module) == TOP - 1:
            continue  # the top layer is a user of the public names
        if for_types:
            owners = [owner for prefix, names in FOR_TYPES.items() if within(module, prefix) for owner in names]
            if layer(imported) > layer(module) and not any(within(imported, owner) for owner in owners):
                yield f"{where} for its annotations, which is a layer above and not in FOR_TYPES"
            continue
        if layer(imported) > layer(module):
            yield f"{where}, which is a layer above"
        for prefix, forbidden in FORBIDDEN.items():
            if within(module, prefix) and any(within(imported, name) for name in forbidden):
                yield f"{where}, which is forbidden to {prefix}"


@pytest.mark.parametrize("module", [name for name in MODULES if name], ids=str)
def test_imports_go_down_only(module: str) -> None:
    assert list(violations(module)) == []


def test_every_owner_in_the_table_is_named_by_a_part() -> None:
    """FOR_TYPES allows no import that the package does not have."""
    for prefix, owners in FOR_TYPES.items():
        named = {
            imported
            for module in MODULES
            if within(module, prefix)
            for imported, _, for_types in imports(module)
            if for_types and layer(imported) > layer(module)
        }
        assert all(any(within(name, owner) for name in named) for owner in owners), prefix


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("engine.retryer", "from .io import reader", "imports pagecache.engine.io.reader, which is a layer above"),
        ("engine.park", "from ..volume.keys import BusyKeys", "imports pagecache.volume.keys, which is a layer above"),
        ("volume.inode", "from .opening import bind", "imports pagecache.volume.opening, which is a layer above"),
        (
            "volume.keys",
            "if TYPE_CHECKING:\n    from .opening import bind",
            "imports pagecache.volume.opening for its annotations, which is a layer above and not in FOR_TYPES",
        ),
        (
            "backends.memory",
            "from ..testing import Gate",
            "imports pagecache.testing, which is forbidden to backends",
        ),
    ],
)
def test_an_import_that_goes_up_is_found(
    module: str, line: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / MODULES[module].name
    copy.write_text(f"{MODULES[module].read_text(encoding='utf-8')}\n\n{line}\n", encoding="utf-8")
    monkeypatch.setitem(MODULES, module, copy)
    (violation,) = violations(module)
    assert violation.endswith(found)


def test_only_native_imports_the_extension() -> None:
    importers = {
        module
        for module in MODULES
        if not within(module, "_native") and any(within(imported, "_native") for imported, _, _ in imports(module))
    }
    assert importers <= {"native.extension"}
