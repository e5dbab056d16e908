"""The package keeps the promise of public_api.pyi: names, parameters, defaults."""

from __future__ import annotations

import ast
import inspect
import io
from pathlib import Path

import pytest

import pagecache

from .promise import PROMISE, compare, modules

pytestmark = pytest.mark.smoke("rules")

# Possible changes of the package, as the opposite change of the promise; the last line is stubtest's message.
BREACHES = {
    "a parameter is renamed": (
        "def rename(self, src: Key, dst: Key, *, replace: bool = True, timeout",
        "def rename(self, old: Key, dst: Key, *, replace: bool = True, timeout",
        'pagecache.Volume.rename is inconsistent, stub parameter "old" differs from runtime parameter "src"',
    ),
    "a C method takes more": (
        "def try_pread(self, size: int, offset: int, /)",
        "def try_pread(self, size: int, /)",
        'pagecache.CachedFile.try_pread is inconsistent, stub does not have parameter "offset"',
    ),
    "the default of an option is another": (
        "dirty_expire: float = 30.0",
        "dirty_expire: float = 60.0",
        'pagecache.CacheConfig.__init__ is inconsistent, runtime parameter "dirty_expire" has a default value of 30.0',
    ),
    "a name is gone": (
        "class DeadlockError(PageCacheError): ...",
        "class DeadlockError(PageCacheError): ...\nclass TurtleError(PageCacheError): ...",
        "pagecache.TurtleError is not present at runtime",
    ),
    "a value is another": (
        'NOREUSE = "noreuse"',
        'NOREUSE = "no reuse"',
        "pagecache.Advice.NOREUSE is not 'no reuse' at runtime",
    ),
    "an attribute is gone": (
        "    detached: bool\n",
        "    detached: bool\n    attached: bool\n",
        "pagecache.View.attached is not present at runtime",
    ),
    "a name of another module is gone": (
        "class LatencyBackend(Backend):",
        "class JitterBackend: ...\nclass LatencyBackend(Backend):",
        "pagecache.testing.JitterBackend is not present at runtime",
    ),
}

DOCUMENTED = {"Volume": {"setattr", "unsaved"}}
"""Public methods in addition to the promised ones."""


@pytest.mark.parametrize("name", ["PageCache", "Volume", "SyncTicket", "CachedFile", "View", "Trace"])
def test_dir_of_a_public_class_shows_the_public_interface_only(name: str) -> None:
    """The engine's own methods begin with an underscore: `dir()` and editors show no other names."""
    tree = ast.parse(modules(PROMISE.read_text(encoding="utf-8"))["pagecache"])
    promise = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    promised = {node.name for node in promise.body if isinstance(node, ast.FunctionDef)}
    promised |= {ast.unparse(node.target) for node in promise.body if isinstance(node, ast.AnnAssign)}
    kind = getattr(pagecache, name)
    inherited = dir(io.RawIOBase) if issubclass(kind, io.RawIOBase) else []
    shown = {member for member in dir(kind) if not member.startswith("_")}
    assert shown - promised - set(inherited) == DOCUMENTED.get(name, set())


def test_the_package_keeps_its_promise(tmp_path: Path) -> None:
    """Every promised name is there, and every call that was promised still works; there may be more."""
    assert compare(PROMISE.read_text(encoding="utf-8"), tmp_path) == []


def test_breaches_of_the_promise_are_found(tmp_path: Path) -> None:
    """Each has its own line; one run finds them all."""
    text = PROMISE.read_text(encoding="utf-8")
    for what, (promised, other, _) in BREACHES.items():
        assert text.count(promised) == 1, what
        text = text.replace(promised, other)
    found = compare(text, tmp_path)
    unseen = {what: line for what, (_, _, line) in BREACHES.items() if not any(line in one for one in found)}
    assert unseen == {}, found
    expected = [line for _, _, line in BREACHES.values()]
    assert [one for one in found if not any(line in one for line in expected)] == []


def test_hot_verbs_say_what_they_take() -> None:
    """`help` and editors show C methods like others."""
    shown = {name: str(inspect.signature(getattr(pagecache.CachedFile, name))) for name in ("pread", "append", "seek")}
    assert shown == {
        "pread": "(self, size, offset, /)",
        "append": "(self, /, data)",
        "seek": "(self, offset, whence=0, /)",
    }
