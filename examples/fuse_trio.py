"""A FUSE server on pyfuse3: this program makes the bytes, and other programs change them through the cache.

It needs the extra `fuse` (`pip install '.[fuse]'` in a checkout), which is built against libfuse 3, and `fusermount3`
(Debian: libfuse3-dev, pkg-config, fuse3).
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
    import pyfuse3
    import trio
except ImportError as error:
    advice = "run apt install libfuse3-dev pkg-config fuse3, and pip install '.[fuse]' in a checkout"
    raise SystemExit(f"this example needs pyfuse3 and trio ({error}): {advice}") from None

import pagecache
from pagecache.backends import MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.fuse import TrioFiles


class Tables(MemoryBackend):
    """The source of the bytes: computed and kept here, behind your own API in a real server."""

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
        if not create and not list(self.list(str(key))):
            self.put(key, "".join(f"{n} {n ** int(str(key))}\n" for n in range(1000)).encode())
        return super().open(key, create=create, exclusive=exclusive)


class Server(pyfuse3.Operations):
    """Names and attributes are yours: file N + 1 is the table of powers of N. `files` serves the bytes."""

    def __init__(self, volume: pagecache.Volume) -> None:
        files = self.files = TrioFiles(volume, error=pyfuse3.FUSEError)
        self.read, self.write = files.read, files.write  # type: ignore[method-assign]
        self.flush, self.fsync, self.release = files.flush, files.fsync, files.release  # type: ignore[method-assign]

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode = inode, stat.S_IFDIR | 0o755 if inode == 1 else stat.S_IFREG | 0o644
        entry.st_size = 0 if inode == 1 else await self.files.size(str(inode - 1))
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        if name not in (b"1", b"2", b"3"):
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(int(name) + 1)

    async def open(self, inode: int, flags: int, ctx: Any = None) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=await self.files.open(str(inode - 1), flags))


def main() -> None:
    if shutil.which("fusermount3") is None or not os.path.exists("/dev/fuse"):
        raise SystemExit("this example needs fusermount3 and /dev/fuse: run apt install fuse3")
    store = Tables()
    with tempfile.TemporaryDirectory() as path, pagecache.PageCache("16MiB") as cache:
        pyfuse3.init(Server(cache.attach(store)), path)
        loop = threading.Thread(target=trio.run, args=(pyfuse3.main,))
        loop.start()
        with open(os.path.join(path, "3"), "r+b") as file:  # any program could do this
            print(file.read().splitlines()[10].decode())
            file.write(b"the end")
        subprocess.run(["fusermount3", "-u", path], check=True)
        loop.join()
        pyfuse3.close(unmount=False)
    assert store.snapshot("3").endswith(b"the end")


if __name__ == "__main__":
    main()
