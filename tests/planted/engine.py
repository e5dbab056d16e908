"""Mistakes of the Python layers, as patches: one decision each is replaced by the code of a hurried author."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

from pagecache import LostRange
from pagecache.engine.blocking import BlockingFile
from pagecache.engine.commit import remote
from pagecache.engine.file import EngineFile
from pagecache.engine.io import collector, direct, issuer
from pagecache.engine.volume import EngineVolume
from pagecache.file import cached as file_module
from pagecache.native import END, SHARED, STAMP_MAX, NativeInode, Op
from pagecache.volume import lifetimes, opening, reconnect
from pagecache.volume.inode import Inode
from pagecache.volume.keys import BusyKeys
from pagecache.volume.namespace import NameChange
from pagecache.volume.ticket import SyncTicket
from pagecache.volume.volume import Volume

from .failing import object_store
from .planted import Planted, patched

__all__ = ["ENGINE"]


def engine(name: str, rule: str, sentence: str, *changes: tuple[object, str, object], target: Any = None) -> Planted:
    return Planted(name, sentence, rule, "engine", lambda: patched(*changes), target)


# ---------------------------------------------------------------------------------------- direct writes, errors

locked, acknowledged, target_of = direct._locked, collector.acknowledged, issuer._target


def locked_as_decided(file: EngineFile, op: Op, write: direct.Write) -> bool:
    """Skip the second check whether the shared lock is still the right one."""
    parallel = write.parallel and file.limits().parallel_direct_writes and not write.append
    if parallel and direct._may_be_direct(file, write) and file.native.direct_may_share(write.offset, write.end):
        op.acquire(SHARED)
        return True
    return locked(file, op, write)


truncated = NativeInode.truncate


def truncate_for_good(self: NativeInode, size: int, uncommitted: bool) -> None:
    truncated(self, size, False)


def give_up(file: EngineFile, start: int, end: int) -> None:
    file.drop(start, end)


def acknowledged_all(file: EngineFile, op: Op) -> None:
    """If any byte of the file was written, forget its earlier failures."""
    acknowledged(file, op)
    with file.lock:
        failed = [(failure.start, failure.end) for failure in file.failures]
    for start, end in failed:
        file.settle(partial(give_up, file, start, end))


class Resending:
    """A backend's file with hidden retries: it writes the original bytes again, two calls later."""

    def __init__(self, inner: Any, waiting: list[tuple[int, bytes] | None]) -> None:
        self._inner = inner
        self._waiting = waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)
        try:
            taken: int = self._inner.write_from(offset, buffers)
        except OSError:
            self._waiting += [None, (offset, data)]
            raise
        if self._waiting and (late := self._waiting.pop(0)):
            self._inner.write_from(late[0], [memoryview(late[1])])
        return taken


waiting: weakref.WeakKeyDictionary[EngineFile, list[tuple[int, bytes] | None]] = weakref.WeakKeyDictionary()


def target_that_resends(file: EngineFile) -> Any:
    opened = target_of(file)
    return opened if isinstance(opened, BlockingFile) else Resending(opened, waiting.setdefault(file, []))


# ---------------------------------------------------------------------------------------- reconnect, other versions

genuine_reconnect = reconnect.reconnect
set_uncommitted = NativeInode.set_uncommitted


def rebase_keeping_uploads(file: EngineFile) -> list[LostRange]:
    """Adopt the other version, and keep units that were sent with the old version's bytes around."""
    with file.lock:
        file.dispute.end()
    backend: Any = file.volume.backend
    upload: Any = file.backend_file
    upload.base, upload.version = backend.content(file.key), backend.version(file.key)
    return []


def set_uncommitted_but_created(self: NativeInode, created: bool = False, lowest: int = END) -> None:
    if not created or lowest != END:
        set_uncommitted(self, False, lowest)


# ---------------------------------------------------------------------------------------- sync

ticket_made, ticket_advanced, files_taken_up = SyncTicket.__init__, SyncTicket._advance, SyncTicket._take_up
dirty_files = EngineVolume.dirty_files
tickets: weakref.WeakSet[SyncTicket] = weakref.WeakSet()


def ticket_for_ever(self: SyncTicket, volume: Volume) -> None:
    """Take the largest possible epoch."""
    ticket_made(self, volume)
    self._stamp = STAMP_MAX


def taken_up_beside_others(self: SyncTicket) -> None:
    """Skip files that another sync already waits for."""
    files_taken_up(self)
    others = {sync.file for ticket in tickets if not ticket._finished for sync in ticket._pending.values()}
    for number, sync in list(self._pending.items()):
        if sync.file in others:
            self._drop(number)
    tickets.add(self)


# ---------------------------------------------------------------------------------------- names, open, close

run_busy, holding_busy = BusyKeys.run, BusyKeys.holding


def run_with_one_key(self: BusyKeys, call: Any, tries: Any, *keys: Any, **context: Any) -> None:
    run_busy(self, call, tries, keys[0], **context)


def holding_nothing(self: BusyKeys, *keys: Any, **context: Any) -> Any:
    return holding_busy(self, **context)


published = NameChange.publish


def remove_alone(change: NameChange) -> None:
    """Remove the object, and keep the cached pages of its name."""
    if change.new is not None:
        published(change)


def rename_clean(change: NameChange) -> None:
    """Drop the cache of the old name, dirty pages included."""
    inode = change.volume._inode_at(change.old)
    if inode is not None and change.new is not None:
        inode.engine.drop(0, END)
    published(change)


def close_alone(use: lifetimes.Use, **more: object) -> None:
    lifetimes.release(use)


def written_back_later(self: EngineFile, pos: int, length: int) -> None:
    self.native.flush_start(STAMP_MAX, pos, pos + length)


ENGINE = [
    engine(
        "direct_write_checks_once",
        "T-22, 2.10",
        "A direct write does not check its lock's kind again once it has it: older buffered bytes go over it later.",
        (direct, "_locked", locked_as_decided),
    ),
    engine(
        "success_forgets_failures",
        "K1, K3, 2.16",
        "The error of one range is lost when a later write of the file succeeds: fsync says OK, the bytes are gone.",
        (collector, "acknowledged", acknowledged_all),
    ),
    engine(
        "retry_sends_old_bytes",
        "K5, I-20",
        "A failed call is repeated with the bytes it had, after newer ones were sent: storage goes back in time.",
        (issuer, "_target", target_that_resends),
    ),
    engine(
        "reconnect_does_not_wait",
        "T-63, K7",
        "After a reconnect, bytes are sent while an old call may still land: it lands over the newer ones.",
        (reconnect, "reconnect", lambda volume, backend, fenced: genuine_reconnect(volume, backend, True)),
    ),
    engine(
        "rebase_keeps_uploads",
        "T-73, 2.19",
        "Units uploaded with an older version's neighbours are kept over a rebase: they bring the neighbours back.",
        (remote, "rebase", rebase_keeping_uploads),
        target=object_store,  # where the uploads of a rebase matter
    ),
    engine(
        "hole_is_forgotten_at_reconnect",
        "2.17, 2.22",
        "A hole that no commit covered is gone with the backend and not reported: the old bytes are back.",
        (reconnect, "_lose_holes", lambda *_: None),
    ),
    engine(
        "truncate_is_forgotten_at_reconnect",
        "2.17, T-75b",
        "A truncate that no commit covered is not repeated on the new backend: the bytes that it cut are back.",
        (reconnect, "_owed", lambda *_: []),
    ),
    engine(
        "truncate_is_not_committed",
        "T-74, 2.17",
        "A truncate counts as durable: an fsync after it commits nothing, and a crash brings the cut bytes back.",
        (NativeInode, "truncate", truncate_for_good),
    ),
    engine(
        "creation_is_not_committed",
        "T-74, 2.17",
        "fsync of an object that was created and not written commits nothing: after a crash the object is not there.",
        (NativeInode, "set_uncommitted", set_uncommitted_but_created),
    ),
    engine(
        "sync_waits_for_later_writes",
        "T-38, I-19",
        "A sync waits for bytes written after it began: beside a busy writer it never ends.",
        (SyncTicket, "__init__", ticket_for_ever),
    ),
    engine(
        "sync_leaves_files_to_another_sync",
        "T-39, I-19",
        "A sync does not wait for files that an earlier one is saving: it returns before their bytes are safe.",
        (SyncTicket, "_take_up", taken_up_beside_others),
        (SyncTicket, "_advance", lambda self, *, first: ticket_advanced(self, first=True)),
    ),
    engine(
        "sync_misses_the_last_file",
        "I-19, 2.15",
        "A sync leaves out the file that became dirty last: its bytes are not safe when it returns.",
        (EngineVolume, "dirty_files", lambda self: dirty_files(self)[:-1]),
    ),
    engine(
        "sync_forgets_names",
        "T-40, 2.15",
        "A sync does not make names durable: a crash undoes earlier creations, removals and renames.",
        (SyncTicket, "_names_done", lambda self: True),
    ),
    engine(
        "remove_leaves_the_cache",
        "2.20",
        "A removed object stays cached under its name: an open of the name gets the bytes of the dead one.",
        (NameChange, "publish", remove_alone),
    ),
    engine(
        "rename_holds_one_name",
        "2.20",
        "A rename holds its old name only: an open of the new one makes a second cache of the object, and loses bytes.",
        (BusyKeys, "run", run_with_one_key),
    ),
    engine(
        "open_holds_no_name",
        "2.20, T-67",
        "Opens do not hold their name: two of them make two caches of one object, and each misses the other's bytes.",
        (BusyKeys, "holding", holding_nothing),
    ),
    engine(
        "rename_drops_dirty_bytes",
        "2.20",
        "A rename throws away unsaved bytes: the new name has the old content.",
        (NameChange, "publish", rename_clean),
    ),
    engine(
        "write_through_returns_early",
        "T-36, 2.8",
        "A write-through write returns before the backend has the bytes: a crash loses bytes reported as stored.",
        (EngineFile, "write_through", written_back_later),
    ),
    engine(
        "close_writes_nothing_back",
        "2.20",
        "The last close does not write back: a reader of storage then finds it without the bytes.",
        (lifetimes, "close_handle", close_alone),
    ),
    engine(
        "open_trusts_its_pages",
        "T-30, 2.20",
        "Opening does not check the version: changes by other clients are never seen.",
        (opening, "compare", lambda *_: True),
    ),
    engine(
        "loss_is_not_reported",
        "2.16, I-22",
        "Discarded data is not reported to the other handles: their fsync says OK.",
        (Inode, "record_loss", lambda self, lost, *, seen: None),
    ),
    engine(
        "faulting_source_is_copied_in_place",
        "T-04, K11",
        "Memory that may fault is copied with locks held: a map of a file that was cut kills the process.",
        (file_module, "FAULTS", {"auto": 2, "always": 1, "never": 2}),
    ),
]
