"""Random scripts of calls have the same results on a mount and on tmpfs, on each kind of store."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.s3.servers import Server, new_bucket

from .crossing import cross
from .differential import Call, content, programs, script
from .mounts import KINDS, Mounted, maps_shared, needs_mounts, run
from .test_calls import MODEL

pytestmark = [
    needs_mounts,
    pytest.mark.xdist_group("mounts"),
    pytest.mark.skipif(not os.path.ismount(MODEL), reason=f"no tmpfs at {MODEL} to compare with"),
]

OBJECTS = {
    "link": "objects have one name",
    "symlink": "objects are no links",
    "readlink": "objects are no links",
    "fifo": "objects are no special files",
    "chmod": "modes are those of the options",
    "fchmod": "modes are those of the options",
    "chown": "owners are those of the options",
    "utime": "times are those of the store",
    "futime": "times are those of the store",
    **dict.fromkeys(("setxattr", "getxattr", "listxattr", "removexattr"), "objects have no extended attributes"),
}
"""Calls that a store of objects refuses, and the reason."""
LENGTH = 400
LENGTH_BUCKET = 120


@pytest.fixture
def model() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MODEL) as folder:
        yield Path(folder)


def lead_away(model: Path, call: Call, held: list[tuple[int, int]]) -> bool:
    """Whether a store of objects carries out this call in another way, which mount.md describes: a directory that is
    not empty is copied, not renamed; the mode of a new object is that of the options; an object that has lost its name
    keeps only cached bytes.
    """
    name, *arguments = call
    if name in ("rename", "rename_noreplace"):
        if (model / arguments[0]).is_dir() and os.listdir(model / arguments[0]):
            return True
        lost = model / arguments[1]
    elif name == "unlink":
        lost = model / arguments[0]
    else:
        return False
    return lost.exists() and (lost.stat().st_dev, lost.stat().st_ino) in held


def play(
    mounted: Path, options: Sequence[str], model: Path, seed: int, length: int, count: int, *, objects: bool
) -> None:
    """Play a script by some processes in both places, and compare each result, and what is there in the end."""
    unmapped = () if maps_shared(options) else ("store",)
    calls = script(seed, length, {*unmapped, *(OBJECTS if objects else ())})
    made: list[tuple[int, Call]] = []
    with programs([mounted, model], count) as running:
        for number, call in enumerate(calls):
            if objects and lead_away(model, call, held(model, running.pids)):
                continue
            made.append((number % count, call))
            on_mount, on_model = running.make(number, call)
            assert on_mount == on_model, told(seed, made, on_mount, on_model)
        assert (difference := differences(content(mounted), content(model))) == {}, told(seed, made, difference, {})


def held(model: Path, pids: list[int]) -> list[tuple[int, int]]:
    """The files of the model that the processes have open."""
    found = []
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one of the process's own look
                status = os.stat(f"/proc/{pid}/fd/{fd}")
                found.append((status.st_dev, status.st_ino))
    return found


def told(seed: int, made: list[tuple[int, Call]], on_mount: Any, on_model: Any) -> str:
    lines = [f"process {number}: {call}" for number, call in made]
    return "\n".join([f"seed {seed}, call {len(made)}", *lines, f"mount: {on_mount!r}", f"tmpfs: {on_model!r}"])


def differences(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    names = found.keys() | expected.keys()
    return {name: (found.get(name), expected.get(name)) for name in names if found.get(name) != expected.get(name)}


@pytest.mark.parametrize(
    ("seed", "count", "length"),
    [(seed, count, LENGTH) for seed in (1, 2) for count in (1, 3)]
    + [pytest.param(seed, 1 + seed % 3, 1000, marks=pytest.mark.slow) for seed in range(100, 120)],
)
def test_a_random_script_has_the_results_of_tmpfs(
    mounted: Mounted, place: Path, stored: Path, model: Path, seed: int, count: int, length: int
) -> None:
    """Bytes, sizes and links too, in the store as well. [T-67]"""
    play(place, mounted.options, model, seed, length, count, objects=False)
    run("sync", "-f", place)
    assert differences(content(stored), content(model)) == {}


@pytest.mark.parametrize("count", [1, 3])
def test_a_random_script_over_objects_has_the_results_of_tmpfs(
    objects: Mounted, flat: Path, model: Path, count: int
) -> None:
    play(flat, objects.options, model, 3, LENGTH, count, objects=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_script_over_a_bucket_has_the_results_of_tmpfs(
    tmp_path: Path, model: Path, service: Server, kind: str
) -> None:
    with new_bucket(service) as bucket, Mounted(tmp_path, bucket.url(), "--capacity", "64MiB", kind) as mounted:
        play(mounted.path, mounted.options, model, 4, LENGTH_BUCKET, 2, objects=True)


@pytest.mark.parametrize("calls", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_names_that_cross_lead_to_whole_files(place: Path, calls: int) -> None:
    """Processes publish, link, rename, replace and remove names that others read and map."""
    assert cross(place, 5, calls, links=True) == []


def test_objects_whose_names_cross_are_whole(flat: Path) -> None:
    assert cross(flat, 4, 100, links=False) == []
