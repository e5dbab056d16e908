"""Fills that met trouble: errors tried again, answers that are none refused.

C calls the file's `read_into` itself, call after call, on the thread that waits for the bytes, on a thread of the
volume (read-ahead, the rest of a long read), or on the thread of a waiter who took a queued fill over. `fill` is
entered when such a call raised or did not answer with a number of bytes, and goes on from there: transient errors are
tried again within the call, except for read-ahead, which nobody waits for.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..errors import BackendProtocolError, PageCacheError
from ..native import Op
from . import remote, staging
from .retryer import Parked, decide

if TYPE_CHECKING:
    from .file import EngineFile

__all__ = ["fill"]

STALE = -errno.ESTALE
"""What was read was invalidated again and again meanwhile: C delivers it to the caller past the cache."""


def fill(self: EngineFile, op: Op, met: Exception | int) -> None:
    """Run the fill to its end; `met`: what its last call raised, or the errno (negative) that its answer deserves.

    Raises:
        BackendProtocolError: the backend answered what is no answer.
        OSError: what the backend raised, once trying again is over.
    """
    failed: tuple[int, float] | None = None
    if met == STALE:
        return
    if isinstance(met, int):
        _refuse(self, op)
    else:
        failed = _again(self, op, met, None)
    while (call := op.begin()) is not None:
        try:
            answer = op.complete((self.read_staged if op.staged else self.read_into)(call[0], call[1]))
        except Exception as error:
            failed = _again(self, op, error, failed)
            continue
        if answer in (1, STALE):
            return
        if answer < 0:
            _refuse(self, op)
        failed = None  # progress starts the count anew


def _refuse(file: EngineFile, op: Op) -> None:
    if op.staged and not staging.stands(file, op):
        return  # a commit took the bytes meanwhile: they are read from the object
    name = "read_staged" if op.staged else "read_into"
    raise BackendProtocolError(
        f"{name}({op.offset}, {op.length} bytes) did not answer with the number of bytes read", file.key
    )


def _again(file: EngineFile, op: Op, error: Exception, failed: tuple[int, float] | None) -> tuple[int, float] | None:
    """Wait until the call may be repeated, or raise; `failed`: calls that failed so far, and since when."""
    if remote.is_remote_change(error):
        remote.refused(file)
        raise file.conflict_error() from error
    volume = file.volume
    if op.staged and not op.settled:
        if not staging.stands(file, op):
            return failed  # a commit took the bytes meanwhile: they are read from the object
        if staging.gone(error):
            staging.give_up(file)
            raise PageCacheError(f"the backend has lost what it had staged: {error}", file.key) from error
    now = volume.clock.now()
    attempts, since = failed or (0, now)
    decision = decide(volume.retry, error, attempts + 1, now - since, volume.random())
    if isinstance(decision, Parked) or op.ahead or op.settled:
        if isinstance(error, OSError):
            if error.filename is None and error.errno is not None:
                error.filename = file.key
            raise error
        raise OSError(errno.EIO, f"reading raised {type(error).__name__}: {error}", file.key) from error
    file.native.count_retry()
    volume.sleep(file, decision.delay)
    return attempts + 1, since
