"""Objects that are read and written through the cache, through open files, and by the stress tester."""

from __future__ import annotations

import gc
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import TransformBackend
from pagecache.backends.fsspec import FsspecBackend, calls
from pagecache.stress import Plan
from tests.backends.transforms import Sealed
from tests.file.rig import attached, content_of
from tests.fsspec_below.place import LARGE, OLD, Place, get
from tests.fsspec_below.stores import Elsewhere, Parts, Whole
from tests.stress import clean
from tests.stress.test_clean import SHORT


def test_a_transform_over_objects_larger_than_the_cache_loses_nothing(place: Place) -> None:
    """Objects end with a short unit, which waits in the spool like the others. [T-61]"""
    rng = random.Random(3)
    with attached(TransformBackend(place.backend, Sealed(4072)), "1MiB") as volume:
        written = {f"large-{number}": rng.randbytes(200_003) for number in range(20)}
        files = {key: volume.open(key, "w+b") for key in written}
        for key, file in files.items():
            file.write(written[key])
            file.flush()
        for key, file in files.items():
            assert file.pread(200_003, 0) == written[key]
        for file in files.values():
            file.close()
        volume.drop_clean()
        for key, data in written.items():
            assert content_of(volume, key)[:200_004] == data


def test_open_files_of_the_file_system_are_closed() -> None:
    """There are as many as concurrent calls, and none without a reader."""
    place = Place(Parts(), "bucket", key=OLD)
    with attached(place.backend) as volume, volume.open("key") as file:
        assert file.pread(LARGE, 0) == OLD
        assert 1 <= place.fs.open_files <= volume.backend.limits.max_inflight + 1
    gc.collect()
    assert place.fs.open_files == 0


def test_reads_of_open_files_fetch_what_was_asked_for() -> None:
    """They fetch no extra megabytes, as the readahead of an open file would."""
    place = Place(Parts(), "bucket", key=OLD)
    fetched: list[str] = []
    file = place.backend.open("key")
    place.fs.hooks.before["fetch"] = fetched.append
    assert get(file, 8192, 4096) == OLD[8192:12288]
    assert fetched == ["bucket/key:8192-12288"]


RUNS: dict[str, dict[str, Any]] = {
    "no faults": SHORT,
    "flaky": {**SHORT, "faults": "flaky"},
    "losses of others": {**SHORT, "profile": "losses", "seed": 5},
    "saving": {**SHORT, "profile": "saving", "seed": 5},
    "long": {"duration": 20},
    "long and nasty": {"duration": 20, "faults": "nasty"},
}
numbers = itertools.count()
stored = Whole(asynchronous=True)


def asynchronous() -> FsspecBackend:
    """The backends share one file system: a later one finds the stored objects."""
    return FsspecBackend(stored, "bucket")


TARGETS: dict[str, Callable[[], Any]] = {
    "blocking": lambda: f"fsspec:memory://stressed-{next(numbers)}",
    "asynchronous": lambda: asynchronous,
}


@pytest.mark.parametrize(
    ("form", "how"),
    [
        pytest.param(form, how, marks=[pytest.mark.slow] * ("long" in how))
        for form in TARGETS
        for how in RUNS
        if form == "blocking" or "profile" not in RUNS[how]
    ],
)
def test_a_run_of_the_stress_tester_is_clean(form: str, how: str) -> None:
    """Also with commits, discards and versions of another client beside reads of evicted bytes."""
    report = clean(Plan(**{"seed": 1, **RUNS[how]}), TARGETS[form]())
    assert report.counters["operations"] > 100


def test_an_object_is_not_replaced_by_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of a file ends at 2 GiB."""
    fs = Whole(asynchronous=True)
    fs.put("bucket/k", b"confirmed")
    has, read = calls._has, os.pread  # a class that stores by `_pipe_file` alone
    monkeypatch.setattr(calls, "_has", lambda real, *names: "put_file" not in names and has(real, *names))
    monkeypatch.setattr(os, "pread", lambda fd, length, at: read(fd, min(length, 3 << 20), at))  # for 2 GiB
    file = FsspecBackend(fs, "bucket").open("k")
    file.write_from(0, [memoryview(bytes(4 << 20))])
    try:
        file.commit()
    except OSError:
        assert fs.content("bucket/k") == b"confirmed"
    else:
        assert fs.content("bucket/k") == bytes(4 << 20)


def test_processes_that_are_forked_from_one_store_under_names_of_their_own(tmp_path: Path) -> None:
    """The backend was made before the fork. With a common name one would publish the bytes of the other."""
    objects: Any = FsspecBackend(Elsewhere(), str(tmp_path)).inner
    names = set()
    for _ in range(2):
        read, write = os.pipe()
        if not (child := os.fork()):
            os.write(write, objects.temporary(f"{tmp_path}/key").encode())
            os._exit(0)
        os.close(write)
        with open(read, encoding="utf-8") as pipe:
            names.add(pipe.read().rpartition("/")[2].partition("-")[2])
        os.waitpid(child, 0)
    assert len(names) == 2
