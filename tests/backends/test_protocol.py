"""The defaults of the `Backend` base class, its limits, and the URLs of backends."""

from __future__ import annotations

import ast
import errno
import importlib.metadata
import inspect
import io
import math
import pickle
import re
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import pagecache
from pagecache import PageCache
from pagecache.backends import (
    Backend,
    BackendLimits,
    DirectoryBackend,
    MemoryBackend,
    NamespaceBackend,
    ObjectStat,
    TransformBackend,
    backend_from_url,
    protocol,
    url,
)
from pagecache.backends.memory import MemoryFile
from pagecache.backends.passing import PassingBackend, SlowBackend
from pagecache.backends.plain import Completed
from pagecache.backends.transform.file import SUPPORTED, UNCHANGED, TransformFile
from pagecache.disk.backend import TieredBackend
from pagecache.engine.blocking import Blocking
from pagecache.errors import Key
from pagecache.testing import FaultyBackend, LatencyBackend

from ..file.rig import raises
from .transforms import XorStream


class Least(Backend):
    """Only the required methods."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
        return MemoryFile(1)

    def stat(self, key: Key) -> ObjectStat:
        return ObjectStat(size=0)


class LeastNamespace(NamespaceBackend, Least):
    pass


def test_subclass_gets_the_optional_methods() -> None:
    backend = Least()
    for call in (partial(backend.remove, "a"), partial(backend.rename, "a", "b"), backend.list):
        assert raises(io.UnsupportedOperation, call, match="Least cannot").errno == errno.ENOTSUP
    backend.sync()
    backend.close()
    assert backend.canonical("key") == "key"
    assert backend.limits == BackendLimits()


def test_namespace_subclass_gets_methods_that_say_no() -> None:
    backend, methods = LeastNamespace(), [name for name in vars(NamespaceBackend) if not name.startswith("_")]
    assert len(methods) == 12
    for method in [getattr(backend, name) for name in methods]:
        needed = [one for one in inspect.signature(method).parameters.values() if one.default is one.empty]
        raises(io.UnsupportedOperation, method, *["a"] * len(needed))


def test_the_protocol_describes_each_optional_member_of_a_file() -> None:
    described = re.findall(r"^    (\w+)[(:]", protocol.__doc__ or "", re.MULTILINE)
    assert sorted(described) == sorted(protocol.OPTIONAL_MEMBERS)


def test_a_transformed_file_has_a_method_for_each_optional_member_that_it_supports() -> None:
    assert [name for name in SUPPORTED - UNCHANGED if not hasattr(TransformFile, f"_{name}")] == []


def asked() -> set[str]:
    """The members that the cache looks for in a backend, and those that a protocol describes."""
    docs = f"{inspect.getdoc(Backend)}\n{inspect.getdoc(NamespaceBackend)}"
    names = {*re.findall(r"^    (\w+)\(self", docs, re.MULTILINE), *vars(NamespaceBackend)}
    package, parts = Path(pagecache.__file__).parent, ("engine", "volume", "disk", "fuse", "fsspec")
    for path in chain.from_iterable((package / part).rglob("*.py") for part in parts):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name("getattr" | "hasattr"), args=[of, ast.Constant(str(name)), *_]):
                    names |= {name} if ast.unparse(of).endswith("backend") else set()
    return {name for name in names if not name.startswith("_")}


WRAPPERS: list[Any] = [
    PassingBackend,
    SlowBackend,
    FaultyBackend,
    LatencyBackend,
    Completed,
    partial(TransformBackend, transform=XorStream()),
    partial(TieredBackend, tier=cast(Any, None), volume_id="store"),
    partial(Blocking, loop=cast(Any, None)),
]


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda made: getattr(made, "func", made).__name__)
def test_a_wrapper_has_what_the_cache_asks_a_backend_for(wrapper: Any, tmp_path: Path) -> None:
    names = asked() - {"inner"}
    assert {"lstat", "mknod", "warnings", "lasting_identity", "entries", "why_read_only"} <= names
    inner: Any = DirectoryBackend(tmp_path)
    for name in sorted(names):
        if not hasattr(inner, name):
            setattr(inner, name, lambda *_: None)
    wrapped = wrapper(inner)
    assert [name for name in sorted(names) if not hasattr(wrapped, name)] == []


def test_structure_is_enough() -> None:
    assert isinstance(MemoryBackend(), Backend)
    assert not isinstance(MemoryBackend(), NamespaceBackend)
    assert not isinstance(object(), Backend)


@pytest.mark.parametrize("text", ["", "nothing", "ftp://host", "memory:x", "dir:", "s3:bucket"])
def test_other_urls_are_refused_with_the_known_schemes(text: str) -> None:
    raised = raises(ValueError, backend_from_url, text)
    assert repr(text) in str(raised)
    if text.partition(":")[0] not in ("memory", "dir", "s3"):
        for scheme in ("memory:", "dir:", "s3:", "fsspec:"):
            assert scheme in str(raised)


def test_registered_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "tests.backends.test_protocol:Mine", url.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: EntryPoints([point]))
    monkeypatch.setattr(EntryPoint, "load", lambda self: lambda address, **options: Mine(address, options))
    backend = backend_from_url("mine:somewhere", depth=3)
    assert isinstance(backend, Mine)
    assert (backend.address, backend.options) == ("mine:somewhere", {"depth": 3})


class Mine(Least):
    def __init__(self, address: str, options: dict[str, Any]) -> None:
        self.address = address
        self.options = options


SIZES = ["max_read", "max_write", "max_vectors", "read_unit", "write_unit", "boundary", "direct_unit", "max_inflight"]
UNITS = ["read_unit", "write_unit", "direct_unit"]
FLAGS = [field.name for field in fields(BackendLimits) if field.type == "bool"]

NONSENSE: list[tuple[str, Any]] = [
    *[(name, value) for name in SIZES for value in (-1, -(1 << 40), "many", None, 1.5, True, 1 << 63)],
    *[(name, 0) for name in SIZES if name != "boundary"],
    *[(name, value) for name in UNITS for value in (1 << 31, "2GiB", 1 << 40, (1 << 63) - 1)],
    *[("max_inflight", value) for value in (1025, 1 << 32)],
    *[(name, value) for name in FLAGS for value in (None, 1, "yes")],
    *[("sync_timeout", value) for value in (-1, math.nan, "soon", True)],
]


@pytest.mark.parametrize(("name", "value"), NONSENSE, ids=[f"{name}={value!r}" for name, value in NONSENSE])
def test_nonsense_is_refused_with_its_name(name: str, value: Any) -> None:
    """A ValueError that names option and value. [2.26]"""
    assert repr(value) in str(raises(ValueError, BackendLimits, **{name: value}, match=name))


@pytest.mark.parametrize(
    ("limits", "name", "value"),
    [
        ({"write_unit": 5000, "max_write": 10_000}, "max_write", 10_000),
        ({"write_unit": "8MiB"}, "max_write", 8 << 20),
        ({"write_unit": (1 << 31) - 1}, "write_unit", (1 << 31) - 1),
        ({"max_inflight": 1024}, "max_inflight", 1024),
        ({"sync_timeout": 0}, "sync_timeout", 0),
        ({"boundary": 0}, "boundary", 0),
        ({"max_read": (1 << 63) - 1}, "max_read", (1 << 63) - 1),
    ],
)
def test_sensible_limits_are_accepted(limits: dict[str, Any], name: str, value: int) -> None:
    """The largest call is whole units, and at least one. [2.12]"""
    assert getattr(BackendLimits(**limits), name) == value


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        ({"write_unit": 3}, "max_write: 1048576 is not a multiple of write_unit .3.; 1048575 is"),
        ({"read_unit": 3}, "max_read: 1048576 is not a multiple of read_unit .3.; 1048575 is"),
        ({"write_unit": "4MiB", "max_write": "1MiB"}, "max_write: 1048576 is not a multiple of write_unit .4194304."),
        ({"read_unit": 512, "max_read": 1}, "max_read: 1 is not a multiple of read_unit .512.; 512 is"),
        ({"write_unit": 5000, "max_write": 12_000}, "max_write: 12000 is not a multiple of write_unit"),
        ({"boundary": 4097, "read_unit": 4096}, "boundary: 4097 is not a multiple of read_unit"),
        ({"boundary": 4096, "write_unit": 8192}, "boundary: 4096 is not a multiple of write_unit"),
    ],
)
def test_limits_that_do_not_fit_together_are_refused_and_not_changed(limits: dict[str, Any], rule: str) -> None:
    """No whole unit could be sent otherwise. [2.12]"""
    raises(ValueError, BackendLimits, **limits, match=rule)
    raises(ValueError, MemoryBackend, **limits, match=rule)


def test_the_largest_call_follows_the_unit_unless_it_was_given() -> None:
    changed = replace(replace(BackendLimits(), write_unit="8MiB"), read_unit="2MiB")
    assert (changed.max_write, changed.max_read) == (8 << 20, 2 << 20)
    assert replace(changed, write_unit=1).max_write == 1 << 20
    assert pickle.loads(pickle.dumps(changed)) == changed
    assert replace(pickle.loads(pickle.dumps(changed)), write_unit="16MiB").max_write == 16 << 20
    raises(ValueError, replace, BackendLimits(max_write="1MiB"), write_unit="8MiB", match="max_write: 1048576")


def test_the_largest_calls_work() -> None:
    """No number of bytes overflows on the way. [2.3, 2.11]"""
    backend = MemoryBackend(limits=BackendLimits(max_read=(1 << 63) - 1, max_write=(1 << 63) - 1))
    with PageCache("1MiB") as cache, cache.attach(backend).open("file", "w+") as file:
        file.pwrite(b"x" * 100_000, 300_000)
        file.fsync()
        cache.volumes()[0].drop_clean()
        assert file.pread(500_000, 0) == bytes(300_000) + b"x" * 100_000


@pytest.mark.parametrize("limits", [None, {}, SimpleNamespace(write_unit=-1)])
def test_limits_of_another_kind_are_refused_at_attach(limits: object) -> None:
    """They would reach the core unchecked. [2.26]"""
    backend = MemoryBackend()
    backend.limits = cast(BackendLimits, limits)
    with PageCache("1MiB") as cache, pytest.raises(TypeError, match="limits"):
        cache.attach(backend)
