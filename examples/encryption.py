"""Objects that are encrypted on disk and plain in the cache, with AES-256-GCM from the package `cryptography`.

It needs that package: `pip install cryptography`.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    raise SystemExit("this example needs cryptography: run pip install cryptography") from None

from pagecache import PageCache
from pagecache.backends import DirectoryBackend, TransformBackend

NONCE, TAG = 12, 16


class Encryption:
    """Each unit gets a fresh nonce at each write, and is bound to its position in the object.

    It does not hide sizes, names and holes. It does not detect an older version of a unit, or the unit at that position
    of another object. One key is good for some 2**32 written units.
    """

    overhead = NONCE + TAG
    unit = (64 << 10) - overhead  # a slot on disk is 64 KiB

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def encode(self, index: int, data: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, data, index.to_bytes(8, "big"))

    def decode(self, index: int, data: bytes) -> bytes:
        try:
            return self._cipher.decrypt(data[:NONCE], data[NONCE:], index.to_bytes(8, "big"))
        except InvalidTag:
            raise ValueError("wrong key, or changed bytes") from None


def main() -> None:
    key = AESGCM.generate_key(256)
    with TemporaryDirectory() as folder:
        with PageCache("4MiB") as cache:
            volume = cache.attach(TransformBackend(DirectoryBackend(folder), Encryption(key)))
            with volume.open("diary", "w+") as file:
                file.write(b"dear diary\n" * 20_000)
                file.fsync()
                file.pwrite(b"DEAR", 100_001)  # encrypts 64 KiB again
                file.truncate(150_000)
                file.fsync()

        stored = Path(folder, "diary").read_bytes()
        assert b"diary" not in stored

        with PageCache("4MiB") as cache:
            volume = cache.attach(TransformBackend(DirectoryBackend(folder), Encryption(key)))
            with volume.open("diary") as file:
                print(f"{file.size} bytes, {len(stored)} on disk; {file.pread(16, 100_001)!r}")
            stranger = cache.attach(TransformBackend(DirectoryBackend(folder), Encryption(AESGCM.generate_key(256))))
            with stranger.open("diary") as file:
                try:
                    file.pread(10, 0)
                except OSError as error:
                    print(error.strerror)


if __name__ == "__main__":
    main()
