"""Ways to read an object of a far store through fsspec: its own caches, and this one above it.

    readahead      the buffer of an open file, one block ahead; forgotten when the file is closed
    blockcache     blocks that were read, in a sparse file of this machine
    filecache      whole objects, in files of this machine; `checked`: the version is queried at each open
    simplecache    as filecache, without any record of versions
    pagecache      pages in memory; the version is queried at each open, and after each read of the store;
                   `unchecked`: at the first open only, as filecache does

Files of this machine are on tmpfs, which is the best case of the caches that use them.
"""

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from pagecache.bench.plain import MIB
from tests.bench.slow import SlowFileSystem, Traffic

OWN = "pagecache"


class Way:
    """One way, above a separate store that counts. Nothing is remembered after `fresh`.

    Args:
        name: Its name in tables.
        make: Makes the file system above the store; it may keep files in the folder.
        folder: For these files.
        latency: Seconds of each call of the store.
        **options: Of `open`.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[SlowFileSystem, Path], Any],
        folder: Path,
        latency: float,
        **options: Any,
    ) -> None:
        self.name = name
        self.store = SlowFileSystem(latency)
        self.traffic = Traffic()
        self._options = options
        self._make, self._folder = make, folder / name.replace(" ", "-")
        self.fs: Any = None

    def fresh(self) -> None:
        """Return to the state of a new process, with empty folders."""
        self.close()
        self._folder.mkdir(parents=True)
        self.fs = self._make(self.store, self._folder)
        self.begin()

    def open(self, path: str) -> Any:
        """Open the object for reading."""
        return self.fs.open(path, **self._options)

    def begin(self) -> None:
        """Start counting."""
        self.store.reset()

    def end(self) -> None:
        """Stop counting; the counts are in `traffic`."""
        self.traffic = self.store.reset()

    def close(self) -> None:
        """Free everything."""
        if self.fs is None:
            return
        if hasattr(self.fs, "volume"):
            self.fs.close(on_failed="discard")
        self.fs = None
        gc.collect()  # open files of fsspec's block cache are garbage, and their mappings are memory
        shutil.rmtree(self._folder, ignore_errors=True)


def _plain(store: SlowFileSystem, folder: Path) -> Any:
    return store


def _kept(protocol: str, **options: Any) -> Callable[[SlowFileSystem, Path], Any]:
    def make(store: SlowFileSystem, folder: Path) -> Any:
        return fsspec.filesystem(protocol, fs=store, cache_storage=str(folder), skip_instance_cache=True, **options)

    return make


def _cached(capacity: int, **options: Any) -> Callable[[SlowFileSystem, Path], Any]:
    def make(store: SlowFileSystem, folder: Path) -> Any:
        options.update(capacity=capacity, spool=str(folder), skip_instance_cache=True)
        fs = fsspec.filesystem("pagecache", fs=store, **options)
        assert fs.volume  # makes its memory and threads now
        return fs

    return make


def ways(folder: Path, size: int, latency: float = 0.020) -> list[Way]:
    """All ways, the cache first, for objects of up to `size` bytes. They are not `fresh` yet.

    Args:
        folder: For their files.
        size: Bytes.
        latency: Seconds of each call of the store.
    """
    room = 2 * size + 64 * MIB
    makers = {
        OWN: _cached(room),
        "readahead": _plain,
        "blockcache": _kept("blockcache"),
        "filecache": _kept("filecache"),
        "filecache, checked": _kept("filecache", check_files=True),
        "simplecache": _kept("simplecache"),
    }
    found = [Way(name, make, folder, latency) for name, make in makers.items()]
    return [*found, Way(f"{OWN}, unchecked", _cached(room, check_reads=False), folder, latency, keep_cache=True)]
