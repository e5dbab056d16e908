"""The uploads of one backend: those that are to be aborted, now or when the server can be reached.

An upload that is not completed takes space that only an abort frees. One that is no longer needed is aborted at once,
or with the next one if that fails. A process that dies leaves its upload behind, and so does a lost answer to the
beginning, without parts: `remove_old` ends those of a certain age, whoever began them.

`_lock` guards the fields. Requests are made without it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ... import loglines
from ..objects.words import PRIVATE
from .calls import Bucket, Upload, patiently
from .errors import passing

if TYPE_CHECKING:
    from .object import Draft

log = logging.getLogger("pagecache.volume")


class Uploads:
    """The uploads of one backend. `prefix`: common beginning of the names of all objects."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix
        self.left: deque[Draft] = deque()  # of files that were dropped without a close
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[Upload] = weakref.WeakSet()  # in use by files
        self._given_up: set[tuple[str, str]] = set()  # to be aborted: name and id

    def begin(self, name: str, id: str, extra: Mapping[str, Any]) -> Upload:
        """Begin an upload, for a commit with this id."""
        upload = Upload(name, self._bucket.create(name, extra), id)
        with self._lock:
            self._open.add(upload)
        return upload

    def give_up(self, name: str, upload: str) -> None:
        """Abort an upload, now or later."""
        with self._lock:
            self._given_up.add((name, upload))
        self.settle()

    def settle(self) -> None:
        """Abort what is pending, if the server can be reached."""
        if self.left or self._given_up:
            with contextlib.suppress(OSError):
                self._abort_all()

    def _abort_all(self) -> None:
        """Abort pending uploads, and those of files that were dropped without a close. Raises OSError: a transient
        error at once, leaving the others; a refusal after the others.
        """
        with contextlib.suppress(IndexError):  # there are no more: another thread may have taken the last one
            while True:
                upload = self.left.popleft().upload
                if upload is not None:
                    with self._lock:
                        self._given_up.add((upload.name, upload.upload))
        with self._lock:
            given_up = set(self._given_up)
        denied = None
        for name, id in given_up:
            try:
                self._bucket.abort(name, id)
            except OSError as error:
                if passing(error):
                    raise
                denied = denied or error
            else:
                with self._lock:
                    self._given_up.discard((name, id))
        if denied is not None:
            raise denied

    def close(self) -> None:
        """Abort everything pending; if the server is unreachable, another call repeats it."""
        with contextlib.suppress(OSError):
            patiently(self._abort_all, unless=errno.ETIMEDOUT)
        if left := len(self._given_up):
            what = "s3://%s/%s: up to %d uploads could not be aborted; another `close`, or `s3-clean`, does"
            loglines.say(log, logging.WARNING, what, self._bucket.bucket, self._prefix, left)

    # ---------------------------------------------------------------- what others left

    def remove_old(self, older_than: float, *, dry_run: bool) -> list[str]:
        """Abort uploads below the prefix that began so many seconds ago or earlier, by the server's clock, except those
        in use by files of this backend, and delete private objects of that age. Return both as text.
        """
        with self._lock:
            known = {upload.upload for upload in self._open}
        removed, now = [], self._bucket.check_bucket()
        try:
            for one in self._bucket.uploads(self._prefix):
                young = older_than and one.age < older_than  # an age may be below zero: servers report whole seconds
                if young or one.upload in known:
                    continue
                removed.append(f"upload of {one.name}")
                if not dry_run:
                    self._bucket.abort(one.name, one.upload)
        except OSError as error:
            if error.errno != errno.ENOTSUP:  # some servers do not list uploads: there are none to find then
                raise
        for name, stored in self._bucket.names(self._prefix + PRIVATE):  # keys of trials
            if not older_than or now - (stored.mtime or 0.0) >= older_than:
                removed.append(name)
                if not dry_run:
                    self._bucket.delete(name)
        return removed
