"""Write requests and commits, on the threads of the volume.

CORE has built the request: contiguous bytes, segments in cache memory, within the current limits. `write` sends it,
call by call, until every byte is acknowledged or a call fails; the collector handles the result. The thread that sent a
request collects its result: no hop.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from ...backends.plain import returned
from ...errors import BackendProtocolError, ShutdownError
from ...native import Op
from ..commit import overdue, remote, tails
from ..commit.owed import FOLLOWING
from ..foreign import is_interrupt, is_kept
from . import barrier, collector, reader

if TYPE_CHECKING:
    from ..file import EngineFile

P = ParamSpec("P")


def _ended(
    work: Callable[Concatenate[EngineFile, Op, P], None], *, commit: bool = False
) -> Callable[Concatenate[EngineFile, Op, P], None]:
    """Return the work with a guarantee that the operation has ended afterwards, also after an exception."""

    def run(self: EngineFile, op: Op, /, *args: P.args, **options: P.kwargs) -> None:
        try:
            work(self, op, *args, **options)
        except BaseException as error:
            if is_interrupt(error):
                collector.end_interrupted(self, op, commit=commit)
                raise
            collector.end_after_fault(self, op, error, commit=commit)

    return update_wrapper(run, work)


@_ended
def write(self: EngineFile, op: Op) -> None:
    """Send one request. Never raises for errors of the backend: they are recorded."""
    if self.abandoned or self.is_cut_off() or self.is_found_elsewhere():
        op.finish(False, self.abandoned)  # none of it is written back now, or any longer
        return
    self.versions.about_to_change()
    sent = False
    try:
        send = _target(self).write_from
        if len(self.owed):
            self.owed.pay()
        mirror, staging = self.volume.mirror, self.staged() if op.stage else None
        epoch, (copied, end) = 0 if staging is None else staging.epoch, op.extent
        while (call := op.begin()) is not None:
            sent, (offset, buffers) = True, call
            if (stop := offset + sum(map(len, buffers))) > copied:
                if staging is not None:
                    staging.put(epoch, offset, buffers)
                if mirror is not None:
                    mirror.take(self, offset, buffers)
                copied = stop
            count = send(offset, buffers)
            taken = _taken(self, op, op.complete(count))
            if staging is not None:
                staging.sent(epoch, offset, end if taken else offset + count)
            if taken:
                break
    except BaseException as error:
        if is_interrupt(error):
            raise
        _not_sent(self, op, error, sent=sent)
    else:
        collector.acknowledged(self, op)


@_ended
def write_met(self: EngineFile, op: Op, met: BaseException | int, sent: bool) -> None:
    """Record what a call of a bound write request has met; `sent`: a call was made."""
    error = _refused(self, op, met) if isinstance(met, int) else met
    if is_interrupt(error):
        raise error
    _not_sent(self, op, error, sent=sent)


@_ended
def written(self: EngineFile, op: Op) -> None:
    """Record that all of a bound write request is acknowledged, after an abort."""
    collector.acknowledged(self, op)


def _target(file: EngineFile) -> Any:
    """Return the method for the request. Read before `begin`, which refuses after an abort: so no request goes to a
    later backend.
    """
    if file.dispute.take_due:
        raise OSError(errno.ESTALE, "another version is about to be taken", file.key)
    if file.conflict is not None:
        raise file.conflict_error()
    return file.opened()


def _taken(file: EngineFile, op: Op, answer: int) -> bool:
    """Return whether all of the request is acknowledged."""
    if answer < 0:
        raise _refused(file, op, answer)
    return answer == 1


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
        _not_sent(self, op, error, sent=False)
    else:
        write(self, op)


def _check_read(file: EngineFile, op: Op, offset: int, answer: int) -> None:
    if answer == -errno.ENOMEM:
        raise _no_memory(file)
    if answer < 0:
        message = f"{reader.refusal(file, op, offset)} (a write unit is completed by a read)"
        raise BackendProtocolError(message, file.key)


def _not_sent(file: EngineFile, op: Op, error: BaseException, *, sent: bool) -> None:
    """Record a failed write-back, unless another version is to be taken, or a conflict has ended meanwhile: then the
    bytes are dirty again. For a removed object they would be sent again without an end.
    """
    op.ended()
    if remote.is_remote_change(error) and not op.stopped:  # else another backend said so
        if not file.dispute.take_due:  # else the store is asked then
            remote.refused(file)
        if file.conflict is None and (file.dispute.take_due or not file.removed):
            op.finish(False, False)
            return
        error = remote.error_of(file, error)
    collector.failed(file, op, error, sent=sent)


def _no_memory(file: EngineFile) -> OSError:
    return OSError(errno.ENOMEM, "no memory for a copy of the buffers that the backend kept", file.key)


def _refused(file: EngineFile, op: Op, answer: int) -> OSError:
    if answer == -errno.ENOMEM:
        return _no_memory(file)
    if answer == -errno.EIO:
        return OSError(errno.EIO, "write_from made no progress three times", file.key)
    call = f"write_from({op.offset}, {op.length} bytes)"
    rule = f"did not answer with the number of bytes taken, at most {op.length}"
    return BackendProtocolError(f"{call} {rule}: {returned(op.answer)}", file.key)


@partial(_ended, commit=True)
def commit(self: EngineFile, op: Op) -> None:
    """Make acknowledged bytes durable; the token is held, so no others are acknowledged during the call."""
    tails.settle(self)
    if self.run_settling() or not self.commit_due():
        op.finish(False, True)  # nothing was committed; waiters ask again
        return
    _commit_named(self, op)


def _commit_named(self: EngineFile, op: Op) -> None:
    """Commit, unless the commit would publish an object that has no name, or loses it; or changes that no caller wants
    to have published.
    """
    if not self.limits().commit_on_close:
        if self.is_cut_off() or self.is_found_elsewhere():
            op.finish(False, True)
        else:
            _commit(self, op)
        return
    with self.publishing() as allowed:
        if allowed and not _is_unwanted(self):
            _commit(self, op)
        else:
            op.finish(False, True)


def _is_unwanted(file: EngineFile) -> bool:
    """Return whether a commit that no caller waits for would publish changes that none wanted to have published."""
    return file.commits.trying and overdue.is_blocked(file)


# On the thread of a caller: without other work under the token, which an interrupt would leave in the middle.
commit_here = _ended(_commit_named, commit=True)


def _commit(self: EngineFile, op: Op) -> None:
    sending = called = False
    spills = self.volume.spills is not None and self.limits().commit_on_close
    staging = self.staged() if spills else self.staging
    try:
        if self.conflict is not None:
            raise self.conflict_error()
        backend_file = self.opened()
        call = backend_file.commit
        if self.owed.owes(FOLLOWING):
            self.owed.pay()  # with looks at the object, and what follows from them
        if spills:
            staging.begin_sending(op)
        if len(self.owed):
            self.owed.pay(sending=op)
        sending = True
        staging.send_again(op, backend_file)
        if _is_unwanted(self):  # a write has come meanwhile
            staging.end_sending(op)
            op.finish(False, True)
            return
        sending, called = False, True
        begun = self.changes()  # first: a direct write that begins after this changes the number
        changes = None if self.direct_count() else begun
        if op.stopped:
            raise ShutdownError("the volume was aborted", self.key)
        version = op.send_commit(call)
        staging.end_sending(op)
        if version is not None and not isinstance(version, str):
            raise _impossible_version(self, version)
    except BaseException as error:
        staging.end_sending(op)
        if is_interrupt(error):
            raise
        _not_committed(self, op, error, kept=sending or is_kept(error), called=called)
    else:
        collector.committed(self, op, version, changes)


def _not_committed(self: EngineFile, op: Op, error: BaseException, *, kept: bool, called: bool) -> None:
    """Record a failed commit, unless the stored version is to be taken."""
    if remote.is_remote_change(error) and not op.stopped:
        remote.refused(self)
        if self.dispute.take_due:
            if called and not kept:
                self.lose_direct()
            op.finish(False, kept or not called)  # a thread of the volume takes that version: no interrupt strikes it
            return
        error = remote.error_of(self, error)
    collector.commit_failed(self, op, error, kept=kept, called=called)


@partial(_ended, commit=True)
def commit_met(self: EngineFile, op: Op, error: BaseException) -> None:
    """Record the error of a bound commit."""
    if is_interrupt(error):
        raise error
    _not_committed(self, op, error, kept=is_kept(error), called=True)


@partial(_ended, commit=True)
def committed(self: EngineFile, op: Op, version: str | None, changes: int | None) -> None:
    """Record a bound commit that was carried out."""
    if version is None or isinstance(version, str):
        collector.committed(self, op, version, changes)
    else:
        _not_committed(self, op, _impossible_version(self, version), kept=False, called=True)


def _impossible_version(file: EngineFile, answer: object) -> BackendProtocolError:
    rule = "commit did not answer with the version that it has made, a str or None"
    return BackendProtocolError(f"{rule}: {returned(answer)}", file.key)


def write_through(self: EngineFile, pos: int, length: int) -> None:
    """Write this range back; on return the bytes are acknowledged (contract 2.8).

    Raises:
        WritebackError: they are not; they stay dirty.
    """
    barrier.flush(self, pos, pos + length)
