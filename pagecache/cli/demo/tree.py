"""The files of the demo, and the directories it works in.

Only regular files count; symlinks, sockets and the like are left out, and so are `site-packages` and `__pycache__` of
the standard library, which is the default tree. Every file is read once here: an unreadable file is found before
anything starts, and both sides then read a tree that is equally warm in the operating system's cache.
"""

from __future__ import annotations

import os
import shutil
import stat
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NoReturn

from pagecache.interrupts import uninterrupted
from pagecache.quantities import printable

MIB = 1024 * 1024
LEFT_OUT = frozenset({"site-packages", "dist-packages", "__pycache__"})


class WrongInput(Exception):
    """The options cannot be carried out; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the tree."""

    key: str  # path below the root, with slashes
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of a run, in random order."""

    root: Path
    files: tuple[Source, ...]
    left_over: int  # number of files that the limit left out

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)

    def largest(self, cost: Callable[[Source], int], limit: int) -> Tree:
        """Return the largest files whose costs add up to at most `limit`, or the smallest file if none is so cheap."""
        chosen: list[Source] = []
        room = limit
        by_size = sorted(self.files, key=lambda file: -file.size)
        for file in by_size:
            if room < limit // 10:  # no need to compute the costs of thousands of files
                break
            if (price := cost(file)) <= room:
                chosen.append(file)
                room -= price
        files = chosen or by_size[-1:]
        return Tree(self.root, tuple(files), len(self.files) - len(files))

    def changed(self, key: str) -> bool:
        """Return whether a file of the tree has changed since the scan."""
        expected = next(file for file in self.files if file.key == key)
        try:
            now = os.stat(self.root / key)
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != (expected.size, expected.mtime_ns)


def scan(root: Path | None, limit: int, seed: int) -> Tree:
    """Choose the files of a run.

    Args:
        root: None: the standard library of the running Python.
        limit: Most bytes to use; files are taken in random order while they fit.
        seed: Of that order.

    Raises:
        WrongInput: No such directory, nothing in it, or a file in it cannot be read.
    """
    left_out = frozenset[str]() if root else LEFT_OUT
    given = root or Path(sysconfig.get_path("stdlib"))
    if not given.exists():
        raise WrongInput(f"{printable(str(given))}: no such directory")
    if not given.is_dir():
        raise WrongInput(f"{printable(str(given))}: not a directory")
    base = given.resolve()
    found = sorted(walk(base, left_out), key=lambda file: file.key)
    if not found:
        raise WrongInput(f"{printable(str(given))}: no regular file in it")
    Random(f"{seed}:order").shuffle(found)
    chosen = []
    room = limit
    for file in found:
        if file.size <= room:
            chosen.append(file)
            room -= file.size
    if not chosen or not any(file.size for file in chosen):
        what = "every file is empty" if not any(file.size for file in found) else f"no file fits into --limit {limit}"
        raise WrongInput(f"{printable(str(given))}: {what}")
    for file in chosen:
        read_once(base / file.key)
    return Tree(base, tuple(chosen), len(found) - len(chosen))


def walk(base: Path, left_out: frozenset[str]) -> Iterator[Source]:
    """Yield the regular files below `base`."""

    def refuse(error: OSError) -> NoReturn:
        raise WrongInput(f"{printable(str(error.filename))}: cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(base, onerror=refuse):
        folders[:] = [name for name in folders if name not in left_out]
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError as error:
                refuse(error)
            if stat.S_ISREG(status.st_mode):
                yield Source(os.path.relpath(path, base), status.st_size, status.st_mtime_ns)


def read_once(path: Path) -> None:
    """Read a file to its end.

    Raises:
        WrongInput: It cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
    except OSError as error:
        raise WrongInput(f"{printable(str(path))}: cannot be read: {error.strerror}") from None


@contextmanager
def workplace(tree: Tree, keep: Path | None) -> Iterator[Path]:
    """Make the directory of a run; without `keep` it is always removed.

    Raises:
        WrongInput: `keep` is in use, lies in the tree, or the disk is too small.
    """
    if keep is None:
        root = Path(tempfile.mkdtemp(prefix="pagecache-demo-"))
    else:
        root = kept(tree, keep)
    try:
        need = int(2.5 * tree.size) + 64 * MIB
        free = shutil.disk_usage(root).free
        if free < need:
            raise WrongInput(f"{root}: {free // MIB} MiB free, {need // MIB} MiB needed; TMPDIR chooses another disk")
        yield root
    finally:
        if keep is None:
            with uninterrupted():
                shutil.rmtree(root, ignore_errors=True)


def make_folders(tree: Tree, root: Path) -> Path:
    """Make the directories of a copy below `root`, and return `root`."""
    for folder in {os.path.dirname(file.key) for file in tree.files}:
        os.makedirs(root / folder, exist_ok=True)
    return root


def kept(tree: Tree, keep: Path) -> Path:
    """Return the requested directory, made if it did not exist."""
    try:
        keep.mkdir(parents=True, exist_ok=True)
        root = keep.resolve()
        if any(root.iterdir()):
            raise WrongInput(f"--keep {keep}: not empty")
    except OSError as error:
        raise WrongInput(f"--keep {keep}: {error.strerror}") from None
    if root.is_relative_to(tree.root):
        raise WrongInput(f"--keep {keep}: lies in the tree that is copied")
    return root
