"""FUSE: the cache for a server of one's own, and a file system over any backend (`pagecache mount`).

    Files      open files over a volume, for a server of one's own on any binding: blocking calls, from any thread
    TrioFiles  the same for pyfuse3 on trio: what is cached is answered at once, the rest on threads
    Server     a whole file system over a volume, by inode numbers, for any binding
    Loop       serves that, or a file system of your own: what is cached is answered without Python (where libfuse is)

What a mount promises, operation by operation: docs/how-to/mount.md. `TrioFiles` needs trio, and a mount pyfuse3:
the extra `fuse`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errnos import errno_of
from .files import Files, OpenFile
from .loop import Loop, why_no_loop
from .server import Attributes, Server, ServerOptions

if TYPE_CHECKING:
    from .tasks import TrioFiles

__all__ = [
    "Attributes",
    "Files",
    "Loop",
    "OpenFile",
    "Server",
    "ServerOptions",
    "TrioFiles",
    "errno_of",
    "why_no_loop",
]


def __getattr__(name: str) -> Any:
    if name == "TrioFiles":
        from .tasks import TrioFiles

        return TrioFiles
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
