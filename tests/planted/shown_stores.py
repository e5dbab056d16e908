"""The test of a store: a short life of one object through a small cache, with crashes, against a bytearray."""

from __future__ import annotations

import random

from pagecache import CachedFile, PageCache
from pagecache.backends import BackendFile
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key

from ..file.rig import FAST, PAGE, QUIET
from .planted import Factory

__all__ = ["LIVES", "life"]

LIVES = 12
SIZE = 32 * PAGE


class Mortal(PassingBackend):
    """A store that a crash removes: its objects are no longer closed. Other calls end with the volume."""

    dead = False

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        file = MortalFile(self.inner.open(key, create=create, exclusive=exclusive))
        file.store = self
        return file


class MortalFile(PassingFile):
    store: Mortal

    def _close(self) -> None:
        if not self.store.dead:
            self.inner.close()  # type: ignore[attr-defined]


def life(factory: Factory, seed: int) -> None:
    """Write, rewrite, truncate, read. After each fsync, crash and check that every saved byte is there.

    Raises:
        AssertionError: a byte is missing.
    """
    draw = random.Random(seed)
    model = bytearray()
    for _ in range(4):
        cache = PageCache(16 * PAGE, **{**QUIET, "retry": FAST})
        store = Mortal(factory())
        volume = cache.attach(store, read_ahead=0)
        with volume.open("object", "a+") as appended, volume.open("object", "r+") as file:
            assert file.pread(2 * SIZE, 0) == bytes(model)
            for _ in range(6):
                change(file, model, draw)
                at = draw.randrange(SIZE)
                assert file.pread(3 * PAGE, at) == bytes(model[at : at + 3 * PAGE])
            assert appended.size == len(model)
            file.fsync()
            assert file.pread(2 * SIZE, 0) == bytes(model)
            volume.drop_clean()
            assert file.pread(2 * SIZE, 0) == bytes(model)
            store.dead = True
            volume.abort()
        cache.close(timeout=5, on_failed="discard")


def change(file: CachedFile, model: bytearray, draw: random.Random) -> None:
    """Make one change, of the file and of the model."""
    what, at = draw.randrange(8), draw.randrange(SIZE - 6 * PAGE)
    if what == 0:
        file.truncate(at)
        model.extend(bytes(max(0, at - len(model))))
        del model[at:]
        return
    if what == 1:
        file.flush()
    if what == 2 and len(model) > PAGE:
        at = draw.randrange(len(model) - 1)
    data = draw.randbytes(draw.choice([1, 100, PAGE, 3 * PAGE + 1, 6 * PAGE]))
    file.pwrite(data, at)
    model.extend(bytes(max(0, at - len(model))))
    model[at : at + len(data)] = data
