"""Backends of any class: `open` and `stat` are enough; a class without them is refused with all that it lacks.

Backends that answer wrongly, fail oddly, or keep buffers: an error about a wrong answer contains the answer.
"""

from __future__ import annotations

import errno
import io
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

import pagecache
from pagecache import (
    BackendError,
    BackendLimits,
    BackendProtocolError,
    CommitError,
    ObjectStat,
    PageCache,
    WritebackError,
)
from pagecache.backends import MemoryBackend, TransformBackend
from pagecache.testing import FaultyBackend, LatencyBackend

from ..backends.transforms import XorStream
from ..plain import AsyncBlobs, AsyncWrong, Blobs, Wrong
from ..stores import answering, short
from .rig import KEY, ONCE, PAGE, Make, Rig, attached, content_of, dirty_bytes, pattern, raises, stored


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


DATA = pattern(3 * PAGE + 5)
TRANSIENT = """
EIO EAGAIN EINTR ETIMEDOUT ECONNRESET ECONNREFUSED ECONNABORTED EHOSTUNREACH ENETDOWN ENETUNREACH ENOBUFS ENOMEM EBUSY
"""
PERMANENT = "ENOSPC EDQUOT EACCES EROFS EFBIG EINVAL EBADF"


@pytest.mark.parametrize(
    "step",
    [lambda n: 1 if n < 200 else n - 1, lambda n: math.ceil(n / 2), lambda n: max(n - 1, 1), lambda n: min(n, 1000)],
    ids=["one left out", "half", "all but one", "a thousand"],
)
def test_short_acknowledgements_lose_nothing(dirty: Rig, step: Callable[[int], int]) -> None:
    """The rest is sent again without an error; acknowledged bytes are not. [T-17, 2.14]"""
    dirty.backend.fault("write_from", short(step), times=float("inf"))
    assert dirty.saved(dirty.handles[0]) == DATA
    assert dirty.cache.stats().short_writes > 0


MISSING = "; a `return` is missing?"


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


WRONG_ANSWERS: dict[str, tuple[object, str]] = {
    "None": (None, f"it returned None{MISSING}"),
    "negative": (-1, "it returned -1"),
    "too much": (lambda n: n + 1, "it returned "),
    "far too much": (1 << 70, f"it returned {1 << 70}"),
    "a float": (7.0, "it returned 7.0"),
    "text": ("12", "it returned '12'"),
    "a tuple": ((1,), "it returned (1,)"),
    "bytes": (b"x", "it returned b'x'"),
    "no repr": (Odd(), "it returned "),
}


@pytest.mark.parametrize("answer", [*WRONG_ANSWERS, "nothing, three times"])
def test_a_wrong_answer_to_a_write_is_an_error(dirty: Rig, answer: str) -> None:
    """WritebackError with EPROTO and the answer, or EIO; the data is kept and repairable. [T-17, T-60, 2.14]"""
    value, words = WRONG_ANSWERS.get(answer, (0, ""))
    dirty.backend.fault("write_from", answering(value), times=float("inf"))
    match = f"number of bytes taken.*: {re.escape(words)}" if words else None
    assert raises(WritebackError, dirty.handles[0].fsync, match=match).errno == (errno.EPROTO if words else errno.EIO)
    assert dirty.handles[0].pread(len(DATA), 0) == DATA
    assert dirty_bytes(dirty.volume) == len(DATA)
    dirty.backend.clear_faults()
    assert dirty.saved(dirty.handles[0]) == DATA


@pytest.mark.parametrize("answer", WRONG_ANSWERS)
def test_a_wrong_answer_to_a_read_is_a_protocol_error(make: Make, answer: str) -> None:
    """Nothing of it becomes valid; the next read is right. [T-60, 2.14]"""
    rig, file = make({KEY: DATA}).opened("rb")
    value, words = WRONG_ANSWERS[answer]
    rig.backend.fault("read_into", answering(value))
    caught = raises(BackendProtocolError, file.pread, PAGE, 0, match=f"number of bytes read.*: {re.escape(words)}")
    assert caught.errno == errno.EPROTO
    assert file.pread(len(DATA), 0) == DATA


@pytest.mark.parametrize("answer", [5, b"v1", ("v1",)], ids=str)
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("bound", [False, True])
def test_a_version_that_is_no_str_is_a_protocol_error(make: Make, bound: bool, prompt: bool, answer: object) -> None:
    """Nothing counts as committed, and the next commit is right. `bound`: C makes the call. [2.14, 2.18]"""
    rig, file = make({KEY: b""}, retry=ONCE, limits={"prompt": prompt}).written(DATA, 0)
    file.flush()
    if not bound:
        file._inode.bound_commit = None
    rig.backend.fault("commit", answering(answer))
    caught = raises(CommitError, file.fsync, match=f"a str or None: it returned {re.escape(repr(answer))}")
    assert caught.errno == errno.EPROTO
    assert dirty_bytes(rig.volume) == len(DATA)
    assert rig.saved(file) == DATA


ODD = (ValueError, KeyError, ZeroDivisionError, MemoryError, RuntimeError, AssertionError, EOFError, UnicodeError)


# An error, how often it comes, the number of calls, and whether the last one succeeds.
TRIED: dict[str, tuple[Exception, float, int, bool]] = {
    **{name: (OSError(getattr(errno, name), "passing"), 2, 3, True) for name in TRANSIENT.split()},
    **{name: (OSError(getattr(errno, name), "final"), 1, 1, False) for name in PERMANENT.split()},
    **{kind.__name__: (kind("odd"), 1, 1, False) for kind in ODD},
    "again and again": (OSError(errno.EIO, "always"), math.inf, 3, False),
    "says that it is transient": (BackendError(errno.ENOSPC, "listen to me", retry=True), 1, 2, True),
    "says that it is permanent": (BackendError(errno.EIO, "listen to me", retry=False), 1, 1, False),
}


@pytest.mark.parametrize("name", TRIED)
def test_transient_errors_are_tried_again_and_others_reported_at_once(make: Make, name: str) -> None:
    """By the errno, unless a BackendError says otherwise. Other exceptions are EIO, with their cause. [T-60, 2.14]"""
    error, times, calls, saved = TRIED[name]
    code, text = (error.errno, error.strerror) if isinstance(error, OSError) else (errno.EIO, "odd")
    rig, file = make({KEY: DATA}).opened("r+b")
    rig.backend.fault("read_into", error, times=times)
    if saved:
        assert file.pread(PAGE, 0) == DATA[:PAGE]
    else:
        caught = raises(OSError, file.pread, PAGE, 0)
        assert caught.errno == code
        assert str(text) in f"{caught} {caught.__cause__}"
    assert len(rig.backend.seen("read_into")) == calls
    file.pwrite(DATA[::-1], 0)
    rig.backend.fault("write_from", error, times=times)
    if saved:
        file.fsync()
    else:
        assert raises(WritebackError, file.fsync, match=str(text)).errno == code
    assert len(rig.backend.seen("write_from")) == calls
    assert [failed.attempts for failed in rig.volume.failed()] == ([] if saved else [calls])
    assert not saved or rig.cache.stats().retries >= times
    rig.backend.clear_faults()
    assert rig.saved(file) == DATA[::-1]


@pytest.mark.parametrize("kind", [Wrong, AsyncWrong])
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"list": None}, f"list() answered None, which is not iterable{MISSING}"),
        ({"list": ["key"]}, "list() answered with 'key', which is not an ObjectStat"),
        ({"stat": None}, f"stat() answered None, which has no size of 0 or more{MISSING}"),
        ({"stat": (5, "v")}, "stat() answered (5, 'v'), which has no size of 0 or more"),
        ({"stat": ObjectStat(size=-1)}, "which has no size of 0 or more"),
        (
            {"open": None},
            f"open() answered None, which has no stat, no read_into, no write_from, no truncate, no commit{MISSING}",
        ),
        ({"open": io.BytesIO()}, "which has no stat, no read_into, no write_from, no commit: 'key'"),
    ],
)
def test_a_wrong_answer_of_open_stat_or_list_is_shown(kind: Any, answers: dict[str, Any], words: str) -> None:
    """Open and list refuse it, and the key works afterwards. [T-60]"""
    if kind is AsyncWrong and ("list" in answers or answers.get("open")):
        pytest.skip("it has no list, and files of its own")
    backend = kind(**answers)
    with attached(backend, "1MiB") as volume:
        call = (lambda: list(volume.list())) if "list" in answers else (lambda: volume.open("key"))
        assert words in str(raises(BackendProtocolError, call))
        (backend.blobs if kind is AsyncWrong else backend).answers.clear()
        assert content_of(volume, "key")[:10] == b"12345"


SMALL = pattern(100)

OF_NAMES: dict[str, tuple[str, Callable[[Rig], Any]]] = {
    "open": ("open", lambda rig: rig.volume.open("other").close()),
    "create": ("open", lambda rig: rig.volume.open("new", "xb").close()),
    "the stat of an open": ("file_stat", lambda rig: rig.volume.open("other").close()),
    "stat": ("stat", lambda rig: rig.volume.stat("other")),
    "stat of an unsaved file": ("file_stat", lambda rig: (rig.handles[0].pwrite(b"new", 0), rig.volume.stat(KEY))),
    "exists": ("stat", lambda rig: rig.volume.exists("other")),
    "list": ("list", lambda rig: list(rig.volume.list())),
    "remove": ("remove", lambda rig: rig.volume.remove("other")),
    "rename": ("rename", lambda rig: rig.volume.rename("other", "another")),
}


@pytest.mark.parametrize("verb", OF_NAMES)
def test_an_exception_that_is_no_oserror_is_reported_as_a_fault_of_the_backend(make: Make, verb: str) -> None:
    """`except OSError` catches it; it has the cause and the key, and the volume goes on. [T-66, 2.14]"""
    op, call = OF_NAMES[verb]
    rig = make({KEY: SMALL, "other": SMALL})
    rig.open("r+b")
    fault = rig.backend.fault(op, KeyError("index"))
    caught = raises(BackendProtocolError, call, rig, match="KeyError")
    assert fault.nr_hit == 1
    assert isinstance(caught.__cause__, KeyError)
    assert caught.errno == errno.EPROTO
    if verb != "list":
        assert caught.filename in ("other", "new", KEY)
    call(rig)
