"""A FUSE file system whose cached bytes never enter Python. This program makes the bytes, other programs change them.

It needs the loop in C (Debian: libfuse3-dev and pkg-config before the installation) and `fusermount3` (Debian: fuse3).
"""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Hashable, Iterable

import pagecache
from pagecache.backends import MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.fuse import Attributes, Files, Loop, why_no_loop


class Tables(MemoryBackend):
    """The source of the bytes: computed and kept here, behind your own API in a real server."""

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
        if not create and not list(self.list(str(key))):
            self.put(key, "".join(f"{n} {n ** int(str(key))}\n" for n in range(1000)).encode())
        return super().open(key, create=create, exclusive=exclusive)


class FileSystem:
    """Names and attributes are yours: file N + 1 is the table of powers of N. Calls come from several threads."""

    def __init__(self, volume: pagecache.Volume) -> None:
        self.files = Files(volume)

    def getattr(self, number: int) -> Attributes:
        mode, size = stat.S_IFDIR | 0o755, 0
        if number > 1:
            mode, size = stat.S_IFREG | 0o644, self.files.size(str(number - 1))
        return Attributes(number, mode, 1, os.getuid(), os.getgid(), size, 0, 0, 0)

    def lookup(self, parent: int, name: str) -> Attributes:
        if name not in ("1", "2", "3"):
            raise FileNotFoundError(name)
        return self.getattr(int(name) + 1)

    def open(self, number: int, flags: int) -> tuple[int, bool]:
        return self.files.open(str(number - 1), flags), False

    def entries(self, number: int) -> Iterable[tuple[str, Attributes]]:
        return [(name, self.lookup(number, name)) for name in ("1", "2", "3")]


def main() -> None:
    if why_no_loop():
        advice = "run apt install libfuse3-dev pkg-config, and install pagecache again"
        raise SystemExit(f"this example needs the loop in C ({why_no_loop()}): {advice}")
    if shutil.which("fusermount3") is None or not os.path.exists("/dev/fuse"):
        raise SystemExit("this example needs fusermount3 and /dev/fuse: run apt install fuse3")
    store = Tables()
    with (
        tempfile.TemporaryDirectory() as path,
        pagecache.PageCache("16MiB") as cache,
        Loop(FileSystem(cache.attach(store)), path, direct_io=True) as loop,
    ):
        print(*sorted(os.listdir(path)))
        with open(os.path.join(path, "3"), "r+b", buffering=0) as file:  # any program could do this
            print(file.read(4096).splitlines()[10].decode())
            before = loop.counts()["asked"]
            for place in range(0, 10000, 100):
                file.seek(place)
                file.write(b"the end")
                file.seek(0)
                file.read(100)
            print(f"200 reads and writes, {loop.counts()['asked'] - before} of them in Python")
        subprocess.run(["fusermount3", "-u", path], check=True)
        loop.wait()
        loop.drain(10)
    assert store.snapshot("3").startswith(b"the end")


if __name__ == "__main__":
    main()
