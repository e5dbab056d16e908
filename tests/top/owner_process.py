"""A program that serves a real cache. Lines on stdin command it, and each is answered by a line.

python -m tests.top.owner_process SOCKET
"""

from __future__ import annotations

import errno
import logging
import sys

from pagecache import PageCache, RetryPolicy
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultyBackend, Rule

PAGE = 4096


def main(socket: str) -> None:
    logging.getLogger("pagecache").setLevel(logging.CRITICAL)
    backend = FaultyBackend(MemoryBackend())
    # Nothing is written back without a command.
    cache = PageCache(
        "4MiB", page_size=PAGE, max_folio=PAGE, dirty_expire=3600.0, flush_interval=3600.0,
        retry=RetryPolicy(attempts=1, failed_retry=3600.0),
    )  # fmt: skip
    cache.serve_stats(socket)
    volume = cache.attach(backend, name="store")
    file = volume.open("dir/\x1b[31mred", "w+b")
    print("ready", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["write", first, count]:
                file.pwrite(b"x" * PAGE * int(count), int(first) * PAGE)
            case ["fsync"]:
                try:
                    file.fsync()
                except OSError as error:
                    print(errno.errorcode[error.errno or 0], flush=True)
                    continue
            case ["fail", name]:
                backend.use([Rule("write", error=getattr(errno, name))])
            case ["mend"]:
                backend.use([])
                volume.retry_failed()
            case ["read", count]:
                for _ in range(int(count)):
                    file.pread(PAGE, 0)
            case ["many", count]:
                for number in range(int(count)):
                    volume.open(f"many/{number:05}", "w+b").close()
            case ["close"]:
                file.close()
                cache.close()
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
