"""Private objects of a process in a bucket, beside its objects, until they are no longer needed.

    PREFIX/.pagecache/SESSION/17            private objects: staged bytes, zeros to copy, joined parts
    PREFIX/.pagecache/SESSION/18.upload     a note for each open upload: nothing else identifies its owner
    PREFIX/.pagecache/SESSION/alive         while the process has any of these for long: stored again every ten minutes

They are never listed, and no key reaches them. Each is deleted when it is no longer needed, or with the next one if
that fails: nothing depends on the deletion. A dead process leaves its session behind. Other processes recognize it by
its age, the age of its newest object; so a working session stores one regularly, even if it is idle.

`_lock` guards the fields. Requests are made without it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .calls import Begun, Bucket, Stored, Upload, patiently
from .errors import passing, unclear

if TYPE_CHECKING:
    from .draft import Draft

__all__ = ["PRIVATE", "Session"]

log = logging.getLogger("pagecache.volume")

PRIVATE = ".pagecache/"
NOTE, ALIVE = ".upload", "alive"
NOTE_MAX = 8192
"""Bytes of the longest note: a key of 1024 bytes, escaped, and the id of an upload."""
RENEWED_EVERY = 600.0
"""Seconds. Much less than the age at which other processes remove leftovers."""
SKEW = 2.0
"""Seconds: servers report the time of an upload in whole seconds."""


class Session:
    """The session of one backend.

    Args:
        bucket: of the backend.
        prefix: common beginning of the names of all objects.

    Attributes:
        left: drafts of files that were dropped without a close.
        renewed_every: seconds after which the session is marked as alive again.
    """

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix, self._all = prefix, prefix + PRIVATE
        self._id = f"{int(time.time())}-{secrets.token_hex(4)}"
        self._own = f"{self._all}{self._id}/"
        self.left: deque[Draft] = deque()
        self.renewed_every = RENEWED_EVERY
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._needed: set[str] = set()  # private objects
        self._dead: set[str] = set()  # those to be deleted
        self._given_up: set[tuple[str, str]] = set()  # uploads to be aborted: name and id
        self._begun: dict[str, str] = {}  # note -> id of the open upload
        # Name -> first and last time of requests that may have begun an upload.
        self._doubtful: dict[str, tuple[float, float]] = {}
        self._renewed = False  # ALIVE is stored
        self._renewing: threading.Event | None = None  # ends the thread that renews, if there is one

    def private_name(self, end: str = "") -> str:
        """Return a name for a private object, valid until it is discarded."""
        with self._lock:
            name = f"{self._own}{next(self._numbers)}{end}"
            self._needed.add(name)
            if self._renewing is None:
                self._renewing = threading.Event()
                arguments = (weakref.ref(self), self._renewing, self.renewed_every)
                threading.Thread(target=_keep, args=arguments, name="pagecache-s3-alive", daemon=True).start()
            return name

    def renew(self) -> bool:
        """Mark the session as alive. False: it has no private objects, and renewing can stop."""
        with self._lock:
            needed = bool(self._needed)
        if needed:
            with contextlib.suppress(OSError):  # the next renewal suffices
                self._bucket.put(self._own + ALIVE, [], {}, condition={})
        with self._lock:
            self._renewed, needed = needed, bool(self._needed)
            if not needed:
                self._renewing = None
        if not needed:
            self.discard(())
        return needed

    # ---------------------------------------------------------------- uploads

    def begin_upload(self, name: str, id: str, extra: Mapping[str, Any]) -> Upload:
        """Begin an upload, with a note of its owner: nothing else distinguishes it from those of other programs."""
        upload = self.create(name, extra)
        # The note follows the upload: a note made before has only key and time, and could end another program's upload.
        note = self.private_name(NOTE)
        try:
            text = json.dumps({"key": name, "upload": upload}).encode()
            self._bucket.put(note, [memoryview(text)], {}, condition={})
        except BaseException:
            self.give_up(name, upload)
            self.discard({note})
            raise
        with self._lock:
            self._begun[note] = upload
        return Upload(name, upload, id, note)

    def create(self, name: str, extra: Mapping[str, Any]) -> str:
        """Return the id of a new upload; if the reply is lost, the upload is ended later. For a private object the name
        identifies the owner.
        """
        before = time.monotonic()
        try:
            return self._bucket.create(name, extra)
        except OSError as error:
            if unclear(error):
                with self._lock:
                    first, _ = self._doubtful.get(name, (before, before))
                    self._doubtful[name] = min(first, before), before
            raise

    def give_up(self, name: str, upload: str) -> None:
        """Abort an upload, now or later."""
        with self._lock:
            self._given_up.add((name, upload))
        with contextlib.suppress(OSError):
            self._settle()

    def discard(self, names: Iterable[str]) -> None:
        """Delete private objects, now or later."""
        self._collect()
        self._forget(names)
        if self._dead or self._given_up or self._doubtful:
            with contextlib.suppress(OSError):
                self._settle()

    def _collect(self) -> None:
        """Discard private objects of files that were dropped without a close."""
        while self.left:
            draft = self.left.popleft()
            self._forget(draft.leave())
            if draft.upload is not None:
                with self._lock:
                    self._given_up.add((draft.upload.name, draft.upload.upload))

    def _forget(self, names: Iterable[str]) -> None:
        with self._lock:
            for name in names:
                self._dead.add(name)
                self._begun.pop(name, None)
            self._needed -= self._dead
            if self._renewed and not self._needed:
                self._renewed = False
                self._dead.add(self._own + ALIVE)

    def _settle(self) -> None:
        """Delete and abort pending objects. Raises OSError: a transient error at once, leaving the others; a refusal
        after the others.
        """
        with self._lock:
            dead, uploads, doubtful = set(self._dead), set(self._given_up), dict(self._doubtful)
        steps: list[Callable[[], None]] = [partial(self._abort, *upload) for upload in uploads]
        steps += [partial(self._delete, dead)]
        steps += [partial(self._end_doubtful, name, begun) for name, begun in doubtful.items()]
        denied = None
        for step in steps:
            try:
                step()
            except OSError as error:
                if passing(error):
                    raise
                denied = denied or error
        if denied is not None:
            raise denied

    def _abort(self, name: str, upload: str) -> None:
        self._bucket.abort(name, upload)
        with self._lock:
            self._given_up.discard((name, upload))

    def _delete(self, names: set[str]) -> None:
        self._bucket.delete_all(sorted(names))
        with self._lock:
            self._dead -= names

    def _end_doubtful(self, name: str, begun: tuple[float, float]) -> None:
        """End uploads that may have begun without a reply: they have no parts, and began at that time."""
        with _where_listed():
            for upload in self._bucket.begun_since(name, time.monotonic() - begun[0] + SKEW):
                with self._lock:
                    known = upload in self._begun.values()
                if not known:
                    self._bucket.abort(name, upload)
        with self._lock:
            if self._doubtful.get(name) == begun:  # otherwise an upload was begun after the listing
                del self._doubtful[name]

    def close(self) -> None:
        """Delete and abort everything pending; if the server is unreachable, another call repeats it."""
        with self._lock:
            if self._renewing is not None:
                self._renewing.set()
            self._renewing = None  # a volume that is attached later needs another one
        self._collect()
        self._forget(())
        with contextlib.suppress(OSError):
            patiently(self._settle, unless=errno.ETIMEDOUT)
        with self._lock:
            objects, uploads = len(self._dead), len(self._given_up) + len(self._doubtful)
        if objects or uploads:
            what = (
                "%s: up to %d private objects and %d uploads could not be removed; another `close`, or `s3-clean`, does"
            )
            log.warning(what, f"s3://{self._bucket.bucket}/{self._own}", objects, uploads)

    # ---------------------------------------------------------------- sessions of others

    def remove_others(self, older_than: float, *, dry_run: bool) -> list[str]:
        """Delete sessions that were not renewed for so many seconds, by the server's clock; 0: all others."""
        begun: dict[str, list[Begun]] = {}
        sessions: dict[str, list[tuple[str, Stored]]] = {}
        removed, now = [], self._bucket.check_bucket()
        with _where_listed():  # before the objects: a working session has some by then
            for one in self._bucket.uploads(self._all):
                begun.setdefault(self._of(one.name), []).append(one)
        for name, stored in self._bucket.names(self._all):
            sessions.setdefault(self._of(name), []).append((name, stored))
        for session in sorted(begun.keys() | sessions.keys()):
            objects, uploads = sessions.get(session, []), begun.get(session, [])
            newest = max([*(stored.mtime or 0.0 for _, stored in objects), *(one.since for one in uploads)])
            if session == self._id or (older_than and now - newest < older_than):
                continue
            notes = [(name, stored) for name, stored in objects if name.endswith(NOTE)]
            noted = [upload for name, stored in notes if (upload := self._noted(name, stored))]
            for name, id in [*noted, *((one.name, one.upload) for one in uploads)]:
                removed.append(f"upload of {name}")
                if not dry_run:
                    self._bucket.abort(name, id)
            removed += [name for name, _ in objects]
            if objects and not dry_run:
                self._bucket.delete_all(name for name, _ in objects)
        return removed

    def _of(self, name: str) -> str:
        """Return the session of a private object."""
        return name[len(self._all) :].partition("/")[0]

    def _noted(self, name: str, stored: Stored) -> tuple[str, str] | None:
        if stored.size > NOTE_MAX:
            return None
        room = memoryview(bytearray(stored.size))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            done = self._bucket.get(name, 0, [room], None) if stored.size else 0
            note = json.loads(bytes(room[:done]))
            if str(note["key"]).startswith(self._prefix):  # anyone who may write below the prefix may write a note
                return str(note["key"]), str(note["upload"])
        return None


@contextlib.contextmanager
def _where_listed() -> Iterator[None]:
    """Ignore that some servers do not list uploads: there are none to find then."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


def _keep(session: weakref.ref[Session], end: threading.Event, every: float) -> None:
    """Renew a session on a separate thread, which does not keep the session alive."""
    while not end.wait(every):
        alive = session()
        if alive is None or not alive.renew():
            return
        del alive
