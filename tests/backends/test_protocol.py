"""The defaults of the `Backend` base class, and the URLs of backends."""

from __future__ import annotations

import errno
import importlib.metadata
import inspect
import io
import re
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import (
    Backend,
    BackendLimits,
    DirectoryBackend,
    MemoryBackend,
    NamespaceBackend,
    ObjectStat,
    backend_from_url,
    protocol,
    url,
)
from pagecache.backends.memory import MemoryFile
from pagecache.backends.transform.file import SUPPORTED, UNCHANGED, TransformFile
from pagecache.errors import Key

from ..file.rig import raises


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


def test_required_methods_are_required() -> None:
    class Nothing(Backend):
        pass

    with pytest.raises(TypeError, match="open"):
        Nothing()  # type: ignore[abstract]


def test_the_protocol_describes_each_optional_member_of_a_file() -> None:
    described = re.findall(r"^    (\w+)[(:]", protocol.__doc__ or "", re.MULTILINE)
    assert sorted(described) == sorted(protocol.OPTIONAL_MEMBERS)


def test_a_transformed_file_has_a_method_for_each_optional_member_that_it_supports() -> None:
    assert [name for name in SUPPORTED - UNCHANGED if not hasattr(TransformFile, f"_{name}")] == []


def test_structure_is_enough() -> None:
    assert isinstance(MemoryBackend(), Backend)
    assert not isinstance(MemoryBackend(), NamespaceBackend)
    assert not isinstance(object(), Backend)


def test_built_in_urls(tmp_path: Path) -> None:
    assert isinstance(backend_from_url("memory:", durable_writes=True), MemoryBackend)
    backend = backend_from_url(f"dir:{tmp_path}")
    assert isinstance(backend, DirectoryBackend)
    assert backend.root == str(tmp_path.resolve())
    backend.close()


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
