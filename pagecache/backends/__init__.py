"""Where bytes live: the protocol of a backend, and the backends that come with the package. They know nothing of
caches.
"""

from typing import TYPE_CHECKING, Any

from .directory import DirectoryBackend
from .memory import MemoryBackend
from .protocol import (
    AsyncBackend,
    AsyncBackendFile,
    Backend,
    BackendFile,
    BackendLimits,
    NamespaceBackend,
    ObjectStat,
)
from .transform import TransformBackend
from .transform.units import Transform
from .url import backend_from_url

if TYPE_CHECKING:
    from .fsspec import FsspecBackend as FsspecBackend
    from .s3 import S3Backend as S3Backend

__all__ = [
    "AsyncBackend",
    "AsyncBackendFile",
    "Backend",
    "BackendFile",
    "BackendLimits",
    "DirectoryBackend",
    "MemoryBackend",
    "NamespaceBackend",
    "ObjectStat",
    "Transform",
    "TransformBackend",
    "backend_from_url",
]


def __getattr__(name: str) -> Any:
    """What needs an extra is imported when it is asked for."""
    if name == "FsspecBackend":
        from .fsspec import FsspecBackend as FsspecBackend

        return FsspecBackend
    if name == "S3Backend":
        from .s3 import S3Backend as S3Backend

        return S3Backend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
