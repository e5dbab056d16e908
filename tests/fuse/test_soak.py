"""The long run of `make soak`: an hour of the stress tester on a mount whose store fails now and then.

PAGECACHE_SOAK_SECONDS sets the time of a sixth of it, instead of ten minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .mounts import KINDS, Mounted, needs_mounts
from .test_programs import BELOW, WAYS

SECONDS = 3 * float(os.environ.get("PAGECACHE_SOAK_SECONDS", "600"))

pytestmark = [needs_mounts, pytest.mark.soak, pytest.mark.timeout(7200), pytest.mark.xdist_group("mounts")]


@pytest.mark.parametrize("mode", KINDS)
def test_an_hour_of_stress_above_a_store_with_faults(tmp_path: Path, store: Path, mode: str) -> None:
    """Half of it with pages of the kernel, half without; nothing is left to save in the end."""
    options = ["--option", f"root={store}", "--option", "profile=mild", "--capacity", "4MiB", mode]
    with Mounted(tmp_path, f"{BELOW}:faulty", *options, longest=SECONDS + 1200) as mounted:
        command = [sys.executable, "-m", "pagecache", "stress", f"path:{mounted.path}", "--mix", WAYS]
        command += ["--duration", f"{SECONDS:g}s", "--patience", "120s"]
        done = subprocess.run(command, cwd=tmp_path, timeout=SECONDS + 900, capture_output=True, text=True, check=False)
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert mounted.unmount() == 0, mounted.said()
