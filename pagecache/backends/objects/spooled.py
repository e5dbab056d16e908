"""An open object whose uncommitted bytes are all in one spool, which a commit completes and sends as a whole.

A commit first zeroes holes in the spool: a full disk then fails the commit, and no hole in part. It fetches the
unchanged bytes of the opened version into the spool, by few reads, some of them concurrent: a call to a remote store
costs more than the bytes between two ranges, and much more than a thread.

    missing   [0, 4096)   [8192, 12288)       [5 MiB, 6 MiB)      between the first two is a page that was written
    reads     [0, 12288)                      [5 MiB, 6 MiB)      it is read with them, and left out
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ...errors import BackendError
from ..spool import Spool
from .extents import OLD, ZEROS
from .file import ObjectFile
from .parallel import Extent, reads_of, side_by_side
from .store import V


class SpooledFile(ObjectFile[V]):
    """One object, and its spool. `reads_any_version`: no condition keeps `_get` from reading another version."""

    reads_any_version = False

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        spool = self._spooled()
        done = spool.write(offset, buffers)
        self.draft.put(offset, offset + done, spool, offset)
        return done

    def truncate(self, size: int) -> None:
        spool = self._spooled()
        with self.draft.lock:
            spool.cut(size)
            self.draft.cut(size)

    def punch_hole(self, offset: int, length: int) -> None:
        self._spooled()
        super().punch_hole(offset, length)

    def _complete(self, spool: Spool, step: int, most: int) -> None:
        """Zero holes, and fetch missing bytes by up to `most` concurrent calls of up to `step` bytes; ESTALE: another
        version is stored. After a failure no other call is begun, and the running ones have ended when its error is
        raised.
        """
        name, base = self.name, self.draft.base
        for piece in self.draft.extents:
            if piece.source == ZEROS:
                spool.zero(piece.begin, piece.end)
        missing = [(piece.begin, piece.end) for piece in self.draft.extents if piece.source == OLD]
        if not missing or base is None:
            return

        def fetch(group: list[Extent]) -> None:
            begin, done, room = group[0][0], 0, memoryview(bytearray(group[-1][1] - group[0][0]))
            while done < len(room):
                more = self._get(name, begin + done, [room[done:]], base)
                if not more:
                    raise EOFError
                done += more
            for first, end in group:
                spool.write_all(first, [room[first - begin : end - begin]])

        try:
            side_by_side(fetch, reads_of(missing, step), most)
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENOENT:
                raise
            self._check_over()
            raise BackendError(errno.EIO, f"{name}: the stored object ends early", retry=True) from error
        if self.reads_any_version:
            self._check_over()
        self.draft.fetched(spool)
