"""Stores of bytes: the protocol of a backend, and the backends of this package. They do not depend on the cache."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .protocol import AsyncBackend, AsyncBackendFile, Backend, BackendFile, BackendLimits, NamespaceBackend, ObjectStat
from .url import backend_from_url

if TYPE_CHECKING:
    from .directory import DirectoryBackend as DirectoryBackend
    from .fsspec import FsspecBackend as FsspecBackend
    from .memory import MemoryBackend as MemoryBackend
    from .s3 import S3Backend as S3Backend
    from .transform import Transform as Transform
    from .transform import TransformBackend as TransformBackend

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


MODULES = {
    "DirectoryBackend": "directory",
    "FsspecBackend": "fsspec",
    "MemoryBackend": "memory",
    "S3Backend": "s3",
    "Transform": "transform",
    "TransformBackend": "transform",
}
"""Backends that are imported on first access: `import pagecache` imports none, and some need an extra."""


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(f".{MODULES[name]}", __name__), name)
    if name in MODULES.values():
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
