"""`import pagecache` loads what every program needs, and no more: modules are counted, not milliseconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = """
asyncio concurrent.futures ctypes decimal difflib email fractions hashlib hmac http importlib.metadata json mmap secrets
selectors shutil socket ssl subprocess tempfile zipfile boto3 click fsspec prometheus_client rich trio
"""
ON_DEMAND = {
    *(f"pagecache.{name}" for name in ("metrics", "observe", "options", "stats", "testing", "engine.loop")),
    *(f"pagecache.backends.{name}" for name in ("directory", "memory", "transform")),
}

PROGRAM = """
import sys
before = set(sys.modules)
import pagecache
{more}
print(*sorted(({names}) & (set(sys.modules) - before)))
"""
NO_TASKS = """
with pagecache.PageCache("1MiB") as cache:
    with cache.attach("memory:").open("key", "w+b") as file:
        file.pwrite(b"bytes", 0)
        file.fsync()
        assert file.pread(5, 0) == b"bytes"
    cache.stats()
"""
ENTRY_POINTS = {"importlib.metadata", "email", "ssl", "fractions", "difflib"}
COMMAND = "from pagecache.cli import main"
HELP = f"""
{COMMAND}
from click.testing import CliRunner
assert CliRunner().invoke(main, ["top", "--help"]).exit_code == 0
"""
SERVED = """
with pagecache.PageCache("1MiB") as cache:
    cache.serve_stats("s")
"""
ON_FIRST_USE = """
assert set(pagecache.__all__) <= set(dir(pagecache))
for name in pagecache.__all__:
    getattr(pagecache, name)
star = {}
exec("from pagecache import *", star)
assert set(pagecache.__all__) <= set(star)
assert pagecache.options.OpenMode and pagecache.stats.CacheStats is pagecache.CacheStats
assert pagecache.backends.memory.MemoryBackend is pagecache.backends.MemoryBackend
assert set(pagecache.backends.__all__) <= set(dir(pagecache.backends))
"""


@pytest.mark.parametrize(
    ("names", "more"),
    [
        pytest.param({*HEAVY.split(), *ON_DEMAND}, "", id="the package alone"),
        pytest.param({"asyncio"} | ENTRY_POINTS, NO_TASKS, id="a program without tasks"),
        pytest.param({"rich", "matplotlib"}, COMMAND, id="a command"),
        pytest.param({"rich.live", "http.client"}, HELP, id="the help of the live view"),
        pytest.param({"prometheus_client"}, SERVED, id="a served cache"),
        pytest.param(set(), ON_FIRST_USE, id="names that are imported on first use"),
    ],
)
def test_a_program_loads_nothing_that_it_does_not_need(names: set[str], more: str, tmp_path: Path) -> None:
    """Schemes of the package need no entry points. Names are there as attributes, in `*`, and in `dir`."""
    program = PROGRAM.format(names=repr(names), more=more)
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ran.stdout.split(), ran.stderr) == ([], "")
