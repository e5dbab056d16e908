"""Holes in files of a directory, where a kernel or a file system lacks the call."""

from __future__ import annotations

import os

import pytest

from pagecache.backends import DirectoryBackend, directory
from pagecache.native import names

from .test_directory import backend as backend  # the fixtures
from .test_directory import content, put
from .test_directory import root as root

# ------------------------------------------------------------------------------------------------ what a kernel lacks


def test_hole_where_the_file_system_cannot_punch(backend: DirectoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "punch_hole", lambda fd, offset, length: False)
    monkeypatch.setattr(directory, "ZEROS", bytes(3))
    file = put(backend, "a", b"0123456789")
    file.punch_hole(2, 5)
    file.punch_hole(8, 100)
    assert content(backend, "a") == b"01\0\0\0\0\x0007\0\0"[:2] + bytes(5) + b"7" + bytes(2)
    file.close()


def test_exclusive_rename_where_the_kernel_has_none(backend: DirectoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "rename_noreplace", lambda *places: False)
    put(backend, "a", b"a").close()
    backend.rename("a", "b", replace=False)
    assert content(backend, "b") == b"a"
    put(backend, "a", b"a").close()
    with pytest.raises(FileExistsError) as raised:
        backend.rename("a", "b", replace=False)
    assert raised.value.filename == "b"
    assert sorted(str(found.key) for found in backend.list()) == ["a", "b"]


IOV_MAX = os.sysconf("SC_IOV_MAX")


def test_more_buffers_than_the_kernel_takes(backend: DirectoryBackend) -> None:
    file = put(backend, "a", b"")
    buffers = [memoryview(b"x")] * (IOV_MAX + 5)
    assert file.write_from(0, buffers) == IOV_MAX
    into = [memoryview(bytearray(1)) for _ in buffers]
    assert file.read_into(0, into) == IOV_MAX
    file.close()
