"""`pagecache drain` against a real cache in another process, from the command to the bytes in the store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SIZE = 4 << 20

OWNER = f"""
import errno, sys
from pagecache import PageCache, RetryPolicy
from pagecache.backends import DirectoryBackend
from pagecache.testing import FaultyBackend, Rule

root, socket, full = sys.argv[1:]
backend = FaultyBackend(DirectoryBackend(root))
backend.use([Rule("write", key=full, error=errno.ENOSPC)])
once = RetryPolicy(attempts=1, failed_retry=None)
cache = PageCache("64MiB", retry=once, dirty_background=0.8, dirty_limit=0.9, dirty_expire=3600.0)
volume = cache.attach(backend, name="files")
files = [volume.open(name, "w+") for name in "abc"]
for file in files:
    file.write(b"x" * {SIZE})
cache.serve_stats(socket)
print("served", flush=True)
sys.stdin.read()
backend.use([])
cache.close()
"""


@pytest.mark.parametrize("full", ["none", "b"])
def test_writes_of_another_process_are_saved_or_listed(tmp_path: Path, full: str) -> None:
    root, socket = tmp_path / "root", str(tmp_path / "s")
    root.mkdir()
    with subprocess.Popen([sys.executable, "-c", OWNER, root, socket, full], stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "served\n"
        command = [sys.executable, "-m", "pagecache", "drain", socket, "--json", "--volume", "files"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        (cache,) = json.loads(done.stdout)["caches"]
        assert (done.returncode, cache["saved"]) == ((1, False) if full == "b" else (0, True))
        assert (cache["total"], cache["remaining"]) == (3 * SIZE, SIZE if full == "b" else 0)
        unsaved = {(one["volume"], one["key"], one["errno"], one["next"]) for one in cache["unsaved"]}
        assert unsaved == ({("files", "b", 28, "kept, and tried again when asked")} if full == "b" else set())
        saved = [name for name in "abc" if (root / name).read_bytes() == b"x" * SIZE]
        assert saved == [name for name in "abc" if name != full]
        owner.communicate(timeout=60)
