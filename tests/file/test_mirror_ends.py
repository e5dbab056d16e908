"""The end of a mirror's copies: of files, of names, of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.engine.file import EngineFile

from .backends import RecordingFile
from .rig import KEY, PAGE, QUIET
from .test_mirror import pairs as pairs  # the fixture


def test_missing_directories_of_the_mirror_are_made(tmp_path: Path) -> None:
    """This concerns written objects and moved ones. [T-31]"""
    store, copy = tmp_path / "store", tmp_path / "copy"
    (store / "deep" / "down").mkdir(parents=True)
    (store / "elsewhere").mkdir()
    copy.mkdir()
    with PageCache("4MiB", **QUIET) as cache:
        volume = cache.attach(f"dir:{store}", mirror=f"dir:{copy}")
        for name in ("deep/down/one", "deep/two"):
            with volume.open(name, "w+b") as file:
                file.write(name.encode() * 1000)
        volume.rename("deep/two", "elsewhere/two")
        volume.remove("deep/down/one")
        with volume.open("deep/down/three", "w+b") as file:
            file.write(b"three")
    assert {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()} == {
        "elsewhere/two",
        "deep/down/three",
    }
    assert (copy / "elsewhere/two").read_bytes() == b"deep/two" * 1000


def test_a_copy_goes_whatever_its_own_file_does_at_the_end(pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of rollback and close do not leave a wrong copy behind. [T-34]"""
    pair = pairs()

    def broken(_file: RecordingFile) -> None:
        raise RuntimeError("not now")

    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"one" * PAGE)
        file.fsync()
        pair.caught_up()
        with monkeypatch.context() as patched:
            patched.setattr(RecordingFile, "rollback", broken, raising=False)
            patched.setattr(RecordingFile, "close", broken)
            pair.mirror.fault("write_from", OSError(5, "broken"))
            file.pwrite(b"two", 0)
            file.fsync()
            pair.caught_up()
        assert KEY not in pair.mirror.objects


def test_a_copy_that_cannot_be_removed_is_named_in_the_log(pairs: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log warns that the copy is not right, and the next start of the file begins with its removal. [T-34]"""
    pair = pairs()
    with pair.volume.open(KEY, "w+b") as file:
        file.write(b"one" * PAGE)
        file.fsync()
        pair.caught_up()
        pair.mirror.fault("remove", PermissionError(13, "no"))
        pair.mirror.fault("write_from", OSError(5, "broken"))
        file.pwrite(b"two", 0)
        file.fsync()
        pair.caught_up()
        assert "cannot be removed" in caplog.text
        file.truncate(0)
        file.pwrite(b"anew", 0)
        file.fsync()
        pair.caught_up()
        assert pair.mirror.written(KEY) == b"anew"


def test_a_request_that_finds_no_memory_for_the_mirror_is_written_all_the_same(
    pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is given up, not the upload. [T-34]"""
    pair = pairs()
    write = EngineFile.write

    class Poor:
        """An operation that cannot be mirrored."""

        def __init__(self, op: Any) -> None:
            self.op = op

        def __getattr__(self, name: str) -> Any:
            return getattr(self.op, name)

        def mirror(self, _last: object) -> None:
            raise MemoryError

    with pair.volume.open(KEY, "w+b") as file:
        monkeypatch.setattr(EngineFile, "write", lambda self, op: write(self, Poor(op)))
        file.write(b"x" * PAGE)
        file.fsync()
        assert pair.backend.committed(KEY) == b"x" * PAGE
        pair.caught_up()
        assert KEY not in pair.mirror.objects
