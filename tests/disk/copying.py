"""Copies of a tier that runs: what a kill at this moment leaves."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path


def copy_tier(source: str | Path, target: Path) -> None:
    """Copy the directory of a tier. Segments go while it is copied, as they may before a kill."""

    def copy(one: str, other: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(one, other)

    shutil.copytree(source, target, copy_function=copy)
