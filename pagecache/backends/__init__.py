"""Where bytes live: the protocol of a backend, and the backends that come with the package. They know nothing of
caches.
"""

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
from .units import Transform
from .url import backend_from_url

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
