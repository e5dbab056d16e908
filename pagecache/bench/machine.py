"""Where a run took place: printed with every table, because absolute times mean nothing without it."""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from pagecache.distribution import VERSION


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that move the numbers."""

    cpus: int  # that this process may use
    model: str
    load: float  # average of the last minute, at the start
    memory: int  # bytes available at the start
    kernel: str
    python: str
    huge_pages: str  # what transparent huge pages are set to
    package: str

    @property
    def busy(self) -> bool:
        """Whether other work ran when the measurement started: such a run is worth little."""
        return self.load > 1.0


def first_match(path: str, key: str) -> str:
    """Return what follows `key` in a `key : value` file of the kernel; "" when it is not there."""
    try:
        with open(path, encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        return ""
    return ""


def kib(text: str) -> int:
    """Bytes of a kernel value such as `1024 kB`; 0 for an empty one."""
    return int(text.split()[0]) * 1024 if text else 0


def available_memory() -> int:
    """Bytes of memory that can be used without swapping."""
    return kib(first_match("/proc/meminfo", "MemAvailable"))


def huge_bytes() -> int:
    """Bytes of this process that lie in transparent huge pages now."""
    return kib(first_match("/proc/self/smaps_rollup", "AnonHugePages"))


def huge_page_setting() -> str:
    """The chosen word of the kernel's `always [madvise] never`."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii")
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0] or "unknown"


def describe() -> Machine:
    """Look at the machine as it is now."""
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        model=first_match("/proc/cpuinfo", "model name") or platform.machine(),
        load=os.getloadavg()[0],
        memory=available_memory(),
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}"
        + ("" if getattr(sys, "_is_gil_enabled", lambda: True)() else " free-threaded"),
        huge_pages=huge_page_setting(),
        package=VERSION,
    )
