"""File contents that name their origin: the file and offset they were meant for, their writer, and which of its writes.

Byte p of file f, written by writer w as its s-th write, is

    STREAM[(p + f * PHASE) mod PERIOD]  xor  key(f, w, s)[p mod 16]

The stream encodes the place, the key encodes the write. A key is ten bytes of (tag of the run, file, writer, sequence),
made to look random by their checksum, which is the other six bytes. This gives:

* Any two writes differ in nearly every byte: one in 256 is equal by chance.
* 16 bytes found at the place where they belong yield their key, whose checksum proves it.
* 20 bytes found anywhere else first yield the place they were made for: neighbours 16 bytes apart share a key, so
  their difference is that of the stream alone, and is looked up in it.
* Fewer bytes are compared with the recorded writes (`Write` of history.py), as far as so few bytes allow.

Appended data does not contain its place. It is made for offsets from 0 of a separate file number (`APPENDED` added),
and the write records its actual offset.
"""

from __future__ import annotations

import functools
import hashlib
import random
import struct
from dataclasses import dataclass, replace

KEY = 16  # bytes of a key, and its period in a file
APPENDED = 1 << 15  # added to a file number: offsets are relative to the append
PERIOD = 1_048_583  # a prime, so displacement by any round number of bytes is visible
PHASE = 104_729
_HEADER = struct.Struct("<HHHI")
_CHECK = KEY - _HEADER.size
_LEAST = 4  # bytes of a difference that suffice to look a place up


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin that a fragment encodes.

    Attributes:
        tag: of the run, from its seed.
        file: number of the file; see `appended`.
        worker: number of the writer; 0: the content before the run.
        sequence: number of the write among the writer's, from 0.
        offset: intended offset of the fragment's first byte, modulo the period.
        appended: `offset` is relative to the data of an append.
    """

    tag: int
    file: int
    worker: int
    sequence: int
    offset: int
    appended: bool


@functools.cache
def _stream() -> bytes:
    """Return the stream twice, so that every slice of up to a period is contiguous."""
    return random.Random("pagecache.stress").randbytes(PERIOD) * 2


@functools.lru_cache(4096)
def _key(tag: int, file: int, writer: int, sequence: int) -> bytes:
    header = _HEADER.pack(tag, file, writer, sequence & 0xFFFFFFFF)
    check = hashlib.blake2b(header, digest_size=_CHECK).digest()
    return check + _xor(header, _mask(check))


def _mask(check: bytes) -> bytes:
    return hashlib.blake2b(check, digest_size=_HEADER.size).digest()


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


def made(tag: int, file: int, writer: int, sequence: int, start: int, end: int) -> bytes:
    """Return the bytes of a write in [start, end).

    **Cost:** some ten microseconds and two copies for 64 KiB.
    """
    length = end - start
    key = _key(tag, file, writer, sequence)
    turn = start % KEY
    keys = ((key[turn:] + key[:turn]) * (length // KEY + 1))[:length]
    return b"".join(_xor(piece, keys[at : at + len(piece)]) for at, piece in _pieces(file, start, length))


def _pieces(file: int, start: int, length: int) -> list[tuple[int, bytes]]:
    """Return the stream at a place, in pieces of up to a period, each with its distance from `start`."""
    stream, pieces, at = _stream(), [], 0
    while at < length:
        phase = (start + at + file * PHASE) % PERIOD
        take = min(PERIOD, length - at)
        pieces.append((at, stream[phase : phase + take]))
        at += take
    return pieces


def decode(fragment: bytes, offset: int, file: int) -> Origin | None:
    """Return the origin of bytes found at `offset` of `file`; None: too few bytes, or of no write.

    Whole keys at their own place are tried first, then other offsets and other files.
    """
    for at in range(0, len(fragment) - KEY + 1, KEY):
        stream = _pieces(file, offset + at, KEY)[0][1]
        if found := _opened(_xor(fragment[at : at + KEY], stream), offset + at):
            return Origin(*found, offset=offset, appended=False)
    for at in range(0, len(fragment) - KEY - _LEAST + 1, KEY):
        if origin := _decode_displaced(fragment[at:]):
            return replace(origin, offset=(origin.offset - at) % PERIOD)
    return None


def _opened(raw: bytes, offset: int) -> tuple[int, int, int, int] | None:
    """Return the fields of a key found at an offset, if its checksum is right."""
    turn = -offset % KEY
    key = raw[turn:] + raw[:turn]
    header = _xor(key[_CHECK:], _mask(key[:_CHECK]))
    if hashlib.blake2b(header, digest_size=_CHECK).digest() != key[:_CHECK]:
        return None
    tag, file, writer, sequence = _HEADER.unpack(header)
    return tag, file, writer, sequence


@functools.cache
def _differences() -> bytes:
    stream = _stream()
    return _xor(stream[: PERIOD + KEY], stream[KEY : PERIOD + 2 * KEY])


def _decode_displaced(fragment: bytes) -> Origin | None:
    """Decode the first bytes as made for any place."""
    size = min(len(fragment) - KEY, KEY)
    wanted = _xor(fragment[:size], fragment[KEY : KEY + size])
    if not any(wanted):
        return None  # equal bytes: zeros
    stream, phase = _stream(), _differences().find(wanted)
    while phase >= 0:
        raw = _xor(fragment[:KEY], stream[phase : phase + KEY])
        # The rotation of the key depends on the offset, which depends on the file: the checksum decides.
        for turn in range(KEY):
            found = _opened(raw, turn)
            if found is not None:
                tag, file, writer, sequence = found
                offset = (phase - file * PHASE) % PERIOD
                return Origin(tag, file & ~APPENDED, writer, sequence, offset, bool(file & APPENDED))
        phase = _differences().find(wanted, phase + 1)
    return None
