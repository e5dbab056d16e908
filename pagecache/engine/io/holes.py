"""The next data and the next hole of a file, as lseek(2) with SEEK_DATA and SEEK_HOLE finds them.

    local bytes (dirty, in flight, unstable)        data
    the end of the stored object up to the size     a hole, except for local bytes
    everything else                                 as `next_data` of the backend's file reports; data if it has none

A hole is reported only where reads give zeros; data may be reported anywhere. So local bytes are looked up first and
the backend is asked afterwards: a byte that is written back between the two is found by the backend. Data ends
with a page, as it does in a file system.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import BackendProtocolError
from ...native import END

if TYPE_CHECKING:
    from ..file import EngineFile

Extent = tuple[int, int] | None
Query = Callable[[Callable[[], Extent]], Extent]
UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def find_data(file: EngineFile, offset: int, whence: int, query: Query) -> int:
    """Return the offset of the next data (os.SEEK_DATA) or hole (os.SEEK_HOLE) at or after `offset`.

    `query` makes a call of the backend.

    Raises:
        OSError: ENXIO: `offset` is not inside the file, or no data follows; otherwise an error of the backend.
    """
    size = file.size
    found = size
    if 0 <= offset < size:
        found = (
            _next_data(file, offset, size, query) if whence == os.SEEK_DATA else _next_hole(file, offset, size, query)
        )
    if found == size and (whence == os.SEEK_DATA or not 0 <= offset < size):
        what = "data" if whence == os.SEEK_DATA else "hole"
        raise OSError(errno.ENXIO, f"no {what} at or behind offset {offset} of a file of {size} bytes", file.key)
    return found


def _next_data(file: EngineFile, at: int, size: int, query: Query) -> int:
    while at < size:
        local, stop = file.direct_split(at, size)
        if local > at:
            return at
        stored = _stored(file, at, query)
        if stored is not None and stored[0] < stop:
            return stored[0]
        at = stop
    return size


def _next_hole(file: EngineFile, at: int, size: int, query: Query) -> int:
    page = int(file.volume.cache.config.page_size)
    while at < size:
        local, _ = file.direct_split(at, size)
        if local > at:
            at = min(-(-local // page) * page, size)
            continue
        stored = _stored(file, at, query)
        if stored is None or stored[0] > at:
            return at
        at = min(stored[1], size)
    return size


def _stored(file: EngineFile, at: int, query: Query) -> Extent:
    """Return the first data at or after `at` that is not local."""
    remote = file.remote_size
    if at >= remote:
        return None
    if file.staged_bytes() or file.dispute.base_lost or file.conflict is not None:
        return at, END
    if not hasattr(file.backend_file, "next_data"):
        return at, END
    try:
        found = query(lambda: _query(file, at))
    except OSError as error:
        if isinstance(error, io.UnsupportedOperation) or error.errno in UNSUPPORTED:
            return at, END
        if error.errno == errno.ENXIO:  # of a store that is gone: no statement about data
            raise OSError(errno.EIO, f"next_data({at}) raised {error}", file.key) from error
        raise
    return None if found is None or found[0] >= remote else found


def _query(file: EngineFile, at: int) -> Extent:
    file.owed.pay()
    answer = file.opened().next_data(at)  # type: ignore[attr-defined]
    if answer is None:
        return None
    try:
        begin, end = answer
        right = at <= begin < end
    except (TypeError, ValueError):
        right = False
    if not right:
        rule = "next_data answers (begin, end) with offset <= begin < end, or None"
        raise BackendProtocolError(f"next_data({at}) answered {answer!r}: {rule}", file.key)
    return begin, end
