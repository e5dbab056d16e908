"""The disk is full: fsync raises, the bytes stay readable in the cache, and are written when there is space again."""

import errno
import logging

import pagecache
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultyBackend, Rule

# Every failed write-back is logged as a warning; this program prints its own message instead.
logging.getLogger("pagecache").setLevel(logging.ERROR)


def main() -> None:
    store = MemoryBackend()
    backend = FaultyBackend(store)
    with pagecache.PageCache("1MiB") as cache:
        volume = cache.attach(backend, name="store")
        with volume.open("report", "w+") as report:
            report.write(b"saved before the disk was full\n")
            report.fsync()
            before = report.size

            backend.use([Rule("write", error=errno.ENOSPC)])  # from now on no write succeeds
            report.write(b"written while it was full\n")
            try:
                report.fsync()
            except pagecache.WritebackError as error:
                print(f"fsync failed: {errno.errorcode[error.errno]}")

            # Nothing is lost: the bytes are readable from memory, and listed.
            assert report.pread(100, before) == b"written while it was full\n"
            assert b"while" not in store.snapshot("report")
            for entry in volume.failed():
                print(f"not saved yet: {entry.key!r}, {entry.length} bytes from {entry.offset} on")

            backend.use([])  # the disk has space again
            volume.retry_failed()  # starts the retry; fsync waits for it
            report.fsync()
            assert volume.failed() == []
            assert store.snapshot("report") == report.pread(100, 0)
            print("there is space again: everything is saved")


if __name__ == "__main__":
    main()
