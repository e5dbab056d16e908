"""The names of a store of whole objects, and the open files that have them.

    remove     look at the name; delete
    rename     look at both names; copy the version that was seen; look at the copy, whose version open files need;
               delete the source, if it still is that version. A newer one stays, and the rename has succeeded. One
               request, in a store that can rename

An object that was never stored makes no request: its next commit replaces the object that the new name has now.
Nothing is deleted that was not just looked at, and, for a rename, copied; a destination never.

If the last request of a change is not answered, a look at the names settles it: at once, or, if that fails too, in the
next call for the old name. The backend's own part, which concerns open files, is done in every outcome before anything
is reported.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic

from ...errors import Key, os_error
from .store import Store, V

if TYPE_CHECKING:
    from .file import ObjectFile

UNSETTLED_MAX = 1 << 10
"""Limit of changes with a lost answer whose result is not known yet."""


@dataclass(eq=False, slots=True)
class _Change(Generic[V]):
    """A remove or rename whose last request, which ends the old name, was sent.

    Attributes:
        old: the name that the request ends.
        stored: the object that had it.
        files: open files of that object.
        dst, new: the new key and its name; None: a remove.
        there: the object that had the new name.
        replaced: open files of that object.
        now: the object under the new name; None: not known yet, or another client has replaced or removed it since.
        done: the request was carried out, and the backend's own part is done.
    """

    old: str
    stored: V
    files: list[ObjectFile[V]]
    dst: Key = None
    new: str | None = None
    there: V | None = None
    replaced: list[ObjectFile[V]] = field(default_factory=list)
    now: V | None = None
    done: bool = False

    def finish(self) -> None:
        """Do the backend's own part."""
        _detach(self.files if self.new is None else self.replaced)
        if self.new is not None:
            for file in self.files:
                file.renamed(self.dst, self.new, self.stored, self.now or self.stored)
        self.done = True


def _detach(files: list[ObjectFile[V]]) -> None:
    """Take the name from open files."""
    for file in files:
        file.detached = True


class Names(Generic[V]):
    """The open files of a store, and the calls that change names."""

    def __init__(self, store: Store[V]) -> None:
        self._store = store
        self._lock = threading.Lock()  # guards the fields below
        self._files: weakref.WeakSet[ObjectFile[V]] = weakref.WeakSet()
        self._unsettled: dict[str, _Change[V]] = {}  # by the old name, while the result is unknown

    # ---------------------------------------------------------------- open files

    def add(self, file: ObjectFile[V]) -> None:
        with self._lock:
            self._files.add(file)

    def leave(self, file: ObjectFile[V]) -> None:
        """Forget a file that was closed."""
        with self._lock:
            self._files.discard(file)

    def files(self, name: str | None = None) -> list[ObjectFile[V]]:
        """Return the open files of a name; None: all."""
        with self._lock:
            return [file for file in self._files if name is None or (not file.detached and file.name == name)]

    # ---------------------------------------------------------------- looks

    def look(self, name: str) -> V | None:
        """Return the stored version. This settles an earlier change of the name whose answer was lost."""
        with self._lock:
            change = self._unsettled.get(name)  # taken first: an earlier answer proves nothing about it
        found = self._store.head(name)
        if found is None:
            self.check_missing(name)
        if change is not None:
            done = self._was_carried_out(change, found)
            with self._lock:
                settles = self._unsettled.get(name) is change
                if settles:
                    del self._unsettled[name]
            if settles and done:
                change.finish()
        return found

    def check_missing(self, name: str) -> None:
        """Check that an open file has lost its object, if nothing is stored under its name; ENXIO: its place is missing
        as a whole.
        """
        if any(file.draft.over is not None for file in self.files(name)):
            self._store.check_place()

    def is_unsettled(self, name: str) -> bool:
        """Return whether the answer to an earlier change of the name was lost, and nothing has settled it yet."""
        return name in self._unsettled

    def settle(self, name: str) -> None:
        """Settle a change of the name whose answer was lost: open files may have another name by it, or none."""
        if self.is_unsettled(name):
            self.look(name)

    def _was_carried_out(self, change: _Change[V], found: V | None) -> bool:
        """Return whether the last request was carried out, from the objects that have the names now."""
        same = self._store.same
        if same(found, change.stored):
            return False
        if change.new is None:
            return found is None  # another version there shows nothing (contract 2.14)
        if not self._store.renames:
            return True
        now = self._store.head(change.new)
        if now is None or now.size != change.stored.size or (same(now, change.there) and not same(now, change.stored)):
            return False
        change.now = now
        return True

    def _was_done(self, old: str, new: str | None) -> bool:
        """Return whether an earlier call of this kind was carried out, and its answer was lost."""
        with self._lock:
            change = self._unsettled.get(old)
        if change is None or change.new != new:
            return False
        self.look(old)
        return change.done

    def _make(self, change: _Change[V], request: Callable[[], None]) -> None:
        """Send the last request of a change, and do the own part. If the answer is lost, look at the names; if that
        fails too, the next call for the old name does.
        """
        try:
            request()
        except BaseException as error:
            if self._store.is_refusal(error):
                raise
            with self._lock:
                self._unsettled[change.old] = change
                if len(self._unsettled) > UNSETTLED_MAX:
                    del self._unsettled[next(iter(self._unsettled))]
            if isinstance(error, Exception):
                with contextlib.suppress(Exception):
                    self.look(change.old)
            if not change.done:
                raise
        else:
            change.finish()

    # ---------------------------------------------------------------- calls

    def remove(self, key: Key, name: str) -> None:
        with self._store.about(key):
            if self._was_done(name, None):
                return
            stored, files = self.look(name), self.files(name)
            if stored is not None:
                self._make(_Change(name, stored, files), partial(self._store.delete, name))
            elif any(file.draft.is_created() for file in files):  # it is not committed yet
                _detach(files)
            else:
                raise os_error(errno.ENOENT, key)

    def rename(self, src: Key, old: str, dst: Key, new: str, *, replace: bool) -> None:
        with self._store.about(src):
            if self._was_done(old, new):
                return
            stored, files = self.look(old), self.files(old)
            if stored is None:  # an object that was created, and is not committed yet, is not in the store
                files = [file for file in files if file.draft.is_created()]
                if not files:
                    raise os_error(errno.ENOENT, src)
        with self._store.about(dst):
            there = self.look(new)
            if there is not None and not replace:
                raise os_error(errno.EEXIST, dst)
            if old == new:
                return
            replaced = self.files(new)
            if stored is None:
                _detach(replaced)
                for file in files:
                    file.renamed(dst, new, None, there)
                return
            change = _Change(old, stored, files, dst, new, there, replaced)
            if self._store.renames:
                self._make(change, partial(self._rename, change))
                return
            change.now = self._copied(change)
        with self._store.about(src):
            found = self.look(old)
            if self._store.same(found, stored):
                self._make(change, partial(self._store.delete, old))
            else:  # it is gone, or newer than the copy; or it was copied, too: not all stores check what they copy
                if change.now is not None and not self._store.is_copy(change.now, stored):
                    change.now = None
                change.finish()

    def _rename(self, change: _Change[V]) -> None:
        """Rename in one request. Either name may have an object of another client afterwards."""
        store, stored, there, new = self._store, change.stored, change.there, str(change.new)
        store.rename(change.old, new)
        found, now = store.head(change.old), store.head(new)
        is_there = there is not None and store.same(now, there) and not store.same(now, stored)
        if found is not None and (is_there or store.same(found, stored)):
            raise store.replaces_nothing()
        if now is not None and now.size == stored.size:
            change.now = now

    def _copied(self, change: _Change[V]) -> V | None:
        """Copy the version of a rename to its new name. Return the copy; if no open file has the object, and the answer
        proves the copy, the copied version stands for it. None: another client has replaced the copy.
        """
        old, new, stored, there = change.old, str(change.new), change.stored, change.there
        try:
            made = self._store.copy(old, new, stored, there)
            if made is not None and self._store.same(made, stored) and not change.files:
                return stored
        except Exception as error:
            if not self._store.is_refusal(error):
                with contextlib.suppress(Exception):
                    found = self._store.head(new)
                    if found is not None and not self._store.same(found, there) and self._store.is_copy(found, stored):
                        return found
            raise
        now = self._store.head(new)
        if now is None or now.size != stored.size:
            raise OSError(errno.EIO, f"the copy of {old} is not there as it was made")
        if made is None:
            proven = not self._store.is_marked(stored)  # what is there is taken for the copy
        else:
            proven = self._store.same(now, made) or self._store.is_copy(now, made)
        if proven:
            return now
        return now if self._store.is_copy(now, stored) else None
