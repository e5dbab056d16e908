"""The name of a store of fsspec in a disk tier. Whoever reaches the same objects finds it by the same name."""

from __future__ import annotations

from typing import Any

from .calls import DirFileSystem, beneath, fsspec, name_of


def store_name(fs: Any, root: str) -> str:
    """Return the name of what a path of a file system leads to."""
    below = beneath(fs)
    made_by = fsspec.utils.tokenize(type(below), below.storage_args, below.storage_options)
    return f"fsspec:{name_of(fs)}:{made_by}/{path_beneath(fs, root)}"


def path_beneath(fs: Any, root: str) -> str:
    """Return a path as the file system that does the work has it, see `beneath`."""
    if isinstance(fs, DirFileSystem):
        return path_beneath(fs.fs, fs._join(root))
    if beneath(fs) is not fs:
        return path_beneath(fs.sync_fs, root)
    path: str = fs._strip_protocol(root) if root else ""
    return path
