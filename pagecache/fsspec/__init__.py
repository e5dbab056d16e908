"""The cache as an fsspec file system, above any other one.

    import fsspec

    with fsspec.open("pagecache::s3://bucket/table", "r+b") as f:    # the target follows the two colons
        f.seek(4096)
        f.write(b"changed in place")

fsspec finds `PageCacheFileSystem` under the name `pagecache`; its files are `PageCacheFile`, a `CachedFile` with a
reference to its file system. Within a process, equal targets with equal options share a cache (sharing.py); files of a
transaction are private until it ends (transaction.py). Everything else is the volume's.
"""

from ..distribution import needs

try:
    import fsspec.implementations.chained as _chained
except ImportError as error:
    raise ImportError(needs("pagecache.fsspec needs fsspec 2025.10 or newer", "fsspec"), name="fsspec") from error

from .file import PageCacheFile
from .filesystem import PageCacheFileSystem

__all__ = ["PageCacheFile", "PageCacheFileSystem"]

del _chained
