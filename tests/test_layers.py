"""Imports go down only, those for annotations as well, and one module imports the extension; fields have one owner.

LAYERS is the order; FOR_TYPES has the exceptions for annotations. PARTS are the classes that own the state of a file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke("rules")

PACKAGE = Path(__file__).parent.parent / "pagecache"
NATIVE = PACKAGE / "_native"

# From the bottom up. A module belongs to the longest prefix that fits; modules of one line may import each other.
LAYERS = [
    ["distribution", "errors", "config", "loglines", "objects", "options", "quantities", "stats"],
    ["native", "_native"],
    ["backends.protocol"],
    ["backends", "testing"],
    ["disk"],
    # The engine.
    ["engine.foreign", "engine.park"],
    ["engine.report"],
    ["engine.retryer", "engine.gone"],
    ["engine.runner", "engine.aside"],
    ["engine.blocking", "engine.loop"],  # each imports the other when it is needed
    ["engine.attempts", "engine.held"],
    ["engine.namesync"],
    ["engine.failures"],
    ["engine.commit"],
    ["engine.io"],
    ["engine.throttle", "engine.mirror"],
    ["engine.file"],
    ["engine.volume"],
    ["engine.flusher", "engine"],
    # Volumes, and the handles that they open. A handle ends through `lifetimes`, so that lies below it.
    ["volume.answers", "volume.inode", "volume.keys", "volume.modes"],
    ["volume.lifetimes"],
    ["file"],
    ["volume.opening"],
    ["volume.status"],
    ["volume.reconnect"],
    ["volume.namespace"],
    ["volume.conflicts", "volume.detach", "volume.laying", "volume.ticket"],
    ["volume.volume"],
    ["volume"],
    # The cache.
    ["aio", "closing", "observe"],
    ["cache", "metrics"],
    ["observe.client"],
    # Tools and adapters.
    ["interrupts", "target"],
    ["bench", "cli", "fsspec", "fuse", "stress", "__main__"],
]
TOP = len(LAYERS)  # the package itself: public names of every layer

# Imports that a layer alone would allow.
FORBIDDEN = {
    "backends": ["testing"],
    "testing": ["native"],
    "engine": ["testing", "backends.memory", "backends.directory"],
    "observe.client": ["cache", "volume", "file", "engine", "native"],
}

# Imports for annotations go down as well, except these: a part names the object that it works on.
FOR_TYPES = {
    "engine": ["engine.file", "engine.volume"],
    "engine.volume": ["cache", "volume.ticket"],  # its owner, and what the flusher advances
    "engine.flusher": ["cache"],
    "engine.report": ["cache"],
    "volume": ["volume.volume"],
    "volume.inode": ["file", "volume.namespace", "volume.lifetimes"],  # its handles, and its removal or rename
    "volume.reconnect": ["volume.namespace"],
    "volume.ticket": ["volume.recovered"],
    "volume.volume": ["cache", "volume.recovered"],
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


def test_only_native_imports_the_extension() -> None:
    importers = {
        module
        for module in MODULES
        if not within(module, "_native") and any(within(imported, "_native") for imported, _, _ in imports(module))
    }
    assert importers <= {"native.extension"}


# ---------------------------------------------------------------------------------------------- owners of fields

# `EngineFile` and its parts. A field is assigned by methods of its own class only.
PARTS = {
    "engine.file": "EngineFile",
    "engine.commit.versions": "Versions",
    "engine.commit.remote": "Dispute",
    "engine.commit.commits": "Commits",
    "engine.commit.owed": "Owed",
    "engine.failures": "Failures",
}

# Assignments to objects of other classes that have a field of this name, by module.
NAMESAKES = {
    "backends.s3": ["upload.failures"],
    "engine.file": ["work.volume"],  # a job
    "engine.loop": ["outcome.error"],
    "engine.namesync": ["call.error"],
    "engine.runner": ["job.volume"],
    "volume.namespace": ["inode.key"],
}


def assigned(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes that are assigned or deleted anywhere in the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node


def assigned_by_owner(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes of `self` that a class assigns."""
    for owner in ast.walk(tree):
        if isinstance(owner, ast.ClassDef):
            yield from (node for node in assigned(owner) if ast.unparse(node.value) == "self")


def part(module: str) -> ast.ClassDef:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == PARTS[module])
    return found


def fields_of_parts() -> set[str]:
    fields = set()
    for module in PARTS:
        body = part(module)
        fields |= {node.attr for node in assigned_by_owner(body)}
        targets: list[ast.expr] = [node.target for node in body.body if isinstance(node, ast.AnnAssign | ast.AugAssign)]
        targets += [target for node in body.body if isinstance(node, ast.Assign) for target in node.targets]
        fields |= {target.id for target in targets if isinstance(target, ast.Name)}
    return fields


def foreign_assignments(module: str, fields: set[str]) -> list[str]:
    """Assignments in a module to a field of the engine's file or its parts, outside of the class that owns it."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    owners = {id(node) for node in assigned_by_owner(tree)}
    allowed = [text for prefix, texts in NAMESAKES.items() if within(module, prefix) for text in texts]
    found = [
        f"{MODULES[module].name}:{node.lineno} assigns {ast.unparse(node)}"
        for node in assigned(tree)
        if node.attr in fields and id(node) not in owners and ast.unparse(node) not in allowed
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and len(node.args) == 3:
            name = node.args[1]
            if isinstance(name, ast.Constant) and name.value in fields:
                found.append(f"{MODULES[module].name}:{node.lineno} assigns by {ast.unparse(node)}")
    return found


def test_no_module_assigns_a_field_of_the_engines_file_or_of_its_parts() -> None:
    fields = fields_of_parts()
    assert {"version_stale", "base", "error", "backend_file", "abandoned", "_steps"} - fields == {"version_stale"}
    assert [found for module in MODULES for found in foreign_assignments(module, fields)] == []


# ---------------------------------------------------------------------------------------------- the C core

# Folders of the core from the bottom up; the last two are its users. `pagecache.h` declares the core for all of them.
FOLDERS = [["base"], ["memory"], ["state"], ["file"], ["io"], ["types", "fuse"]]
HEIGHT = {folder: height for height, folders in enumerate(FOLDERS) for folder in folders}
C_FUNCTION = re.compile(r"^(?!static)[A-Za-z][\w \t]*?[ *](\w+)\([^;{}]*\)\s*\{", re.MULTILINE)
C_INLINE = re.compile(r"^static inline [\w \t]*?[ *](\w+)\([^;{}]*\)\s*\{", re.MULTILINE)
C_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
C_INCLUDE = re.compile(r'^\s*#\s*include\s+"(\w+)/\w+\.h"', re.MULTILINE)


def sources_of(native: Path) -> dict[Path, str]:
    return {
        path: path.read_text(encoding="utf-8") for folder in HEIGHT for path in sorted(native.glob(f"{folder}/*.[ch]"))
    }


def upward(native: Path) -> list[str]:
    """Includes of a folder above, and names of functions that a folder above defines."""
    sources = sources_of(native)
    code = {path: C_TEXT.sub(" ", text) for path, text in sources.items()}
    home = {
        name: path.parent.name
        for path, text in code.items()
        for name in (C_INLINE if path.suffix == ".h" else C_FUNCTION).findall(text)
    }
    found = []
    for path, text in sources.items():
        folder = path.parent.name

        def is_above(other: str, folder: str = folder) -> bool:
            return other != folder and HEIGHT.get(other, 0) >= HEIGHT[folder]

        where = f"{folder}/{path.name}"
        found += [f"{where} includes {other}/" for other in C_INCLUDE.findall(text) if is_above(other)]
        names = set(re.findall(r"(?<!struct )\bpc_\w+", code[path])) & home.keys()
        found += [f"{where} uses {name} of {home[name]}/" for name in sorted(names) if is_above(home[name])]
    return found


def test_includes_and_calls_of_the_core_go_down_only() -> None:
    folders = {path.parent.name for path in NATIVE.glob("*/*.c")}
    assert folders == set(HEIGHT)
    assert len(sources_of(NATIVE)) > 100
    assert upward(NATIVE) == []
