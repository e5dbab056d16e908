"""The name of a store of fsspec in a disk tier: one for the same objects, in any process and with any credentials, and
another one for each other directory.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import os
import re
from collections.abc import Mapping
from typing import Any

from fsspec.implementations.dirfs import DirFileSystem

from ..url import INCIDENTAL
from .calls import beneath, fsspec, name_of

LISTING_OPTIONS = {"use_listings_cache", "listings_expiry_time", "max_paths", "asynchronous", "loop", "batch_size"}
"""Options that fsspec passes to any file system; they do not change its objects."""
PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
ADDRESS = re.compile(r" at 0x[0-9a-f]", re.IGNORECASE)


def store_name(fs: Any, root: str) -> str:
    """Return the name of what a path of a file system leads to."""
    return f"fsspec:{name_of(fs)}:{fsspec.utils.tokenize(_identity(beneath(fs)))}/{path_beneath(fs, root)}"


def path_beneath(fs: Any, root: str) -> str:
    """Return a path as the file system that does the work has it, see `beneath`."""
    if isinstance(fs, DirFileSystem):
        return path_beneath(fs.fs, fs._join(root))
    if beneath(fs) is not fs:
        return path_beneath(fs.sync_fs, root)
    path: str = fs._strip_protocol(root) if root else ""
    return path


def _identity(fs: Any) -> Any:
    """Return the type of a file system, and the arguments that choose its objects."""
    kind = type(fs)
    parameters = [*inspect.signature(kind.__init__).parameters.values()][1:]
    places = [each.name for each in parameters if each.kind <= each.POSITIONAL_OR_KEYWORD]
    places += map(str, range(len(fs.storage_args)))
    given = dict(zip(places, fs.storage_args, strict=False)) | fs.storage_options
    # An object, such as a client, may be the store itself, and no text separates it from another: its name is random.
    told = {name: _told(value, os.urandom(16).hex()) for name, value in given.items() if name not in LISTING_OPTIONS}
    return kind.__module__, kind.__qualname__, _told(told)


def _told(value: Any, other: str = "") -> Any:
    """Return an argument without credentials and without texts of objects, which may be addresses. `other`: stands for
    an object.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not ADDRESS.search(repr(value)):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        kept = {str(name): _told(each) for name, each in value.items() if not INCIDENTAL.search(str(name))}
        return sorted(kept.items())
    if isinstance(value, list | tuple):
        return [_told(each) for each in value]
    if isinstance(value, set | frozenset) and not ADDRESS.search(repr(value)):
        return sorted(map(repr, value))  # another process has another order
    if isinstance(value, fsspec.AbstractFileSystem):
        return store_name(value, "")
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(found, str):
        parts = found.split(";")  # of a connection string
        shown = parts if len(parts) == 1 else [part for part in parts if not INCIDENTAL.search(part.split("=")[0])]
        return PASSWORD.sub(r"\1@", ";".join(sorted(shown)))
    if found is None or isinstance(found, int | float | bytes):
        return found
    if callable(found):
        return ""
    # What compares by value is a value; other objects with equal texts may be two stores, such as sessions of clients.
    if isinstance(found, enum.Enum) or any("__eq__" in vars(each) for each in type(found).__mro__[:-1]):
        text = f"{type(found).__qualname__}:{found!r}"
        return other if ADDRESS.search(text) else text
    return other
