"""A mount answers calls as tmpfs does, call by call, except for the differences listed here."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from . import (
    calls_about_attributes,
    calls_about_bytes,
    calls_about_descriptors,
    calls_about_names,
    calls_about_special_files,
)
from .calls import CHECKS, answers
from .mounts import Mounted, folder_for_everybody, maps_shared, needs_mounts

MODEL = Path("/dev/shm")

pytestmark = [
    needs_mounts,
    pytest.mark.xdist_group("mounts"),
    pytest.mark.skipif(not os.path.ismount(MODEL), reason=f"no tmpfs at {MODEL} to compare with"),
]


@pytest.fixture(scope="module")
def where(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Sequence[str]]]:
    """A mount of the kind of the parameter that other users may also use, and its options."""
    others = ("--allow-other",) if os.geteuid() == 0 else ()
    with (
        folder_for_everybody() as folder,
        Mounted(folder, f"dir:{folder / 'store'}", request.param, *others, "-o", "dev", longest=600) as mounted,
    ):
        yield mounted.path, mounted.options


NO_SPACE = {f"mode {mode}{more}": "ENOTSUP" for mode in (0, 1, 3) for more in ("", ": behind")}
KNOWN: dict[str, dict[str, object]] = {
    # Space is not reserved (decision 137).
    "space": {**NO_SPACE, "mode 0: size then": 20_000, "mode 3: zeros": 0},
    "temporary_files": {"O_TMPFILE": "ENOTSUP"},
    "times": {"found #3": (-1_000_000_000, 0)},  # pyfuse3: no time between a second before 1970 and 1970
    "sizes": {"too large": "EFBIG"},  # of ext4 and others below: tmpfs has no limit
}
"""Check -> call -> the answer of a mount, if it differs from tmpfs."""
UNMAPPED: dict[str, dict[str, object]] = {"times": {"a mapping": "ENODEV", "a mapping: object": "ctime"}}
"""Differences without shared mappings."""


@contextlib.contextmanager
def empty(top: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=top))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def about(module: ModuleType) -> list[str]:
    return [name for name, check in CHECKS.items() if check.__module__ == module.__name__]


NAMES = about(calls_about_names) + about(calls_about_attributes)
BYTES = about(calls_about_bytes) + about(calls_about_special_files)
BYTES += about(calls_about_descriptors)


CASES = [("--direct-io", name) for name in NAMES + BYTES] + [("--kernel-cache", name) for name in BYTES]
SLOW = [pytest.param("--kernel-cache", name, marks=pytest.mark.slow) for name in NAMES]
"""Checks about names never reach a page of the kernel."""


@pytest.mark.parametrize(("where", "name"), [*CASES, *SLOW], indirect=["where"])
def test_calls_are_answered_as_on_tmpfs(where: tuple[Path, Sequence[str]], name: str) -> None:
    path, options = where
    with empty(MODEL) as model, empty(path) as mounted:
        expected, found = answers(name, model), answers(name, mounted)
    different = {what: (expected.get(what), found.get(what)) for what in {**expected, **found}}
    different = {what: pair for what, pair in different.items() if pair[0] != pair[1]}
    known = KNOWN.get(name, {})
    known = known if maps_shared(options) else known | UNMAPPED.get(name, {})
    # A missing limit in the store of this machine is no difference.
    assert different == {what: (expected.get(what), answer) for what, answer in known.items() if what in different}
