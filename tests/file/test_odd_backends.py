"""Backends whose calls about names raise exceptions other than OSError, and one object in the place of two backends."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import BackendProtocolError, PageCache
from pagecache.backends import MemoryBackend

from ..stores import RecordingBackend
from .rig import KEY, Rig, Task, pattern

Make = Callable[..., Rig]
DATA = pattern(100)

VERBS: dict[str, tuple[str, Callable[[Rig], Any]]] = {
    "open": ("open", lambda rig: rig.volume.open("other").close()),
    "create": ("open", lambda rig: rig.volume.open("new", "xb").close()),
    "the stat of an open": ("file_stat", lambda rig: rig.volume.open("other").close()),
    "stat": ("stat", lambda rig: rig.volume.stat("other")),
    "stat of an unsaved file": ("file_stat", lambda rig: (rig.handles[0].pwrite(b"new", 0), rig.volume.stat(KEY))),
    "exists": ("stat", lambda rig: rig.volume.exists("other")),
    "list": ("list", lambda rig: list(rig.volume.list())),
    "remove": ("remove", lambda rig: rig.volume.remove("other")),
    "rename": ("rename", lambda rig: rig.volume.rename("other", "another")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_exception_that_is_no_oserror_is_reported_as_a_fault_of_the_backend(make: Make, verb: str) -> None:
    """`except OSError` catches it; it has the cause and the key, and the volume goes on. [T-66, 2.14]"""
    op, call = VERBS[verb]
    rig = make({KEY: DATA, "other": DATA})
    rig.open("r+b")
    fault = rig.backend.fault(op, KeyError("index"))
    with pytest.raises(BackendProtocolError, match="KeyError") as caught:
        call(rig)
    assert fault.nr_hit == 1
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.errno == errno.EPROTO
    if verb != "list":
        assert caught.value.filename in ("other", "new", KEY)
    call(rig)


def test_a_reconnect_to_such_a_backend_changes_nothing(make: Make) -> None:
    """The volume stays aborted, and the next backend gets the data. [2.22]"""
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(b"new", 0)
    rig.volume.abort()
    bad = rig.backend.successor()
    bad.fault("open", KeyError("index"))
    with pytest.raises(BackendProtocolError, match="KeyError"):
        rig.volume.reconnect(bad)
    good = rig.backend.successor()
    rig.volume.reconnect(good)
    rig.volume.sync()
    assert good.committed(KEY) == b"new" + DATA[3:]


def test_a_reconnect_to_the_same_object_may_take_its_time(make: Make) -> None:
    """A slow open was mistaken for another thread's reconnect. [2.22]"""
    rig = make({KEY: DATA})
    rig.open("r+b").pwrite(b"new", 0)
    rig.volume.abort()
    gate = rig.backend.gate("open")
    task = Task(rig.volume.reconnect, rig.backend)
    gate.wait_entered()
    assert task.waits(0.3)  # several checks of the volume's state
    gate.open()
    task.result()
    rig.volume.sync()
    assert rig.backend.committed(KEY) == b"new" + DATA[3:]


def test_a_backend_is_attached_once() -> None:
    """Two volumes of one object would miss each other's changes: ValueError that names the other volume. [T-59]"""
    backend, second, third = RecordingBackend(), MemoryBackend(), MemoryBackend()
    with PageCache("1MiB") as cache, PageCache("1MiB") as other:
        volume = cache.attach(backend, name="first", mirror=second)
        for used in (backend, second):
            with pytest.raises(ValueError, match="'first'"):
                cache.attach(used)
            with pytest.raises(ValueError, match="'first'"):
                cache.attach(third, mirror=used)
        assert cache.volumes() == (volume,)
        elsewhere = cache.attach(third, name="third")
        elsewhere.abort()
        with pytest.raises(ValueError, match="'first'"):
            elsewhere.reconnect(backend)
        elsewhere.reconnect(third)
        with pytest.raises(ValueError, match="'third'"):
            other.attach(third)  # the end of one cache would close it under the other
        volume.detach()
        cache.attach(backend)
