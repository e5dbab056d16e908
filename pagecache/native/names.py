"""System calls that `os` lacks: the status of an object with its birth time, and a walk that follows no link.

`rename_noreplace`, `punch_hole` and `zero_range` return False if kernel or file system do not support the change; the
caller uses another way. Every other failure is an OSError. `_native/types/names.c` has them all.
"""

from __future__ import annotations

from functools import partial

from .extension import _core

Descriptor = _core.Descriptor
LocalFile = _core.LocalFile
Place = _core.Place
status = _core.status
found = _core.found
file_status = _core.file_status
rename_noreplace = _core.rename_noreplace
sync_file_system = _core.sync_file_system
punch_hole = partial(_core.change_range, 2)  # FALLOC_FL_PUNCH_HOLE: the range reads as zeros, its blocks are free
zero_range = partial(_core.change_range, 16)  # FALLOC_FL_ZERO_RANGE
