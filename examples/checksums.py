"""Detect changed bytes in the store: every 64 KiB carry a checksum, which each read verifies."""

import errno
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

from pagecache import PageCache
from pagecache.backends import DirectoryBackend, TransformBackend


class Checksums:
    """CRC-32 over content and position. Detects accidents (bit rot, blocks in the wrong place), not attacks."""

    overhead = 4

    def __init__(self, unit: int = 64 << 10) -> None:
        self.unit = unit

    def encode(self, index: int, data: bytes) -> bytes:
        return data + self._sum(index, data)

    def decode(self, index: int, data: bytes) -> bytes:
        if self._sum(index, data[:-4]) != data[-4:]:
            raise ValueError("wrong checksum")
        return data[:-4]

    def _sum(self, index: int, data: bytes) -> bytes:
        return zlib.crc32(data, zlib.crc32(index.to_bytes(8, "big"))).to_bytes(4, "big")


def main() -> None:
    content = b"all work and no play makes jack a dull boy\n" * 10_000
    with TemporaryDirectory() as folder:
        with PageCache("4MiB") as cache:
            volume = cache.attach(TransformBackend(DirectoryBackend(folder), Checksums()))
            with volume.open("novel", "w") as file:
                file.write(content)
                file.fsync()

        novel = Path(folder, "novel")
        stored = bytearray(novel.read_bytes())
        stored[100_000] ^= 1  # a bit rots
        novel.write_bytes(stored)

        with PageCache("4MiB") as cache:
            volume = cache.attach(TransformBackend(DirectoryBackend(folder), Checksums()), read_ahead=0)
            with volume.open("novel") as file:
                assert file.pread(60_000, 0) == content[:60_000]
                try:
                    file.pread(60_000, 70_000)
                except OSError as error:
                    print(f"{errno.errorcode[error.errno or 0]}: {error.filename!r}: {error.strerror}")


if __name__ == "__main__":
    main()
