"""Names of immutable files, made, linked, renamed, replaced and removed by several processes at once.

All bytes of a file are one number, so a reader can judge what it finds: bytes of one file only, all of them, and no
error but those of names that other processes take away.
"""

from __future__ import annotations

import errno
import io
import mmap
import multiprocessing
import os
import random
from collections.abc import Sequence
from pathlib import Path

__all__ = ["cross"]

NAMES = ["a", "b", "c", "d/a", "d/b"]
SIZE = 3 * 4096 + 5
GONE = {errno.ENOENT, errno.EEXIST, errno.ELOOP, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR}
"""Errors of a name that another process has taken away, or made."""
OPENS = 4
"""An open is ESTALE if its name is replaced twice between lookup and open (docs/how-to/mount.md): it is made again."""


class Crosser:
    """One process. `wrong`: what it found that no order of the calls explains."""

    def __init__(self, root: Path, number: int, links: bool) -> None:
        self.root, self.number, self.links = root, number, links
        self.rng = random.Random(number)
        self.made = 0
        self.wrong: list[str] = []

    def run(self, calls: int) -> list[str]:
        kinds = [self.publish, self.publish, self.read, self.read, self.load, self.move, self.remove, self.look]
        kinds += [self.link, self.symlink] if self.links else []
        for _ in range(calls):
            call = self.rng.choice(kinds)
            path, other = (self.root / self.rng.choice(NAMES) for _ in range(2))
            try:
                call(path, other)
            except OSError as error:
                if error.errno not in GONE:
                    self.wrong.append(f"{call.__name__} {path.name} {other.name}: {error}")
        return self.wrong

    def judge(self, found: bytes, how: str) -> None:
        if len(found) != SIZE or len(set(found)) != 1:
            self.wrong.append(f"{how}: {len(found)} bytes of {sorted(set(found))}")

    def publish(self, path: Path, _: Path) -> None:
        self.made += 1
        new = self.root / f"new{self.number}"
        with open(new, "xb") as file:
            file.write(bytes([self.rng.randrange(256)]) * SIZE)
            if self.rng.random() < 0.2:
                os.fsync(file.fileno())
        os.rename(new, path)

    def opened(self, path: Path) -> io.FileIO:
        for _ in range(OPENS - 1):
            try:
                return open(path, "rb", buffering=0)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        return open(path, "rb", buffering=0)

    def read(self, path: Path, _: Path) -> None:
        with self.opened(path) as file:
            first = file.read(5000)
            second = file.read(SIZE)
        self.judge(first + second, "read")

    def load(self, path: Path, _: Path) -> None:
        with self.opened(path) as file:
            if os.fstat(file.fileno()).st_size != SIZE:
                self.wrong.append(f"load: a size of {os.fstat(file.fileno()).st_size}")
                return
            with mmap.mmap(file.fileno(), SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
                self.judge(mapped[:], "load")

    def look(self, path: Path, _: Path) -> None:
        found = os.stat(path)
        if found.st_size != SIZE:
            self.wrong.append(f"look: a size of {found.st_size}")

    def move(self, path: Path, other: Path) -> None:
        os.rename(path, other)

    def remove(self, path: Path, _: Path) -> None:
        os.unlink(path)

    def link(self, path: Path, other: Path) -> None:
        new = self.root / f"link{self.number}"
        os.link(path, new)
        os.rename(new, other)
        if os.path.lexists(new):  # two names of one file
            os.unlink(new)

    def symlink(self, path: Path, other: Path) -> None:
        new = self.root / f"link{self.number}"
        os.symlink(path.name, new)
        os.rename(new, other)


def cross(root: Path, processes: int, calls: int, *, links: bool) -> list[str]:
    """Run some processes at once; return everything that is wrong."""
    (root / "d").mkdir()
    context = multiprocessing.get_context("fork")
    with context.Pool(processes) as pool:
        jobs = [pool.apply_async(_run, (root, number, calls, links)) for number in range(processes)]
        found: Sequence[list[str]] = [job.get(300) for job in jobs]
    return [line for lines in found for line in lines]


def _run(root: Path, number: int, calls: int, links: bool) -> list[str]:
    return Crosser(root, number, links).run(calls)
