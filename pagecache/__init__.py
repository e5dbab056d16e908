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

from . import aio as aio
from .backends.protocol import (
    AsyncBackend,
    AsyncBackendFile,
    Backend,
    BackendFile,
    BackendLimits,
    NamespaceBackend,
    ObjectStat,
)
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
from .observe.tracing import Trace
from .stats import CacheStats, Event, FileStat, FileStats, VolumeStats, Wait, WaitOwner
from .volume.ticket import SyncTicket
from .volume.volume import Volume

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
