"""Transforms for tests. The ciphers are toys: they show whether bytes and units are mixed up, and hide nothing."""

from __future__ import annotations

import hashlib
import itertools
import zlib


def keystream(what: bytes, length: int) -> bytes:
    return hashlib.shake_128(what).digest(length)


def xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


class XorStream:
    """A cipher that keeps the length; every unit has its own key stream. It does not detect wrong bytes."""

    overhead = 0

    def __init__(self, unit: int = 4096) -> None:
        self.unit = unit

    def encode(self, index: int, data: bytes) -> bytes:
        return xor(data, keystream(b"key%d" % index, len(data)))

    decode = encode


class Checksums:
    """A transform that stores the content and a checksum over it, its place and its length."""

    overhead = 4

    def __init__(self, unit: int = 4096) -> None:
        self.unit = unit

    def encode(self, index: int, data: bytes) -> bytes:
        return data + self.sum(index, data)

    def decode(self, index: int, data: bytes) -> bytes:
        if self.sum(index, data[:-4]) != data[-4:]:
            raise ValueError("wrong checksum")
        return data[:-4]

    def sum(self, index: int, data: bytes) -> bytes:
        return zlib.crc32(data, index + 1).to_bytes(4, "big")


class Sealed:
    """An imitation of an authenticating cipher: with a nonce and a tag, encoding twice gives other bytes."""

    overhead = 8 + 16

    def __init__(self, unit: int = 4096) -> None:
        self.unit = unit
        self.nonces = itertools.count(1)

    def encode(self, index: int, data: bytes) -> bytes:
        nonce = next(self.nonces).to_bytes(8, "big")
        hidden = xor(data, keystream(b"%d" % index + nonce, len(data)))
        return nonce + hidden + self.tag(index, nonce + hidden)

    def decode(self, index: int, data: bytes) -> bytes:
        if self.tag(index, data[:-16]) != data[-16:]:
            raise ValueError("wrong tag")
        return xor(data[8:-16], keystream(b"%d" % index + data[:8], len(data) - 24))

    def tag(self, index: int, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=16, key=b"%d" % index).digest()
