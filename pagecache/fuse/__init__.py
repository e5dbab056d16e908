"""FUSE: the cache for FUSE servers, and a file system over any backend (`pagecache mount`).

    Files      open files over a volume, for a server on any binding: blocking calls, from any thread
    TrioFiles  open files for pyfuse3 on trio: cached data is returned at once, other calls run on threads
    Server     a whole file system over a volume, by inode numbers, for any binding
    Loop       serves a `Server`, or another file system: cached data is returned without Python (needs libfuse)

docs/how-to/mount.md has the promises of a mount, operation by operation. `TrioFiles` needs trio, and usually pyfuse3:
the extra `fuse`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .attributes import Attributes, ServerOptions
from .errnos import errno_of
from .files import Files, OpenFile
from .loop import Loop, why_no_loop
from .server import Server

if TYPE_CHECKING:
    from .tasks import TrioFiles

__all__ = ["Attributes", "Files", "Loop", "OpenFile", "Server", "ServerOptions", "TrioFiles", "errno_of", "why_no_loop"]


def __getattr__(name: str) -> Any:
    if name == "TrioFiles":
        from .tasks import TrioFiles

        return TrioFiles
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
