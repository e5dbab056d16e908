"""`pagecache mount --features`: features of this build, of libfuse and of the kernel that concern mounts.

The kernel reports its features to a mounting process only: so this mounts for a moment, in a temporary folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from ..cache import PageCache
from .loop import Loop, why_no_loop
from .server import Server

__all__ = ["features"]

URING = "/sys/module/fuse/parameters/enable_uring"
SPLICE_READ, READDIRPLUS, WRITEBACK = 1 << 9, 1 << 13, 1 << 16
SHARED_MAPPINGS = "shared mappings with direct I/O"
PARALLEL_LIBRARY, URING_LIBRARY = "3.14.1", 318


def features() -> Iterator[str]:
    """Yield the lines of the report."""
    missing = why_no_loop()
    yield f"loop in C: {missing or 'built'}"
    try:
        yield f"pyfuse3, for servers of other programs: {version('pyfuse3')}"
    except PackageNotFoundError:
        yield "pyfuse3, for servers of other programs: not installed"
    yield f"kernel: {os.uname().release}{'' if os.path.exists('/dev/fuse') else ', without /dev/fuse'}"
    if missing:
        return
    try:
        found = _query()
    except OSError as error:
        yield f"what the kernel has is not known: nothing can be mounted here ({error})"
        return
    yield from _lines(found)


def _query() -> dict[str, int]:
    with (
        tempfile.TemporaryDirectory() as folder,
        PageCache("1MiB") as cache,
        Loop(Server(cache.attach("memory:")), folder, timeout=10.0, direct_io=True) as loop,
    ):
        os.stat(folder)  # the features arrive before the reply to this
        return loop.features()


def _lines(found: dict[str, int]) -> Iterator[str]:
    library, capable, want = found["library"], found["capable"], found["want"]

    def line(name: str, has: bool, note: str) -> str:
        return f"{name}: {'yes' if has else 'no'}{', ' if note else ''}{note}"

    def used(bit: int) -> str:
        return "used" if want & bit else "not used"

    yield f"libfuse: {library // 100}.{library % 100}, protocol {found['proto_major']}.{found['proto_minor']}"
    yield f"largest write: {found['max_write']} bytes"
    yield line("readdirplus", bool(capable & READDIRPLUS), used(READDIRPLUS))
    parallel = bool(found["parallel_writes_built"])
    note = "used with direct I/O" if parallel else f"libfuse {PARALLEL_LIBRARY} has them"
    yield line("direct writes of one file side by side", parallel, note)
    missing = "Linux 6.6 has them" if found["direct_mmap_built"] else "libfuse 3.13 has them"
    yield line(SHARED_MAPPINGS, bool(found["direct_mmap"]), "" if found["direct_mmap"] else missing)
    yield line("the kernel's write-back cache", bool(capable & WRITEBACK), "not used: decision 135")
    yield line("splice", bool(capable & SPLICE_READ), "not used: bytes are copied between the connection and folios")
    uring = ""
    if os.path.exists(URING):
        with open(URING) as file:
            uring = "the kernel has it, " + ("switched on" if file.read().strip() == "Y" else "switched off")
    note = f"{uring or 'the kernel has it not'}; libfuse 3.18 would be needed"
    yield line("io-uring", False, note if library < URING_LIBRARY else f"{uring or 'the kernel has it not'}; not used")
