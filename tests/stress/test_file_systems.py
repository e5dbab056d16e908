"""Real file systems, made for the test: used by system calls, from threads."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pagecache.stress import Plan, run

Make = Callable[[Path], AbstractContextManager[Path]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MIX = ("buffered", "through", "views", "append", "truncate", "punch", "names", "hints")
"""Operations without O_DIRECT: beside a mapping of the same page Linux answers it with EIO, and logs that it may have
lost data.
"""


def command(*arguments: str | Path) -> None:
    """Run a command as root, or skip with its output."""
    if shutil.which(str(arguments[0])) is None:
        pytest.skip(f"no {arguments[0]} here")
    ran = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=60)
    if ran.returncode:
        pytest.skip(f"{' '.join(map(str, arguments))}: {ran.stderr.strip()}")


@contextmanager
def mounted(folder: Path, *arguments: str | Path) -> Iterator[Path]:
    folder.mkdir()
    command("mount", *arguments, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=60)


@contextmanager
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "tmpfs", "-t", "tmpfs", "-o", "size=64m", "none") as folder:
        yield folder


@contextmanager
def ext4(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    command("mkfs.ext4", "-q", "-F", image)
    with mounted(tmp_path / "ext4", "-o", "loop", image) as folder:
        yield folder


@contextmanager
def overlay(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path) as upper:
        for name in ("lower", "upper", "work"):
            (upper / name).mkdir()
        options = f"lowerdir={upper}/lower,upperdir={upper}/upper,workdir={upper}/work"
        with mounted(tmp_path / "overlay", "-t", "overlay", "-o", options, "none") as folder:
            yield folder


@pytest.mark.parametrize("make", [tmpfs, ext4, overlay])
def test_real_file_systems_are_clean(tmp_path: Path, make: Make) -> None:
    """The test makes a new file system and unmounts it at the end. [I-17, I-18]"""
    if os.geteuid():
        pytest.skip("only root mounts")
    with make(tmp_path) as folder:
        fields: dict[str, Any] = {"threads": 6, "tasks": 0, "files": 2, "size": "256KiB", "operations": 80, "mix": MIX}
        report = run(Plan(seed=1, duration=5, rounds=4, **fields), f"path:{folder}")
        assert report.ok, f"{report.story}\n{report.replay}"
    assert not os.path.ismount(tmp_path / make.__name__)
