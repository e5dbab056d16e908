"""The promised interface (public_api.pyi) as stubs, one per module, and its comparison with the installed package.

public_api.pyi is one file for readers; its content belongs to several modules. `write_stubs` splits it at its lines "#
module NAME", and writes out the `__init__` of each dataclass: mypy's stubtest ignores the defaults of fields, but
compares those of parameters one by one.

The package may have more than is promised (--ignore-missing-stub), but nothing less and nothing different. Additional
optional parameters and names are permitted. Names of a later version are in `LATER`, each with its reason, until they
exist.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["LATER", "PROMISE", "compare", "modules", "write_stubs"]

PROMISE = Path(__file__).parent / "public_api.pyi"

LATER: dict[str, str] = {}


def modules(text: str) -> dict[str, str]:
    """Module name → its part of the promise; the imports are those of the beginning."""
    head, *parts = re.split(r"^# module ([\w.]+)\n", text, flags=re.MULTILINE)
    return {name: head + body for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _defined(tree: ast.Module) -> list[str]:
    """The names that a module makes, not those that it imports."""
    found = []
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                found.append(name)
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
                found.append(name)
    return found


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _constructor(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> str:
    """`__init__` of a dataclass, fields of its bases first. A default that is no constant is made for each call."""
    fields: list[ast.AnnAssign] = []
    kinds = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    for kind in [*kinds, node]:
        fields += [statement for statement in kind.body if isinstance(statement, ast.AnnAssign)]
    keywords = ["*"] if "kw_only=True" in ast.unparse(node.decorator_list[0]) else []
    parameters = ["self", *keywords]
    for field in fields:
        default = "" if field.value is None else " = ..." if isinstance(field.value, ast.Call) else None
        default = f" = {ast.unparse(field.value)}" if default is None and field.value is not None else default
        parameters.append(f"{ast.unparse(field.target)}: {ast.unparse(field.annotation)}{default}")
    return f"def __init__({', '.join(parameters)}) -> None: ..."


def write_stubs(text: str, folder: Path) -> None:
    """Write the stubs of a promise below `folder`."""
    parts = {name: ast.parse(body) for name, body in modules(text).items()}
    home = dict.fromkeys(_defined(parts["pagecache"]))
    for name, tree in parts.items():
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in classes.values():
            if _is_dataclass(node):
                # A class derived without new fields gets only those of its base.
                node.body += ast.parse(_constructor(node, classes)).body
        path = folder.joinpath(*name.split("."), "__init__.pyi")
        path.parent.mkdir(parents=True, exist_ok=True)
        borrowed = "" if name == "pagecache" else f"from pagecache import {', '.join(home)}\n"
        path.write_text(borrowed + ast.unparse(tree), encoding="utf-8")


def _is_addition(name: str, parameter: str) -> bool:
    """Return whether a promised call still works: the parameter is optional."""
    found = inspect.signature(pkgutil.resolve_name(name)).parameters[parameter]
    return found.default is not found.empty or found.kind in (found.VAR_POSITIONAL, found.VAR_KEYWORD)


def _constructed(text: str) -> set[str]:
    """The classes that a program may call; the others it gets from a call of the package."""
    return {
        f"{module}.{node.name}"
        for module, body in modules(text).items()
        for node in ast.parse(body).body
        if isinstance(node, ast.ClassDef)
        and (_is_dataclass(node) or any(isinstance(f, ast.FunctionDef) and f.name == "__init__" for f in node.body))
    }


def _is_kept(line: str, constructed: set[str]) -> bool:
    """Return whether a line of stubtest is no breach of the promise."""
    name, _, what = line.partition(" ")
    owner, _, member = name.rpartition(".")
    if what == "is read-only at runtime but not in the stub" or member == "__slots__":
        return True
    if member == "__init__" and owner not in constructed:
        return True
    more = re.fullmatch(r'is inconsistent, stub does not have parameter "(\w+)"', what)
    return more is not None and _is_addition(name, more[1])


def _attributes(text: str) -> list[str]:
    """Missing attributes of classes, in the words of stubtest, which does not check them."""
    missing = []
    for module, body in modules(text).items():
        for node in ast.parse(body).body:
            name = f"{module}.{getattr(node, 'name', '')}"
            if not isinstance(node, ast.ClassDef) or name in LATER or _is_dataclass(node):
                continue
            try:
                kind = pkgutil.resolve_name(name)
            except AttributeError:
                continue  # stubtest says so
            there = {
                known for base in kind.__mro__ for known in {**vars(base), **vars(base).get("__annotations__", {})}
            }
            for statement in node.body:
                match statement:
                    case ast.AnnAssign(target=ast.Name(id=attribute)) if attribute not in there:
                        missing.append(f"{name}.{attribute} is not present at runtime")
                    case ast.Assign(targets=[ast.Name(id=attribute)], value=ast.Constant(value=value)):
                        if getattr(getattr(kind, attribute, None), "value", None) != value:
                            missing.append(f"{name}.{attribute} is not {value!r} at runtime")
    return missing


def compare(text: str, folder: Path) -> list[str]:
    """The breaches that stubtest finds, and entries of `LATER` that exist already."""
    write_stubs(text, folder)
    workplace = folder / "run"  # not `folder` itself, which mypy would then find under two names
    workplace.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--ignore-missing-stub", "--concise", "pagecache"],
        cwd=workplace,
        env={"MYPYPATH": str(folder), "PATH": "", "PYTHONPATH": str(PROMISE.parent.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line and not line.startswith("Success: ")]
    if any(line.startswith("error: ") for line in lines):
        return lines  # it could not run
    absent = {name: f"{name} is not present at runtime" for name in LATER}
    stale = [f"{name} is there: LATER need no longer name it" for name, line in absent.items() if line not in lines]
    constructed = _constructed(text)
    lines += _attributes(text)
    return stale + [line for line in lines if line not in absent.values() and not _is_kept(line, constructed)]
