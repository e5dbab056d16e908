"""A volume: one backend behind the cache, and its parts.

`volume.py` is the public object. `opening.py` opens files, `keys.py` locks names, `namespace.py` removes and renames
them, `status.py` reports size and times, `inode.py` is one cached object, `lifetimes.py` ends handles, names and
inodes, `ticket.py` waits for a sync, `reconnect.py` exchanges the backend, `conflicts.py` handles foreign changes, and
`detach.py` is the end.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .volume import Volume as Volume

__all__ = ["Volume"]


def __getattr__(name: str) -> Any:
    """Import `Volume` on demand: files need parts of this package, and `Volume` needs files."""
    if name == "Volume":
        from .volume import Volume as Volume

        return Volume
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
