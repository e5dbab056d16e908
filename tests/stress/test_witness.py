"""The witness: it checks that bytes stay unchanged while a call has them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pagecache.backends import BackendFile, MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key
from pagecache.stress.witness import Witness

MEMORY = bytearray(100)


class Meddling(PassingFile):
    """While a call has the bytes, another thread changes one."""

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        MEMORY[70] ^= 1
        return self.inner.write_from(offset, buffers)


class Meddled(PassingBackend):
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return Meddling(self.inner.open(key, create=create, exclusive=exclusive))


def test_a_byte_that_changes_during_a_call_is_seen() -> None:
    """It is reported with its place in the object; not a second time, if it stays. [T-11]"""
    witness = Witness(Meddled(MemoryBackend()))
    assert witness.open("file", create=True).write_from(1000, [memoryview(MEMORY)[:60], memoryview(MEMORY)[60:]]) == 100
    assert witness.seen == ["'file': byte 1070 changed while a call had it"]
    assert witness.open("file").write_from(0, [memoryview(MEMORY)[:70]]) == 70
    assert len(witness.seen) == 1


def test_memory_of_a_user_that_may_change_is_not_looked_at() -> None:
    witness = Witness(Meddled(MemoryBackend()))
    file = witness.open("file", create=True)
    with witness.blind():
        file.write_from(0, [memoryview(MEMORY)])
    assert witness.seen == []


def test_optional_calls_are_those_of_the_backend() -> None:
    """If the backend has no `stage`, there is none behind the witness either."""
    file = Witness(MemoryBackend()).open("file", create=True)
    assert hasattr(file, "punch_hole")
    with pytest.raises(AttributeError):
        file.stage  # type: ignore[attr-defined]  # noqa: B018
