"""Keys of a whole file system begin at its top, wherever a relative path would lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagecache import PageCache
from pagecache.backends.fsspec import FsspecBackend
from tests.clients.shelf import Shelf


def test_keys_of_a_whole_file_system_begin_at_its_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path begins elsewhere: in the working directory, or in a login directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = str(tmp_path / "a").removeprefix("/")
    with PageCache("4MiB") as cache:
        volume = cache.attach(FsspecBackend(Shelf()))
        with volume.open(f"{folder}/b", "wb") as file:
            file.write(b"here")
            file.fsync()
        assert (tmp_path / "a/b").read_bytes() == b"here"
        assert [stat.key for stat in volume.list(f"{folder}/")] == [f"{folder}/b"]
        volume.rename(f"{folder}/b", f"{folder}/c")
        volume.remove(f"{folder}/c")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
