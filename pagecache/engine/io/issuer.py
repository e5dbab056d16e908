"""Write requests and commits, on the threads of the volume.

CORE has built the request: contiguous bytes, segments in cache memory, within the current limits. `write` sends it,
call by call, until every byte is acknowledged or a call fails; the collector handles the result. The thread that sent a
request collects its result: no hop.

`write` and `_write` are one algorithm, for a thread and for the event loop. A shared coroutine that a thread runs to
its end makes the call for one page 8 to 15 % slower, so both stay. A change of one of them is due in the other as well.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from ...backends.plain import returned
from ...errors import BackendProtocolError
from ...native import Op
from ..blocking import BlockingFile, as_answer, call_async, original_file
from ..commit import outcome, overdue, remote, tails
from ..foreign import is_interrupt
from . import barrier, collector, reader

if TYPE_CHECKING:
    from ..file import EngineFile

__all__ = [
    "commit",
    "commit_here",
    "start_write",
    "start_write_units",
    "write",
    "write_back",
    "write_through",
    "write_units",
]


def _ended(work: Callable[[EngineFile, Op], None], *, commit: bool = False) -> Callable[[EngineFile, Op], None]:
    """Return the work with a guarantee that the operation has ended afterwards, also after an exception."""

    @wraps(work)
    def run(self: EngineFile, op: Op) -> None:
        try:
            work(self, op)
        except BaseException as error:
            if is_interrupt(error):
                collector.end_interrupted(self, op, commit=commit)
                raise
            collector.end_after_fault(self, op, error, commit=commit)

    return run


async def _end(self: EngineFile, op: Op, work: Coroutine[Any, Any, None]) -> None:
    """End an operation like `_ended`, on the event loop."""
    loop = self.volume.loop
    assert loop is not None
    try:
        await work
    except BaseException as error:
        if loop.ending or isinstance(error, GeneratorExit):
            raise  # the operation is freed with this task, and its bytes are dirty again
        collector.end_after_fault(self, op, error, commit=False)


@_ended
def write(self: EngineFile, op: Op) -> None:
    """Send one request. Never raises for errors of the backend: they are recorded."""
    if not _to_be_sent(self, op):
        return
    try:
        opened = _target(self)
        send = opened.stage if op.stage else opened.write_from
        if len(self.owed):
            self.owed.pay()
        if self.volume.mirror is not None:
            self.volume.mirror.take(self, op)
        while (call := op.begin()) is not None:
            if _taken(self, op, op.complete(send(call[0], call[1]))):
                break
    except BaseException as error:
        if is_interrupt(error):
            raise
        _not_sent(self, op, error)
    else:
        collector.acknowledged(self, op)


def _to_be_sent(file: EngineFile, op: Op) -> bool:
    if file.abandoned or file.is_cut_off():
        op.finish(False, file.abandoned)  # none of it is written back any longer
        return False
    file.versions.about_to_change()
    return True


def _target(file: EngineFile) -> Any:
    """Return the method for the request. Read before `begin`, which refuses after an abort: so no request goes to a
    later backend.
    """
    if file.conflict is not None:
        raise file.conflict_error()
    return file.opened()


def _taken(file: EngineFile, op: Op, answer: int) -> bool:
    """Return whether all of the request is acknowledged."""
    if answer < 0:
        raise _refused(file, op, answer)
    return answer == 1


def start_write(self: EngineFile, op: Op) -> None:
    """Make the request a task; on the event loop."""
    assert self.volume.loop is not None
    self.volume.loop.carry(op, _end(self, op, _write(self, op)))


def start_write_units(self: EngineFile, op: Op) -> None:
    """Make a request that was widened to whole units a task; on the event loop."""
    assert self.volume.loop is not None
    self.volume.loop.carry(op, _end(self, op, _write_units(self, op)))


async def _write(self: EngineFile, op: Op) -> None:
    """Send one request on the event loop: only the backend is awaited; blocking calls go to a thread."""
    loop, runner = self.volume.loop, self.volume.runner
    assert loop is not None
    if isinstance(self.backend_file, BlockingFile) is False:
        await loop.aside(runner, partial(write, self, op))  # the loop is closed, or a blocking backend has taken over
        return
    if not _to_be_sent(self, op):
        return
    try:
        if len(self.owed):
            await loop.aside(runner, self.owed.pay)
        opened = _target(self)
        name = "stage" if op.stage else "write_from"
        send = getattr(original_file(opened), name)
        if self.volume.mirror is not None:
            self.volume.mirror.take(self, op)
        while (call := op.begin()) is not None:
            if _taken(self, op, op.complete(await call_async(name, send, call[0], call[1]))):
                break
    except BaseException as error:
        if loop.ending:
            raise
        await loop.aside(runner, partial(_not_sent, self, op, as_answer(error, "write_from")))
    else:
        collector.acknowledged(self, op)


async def _write_units(self: EngineFile, op: Op) -> None:
    """Send a request of whole units on the event loop."""
    loop = self.volume.loop
    assert loop is not None
    try:
        if len(self.owed):  # first: the source of its missing bytes may depend on it
            await loop.aside(self.volume.runner, self.owed.pay)
        _target(self)
        while (call := op.begin()) is not None:
            answer = op.complete(await reader.read(self, op.staged, call[0], call[1]))
            _check_read(self, op, call[0], answer)
    except BaseException as error:
        if loop.ending:
            raise
        await loop.aside(self.volume.runner, partial(_not_sent, self, op, as_answer(error, "read_into")))
    else:
        await _write(self, op)


@_ended
def write_units(self: EngineFile, op: Op) -> None:
    """Send a request that was widened to whole units, once its missing bytes are read. A failed read fails the
    request.
    """
    try:
        _target(self)
        if len(self.owed):  # first: the source of its missing bytes may depend on it
            self.owed.pay()
        while (call := op.begin()) is not None:
            offset, buffers = call
            answer = op.complete((self.read_staged if op.staged else self.read_into)(offset, buffers))
            _check_read(self, op, offset, answer)
    except BaseException as error:
        if is_interrupt(error):
            raise
        _not_sent(self, op, error)
    else:
        write(self, op)


def _check_read(file: EngineFile, op: Op, offset: int, answer: int) -> None:
    if answer == -errno.ENOMEM:
        raise _no_memory(file)
    if answer < 0:
        message = f"{reader.refusal(file, op, offset)} (a write unit is completed by a read)"
        raise BackendProtocolError(message, file.key)


def _not_sent(file: EngineFile, op: Op, error: BaseException) -> None:
    """Record a failed write-back, unless another version is stored: then the bytes are dirty again, and `on_conflict`
    decides.
    """
    op.ended()
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
    call = f"{name}({op.offset}, {op.length} bytes)"
    rule = f"did not answer with the number of bytes taken, at most {op.length}"
    return BackendProtocolError(f"{call} {rule}: {returned(op.answer)}", file.key)


@partial(_ended, commit=True)
def commit(self: EngineFile, op: Op) -> None:
    """Make acknowledged bytes durable; the token is held, so no others are acknowledged during the call."""
    tails.settle(self)
    if self.run_settling() or not self.native.commit_due():
        op.finish(False, True)  # nothing was committed; waiters ask again
        return
    _commit_named(self, op)


@partial(_ended, commit=True)
def commit_here(self: EngineFile, op: Op) -> None:
    """Make acknowledged bytes durable, on the thread of a caller.

    It does no other work under the token, which an interrupt would leave in the middle.
    """
    _commit_named(self, op)


def _commit_named(self: EngineFile, op: Op) -> None:
    """Commit, unless the commit would publish an object that has no name, or loses it; or changes that no caller wants
    to have published.
    """
    if not self.limits().commit_on_close:
        if self.is_cut_off():
            op.finish(False, True)
        else:
            _commit(self, op)
        return
    with self.publishing() as allowed:
        if allowed and not (self.commits.trying and overdue.is_blocked(self)):
            _commit(self, op)
        else:
            op.finish(False, True)


def _commit(self: EngineFile, op: Op) -> None:
    try:
        if self.conflict is not None:
            raise self.conflict_error()
        call = self.opened().commit
        if len(self.owed):
            self.owed.pay()
        begun = self.versions.changes  # first: a direct write that begins after this changes the number
        changes = None if self.native.direct_count() else begun
        version = None if op.stopped else outcome.call_commit(self, call)
    except BaseException as error:
        if is_interrupt(error):
            raise
        if remote.is_remote_change(error):
            remote.refused(self)
            if self.dispute.take_due:
                self.run_settling()
                op.finish(False, True)  # nothing was committed, and nothing is acknowledged any longer
                return
            error = self.conflict_error()
        collector.commit_failed(self, op, error)
    else:
        collector.committed(self, op, version, changes)


def write_back(self: EngineFile, pos: int, length: int) -> None:
    """Write this range back, for a writer that needs that before it can continue (method g of contract 2.7).

    Raises:
        FileNotFoundError: it never can be: the backend has lost the object with its name.
    """
    if self.is_cut_off():
        raise FileNotFoundError(errno.ENOENT, "the object has lost its name: this page cannot be completed", self.key)
    barrier.flush(self, self.volume.native.take_epoch(), pos, pos + length)


def write_through(self: EngineFile, pos: int, length: int) -> None:
    """Write this range back; on return the bytes are acknowledged (contract 2.8).

    Raises:
        WritebackError: they are not; they stay dirty.
    """
    barrier.flush(self, self.volume.native.take_epoch(), pos, pos + length)
