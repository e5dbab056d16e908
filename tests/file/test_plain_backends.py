"""Backends of any class: `open` and `stat` are enough; a class without them is refused with all that it lacks."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

import pagecache
from pagecache import BackendLimits, ObjectStat, PageCache
from pagecache.backends import MemoryBackend, TransformBackend
from pagecache.testing import FaultyBackend, LatencyBackend

from ..backends.transforms import XorStream
from ..plain import AsyncBlobs, Blobs
from .rig import attached, raises, stored


def used(volume: pagecache.Volume) -> None:
    """Write, commit, read back past the cache, and call methods that the store does not have."""
    with volume.open("key", "w+") as file:
        file.write(b"content")
        file.fsync()
        volume.drop_clean()
        assert file.pread(100, 0) == b"content"
    volume.sync()
    assert volume.stat("key").size == 7
    for call in (lambda: volume.remove("key"), lambda: volume.rename("key", "new"), lambda: list(volume.list())):
        raises(io.UnsupportedOperation, call, match=r"Blobs cannot (remove|rename|list) objects")


@pytest.mark.parametrize("kind", [Blobs, AsyncBlobs])
def test_an_object_with_open_and_stat_is_a_backend(kind: Callable[[], Any]) -> None:
    backend = kind()
    with attached(backend, "1MiB") as volume:
        assert volume.backend is backend
        assert volume.name == f"{kind.__name__}-1"
        used(volume)
        raises(ValueError, volume.cache.attach, backend, match="is in this cache already")
        volume.reconnect(backend)
        assert volume.backend is backend
        volume.reconnect(kind())
        assert volume.backend is not backend


@pytest.mark.parametrize("same", [True, False], ids=["this cache", "another cache"])
@pytest.mark.parametrize("kind", [Blobs, AsyncBlobs, MemoryBackend])
def test_a_backend_is_attached_once_in_a_process(kind: Callable[[], Any], same: bool) -> None:
    """Two volumes would miss each other's changes, and the first detach would close it under the other. [T-59, 2.14]"""
    backend, mirror = kind(), MemoryBackend()
    options = {"name": "first", "mirror": mirror}
    with attached(backend, "1MiB", options=options) as volume, PageCache("1MiB") as another:
        other = volume.cache if same else another
        where = "is in this cache already" if same else f"is in another cache .*{volume.cache.name}.* already"
        for taken in (backend, mirror):
            raises(ValueError, other.attach, taken, match=rf"{where}, as volume 'first'")
            raises(ValueError, other.attach, "memory:", mirror=taken, match=rf"mirror: .* {where}")
        assert (*volume.cache.volumes(), *another.volumes()) == (volume,)
        elsewhere = other.attach("memory:")
        elsewhere.abort()
        raises(ValueError, elsewhere.reconnect, mirror, match=where)
        volume.detach()
        other.attach(backend)
    with PageCache("1MiB") as later:
        later.attach(mirror)


def test_optional_methods_of_a_plain_backend_are_always_used() -> None:
    backend: Any = Blobs()
    backend.limits = BackendLimits(max_write=8192)
    backend.canonical = lambda key: str(key).lower()
    with attached(backend, "1MiB") as volume, volume.open("KEY", "w") as file:
        file.write(bytes(100))
        assert volume.stat("key").size == 100
        backend.list = lambda prefix="": iter([ObjectStat(size=1, key="listed")])
        assert [stat.key for stat in volume.list()] == ["listed"]
        backend.limits = BackendLimits(read_only=True)
        raises(PermissionError, volume.open, "new", "w")
        backend.limits = BackendLimits()


@pytest.mark.parametrize(
    "wrap",
    [FaultyBackend, LatencyBackend, lambda inner: TransformBackend(inner, XorStream()), lambda inner: inner],
    ids=["faults", "latency", "transform", "mirror"],
)
def test_a_plain_backend_can_be_wrapped_and_be_a_mirror(wrap: Callable[[Any], Any]) -> None:
    store = Blobs()
    with PageCache("1MiB") as cache:
        used(cache.attach(wrap(store), mirror=Blobs()))
    assert len(store.objects["key"]) == 7


def test_faults_are_of_a_blocking_backend() -> None:
    raises(TypeError, lambda: FaultyBackend(AsyncBlobs()), match="is asynchronous")


class OnlyStat:
    def stat(self, key: object) -> ObjectStat:
        raise FileNotFoundError(key)


class WithLimits(Blobs):
    limits: ClassVar[Any] = {"max_read": 5}


WAYS: dict[str, Callable[[Any, Any, Any], object]] = {
    "attach": lambda cache, volume, backend: cache.attach(backend),
    "mirror": lambda cache, volume, backend: cache.attach(MemoryBackend(), mirror=backend),
    "reconnect": lambda cache, volume, backend: volume.reconnect(backend),
    "transform": lambda cache, volume, backend: TransformBackend(backend, XorStream()),
    "faults": lambda cache, volume, backend: FaultyBackend(backend),
    "latency": lambda cache, volume, backend: LatencyBackend(backend),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (object(), ["has no open and no stat", "subclass pagecache.Backend (or AsyncBackend)"]),
        (OnlyStat(), ["has no open:", "subclass pagecache.Backend (or AsyncBackend)"]),
        (WithLimits(), ["{'max_read': 5}", "limits", "not a BackendLimits", "limits = BackendLimits("]),
        (Blobs, ["Blobs is a class", "Blobs(...)"]),
        (Path("/tmp/x"), ["dir:/tmp/x"]),
        (Path("x/y"), ["dir:x/y"]),
    ],
    ids=["object", "stat alone", "limits", "class", "path", "relative path"],
)
def test_an_object_that_is_no_backend_is_refused_with_all_it_lacks(way: str, backend: Any, words: list[str]) -> None:
    with attached("memory:", "1MiB") as volume:
        raised = raises(TypeError, WAYS[way], volume.cache, volume, backend)
        for word in words:
            assert word in str(raised)
        assert volume.cache.volumes() == (volume,)
        stored(volume, "key", b"the volume goes on")


@pytest.mark.parametrize("way", ["attach", "mirror", "reconnect"])
@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/tmp/x", "dir:/tmp/x"),
        ("file:///tmp/x%20y", "dir:/tmp/x y"),
        ("file:/tmp/x", "dir:/tmp/x"),
        ("file://localhost/tmp/x", "dir:/tmp/x"),
        ("x/y", "dir:x/y"),
        ("memory", "memory:"),
    ],
)
def test_a_path_or_a_file_url_is_refused_with_the_url_of_the_directory(way: str, text: str, url: str) -> None:
    with attached("memory:", "1MiB") as volume:
        raised = raises(ValueError, WAYS[way], volume.cache, volume, text, match="did you mean")
        assert repr(text) in str(raised)
        assert f"did you mean {url!r}?" in str(raised)


class NoFile(Blobs):
    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        return io.BytesIO()


def test_a_file_that_lacks_methods_is_refused_with_all_of_them() -> None:
    with PageCache("1MiB") as cache:
        volume = cache.attach(NoFile())
        with pytest.raises(
            pagecache.BackendProtocolError, match=r"no stat, no read_into, no write_from, no commit: 'key'$"
        ):
            volume.open("key")


class Whole(Blobs):
    """A store with one object, without a name."""

    def canonical(self, key: Any) -> Any:
        return key


@pytest.mark.parametrize("key", [None, "", b""])
def test_an_empty_key_is_refused_unless_the_backend_accepts_it(key: Any) -> None:
    backends: list[Any] = [MemoryBackend(), Blobs(), AsyncBlobs(), FaultyBackend(Blobs())]
    with PageCache("1MiB") as cache:
        for backend in backends:
            volume = cache.attach(backend)
            for call in (volume.open, volume.stat, volume.exists, volume.remove, partial(volume.rename, "a")):
                raises(ValueError, call, key, match=f"key {key!r} names no object")
            raises(ValueError, volume.open, key, "w", match=f"key {key!r} names no object")
        with cache.attach(Whole()).open(key, "w+") as file:
            file.write(b"content")


def test_a_listed_object_with_an_empty_key_does_not_end_the_listing() -> None:
    backend: Any = Blobs()
    backend.list = lambda prefix="": iter([ObjectStat(size=1, key=""), ObjectStat(size=2, key="two")])
    with PageCache("1MiB") as cache:
        assert [stat.size for stat in cache.attach(backend).list()] == [1, 2]
