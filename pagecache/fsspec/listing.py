"""Listings of the target, overlaid with unstored changes.

    the target             the cache                         listed
    a/x   10 bytes         a/x   12 bytes, dirty             a/x   12 bytes
    a/y    5 bytes                                           a/y    5 bytes
                           a/z    3 bytes, never stored      a/z    3 bytes
                           a/b/c  7 bytes, never stored      a/b    directory

Private objects of the cache are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..backends.fsspec.objects import STAGE
from ..objects import FileStat
from .transaction import is_deferred


def is_private(path: str) -> bool:
    """Return whether this is a private object of the cache, to be renamed later."""
    return is_deferred(path) or STAGE in path.split("/")


def is_directory(info: Mapping[str, Any]) -> bool:
    """Return whether fsspec's info is that of a directory; a link to one is none."""
    return info["type"] == "directory" and not info.get("islink")


def entry_of(path: str, stat: FileStat) -> dict[str, Any]:
    """Return fsspec's info of a file that the target does not have."""
    return {"name": path, "size": stat.size, "type": "file"}


def overlaid(
    path: str, stored: Iterable[Mapping[str, Any]] | None, unseen: Mapping[str, FileStat], found: str
) -> list[dict[str, Any]] | None:
    """Return the entries of a directory, or the entry of a file.

    Args:
        path: to list.
        stored: the target's entries; None: there is no such path.
        unseen: files with unstored changes, by path.
        found: the path as it is in `unseen`.

    Returns:
        None: there is no such path in the cache either.
    """
    entries = {entry["name"].rstrip("/"): dict(entry) for entry in stored or () if not is_private(entry["name"])}
    if found in unseen:
        entries[path] = entries.get(path, {}) | entry_of(path, unseen[found])
    below, beneath = (name.rstrip("/") + "/" if name else "" for name in (path, found))
    for key, stat in unseen.items():
        if key == found or not key.startswith(beneath) or is_private(key):
            continue
        name, _, deeper = key[len(beneath) :].partition("/")
        child = below + name
        if deeper:
            entries.setdefault(child, {"name": child, "size": 0, "type": "directory"})
        else:
            entries[child] = entries.get(child, {}) | entry_of(child, stat)
    return None if stored is None and not entries else list(entries.values())
