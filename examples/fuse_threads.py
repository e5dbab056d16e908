"""A FUSE server on mfusepy: this program makes the bytes, and other programs change them through the cache.

It needs the extra `mfusepy` (`pip install '.[mfusepy]'` in a checkout), libfuse 3 and `fusermount3` (Debian: fuse3).
"""

import errno
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Hashable
from typing import Any

try:
    import mfusepy
except (ImportError, OSError) as error:  # OSError: there is no libfuse
    advice = "run pip install '.[mfusepy]' in a checkout, and apt install fuse3"
    raise SystemExit(f"this example needs mfusepy ({error}): {advice}") from None

import pagecache
from pagecache.backends import MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.fuse import Files


class Tables(MemoryBackend):
    """The source of the bytes: computed and kept here, behind your own API in a real server."""

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
        if not create and not list(self.list(str(key))):
            self.put(key, "".join(f"{n} {n ** int(str(key))}\n" for n in range(1000)).encode())
        return super().open(key, create=create, exclusive=exclusive)


class Server(mfusepy.Operations):
    """Names and attributes are yours: /N is the table of powers of N. Calls come from several threads."""

    use_ns = True

    def __init__(self, volume: pagecache.Volume) -> None:
        self.files, self.mounted = Files(volume), threading.Event()

    def init(self, path: str) -> None:
        self.mounted.set()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path not in ("/1", "/2", "/3"):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": self.files.size(path[1:])}

    def open(self, path: str, flags: int) -> int:
        return self.files.open(path[1:], flags)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self.files.read(fh, offset, size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return self.files.write(fh, offset, data)

    def flush(self, path: str, fh: int) -> int:
        self.files.flush(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        self.files.release(fh)
        return 0


def main() -> None:
    if shutil.which("fusermount3") is None or not os.path.exists("/dev/fuse"):
        raise SystemExit("this example needs fusermount3 and /dev/fuse: run apt install fuse3")
    store = Tables()
    with tempfile.TemporaryDirectory() as path, pagecache.PageCache("16MiB") as cache:
        server = Server(cache.attach(store))
        serving = threading.Thread(target=mfusepy.FUSE, args=(server, path), kwargs={"foreground": True})
        serving.start()
        server.mounted.wait()
        with open(os.path.join(path, "3"), "r+b") as file:  # any program could do this
            print(file.read().splitlines()[10].decode())
            file.write(b"the end")
        subprocess.run(["fusermount3", "-u", path], check=True)
        serving.join()
    assert store.snapshot("3").endswith(b"the end")


if __name__ == "__main__":
    main()
