"""Small files: the jobs on one of them, by system calls and through a volume.

A job takes one key. Jobs that change names have a job that undoes them after each slice, untimed.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from pagecache import CachedFile, Volume
from pagecache.bench.harness import Variant
from pagecache.bench.plain import BLOCK
from pagecache.options import OpenMode

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

Jobs = dict[str, Callable[[str], object]]


def by_system_calls() -> Jobs:
    """Return the jobs on plain files; keys are paths."""

    def job(flags: int, call: Callable[[int], object]) -> Callable[[str], None]:
        def run(path: str) -> None:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
            call(fd)
            os.close(fd)

        return run

    read = job(os.O_RDONLY, lambda fd: os.pread(fd, SIZE, 0))
    create = job(os.O_CREAT | os.O_EXCL | os.O_WRONLY, lambda fd: os.write(fd, DATA))
    edit = job(os.O_RDWR, lambda fd: os.pwrite(fd, EDIT, 100))
    bytes_of_it: Jobs = {"create": create, "read": read, "keep": read, "edit": edit}
    return bytes_of_it | names(os.stat, os.rename, os.unlink)


def through(volume: Volume) -> Jobs:
    """Return the jobs on objects of a volume."""

    def job(mode: OpenMode, call: Callable[[CachedFile], object], keep: bool = False) -> Callable[[str], None]:
        def run(key: str) -> None:
            with volume.open(key, mode, keep_cache=keep) as file:
                call(file)

        return run

    bytes_of_it: Jobs = {
        "create": job("xb", lambda file: file.pwrite(DATA, 0)),
        "read": job("rb", lambda file: file.pread(SIZE, 0)),
        "keep": job("rb", lambda file: file.pread(SIZE, 0), keep=True),
        "edit": job("r+b", lambda file: file.pwrite(EDIT, 100)),
    }
    return bytes_of_it | names(volume.stat, volume.rename, volume.remove)


def names(stat: Callable[..., object], rename: Callable[..., object], remove: Callable[..., object]) -> Jobs:
    """Return the jobs on names; `restore` undoes `rename`."""
    renames: Jobs = {
        "rename": lambda key: rename(key, key + "~"),
        "restore": lambda key: rename(key + "~", key),
    }
    return {"stat": stat, "remove": remove} | renames


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
