"""A handle is an io.RawIOBase: calls on an unbuffered file of the operating system give equal answers."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pagecache
from pagecache import CachedFile

from .rig import KEY, Make, make_rig, pattern, raises
from .test_errors import READS, WRITES

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
        rig.volume.sync(20)
        assert rig.backend.committed(KEY) == path.read_bytes()
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


def test_leaving_a_with_block_closes(make: Make) -> None:
    """This also holds if the body raises; written bytes stay. [2.20]"""
    rig = make({KEY: START})
    with rig.volume.open(KEY, "r+b") as file:
        assert not file.closed
    assert file.closed
    with pytest.raises(ZeroDivisionError), rig.volume.open(KEY, "r+b") as file:
        file.pwrite(b"kept", 0)
        raise ZeroDivisionError
    assert file.closed
    assert rig.backend.written(KEY)[:4] == b"kept"


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
