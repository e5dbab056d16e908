"""The cache as an fsspec file system, above any other one.

    import fsspec

    with fsspec.open("pagecache::s3://bucket/table", "r+b") as f:    # the target follows the two colons
        f.seek(4096)
        f.write(b"changed in place")

`PageCacheFileSystem` is found by fsspec under the name `pagecache`; files are `PageCacheFile`, a `CachedFile` that
knows its file system. Caches are shared by everybody in the process who asks for the same target with the same options
(sharing.py); files of a transaction are private until it ends (transaction.py). Everything else is the volume's.
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
