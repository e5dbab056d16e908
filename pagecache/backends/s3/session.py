"""What a process has in a bucket besides its objects, until nothing needs it any more.

    PREFIX/.pagecache/SESSION/17            private objects: what is staged, zeros to copy, parts that are joined
    PREFIX/.pagecache/SESSION/18.upload     a note for each upload that is open: nothing else says whose it is
    PREFIX/.pagecache/SESSION/alive         while the process has any of these for long: stored again every ten minutes

They are never listed, and no key reaches them. Each is deleted when it is not needed any more, or with the next one
where that fails: nothing depends on it. A process that dies leaves its session behind. Others find it by its age, that
of its newest object, which is why one that is at work stores one now and then, even if it is idle.

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
RENEWED_EVERY = 600.0
"""Seconds. Much less than the age at which anybody removes what was left."""
SKEW = 2.0
"""Seconds: servers tell the time of an upload in whole ones."""


class Session:
    """Of one backend.

    Args:
        bucket: where.
        prefix: what the names of all objects begin with.

    Attributes:
        left: drafts of files that nobody has closed, and nobody has any more.
        renewed_every: seconds after which what is there is told to be in use.
    """

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._all = prefix + PRIVATE
        self._id = f"{int(time.time())}-{secrets.token_hex(4)}"
        self._own = f"{self._all}{self._id}/"
        self.left: deque[Draft] = deque()
        self.renewed_every = RENEWED_EVERY
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._needed: set[str] = set()  # private objects
        self._dead: set[str] = set()  # those to be deleted
        self._given_up: set[tuple[str, str]] = set()  # uploads to be aborted: name and id
        self._begun: dict[str, str] = {}  # ids of uploads that are open, by their notes
        self._doubtful: dict[str, tuple[float, float]] = {}  # name: first and last time an upload was begun, perhaps
        self._renewed = False  # ALIVE is stored
        self._renewing: threading.Event | None = None  # ends the thread that renews, if there is one

    def private_name(self, end: str = "") -> str:
        """For a private object, until it is discarded."""
        with self._lock:
            name = f"{self._own}{next(self._numbers)}{end}"
            self._needed.add(name)
            if self._renewing is None:
                self._renewing = threading.Event()
                arguments = (weakref.ref(self), self._renewing, self.renewed_every)
                threading.Thread(target=_keep, args=arguments, name="pagecache-s3-alive", daemon=True).start()
            return name

    def stored(self) -> set[str]:
        """The private objects of this session that are there."""
        return {name for name, _ in self._bucket.names(self._own)}

    def renew(self) -> bool:
        """Say that what is there is in use. False: nothing is, and who does this need not go on."""
        with self._lock:
            needed = bool(self._needed)
        if needed:
            with contextlib.suppress(OSError):  # the next one will do
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
        """An upload, and the note that it is ours: nothing else tells it from those of other programs."""
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
        """The id of an upload; one whose beginning is not answered is ended later. To a private object: its name says
        whose it is.
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
        """What files that nobody closed had is needed no more."""
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
        """Raises OSError: what may pass, at once, so that the rest is left; what was refused, after the rest."""
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
        """Uploads may have been begun whose ids never came: they have no parts, and began just then."""
        with _where_listed():
            for upload in self._bucket.begun_since(name, time.monotonic() - begun[0] + SKEW):
                with self._lock:
                    known = upload in self._begun.values()
                if not known:
                    self._bucket.abort(name, upload)
        with self._lock:
            if self._doubtful.get(name) == begun:  # else there is one that was begun after the look
                del self._doubtful[name]

    def close(self) -> None:
        """What is still to be deleted and aborted is; where the server is not there, another call does it."""
        with self._lock:
            if self._renewing is not None:
                self._renewing.set()
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
        """Delete what has not been renewed for so many seconds, by the server's clock; 0: whatever there is."""
        begun: dict[str, list[Begun]] = {}
        sessions: dict[str, list[tuple[str, Stored]]] = {}
        removed, now = [], self._bucket.check_bucket()
        with _where_listed():  # before the objects: a session that is at work has some by then
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
        """The session that a private object is of."""
        return name[len(self._all) :].partition("/")[0]

    def _noted(self, name: str, stored: Stored) -> tuple[str, str] | None:
        room = memoryview(bytearray(stored.size))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            done = self._bucket.get(name, 0, [room], None) if stored.size else 0
            note = json.loads(bytes(room[:done]))
            return str(note["key"]), str(note["upload"])
        return None


@contextlib.contextmanager
def _where_listed() -> Iterator[None]:
    """Some servers do not list uploads: there none is found."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


def _keep(session: weakref.ref[Session], end: threading.Event, every: float) -> None:
    """On a thread of its own, which keeps nobody alive."""
    while not end.wait(every):
        alive = session()
        if alive is None or not alive.renew():
            return
        del alive
