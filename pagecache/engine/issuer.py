"""Write requests and commits, on the threads of the volume.

CORE has built the request: contiguous bytes, segments that lie in cache memory, limits of the moment. `write` sends
it, call by call, until every byte is acknowledged or something goes wrong; what that means is the collector's. The
thread that sent a request collects its answer: no hop.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ..errors import BackendProtocolError
from ..native import Op
from . import barrier, collector, remote

if TYPE_CHECKING:
    from .file import EngineFile

__all__ = ["commit", "write", "write_back", "write_through", "write_units"]


def write(self: EngineFile, op: Op) -> None:
    """Send one request. Never raises for what the backend did: that is recorded."""
    if self.abandoned:
        op.finish(False, True)  # nothing of it is handed over any more
        return
    self.own_changes += 1
    self.version_stale |= not self.limits().commit_on_close  # whatever becomes of it
    mirror = self.volume.mirror
    try:
        if self.conflict is not None:
            raise self.conflict_error()
        # The method before `begin`, which refuses after an abort: so no request goes to a later backend.
        opened: Any = self.opened()
        send = opened.stage if op.stage else opened.write_from
        if len(self.owed):
            self.owed.pay()
        if mirror is not None:
            mirror.take(self, op)
        while (call := op.begin()) is not None:
            answer = op.complete(send(call[0], call[1]))
            if answer == 1:
                break
            if answer < 0:
                raise _refused(self, op, answer)
    except BaseException as error:
        _not_sent(self, op, error)
    else:
        collector.acknowledged(self, op)


def write_units(self: EngineFile, op: Op) -> None:
    """Send a request that was widened to whole units, once what it lacks is read. A failed read fails the request."""
    try:
        if self.conflict is not None:
            raise self.conflict_error()
        while (call := op.begin()) is not None:
            offset, buffers = call
            answer = op.complete((self.read_staged if op.staged else self.read_into)(offset, buffers))
            if answer == -errno.ENOMEM:
                raise _no_memory(self)
            if answer < 0:
                message = f"reading at {offset} for a write unit did not answer with the number of bytes read"
                raise BackendProtocolError(message, self.key)
    except BaseException as error:
        _not_sent(self, op, error)
    else:
        write(self, op)


def _not_sent(file: EngineFile, op: Op, error: BaseException) -> None:
    """A hand-over failed, unless another version is stored: then it is dirty again, for what `on_conflict` says."""
    if remote.is_remote_change(error):
        remote.refused(file)
        if file.conflict is None:
            op.finish(False, False)
            return
        error = file.conflict_error()
    collector.failed(file, op, error)


def _no_memory(file: EngineFile) -> OSError:
    return OSError(errno.ENOMEM, "no memory for a copy of the buffers that the backend kept", file.key)


def _refused(file: EngineFile, op: Op, answer: int) -> OSError:
    if answer == -errno.ENOMEM:
        return _no_memory(file)
    name = "stage" if op.stage else "write_from"
    if answer == -errno.EIO:
        return OSError(errno.EIO, f"{name} made no progress three times", file.key)
    return BackendProtocolError(
        f"{name}({op.offset}, {op.length} bytes) did not answer with the number of bytes taken", file.key
    )


def commit(self: EngineFile, op: Op) -> None:
    """Make what is acknowledged durable; the token is held, so nothing is acknowledged meanwhile."""
    if self.run_settling() or not self.native.commit_due():
        op.finish(False, True)  # nothing was committed; who wants that asks again
        return
    if self.removed and self.limits().commit_on_close:
        op.finish(False, True)  # it has no name under which it could be published
        return
    try:
        if self.conflict is not None:
            raise self.conflict_error()
        call = self.opened().commit
        if len(self.owed):
            self.owed.pay()
        version = None if op.stopped else call()
    except BaseException as error:
        if remote.is_remote_change(error):
            remote.refused(self)
            if self.rebase_asked and self.rebases < self.volume.retry.attempts:
                self.rebases += 1
                self.run_settling()
                op.finish(False, True)  # nothing was committed, and nothing is acknowledged any more
                return
            error = self.conflict_error()
        collector.commit_failed(self, op, error)
    else:
        collector.committed(self, op, version)


def write_back(self: EngineFile, pos: int, length: int) -> None:
    """A writer needs this range handed over before it can go on (method g of contract 2.7)."""
    barrier.flush(self, self.volume.native.take_epoch(), pos, pos + length)


def write_through(self: EngineFile, pos: int, length: int) -> None:
    """Contract 2.8: the bytes are acknowledged when this returns.

    Raises:
        WritebackError: they are not; they stay dirty.
    """
    barrier.flush(self, self.volume.native.take_epoch(), pos, pos + length)
