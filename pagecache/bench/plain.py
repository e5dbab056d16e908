"""Jobs on plain files: system calls and Python files. A job does its work once for each offset.

Bytes are read as a `bytes` object and written from one, as with the cache; zero-copy forms would be another job.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Run = Callable[[Sequence[Any]], object]

MIB = 1024 * 1024
BLOCK = bytes(range(256)) * 4096  # 1 MiB, the content of every object


def make_file(path: Path, size: int) -> Path:
    """Write a file of `size` bytes sequentially and return its path."""
    with open(path, "wb") as file:
        for offset in range(0, size, MIB):
            file.write(BLOCK[: min(MIB, size - offset)])
    return path


def call_reads(fd: int, size: int) -> Run:
    """Return a job that reads with os.pread."""
    pread = os.pread

    def run(offsets: Sequence[int]) -> None:
        for offset in offsets:
            pread(fd, size, offset)

    return run


def call_writes(fd: int, size: int) -> Run:
    """Return a job that overwrites with os.pwrite."""
    pwrite, data = os.pwrite, BLOCK[:size]

    def run(offsets: Sequence[int]) -> None:
        for offset in offsets:
            pwrite(fd, data, offset)

    return run


def file_reads(file: Any, size: int) -> Run:
    """Return a job that seeks and reads."""

    def run(offsets: Sequence[int]) -> None:
        for offset in offsets:
            file.seek(offset)
            file.read(size)

    return run


def file_writes(file: Any, size: int) -> Run:
    """Return a job that seeks and overwrites."""
    data = BLOCK[:size]

    def run(offsets: Sequence[int]) -> None:
        for offset in offsets:
            file.seek(offset)
            file.write(data)

    return run
