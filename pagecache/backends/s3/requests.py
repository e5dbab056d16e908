"""The requests that names are made of, to a bucket."""

from __future__ import annotations

import contextlib
import errno
import secrets
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import BackendError
from ..objects.parallel import side_by_side
from ..objects.store import Store
from .calls import Bucket, Stored
from .errors import ServerError, may_pass, named, unclear

if TYPE_CHECKING:
    from .conditions import Honoured
    from .plan import Sizes
    from .uploads import Uploads

REPLACED = "another version is stored since"


class Requests(Store[Stored]):
    """The requests to one bucket, as coroutines that never suspend; a copy makes `concurrent` of them at a time."""

    def __init__(self, bucket: Bucket, uploads: Uploads, honoured: Honoured, sizes: Sizes, concurrent: int) -> None:
        self._bucket, self._uploads, self._honoured = bucket, uploads, honoured
        self.sizes, self._concurrent = sizes, concurrent
        self._seen_bucket = False

    def head(self, name: str) -> Stored | None:
        with self._once_there():
            stored = self._bucket.head(name, once=True)  # the cache repeats the call
        if stored is None:
            self.check_bucket()
        self._seen_bucket = True
        return stored

    def check_bucket(self) -> None:
        """Ask for the bucket, unless it has answered before; ENOENT: there is none."""
        if not self._seen_bucket:
            self._bucket.check_bucket()
            self._seen_bucket = True

    def check_place(self) -> None:
        try:
            self._bucket.check_bucket()
        except FileNotFoundError as error:
            raise _missing(error) from error
        except ServerError as error:
            if error.retry or error.status not in (401, 403, 405):  # a refusal to look at it is no answer
                raise

    @contextlib.contextmanager
    def _once_there(self) -> Iterator[None]:
        """Raise ENXIO if the bucket is missing, and has answered before: that says nothing of an object."""
        try:
            yield
        except FileNotFoundError as error:
            if not self._seen_bucket:
                raise
            raise _missing(error) from error

    def beginning(self, name: str, length: int) -> tuple[Stored | None, bytes]:
        with self._once_there():
            found = self._bucket.beginning(name, length)
        self._seen_bucket = True
        return found

    def copy(self, old: str, new: str, version: Stored, there: Stored | None) -> Stored | None:
        if version.size <= self.sizes.part_most:
            return Stored(self._bucket.copy_object(old, new, version), version.size)
        step = self.sizes.copied
        ranges = [(n, at, min(at + step, version.size)) for n, at in enumerate(range(0, version.size, step), 1)]
        honours = self._honoured.conditions("upload").of_copies_from(old)
        if not honours.copies:
            raise self._error(errno.ENOTSUP, old, "the server may copy another object, or none")
        condition = {}
        if honours.complete:
            condition = {"If-None-Match": "*"} if there is None else {"If-Match": there.etag}
        before = version if honours.copy else self._unchecked(old, version)
        id = version.id or secrets.token_hex(16)  # not all answers have the ETag of the copy
        upload = self._uploads.begin(new, id, self._bucket.properties(version, id))

        def copy(span: tuple[int, int, int]) -> tuple[int, str]:
            return span[0], self._bucket.copy(new, upload.upload, span[0], old, span[1], span[2], version.etag)

        try:
            parts = side_by_side(copy, ranges, self._concurrent, may_pass)
            if not honours.copy and self.head(old) != before:  # some parts may be of the other version
                raise self._error(errno.ESTALE, old, REPLACED)
            if not honours.complete and not self.same(self.head(new), there):
                raise self._error(errno.EAGAIN, new, REPLACED)
            try:
                etag, _ = self._bucket.complete(new, upload.upload, parts, condition)
            except ServerError as error:
                if error.status not in (404, 412) or error.code in ("NoSuchUpload", "NoSuchBucket"):
                    raise
                raise BackendError(errno.EAGAIN, str(error.strerror), retry=True) from error  # over the one there now
        except BaseException:
            self._uploads.give_up(new, upload.upload)
            raise
        return Stored(etag, version.size, id=id)

    def _unchecked(self, name: str, version: Stored) -> Stored:
        """Return what is stored, before parts of it are copied by a server that does not check the version."""
        found = self.head(name)
        if found is None or not self.same(found, version):
            raise self._error(errno.ESTALE, name, REPLACED)
        if found.pause:
            time.sleep(found.pause)  # a version that is put back in this second would look the same
        return found

    def _error(self, code: int, name: str, what: str) -> BackendError:
        text = named("copy in parts", self._bucket.bucket, name, what)
        return BackendError(code, text, retry=code == errno.EAGAIN)

    def delete(self, name: str) -> None:
        self._bucket.delete(name)

    def is_copy(self, found: Stored, version: Stored) -> bool:
        return found.size == version.size and (found.etag == version.etag or found.id == version.id != "")

    def is_refusal(self, error: BaseException) -> bool:
        return isinstance(error, OSError) and not unclear(error)


def _missing(error: FileNotFoundError) -> BackendError:
    """Return the error of a bucket that was there."""
    return BackendError(errno.ENXIO, str(error.strerror), retry=False)
