"""The uploads of one backend: those that are to be aborted, now or when the server can be reached.

An upload that is not completed takes space that only an abort frees. One that is no longer needed is aborted at once,
or with the next one if that fails. If the answer to its beginning is lost, it is found by its key and its time, and has
no parts. A process that dies leaves its upload behind: `remove_old` ends those of a certain age, whoever began them.

`_lock` guards the fields. Requests are made without it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ... import loglines
from ..objects.words import PRIVATE
from .calls import Bucket, Upload, patiently
from .errors import passing, unclear

if TYPE_CHECKING:
    from .object import Draft

log = logging.getLogger("pagecache.volume")

SKEW = 2.0
"""Seconds: servers report the time of an upload in whole seconds."""


class Uploads:
    """The uploads of one backend. `prefix`: common beginning of the names of all objects."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix
        self.left: deque[Draft] = deque()  # of files that were dropped without a close
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[Upload] = weakref.WeakSet()  # in use by files
        self._given_up: set[tuple[str, str]] = set()  # to be aborted: name and id
        # Name -> first and last time of requests that may have begun an upload.
        self._doubtful: dict[str, tuple[float, float]] = {}

    def begin(self, name: str, id: str, extra: Mapping[str, Any]) -> Upload:
        """Begin an upload, for a commit with this id; if the reply is lost, the upload is ended later."""
        before = time.monotonic()
        try:
            upload = Upload(name, self._bucket.create(name, extra), id)
        except OSError as error:
            if unclear(error):
                with self._lock:
                    first, _ = self._doubtful.get(name, (before, before))
                    self._doubtful[name] = min(first, before), before
            raise
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
        if self.left or self._given_up or self._doubtful:
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
            given_up, doubtful = set(self._given_up), dict(self._doubtful)
        steps: list[Callable[[], None]] = [partial(self._abort, *upload) for upload in given_up]
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

    def _end_doubtful(self, name: str, begun: tuple[float, float]) -> None:
        """End uploads that may have begun without a reply: they have no parts, and began at that time."""
        with _where_listed():
            for upload in self._bucket.begun_since(name, time.monotonic() - begun[0] + SKEW):
                if upload not in self._known():
                    self._bucket.abort(name, upload)
        with self._lock:
            if self._doubtful.get(name) == begun:  # otherwise an upload was begun after the listing
                del self._doubtful[name]

    def _known(self) -> set[str]:
        with self._lock:
            return {upload.upload for upload in self._open}

    def close(self) -> None:
        """Abort everything pending; if the server is unreachable, another call repeats it."""
        with contextlib.suppress(OSError):
            patiently(self._abort_all, unless=errno.ETIMEDOUT)
        with self._lock:
            left = len(self._given_up) + len(self._doubtful)
        if left:
            what = "s3://%s/%s: up to %d uploads could not be aborted; another `close`, or `s3-clean`, does"
            loglines.say(log, logging.WARNING, what, self._bucket.bucket, self._prefix, left)

    # ---------------------------------------------------------------- what others left

    def remove_old(self, older_than: float, *, dry_run: bool) -> list[str]:
        """Abort uploads below the prefix that began so many seconds ago or earlier, by the server's clock, except those
        in use by files of this backend, and delete private objects of that age. Return both as text.
        """
        removed, known, now = [], self._known(), self._bucket.check_bucket()
        with _where_listed():
            for one in self._bucket.uploads(self._prefix):
                young = older_than and one.age < older_than  # an age may be below zero: servers report whole seconds
                if young or one.upload in known:
                    continue
                removed.append(f"upload of {one.name}")
                if not dry_run:
                    self._bucket.abort(one.name, one.upload)
        for name, stored in self._bucket.names(self._prefix + PRIVATE):  # keys of trials
            if not older_than or now - (stored.mtime or 0.0) >= older_than:
                removed.append(name)
                if not dry_run:
                    self._bucket.delete(name)
        return removed


@contextlib.contextmanager
def _where_listed() -> Iterator[None]:
    """Ignore that some servers do not list uploads: there are none to find then."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
