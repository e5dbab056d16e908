"""`import pagecache` loads what every program needs, and no more: modules are counted, not milliseconds."""

from __future__ import annotations

import subprocess
import sys

HEAVY = """
asyncio concurrent.futures ctypes decimal difflib email fractions hashlib hmac importlib.metadata json mmap secrets
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


def loaded(names: set[str], more: str = "") -> list[str]:
    """Those of `names` that a program loads with the package, and that the start of Python has not loaded."""
    program = PROGRAM.format(names=repr(names), more=more)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded({*HEAVY.split(), *ON_DEMAND}) == []


def test_a_program_without_tasks_never_loads_asyncio() -> None:
    """Nor modules of entry points: the schemes of the package need none."""
    program = """
with pagecache.PageCache("1MiB") as cache:
    with cache.attach("memory:").open("key", "w+b") as file:
        file.pwrite(b"bytes", 0)
        file.fsync()
        assert file.pread(5, 0) == b"bytes"
    cache.stats()
"""
    assert loaded({"asyncio", "importlib.metadata", "email", "ssl", "fractions", "difflib"}, program) == []


def test_names_that_are_imported_on_first_use_are_there() -> None:
    """As attributes, in `from pagecache import *`, and in `dir`."""
    program = """
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
    assert loaded(set(), program) == []
