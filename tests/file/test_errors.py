"""Bad arguments: the message names the value and the rule, and nothing has changed.

A handle is an io.RawIOBase: calls on an unbuffered file of the operating system give equal answers.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pagecache
from pagecache import CachedFile, PageCache, testing
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultyBackend, LatencyBackend

from ..stores import RecordingBackend, StoredObject
from .rig import KEY, PAGE, Make, Rig, make_rig, pattern, raises

DATA = pattern(3 * PAGE)
HUGE = (1 << 63) - 1
BAD = (ValueError, TypeError, OSError, OverflowError)

OFFSETS: dict[str, Any] = {
    "negative": -17,
    "very negative": -(1 << 63),
    "beyond 63 bits": 1 << 63,
    "beyond 64 bits": 1 << 64,
    "far beyond": 1 << 200,
    "float": 1.5,
    "text": "5",
    "None": None,
    "bytes": b"5",
}
POSITIONAL: dict[str, Callable[[CachedFile, Any], object]] = {
    "pread": lambda f, x: f.pread(10, x),
    "pread_into": lambda f, x: f.pread_into(bytearray(10), x),
    "preadv": lambda f, x: f.preadv([bytearray(10)], x),
    "pwrite": lambda f, x: f.pwrite(b"x", x),
    "pwritev": lambda f, x: f.pwritev([b"x"], x),
    "try_pread": lambda f, x: f.try_pread(10, x),
    "try_pwrite": lambda f, x: f.try_pwrite(b"x", x),
    "punch_hole": lambda f, x: f.punch_hole(x, 10),
    "zero_range": lambda f, x: f.zero_range(x, 10),
    "view": lambda f, x: f.view(x, 10),
    "sync_range": lambda f, x: f.sync_range(x, 10),
    "prefetch": lambda f, x: f.prefetch(x, 10),
}


@pytest.fixture
def stored(make: Make) -> Rig:
    """A file of three pages with three dirty bytes."""
    rig, _ = make({KEY: DATA}).written(b"xyz", 100)
    return rig


def unchanged(rig: Rig) -> None:
    """Check that content, size and dirty ranges are as before, and that the invariants hold."""
    file = rig.handles[0]
    assert file.size == len(DATA)
    ((offset, length),) = rig.volume.dirty_ranges(KEY)
    assert 0 <= offset <= 100 < 103 <= offset + length <= PAGE  # wider if the whole page is valid
    rig.cache.check()
    assert file.pread(4 * PAGE, 0) == DATA[:100] + b"xyz" + DATA[103:]
    assert rig.cache.stats().pinned == 0


SIZED: dict[str, Callable[[CachedFile, Any], object]] = {
    "pread": lambda f, n: f.pread(n, 0),
    "try_pread": lambda f, n: f.try_pread(n, 0),
    "punch_hole": lambda f, n: f.punch_hole(0, n),
    "view": lambda f, n: f.view(0, n),
    "zero_range": lambda f, n: f.zero_range(0, n),
    "sync_range": lambda f, n: f.sync_range(0, n),
    "truncate": lambda f, n: f.truncate(n),
}


@pytest.mark.parametrize("number", OFFSETS)
@pytest.mark.parametrize("kind", ["offset", "size"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_bad_offset_or_size_is_refused(stored: Rig, direct: bool, kind: str, number: str) -> None:
    """Negative, too large for 63 bits, not an integer; the error names a negative offset. [T-59, 2.1]"""
    file = stored.open("r+b", direct=direct)
    for name, call in (POSITIONAL if kind == "offset" else SIZED).items():
        if kind == "size" and number == "None":
            continue  # it has a meaning for some verbs
        with pytest.raises(BAD if kind == "offset" else (*BAD, MemoryError)) as caught:
            pytest.fail(f"{name} answered {call(file, OFFSETS[number])!r}")
        if (kind, number) == ("offset", "negative"):
            assert type(caught.value) is ValueError
            assert "-17" in str(caught.value)
        unchanged(stored)


def test_a_read_of_or_near_the_largest_numbers_costs_no_memory(stored: Rig) -> None:
    """The size is cut at the end of the file before anything is allocated. No byte is behind it. [T-59, 2.5]"""
    assert len(stored.handles[0].pread(1 << 40, 0)) == len(DATA)
    assert len(stored.handles[0].pread(1 << 40, 2 * PAGE)) == PAGE
    for offset in (HUGE, HUGE - 1, HUGE - PAGE):
        try:
            assert stored.handles[0].pread(10, offset) == b""
        except (ValueError, OverflowError, OSError):
            pass
    unchanged(stored)


NO_BUFFERS: dict[str, Any] = {"text": "text", "int": 5, "None": None, "list": [1, 2], "object": object(), "float": 1.0}
READ_ONLY: dict[str, Any] = {
    "bytes": b"read-only",
    "memoryview": memoryview(b"read-only"),
    "array": numpy.frombuffer(b"read-only", dtype="u1"),
}
STRIDED: dict[str, Any] = {"strided array": numpy.zeros(100, dtype="u1")[::2], "slice": memoryview(bytearray(10))[::2]}
BUFFERS = {**NO_BUFFERS, **READ_ONLY, **STRIDED}


@pytest.mark.parametrize("wrong", BUFFERS)
def test_a_wrong_buffer_is_refused(stored: Rig, wrong: str) -> None:
    """TypeError if it is none; read-only memory as a destination, and a view with gaps, are refused, too. [T-59]"""
    value, file = BUFFERS[wrong], stored.handles[0]
    calls: list[Callable[[Any], object]] = [file.readinto, lambda value: file.pread_into(value, 0)]
    calls.append(lambda value: file.preadv([bytearray(5), value], 0))
    if wrong not in READ_ONLY:
        calls += [file.append, file.write, lambda value: file.pwrite(value, 0), lambda value: file.try_pwrite(value, 0)]
        calls.append(lambda value: file.pwritev([b"good", value], 0))
    for number, call in enumerate(calls):
        with pytest.raises(TypeError if wrong in NO_BUFFERS else (ValueError, BufferError, TypeError)):
            pytest.fail(f"call {number} answered {call(value)!r}")
    assert wrong not in READ_ONLY or bytes(value) == b"read-only"
    unchanged(stored)


WRITES: list[Callable[[CachedFile], object]] = [
    *(lambda f: f.pwrite(b"x", 0), lambda f: f.pwritev([b"x"], 0), lambda f: f.append(b"x"), lambda f: f.write(b"x")),
    *(lambda f: f.try_pwrite(b"x", 0), lambda f: f.truncate(0), lambda f: f.punch_hole(0, 5)),
    lambda f: f.zero_range(0, 5),
]
READS: list[Callable[[CachedFile], object]] = [
    *(lambda f: f.pread(1, 0), lambda f: f.pread_into(bytearray(1), 0), lambda f: f.preadv([bytearray(1)], 0)),
    *(lambda f: f.try_pread(1, 0), lambda f: f.view(0, 0), lambda f: f.readall(), lambda f: f.read(1)),
]


@pytest.mark.parametrize("direct", [False, True])
def test_a_handle_without_the_right_refuses(stored: Rig, direct: bool) -> None:
    """io.UnsupportedOperation, as for any file; it names the object. [T-59]"""
    stored.backend.objects["sink"] = StoredObject(DATA)
    reader, writer = stored.open("rb", direct=direct), stored.open("wb", "sink", direct=direct)
    for call in WRITES:
        raises(io.UnsupportedOperation, call, reader, match="File not open for writing: 'file'")
    for call in READS:
        raises(io.UnsupportedOperation, call, writer, match="File not open for reading: 'sink'")
    unchanged(stored)


def test_a_read_only_volume_refuses_writers(make: Make) -> None:
    """PermissionError for every mode that could write and every change of names. [T-59]"""
    for rig in (make({KEY: DATA}, options={"read_only": True}), make({KEY: DATA}, limits={"read_only": True})):
        for mode in ("r+b", "wb", "w+b", "ab", "a+b", "xb"):
            raises(PermissionError, rig.volume.open, "new" if mode == "xb" else KEY, mode)
        for method, arguments in (("remove", (KEY,)), ("rename", (KEY, "b")), ("truncate", (KEY, 0))):
            with pytest.raises(PermissionError):
                getattr(rig.volume, method)(*arguments)
        assert rig.open("rb").pread(10, 0) == DATA[:10]
        assert rig.backend.written(KEY) == DATA


def test_values_pickle_and_what_has_them_does_not(stored: Rig) -> None:
    """The cache, the volume and the file have statistics; they are no values. Limits cannot be assigned. [T-66]"""
    limits = stored.backend.limits
    assert pickle.loads(pickle.dumps(limits)) == limits
    raises(dataclasses.FrozenInstanceError, setattr, limits, "max_write", 1)
    for thing in (stored.cache, stored.volume, stored.handles[0]):
        stats = thing.stats()
        assert pickle.loads(pickle.dumps(stats)).to_dict() == stats.to_dict()
        raises((TypeError, pickle.PicklingError), pickle.dumps, thing)


OF_ANY_HANDLE: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "swapped in pwrite": (lambda f: f.pwrite(0, b"abc"), TypeError, r"swapped.*pwrite\(data, offset\)"),
    "swapped in pwritev": (lambda f: f.pwritev(0, [b"abc"]), TypeError, r"swapped.*pwritev\(buffers, offset\)"),
    "swapped in pread_into": (lambda f: f.pread_into(0, bytearray(3)), TypeError, r"swapped.*into\(buffer, offset\)"),
    "swapped in preadv": (lambda f: f.preadv(0, [bytearray(3)]), TypeError, r"swapped.*preadv\(buffers, offset\)"),
    "swapped in try_pwrite": (lambda f: f.try_pwrite(0, b"abc"), TypeError, r"swapped.*try_pwrite\(data, offset\)"),
    "bytes for a size": (lambda f: f.pread(b"abc", 0), TypeError, "size must be an int, not bytes"),
    "text for an offset": (lambda f: f.pread(5, "0"), TypeError, "offset must be an int, not str"),
    "text for data": (lambda f: f.pwrite("text", 0), TypeError, "bytes-like"),
    "a write that ends beyond 63 bits": (lambda f: f.pwrite(b"xx", 2**63 - 2), OSError, "beyond"),
    "buffers that end beyond 63 bits": (lambda f: f.pwritev([bytes(1 << 20)], 2**63 - (1 << 20)), OSError, "beyond"),
    "too few arguments": (lambda f: f.pread(1), TypeError, "argument"),
    "too many arguments": (lambda f: f.pread(1, 2, 3), TypeError, "2 arguments|3 positional"),
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
    **OF_ANY_HANDLE,
}


@pytest.mark.parametrize(
    ("what", "direct"), [*((what, False) for what in OF_A_HANDLE), *((what, True) for what in OF_ANY_HANDLE)]
)
def test_misuse_of_a_handle_is_an_error_and_changes_nothing(make: Make, what: str, direct: bool) -> None:
    """Its bytes and its position stay. [T-59]"""
    file = make({KEY: pattern(PAGE)}).open("r+b", direct=direct)
    call, kind, text = OF_A_HANDLE[what]
    raises(kind, call, file, match=text)
    assert (file.tell(), file.read()) == (0, pattern(PAGE))


def test_sequences_of_buffers_of_any_kind(make: Make) -> None:
    """Lists, tuples, and any other sequence of buffers, such as the rows of an array."""
    file = make({KEY: b""}).open("r+b")
    rows: Any = numpy.arange(12, dtype="u1").reshape(3, 4)
    assert file.pwritev(rows, 0) == file.pwritev((b"a" * 6, bytearray(6)), 12) == 12
    target: Any = numpy.zeros((3, 4), dtype="u1")
    assert file.preadv(target, 0) == 12
    assert (target == rows).all()


def test_the_conformance_suite_is_imported_by_name_alone() -> None:
    """`from pagecache.testing import *` imports no pytest."""
    assert "BackendConformance" not in testing.__all__
    assert testing.BackendConformance is not None


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("verb", ["pread", "read", "try_pread"])
def test_a_read_without_memory_says_of_how_many_bytes(verb: str, direct: bool) -> None:
    with PageCache("1MiB") as cache, cache.attach("memory:").open("key", "w+", direct=direct) as file:
        file.truncate(1 << 61)
        with pytest.raises(MemoryError, match=f"{1 << 60} bytes at offset 0"):
            file.read(1 << 60) if verb == "read" else getattr(file, verb)(1 << 60, 0)
        assert file.pread(3, 0) == bytes(3)


REFUSED: dict[str, tuple[Callable[[Any], object], type[Exception]]] = {
    r"MemoryBackend is a class; give an object: Mem.*\(": (lambda cache: cache.attach(MemoryBackend), TypeError),
    "not dict": (lambda cache: cache.attach("memory:", options={"read_only": True}), TypeError),
    "name must be a str, not int": (lambda cache: cache.attach("memory:", name=5), TypeError),
    "'str'": (lambda cache: cache.volumes()[0].open(KEY, flags="r"), TypeError),
    "flags 3 have none of os.O_RDONLY": (lambda cache: cache.volumes()[0].open(KEY, flags=3), ValueError),
    "timeout must be a number of seconds or None": (lambda cache: cache.volumes()[0].sync("5"), TypeError),
    "backend 5 has no open": (lambda cache: cache.volumes()[0].reconnect(5), TypeError),
    "inner: None has no open": (lambda cache: FaultyBackend(None), TypeError),  # type: ignore[arg-type]
    "is not a Backend": (lambda cache: FaultyBackend(MemoryBackend), TypeError),  # type: ignore[arg-type]
    "read: '1ms' is not a number": (
        lambda cache: LatencyBackend(MemoryBackend(), read="1ms"),  # type: ignore[arg-type]
        ValueError,
    ),
    "url must be a str, not int": (lambda cache: pagecache.backend_from_url(5), TypeError),  # type: ignore[arg-type]
    "dirty_limt.*dirty_limit": (lambda cache: type(cache)("1MiB", dirty_limt=0.5), TypeError),
    "dirty_exipre.*dirty_expire": (lambda cache: cache.configure(dirty_exipre=5.0), TypeError),
    "7.5": (lambda cache: cache.configure(flush_interval=1.0, dirty_limit=7.5), ValueError),
    "page_size": (lambda cache: cache.configure(page_size=8192), ValueError),
    "read_ahaed.*read_ahead": (lambda cache: cache.attach("memory:", read_ahaed=0), TypeError),
    "63KiB": (lambda cache: cache.resize("63KiB"), ValueError),
    "merge": (lambda cache: cache.volumes()[0].resolve(KEY, "merge"), ValueError),
    r"on_conflict: 'rebase' is not a policy.*Volume\.resolve": (
        lambda cache: cache.attach("memory:", on_conflict="rebase"),
        ValueError,
    ),
    "write_unit 4096": (lambda cache: cache.attach("memory:", mirror=RecordingBackend(write_unit=4096)), ValueError),
    "mirror.*read-only": (lambda cache: cache.attach("memory:", mirror=RecordingBackend(read_only=True)), ValueError),
    "second place": (lambda cache: (lambda same: cache.attach(same, mirror=same))(MemoryBackend()), ValueError),
    "policy: 'lru' is not .*'sticky'": (lambda cache: cache.attach("memory:", policy="lru"), ValueError),
    "prompt must be True, False or None": (lambda cache: cache.attach("memory:", prompt=1), TypeError),
    "spool: '/missing' is not a dir": (lambda cache: cache.attach("memory:", spool="/missing"), ValueError),
    "spool must be": (lambda cache: cache.attach("memory:", spool=7), TypeError),
    "retry: 5 is not a RetryPolicy": (lambda cache: cache.attach("memory:", retry=5), ValueError),
    "revalidate: -1 is not a number": (lambda cache: cache.attach("memory:", revalidate=-1), ValueError),
    "revalidate: nan": (lambda cache: cache.volumes()[0].open(KEY, revalidate=float("nan")), ValueError),
    "revalidate: True": (lambda cache: cache.volumes()[0].open(KEY, revalidate=True), ValueError),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused_options_change_nothing(stored: Rig, words: str) -> None:
    """Good values in the same call are not taken either. tests/test_config.py has all values. [T-53, T-59, 2.19]"""
    call, kind = REFUSED[words]
    before = stored.cache.config, stored.cache.capacity, stored.cache.volumes()
    raises(kind, call, stored.cache, match=words)
    assert (stored.cache.config, stored.cache.capacity, stored.cache.volumes()) == before
    unchanged(stored)
    stored.handles[0].fsync()


START = pattern(10_000)


def outcome(function: Callable[[], Any]) -> Any:
    """The return value of a call, or the kind of error it raises."""
    try:
        answer = function()
    except FileNotFoundError:
        return FileNotFoundError
    except FileExistsError:
        return FileExistsError
    except (OSError, ValueError):
        return "refused"  # FileIO itself is inconsistent about which of them
    return answer


def test_mode_strings_are_judged_as_open_judges_them(make: Make, tmp_path: Path) -> None:
    """Every string of up to three letters; text mode is refused. The error names it, and nothing is created. [T-59]"""
    rig = make({KEY: START})
    (tmp_path / KEY).write_bytes(START)
    short = itertools.chain.from_iterable(itertools.product("rwxa+btU", repeat=n) for n in range(4))
    for letters in [*short, "rb+b", "r ", "R", "1"]:
        mode: Any = "".join(letters)
        if "x" in mode or mode[:1] in ("b", "+"):
            continue  # the file exists: see above; the letters in another order may or may not be accepted
        try:
            open(tmp_path / KEY, mode if "b" in mode else mode + "b", buffering=0).close()
        except ValueError:
            for key in (KEY, "new"):
                assert repr(mode) in str(raises(ValueError, rig.volume.open, key, mode))
        else:
            rig.volume.open(KEY, mode).close()
    assert not rig.volume.exists("new")


def test_flags_create_truncate_append_and_exclude(make: Make) -> None:
    """They choose the access, and are those of os.open. [T-59]"""
    rig = make({KEY: START})
    raises(FileNotFoundError, rig.volume.open, "new", flags=os.O_RDWR)
    rig.volume.open("new", flags=os.O_RDWR | os.O_CREAT).close()
    assert rig.volume.exists("new")
    raises(FileExistsError, rig.volume.open, "new", flags=os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with rig.volume.open(KEY, flags=os.O_WRONLY | os.O_APPEND) as file:
        assert (file.readable(), file.writable()) == (False, True)
        file.write(b"tail")
        file.seek(0)
        file.write(b"more")
    with rig.volume.open(KEY, flags=os.O_RDONLY) as file:
        assert (file.readable(), file.writable()) == (True, False)
        assert file.pread(20_000, 0) == START + b"tailmore"
    with rig.volume.open(KEY, flags=os.O_RDWR | os.O_TRUNC) as file:
        assert file.size == 0


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 6000)),
    st.tuples(st.just("readinto"), st.integers(0, 6000)),
    st.tuples(st.just("readall")),
    st.tuples(st.just("readline"), st.integers(-1, 50)),
    st.tuples(st.just("write"), st.binary(max_size=20)),
    st.tuples(st.just("write"), st.builds(lambda n: b"\n" * n, st.integers(0, 5000))),
    st.tuples(st.just("seek"), st.integers(-10, 15_000), st.sampled_from([0, 0, 0, 1, 2, -1, 17])),
    st.tuples(st.just("seek"), st.integers(-200, 200), st.sampled_from([1, 2])),
    st.tuples(st.just("truncate"), st.one_of(st.none(), st.integers(-1, 15_000))),
    st.tuples(st.just("tell")),
    st.tuples(st.just("readlines")),
    st.tuples(st.just("writelines"), st.lists(st.binary(max_size=20), max_size=3)),
)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("mode", ["r", "r+", "w", "w+", "x", "x+", "a", "a+"])
@settings(max_examples=12)
@given(spelling=st.integers(0, 2), steps=st.lists(STEPS, max_size=25))
def test_any_mode_and_sequence_of_calls_answers_as_an_unbuffered_file(
    tmp_path_factory: pytest.TempPathFactory, mode: str, exists: bool, spelling: int, steps: list[tuple[Any, ...]]
) -> None:
    """Creation, refusal, first position, permitted calls, their results and the content, against FileIO. [T-59]"""
    path = tmp_path_factory.mktemp("real") / KEY
    if exists:
        path.write_bytes(START)
    rig = make_rig({KEY: START} if exists else {}, capacity="64KiB")
    spelled = (mode, mode + "b", mode[0] + "b" + mode[1:])[spelling]
    try:
        real = outcome(lambda: open(path, spelled if spelling else mode + "b", buffering=0))  # noqa: SIM115
        ours = outcome(lambda: rig.open(spelled))
        if real == "refused" or isinstance(real, type):
            assert ours == real
            return
        with real, ours:
            for name, *args in [*(("readable",), ("writable",), ("seekable",), ("isatty",), ("tell",)), *steps]:
                if name == "readinto":
                    here, there = bytearray(args[0]), bytearray(args[0])
                    assert outcome(lambda: ours.readinto(here)) == outcome(lambda: real.readinto(there))  # noqa: B023
                    assert here == there
                else:
                    call = [outcome(partial(getattr(f, name), *args)) for f in (ours, real)]
                    assert call[0] == call[1], (name, args)
                assert ours.tell() == real.tell()
        assert rig.synced() == path.read_bytes()
    finally:
        rig.finish()


def test_a_closed_handle_refuses_everything(make: Make) -> None:
    """ValueError, as for any closed file; close itself may be repeated. [2.1]"""
    rig, file = make({KEY: START}).opened("r+b")
    file.close()
    file.close()
    assert file.closed
    calls: list[Callable[[CachedFile], object]] = [
        *(*READS, *WRITES, lambda f: f.size),
        *map(methodcaller, ["prefetch", "flush", "fsync", "tell", "readline"]),
        *map(methodcaller, ["readable", "writable", "seekable", "isatty", "__enter__", "__next__"]),
        *(methodcaller("sync_range", 0, 1), methodcaller("seek", 0), methodcaller("readinto", bytearray(1))),
        *(methodcaller("pread", 0, 0), methodcaller("pwrite", b"", 0)),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(ValueError):
            pytest.fail(f"call {number} answered {call(file)!r}")
    assert rig.backend.written(KEY) == START


def test_a_handle_is_what_it_says(make: Make) -> None:
    """Attributes; it has no descriptor; it is a RawIOBase for isinstance."""
    rig, file = make({KEY: START}).opened("r+b")
    assert isinstance(file, io.RawIOBase)
    assert (file.key, file.volume, file.size) == (KEY, rig.volume, len(START))
    assert KEY in str(file.name)
    assert "r" in file.mode
    assert "+" in file.mode
    assert KEY in repr(file)
    raises(io.UnsupportedOperation, file.fileno)


def test_the_c_type_of_handles_has_no_metaclass_that_later_pythons_refuse() -> None:
    """Python 3.12 warns of a type spec with a metaclass that has a constructor, and Python 3.14 refuses it."""
    (native,) = {base for base in CachedFile.__mro__ if base.__module__ == "pagecache._native._core"}
    assert type(native) is type
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import pagecache"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_a_checkout_that_is_not_built_says_what_to_do(tmp_path: Path) -> None:
    """The ImportError is one sentence with the folder, instead of the name of an internal module."""
    package = Path(pagecache.__file__).parent
    shutil.copytree(package, tmp_path / "pagecache", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = subprocess.run([sys.executable, "-c", "import pagecache"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: pagecache is imported from the checkout {tmp_path}, whose C extension is not built: "
        "run pip install -e . there, or start Python in another directory to use an installed pagecache"
    )
    assert "During handling" not in done.stderr
