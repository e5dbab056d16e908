"""Find out which conditional requests a server honours, by trying them on a private object.

A server that does not support a condition ignores it and carries the request out. So each trial is a request that must
be refused. Some dozen requests, once for each backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from .calls import Bucket
from .errors import NoETag, ServerError
from .session import Session

__all__ = ["Conditions", "tried"]

STALE = '"00000000000000000000000000000000"'


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditional requests that a server honours.

    Attributes:
        put: `If-Match` and `If-None-Match` of objects that are stored as a whole.
        complete: `If-Match` and `If-None-Match` of completed uploads.
        copy: the version of the source of a copied part.
        copies: parts can be copied at all.
        etags: the etag of a completion is that of the object from then on.
    """

    put: bool = True
    complete: bool = True
    copy: bool = True
    copies: bool = True
    etags: bool = True

    @property
    def completion(self) -> bool:
        """Return whether the server compares all versions of a completed upload: the replaced and the copied one."""
        return self.complete and (self.copy or not self.copies)


def tried(bucket: Bucket, session: Session) -> Conditions:
    """Find out.

    Raises:
        OSError: a request failed for another reason; the result is unknown.
    """
    name = session.private_name(".try")
    try:
        return _tried(bucket, session, name)
    finally:
        session.discard({name})


def _tried(bucket: Bucket, session: Session, name: str) -> Conditions:
    one, two = memoryview(b"1"), memoryview(b"2")
    bucket.put(name, [one], {}, condition={})
    put = all(
        _refused(partial(bucket.put, name, [one], {}, condition=condition))
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": STALE})
    )
    with _trial(session, name) as upload:
        copies = _done(lambda: bucket.copy(name, upload, 1, name, 0, 1, None))
        copy = copies and _refused(lambda: bucket.copy(name, upload, 2, name, 0, 1, STALE))
    with _trial(session, name) as upload:
        parts = [(1, bucket.send(name, upload, 1, [two]))]
        etags: list[str] = []
        complete = _refused(lambda: etags.append(bucket.complete(name, upload, parts, {"IfMatch": STALE})[0]))
        if complete:
            etags.append(bucket.complete(name, upload, parts, {})[0])
    stored = bucket.head(name)
    return Conditions(put, complete, copy, copies, stored is not None and [stored.etag] == etags)


@contextmanager
def _trial(session: Session, name: str) -> Iterator[str]:
    upload = session.create(name, {})
    try:
        yield upload
    finally:
        session.give_up(name, upload)


def _refused(call: Callable[[], object]) -> bool:
    """Return whether a request is refused because its condition does not hold."""
    try:
        call()
    except ServerError as error:
        if error.status == 412:
            return True
        if error.status == 501:
            return False
        raise
    return False


def _done(call: Callable[[], object]) -> bool:
    """Return whether the server can carry out a request at all."""
    try:
        call()
    except ServerError as error:
        if error.status in (401, 403, 429, 503):
            raise
        return False
    except NoETag:
        return False
    return True
