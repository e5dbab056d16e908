r"""pagecache: an in-process write-back page cache.

    import pagecache

    with pagecache.PageCache("256MiB") as cache:
        volume = cache.attach("dir:/srv/data")
        with volume.open("log", "a+") as f:
            f.append(b"line\n")
            f.fsync()

Public names are those of `__all__`; `pagecache.backends` and `pagecache.testing` have their own, and
`pagecache.options` has types of options for annotations.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import aio as aio
from .backends.protocol import AsyncBackend, AsyncBackendFile, Backend, BackendFile, BackendLimits, NamespaceBackend
from .backends.url import backend_from_url
from .cache import PageCache
from .config import CacheConfig, RetryPolicy, Size, VolumeOptions
from .distribution import VERSION as __version__
from .errors import (
    BackendError,
    BackendProtocolError,
    CommitError,
    ConflictError,
    DataLossError,
    DeadlockError,
    FailedRange,
    ForkedError,
    Key,
    LostRange,
    PageCacheError,
    ShutdownError,
    UnsavedDataError,
    WritebackError,
)
from .file.cached import Advice, CachedFile
from .file.view import View
from .objects import Event, FileStat, ObjectStat
from .volume.ticket import SyncTicket
from .volume.volume import Volume

if TYPE_CHECKING:
    from .disk.tier import DiskTier as DiskTier
    from .observe.trace import Trace as Trace
    from .stats import CacheStats as CacheStats
    from .stats import FileStats as FileStats
    from .stats import RecoveredFile as RecoveredFile
    from .stats import VolumeStats as VolumeStats
    from .stats import Wait as Wait
    from .stats import WaitOwner as WaitOwner

logging.getLogger("pagecache").addHandler(logging.NullHandler())

__all__ = [
    "Advice",
    "AsyncBackend",
    "AsyncBackendFile",
    "Backend",
    "BackendError",
    "BackendFile",
    "BackendLimits",
    "BackendProtocolError",
    "CacheConfig",
    "CacheStats",
    "CachedFile",
    "CommitError",
    "ConflictError",
    "DataLossError",
    "DeadlockError",
    "DiskTier",
    "Event",
    "FailedRange",
    "FileStat",
    "FileStats",
    "ForkedError",
    "Key",
    "LostRange",
    "NamespaceBackend",
    "ObjectStat",
    "PageCache",
    "PageCacheError",
    "RecoveredFile",
    "RetryPolicy",
    "ShutdownError",
    "Size",
    "SyncTicket",
    "Trace",
    "UnsavedDataError",
    "View",
    "Volume",
    "VolumeOptions",
    "VolumeStats",
    "Wait",
    "WaitOwner",
    "WritebackError",
    "__version__",
    "backend_from_url",
]


ON_DEMAND = {
    "CacheStats": "stats",
    "DiskTier": "disk.tier",
    "FileStats": "stats",
    "RecoveredFile": "stats",
    "Trace": "observe.trace",
    "VolumeStats": "stats",
    "Wait": "stats",
    "WaitOwner": "stats",
}
"""Names that are imported on first use: `import pagecache` loads only the modules that every program needs."""


def __getattr__(name: str) -> Any:
    if name in ON_DEMAND:
        return getattr(import_module(f".{ON_DEMAND[name]}", __name__), name)
    if name in {"options", "stats"}:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *ON_DEMAND})
