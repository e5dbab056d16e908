"""Mistakes of a user: `mypy --strict` reports the error in the comment. test_programs.py runs it."""

from __future__ import annotations

import pagecache
from pagecache import aio
from pagecache.backends import DirectoryBackend, MemoryBackend


def mistakes(cache: pagecache.PageCache, volume: pagecache.Volume, file: pagecache.CachedFile) -> None:
    pagecache.PageCache("1MiB", dirty_limits="256KiB")  # Unexpected keyword argument "dirty_limits" for "PageCache"
    pagecache.PageCache("1MiB", retry=3)  # Argument "retry" to "PageCache" has incompatible type "int"
    cache.configure(dirty_expires=1.0)  # Unexpected keyword argument "dirty_expires" for "configure"
    cache.configure(page_size=8192)  # Unexpected keyword argument "page_size" for "configure"
    cache.attach("memory:", read_ahed=0)  # Unexpected keyword argument "read_ahed" for "attach"
    cache.attach("memory:", on_conflict="rebas")  # Argument "on_conflict" to "attach" of "PageCache" has
    cache.attach(3)  # Argument 1 to "attach" of "PageCache" has incompatible type "int"
    cache.close(on_failed="ignore")  # Argument "on_failed" to "close" of "PageCache" has incompatible type
    cache.emit(None)  # "PageCache" has no attribute "emit"
    volume.open("k", "rw")  # Argument 2 to "open" of "Volume" has incompatible type "Literal['rw']"
    volume.open("k", "rt")  # Argument 2 to "open" of "Volume" has incompatible type "Literal['rt']"
    volume.open("k", "r", directly=True)  # Unexpected keyword argument "directly" for "open" of "Volume"
    volume.open([], "r")  # Argument 1 to "open" of "Volume" has incompatible type "list[Never]"; expected "Hashable"
    volume.resolve("k", "forced")  # Argument 2 to "resolve" of "Volume" has incompatible type "Literal['forced']"
    file.advise("randomly")  # Argument 1 to "advise" of "CachedFile" has incompatible type "Literal['randomly']"
    file.pwrite(0, b"abc")  # Argument 1 to "pwrite" of "Handle" has incompatible type "int"; expected "Buffer"
    aio.open(volume, "k", "rw")  # Argument 3 to "open" has incompatible type "Literal['rw']"
    aio.open(volume, "k", directly=True)  # Unexpected keyword argument "directly" for "open"
    MemoryBackend(max_wirte=1)  # Unexpected keyword argument "max_wirte" for "MemoryBackend"
    DirectoryBackend(".", read_onyl=True)  # Unexpected keyword argument "read_onyl" for "DirectoryBackend"
    pagecache.VolumeOptions(on_conflict="x")  # Argument "on_conflict" to "VolumeOptions" has incompatible type


async def awaited(file: aio.AsyncCachedFile) -> str:
    file.fsync()  # Value of type "Coroutine[Any, Any, None]" must be used
    await file.pread("9", 0)  # Argument 1 to "pread" of "AsyncCachedFile" has incompatible type "str"; expected "int"
    return await file.pread(9, 0)  # Incompatible return value type (got "bytes", expected "str")
