"""Small files: the jobs on one of them, by system calls and through a volume.

A job takes one key. Jobs that change names have a job that undoes them after each slice, untimed.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pagecache import Volume
from pagecache.bench.harness import Variant
from pagecache.bench.plain import BLOCK

JOBS = {
    "create": "create, write, close",
    "read": "open, read, close; cached, version checked",
    "keep": "open, read, close; cached, keep_cache",
    "edit": "open r+, pwrite of 50 bytes, close",
    "stat": "stat",
    "rename": "rename",
    "remove": "remove",
}
UNDO = {"create": "remove", "remove": "create", "rename": "restore"}
SIZE = 8192
DATA, EDIT = BLOCK[:SIZE], BLOCK[:50]
OTHER = "~"  # suffix of another name

Jobs = dict[str, Callable[[str], object]]


def by_system_calls() -> Jobs:
    """Return the jobs on plain files; keys are paths."""

    def create(path: str) -> None:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        os.write(fd, DATA)
        os.close(fd)

    def read(path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.pread(fd, SIZE, 0)
        os.close(fd)

    def edit(path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.pwrite(fd, EDIT, 100)
        os.close(fd)

    return with_names(create, read, read, edit, os.stat, os.rename, os.unlink)


def through(volume: Volume) -> Jobs:
    """Return the jobs on objects of a volume."""

    def create(key: str) -> None:
        with volume.open(key, "xb") as file:
            file.pwrite(DATA, 0)

    def read(key: str, keep_cache: bool = False) -> None:
        with volume.open(key, "rb", keep_cache=keep_cache) as file:
            file.pread(SIZE, 0)

    def edit(key: str) -> None:
        with volume.open(key, "r+b") as file:
            file.pwrite(EDIT, 100)

    keep = partial(read, keep_cache=True)
    return with_names(create, read, keep, edit, volume.stat, volume.rename, volume.remove)


def with_names(*calls: Callable[..., object]) -> Jobs:
    """Return the jobs by name. A rename has a fixed other name."""
    jobs: Jobs = dict(zip(JOBS, calls, strict=True))
    rename: Callable[[str, str], object] = calls[5]
    renames: Jobs = {
        "rename": lambda key: rename(key, key + OTHER),
        "restore": lambda key: rename(key + OTHER, key),
    }
    return jobs | renames


def file_variant(name: str, jobs: Jobs, job: str, keys: Sequence[str]) -> Variant:
    """Return a variant that does one job on files, all of which exist, and restores them after each slice."""
    call, undo = jobs[job], jobs.get(UNDO.get(job, ""))
    done: list[str] = []

    def run(keys: Sequence[Any]) -> None:
        for key in keys:
            call(key)
        done.extend(keys)

    def after() -> None:
        if undo is not None:
            for key in done:
                undo(key)
        done.clear()

    items = [key + "+" for key in keys] if job == "create" else keys
    most = len(keys) if undo else None  # a slice cannot create a file twice
    return Variant(name=name, run=run, items=items, after=after, most=most)
