"""A wrong argument is an error that names the value and the rule, before anything has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import pagecache
from pagecache import PageCache
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultyBackend, LatencyBackend

from .rig import KEY, PAGE, Rig, pattern

Make = Callable[..., Rig]
Misuse = Callable[[Any, Any], object]

OF_A_VOLUME: dict[str, tuple[Misuse, type[Exception], str]] = {
    "a class": (lambda c, v: c.attach(MemoryBackend), TypeError, r"MemoryBackend is a class; give an object: Mem.*\("),
    "options of another kind": (lambda c, v: c.attach("memory:", options={"read_only": True}), TypeError, "not dict"),
    "a name that is none": (lambda c, v: c.attach("memory:", name=5), TypeError, "name must be a str, not int"),
    "flags that are text": (lambda c, v: v.open(KEY, flags="r"), TypeError, "'str'"),
    "flags without access": (lambda c, v: v.open(KEY, flags=3), ValueError, "flags 3 have none of os.O_RDONLY"),
    "a timeout that is text": (lambda c, v: v.sync("5"), TypeError, "timeout must be a number of seconds or None"),
    "no backend to go on with": (lambda c, v: v.reconnect(5), TypeError, "backend 5 has no open"),
    "no backend inside": (lambda c, v: FaultyBackend(None), TypeError, "inner: None has no open"),  # type: ignore[arg-type]
    "a class inside": (lambda c, v: FaultyBackend(MemoryBackend), TypeError, "is not a Backend"),  # type: ignore[arg-type]
    "a delay that is text": (
        lambda c, v: LatencyBackend(MemoryBackend(), read="1ms"),  # type: ignore[arg-type]
        ValueError,
        "read: '1ms' is not a number of seconds",
    ),
    "no URL": (lambda c, v: pagecache.backend_from_url(5), TypeError, "url must be a str, not int"),  # type: ignore[arg-type]
}

OF_A_HANDLE: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "one buffer for several": (lambda f: f.pwritev(b"abc", 0), TypeError, "a list of bytes-like objects, not bytes"),
    "a generator": (lambda f: f.pwritev((b for b in [b"x"]), 0), TypeError, "not generator"),
    "no buffers": (lambda f: f.preadv(5, 0), TypeError, "not int"),
    "read-only memory": (lambda f: f.pread_into(b"abc", 0), TypeError, "not one that is read-only or strided"),
    "a huge size": (lambda f: f.read(2**70), ValueError, "size 1180591620717411303424 is not in the range"),
    "a huge position": (lambda f: f.seek(2**63), ValueError, "offset 9223372036854775808 is not in the range"),
    "no advice": (lambda f: f.advise("sequentially"), ValueError, "advice 'sequentially' is not one of Advice.NORMAL"),
    "no pair": (lambda f: f.prefetch_ranges([5]), TypeError, r"ranges: 5 is not a pair \(offset, length\)"),
    "three for a pair": (lambda f: f.prefetch_ranges([(1, 2, 3)]), TypeError, "is not a pair"),
    "a timeout": (lambda f: f.fsync(timeout="1"), TypeError, "timeout must be a number of seconds or None, not str"),
}


@pytest.mark.parametrize("what", OF_A_VOLUME)
def test_misuse_of_a_volume_is_an_error_and_changes_nothing(make: Make, what: str) -> None:
    """The volume goes on. [T-59]"""
    rig = make({KEY: pattern(PAGE)})
    call, kind, text = OF_A_VOLUME[what]
    with pytest.raises(kind, match=text):
        call(rig.cache, rig.volume)
    assert rig.cache.volumes() == (rig.volume,)
    with rig.volume.open(KEY, "r+") as file:
        assert file.pwrite(b"on", 0) == 2
        file.fsync()


@pytest.mark.parametrize("what", OF_A_HANDLE)
def test_misuse_of_a_handle_is_an_error_and_changes_nothing(make: Make, what: str) -> None:
    """Its bytes and its position stay. [T-59]"""
    rig = make({KEY: pattern(PAGE)})
    file = rig.open("r+b")
    call, kind, text = OF_A_HANDLE[what]
    with pytest.raises(kind, match=text):
        call(file)
    assert (file.tell(), file.read()) == (0, pattern(PAGE))


def test_sequences_of_buffers_of_any_kind(make: Make) -> None:
    """Lists, tuples, and any other sequence of buffers, such as the rows of an array."""
    numpy = pytest.importorskip("numpy")
    file = make({KEY: b""}).open("r+b")
    rows = numpy.arange(12, dtype="u1").reshape(3, 4)
    assert file.pwritev(rows, 0) == file.pwritev((b"a" * 6, bytearray(6)), 12) == 12
    target = numpy.zeros((3, 4), dtype="u1")
    assert file.preadv(target, 0) == 12
    assert (target == rows).all()


def test_the_conformance_suite_is_imported_by_name_alone() -> None:
    """`from pagecache.testing import *` imports no pytest."""
    import pagecache.testing

    assert "BackendConformance" not in pagecache.testing.__all__
    assert pagecache.testing.BackendConformance is not None
    with PageCache("1MiB") as cache:
        cache.attach(FaultyBackend(MemoryBackend(), "none"))
