"""Directed scenarios for the content that a commit makes visible: whole objects, and no discarded bytes."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ..file.backends import RecordingFile
from ..file.objects import ObjectBackend
from ..file.rig import FAST, KEY, ONCE, PAGE, Task, overlay, pattern
from .scenario import NEW, OLD, Make, shows
from .shown_core import fails


@shows("settling_commits_nothing")
def work_under_the_token_publishes_nothing(make: Make) -> None:
    ours = pattern(100 * PAGE)
    backend = ObjectBackend({KEY: b"old"}, max_write=PAGE)
    rig = make(backend=backend, retry=FAST)
    file = rig.open()
    file.pwrite(ours, 0)
    published: list[bytes | None] = []

    def requests(stored: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        rig.volume.engine.files()[0].native.settle_start()
        return stored.store(offset, buffers)

    def notes(stored: RecordingFile) -> str | None:
        version = stored.make_durable()
        published.append(backend.committed(KEY))
        return version

    backend.fault("write_from", requests)
    backend.fault("commit", notes, times=float("inf"))
    Task(file.fsync).result()
    assert published == [ours]


@shows("returned_bytes_are_rolled_back")
def what_was_given_up_is_not_published(make: Make) -> None:
    backend = ObjectBackend({KEY: OLD})
    rig = make(backend=backend, retry=ONCE)
    file = rig.open()

    def stored_and_failed(stored: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        stored.store(offset, buffers)
        raise OSError(errno.EIO, "the answer got lost")

    backend.fault("write_from", stored_and_failed)
    file.pwrite(NEW[:PAGE], 0)
    fails(file.fsync)
    rig.volume.discard(KEY)
    fails(file.fsync)
    file.pwrite(NEW[:PAGE], PAGE)
    file.fsync()
    assert backend.committed(KEY) == overlay(OLD, PAGE, NEW[:PAGE])
