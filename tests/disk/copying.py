"""Copies of a tier that runs: what a kill at this moment leaves."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from pagecache.disk.catalogue import NAME, PLACE_AT, place_of


def copy_tier(source: str | Path, target: Path) -> None:
    """Copy the directory of a tier, as if it were in its place. Segments go while it is copied, as they may before a
    kill.
    """

    def copy(one: str, other: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(one, other)

    shutil.copytree(source, target, copy_function=copy)
    catalogue = target / NAME
    if catalogue.exists() and catalogue.stat().st_size:
        with catalogue.open("r+b") as file:
            file.seek(PLACE_AT)
            file.write(place_of(str(catalogue)).to_bytes(4, "big"))
