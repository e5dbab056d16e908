"""Stores of bytes: the protocol of a backend, and the backends of this package. They do not depend on the cache."""

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
    """Import backends that need an extra on first access."""
    if name == "FsspecBackend":
        from .fsspec import FsspecBackend as FsspecBackend

        return FsspecBackend
    if name == "S3Backend":
        from .s3 import S3Backend as S3Backend

        return S3Backend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
