"""What is created here has no version before it is committed."""

from __future__ import annotations

import os

import pytest

from ..file.keeping import KeepingBackend
from .conftest import Attach
from .plain import PlainStore


@pytest.mark.parametrize("written", [b"", b"bytes"])
def test_a_created_object_may_be_opened_again_though_its_file_names_a_version(attach: Attach, written: bytes) -> None:
    """2.20: an object that was created and not committed is there for open, stat and exists, and is one inode."""
    store = PlainStore(commit_on_close=True)  # answers version 0 for what nobody committed
    volume = attach(store)
    with volume.open("f", "w+") as one:
        one.pwrite(written, 0)
        assert volume.exists("f")
        assert volume.stat("f").size == len(written)
        with volume.open("f", flags=os.O_RDWR) as two:
            two.pwrite(b"!", len(written))
            assert one.pread(10, 0) == written + b"!"
    assert store.objects["f"] == written + b"!"


def test_a_store_that_shows_what_is_created_at_once_is_no_conflict(attach: Attach) -> None:
    """Not what the interface asks for, and harmless: the version is the one that the file named. [2.19, 2.20]"""
    volume = attach(KeepingBackend({}))
    with volume.open("f", "x+b") as one:
        with volume.open("f", "r+b") as two:
            two.pwrite(b"bytes", 0)
        one.fsync()
        volume.open("f").close()
        assert one.pread(10, 0) == b"bytes"
