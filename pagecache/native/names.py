"""System calls that `os` lacks: the status of an object with its birth time, and a walk that follows no link.

`rename_noreplace`, `punch_hole` and `zero_range` return False if kernel or file system do not support the change; the
caller uses another way. Every other failure is an OSError. `_native/types/names.c` has them all.
"""

from __future__ import annotations

from functools import partial

from .extension import extension

__all__ = [
    "Descriptor",
    "LocalFile",
    "Place",
    "file_status",
    "found",
    "punch_hole",
    "rename_noreplace",
    "status",
    "sync_file_system",
    "zero_range",
]

Descriptor = extension.Descriptor
LocalFile = extension.LocalFile
Place = extension.Place
status = extension.status
found = extension.found
file_status = extension.file_status
rename_noreplace = extension.rename_noreplace
sync_file_system = extension.sync_file_system
punch_hole = partial(extension.change_range, 2)  # FALLOC_FL_PUNCH_HOLE: the range reads as zeros, its blocks are free
zero_range = partial(extension.change_range, 16)  # FALLOC_FL_ZERO_RANGE
