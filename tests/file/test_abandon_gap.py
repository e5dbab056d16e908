"""A change that has checked its handle but stands in no queue yet, when the file is abandoned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CachedFile

from ..stores import ObjectBackend, RecordingBackend
from .rig import KEY, PAGE, Rig, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(3 * PAGE)

CHANGES: dict[str, tuple[Callable[[], RecordingBackend], Callable[[CachedFile], Any]]] = {
    "truncate of an object": (lambda: ObjectBackend({KEY: DATA}), lambda file: file.truncate(5)),
    "truncate": (lambda: RecordingBackend({KEY: DATA}), lambda file: file.truncate(5)),
    "punch_hole": (lambda: RecordingBackend({KEY: DATA}, punch=True), lambda file: file.punch_hole(0, PAGE)),
    "a direct pwrite": (lambda: RecordingBackend({KEY: DATA}), lambda file: file.pwrite(b"late", 0)),
    "a direct append": (lambda: RecordingBackend({KEY: DATA}), lambda file: file.append(b"late")),
}


class Between:
    """Replace a handle's inode: every request for the file's locks passes through here."""

    def __init__(self, file: CachedFile) -> None:
        self._native, self._file = file._native, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def run(self, *arguments: Any) -> None:
        self._file.abandon()
        self._native.run(*arguments)

    def run_owning(self, *arguments: Any) -> None:
        self._file.abandon()
        self._native.run_owning(*arguments)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_its_look_and_its_place_in_line_does_not_land(make: Make, change: str) -> None:
    """The change raises ValueError and the file keeps its content: abandoned means abandoned. [2.20, 2.22]"""
    backend, call = CHANGES[change]
    rig = make(backend=backend())
    file = rig.open("r+b", direct="direct" in change)
    file._native = Between(file)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="closed"):
        call(file)
    eventually(lambda: not rig.volume.orphans)
    with rig.volume.open(KEY) as again:
        assert again.pread(len(DATA) + 9, 0) == DATA
    rig.volume.sync()
    assert rig.backend.committed(KEY) == DATA
