"""Find out what a server honours, by trying it on one private key, which is gone afterwards.

A server that does not support a condition may ignore it, and carry the request out; another one refuses whatever the
condition says. So each condition is tried with a request that must be refused, and with one that must be accepted.
What only objects of one PUT need is tried before the first of them, and the same for uploads:

    of a PUT       create, if there is none: accepted, then refused
    (5 requests)   replace another version: refused; the stored one: accepted
    of an upload   store the key; copy a part from another version: refused; from the stored one: accepted
    (12 requests)  complete as a new object, after a DELETE: accepted; another upload in the same way: refused
                   complete over another version: refused; over the stored one: accepted

The key contains `%41` and `+`. Some servers decode the name of a copy's source twice, and copy from another object;
this one does not exist.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal
from urllib.parse import quote

from .calls import Bucket, patiently
from .errors import NoETag, ServerError, passing

STALE = '"00000000000000000000000000000000"'
NEW = {"If-None-Match": "*"}
CHANGED_BY_DECODING = frozenset("%+")


@dataclass(frozen=True, slots=True)
class Conditions:
    """The properties of a server that not all servers have.

    Attributes:
        create: `If-None-Match` of a PUT.
        put: `If-Match` of a PUT.
        put_etags: the ETag in the answer to a PUT is that of the object from then on.
        complete: `If-Match` and `If-None-Match` of completed uploads.
        copy: the version of the source of a copied part.
        copies: parts can be copied at all.
        escapes: the name of a copy's source is decoded once.
        etags: the ETag in the answer to a completion is that of the object from then on.
    """

    create: bool = True
    put: bool = True
    put_etags: bool = True
    complete: bool = True
    copy: bool = True
    copies: bool = True
    escapes: bool = True
    etags: bool = True

    def of_copies_from(self, name: str) -> Conditions:
        """Return what holds for copies from this name: none are made that could have another source."""
        safe = (self.copy and self.escapes) or CHANGED_BY_DECODING.isdisjoint(name)
        return self if safe or not self.copies else replace(self, copies=False)

    def missing(self, of: Of) -> list[str]:
        """Return the conditional writes that the server does not honour, in words."""
        return [text for name, text in WRITES[of].items() if not getattr(self, name)]


Of = Literal["put", "upload"]
"""The requests that a commit consists of: one PUT, or an upload."""
NEEDED: dict[Of, tuple[str, ...]] = {
    "put": ("create", "put", "put_etags"),
    "upload": ("complete", "copy", "copies", "escapes", "etags"),
}
TEXTS = {
    "create": ("checks `If-None-Match` of a PUT", "a new object takes a HEAD before its PUT, with the window"),
    "put": (
        "checks `If-Match` of a PUT",
        "a change of an object of at most a part takes a HEAD before, with the window",
    ),
    "put_etags": ("sends the object's ETag in the answer to a PUT", "a HEAD after each PUT"),
    "complete": (
        "checks both conditions when an upload is completed",
        "a larger object takes a HEAD before the completion, with the window",
    ),
    "copy": (
        "checks the version of a copied part's source",
        "a HEAD before and one after the copies; keys with `%` or `+` are read and sent",
    ),
    "copies": ("copies parts", "unchanged parts are read, and sent"),
    "escapes": ("decodes the name of the source once", "keys with `%` or `+` are read and sent"),
    "etags": ("sends the object's ETag in the answer to a completion", "a HEAD after each completion"),
}
"""The properties in words: what the server does, and what is done if it does not. Window: a version that another
program stores between the HEAD and the request is replaced unseen."""
WRITES: dict[Of, dict[str, str]] = {
    "put": {"create": "If-None-Match of PUT", "put": "If-Match of PUT"},
    "upload": {"complete": "If-Match of CompleteMultipartUpload"},
}


def parse_conditions(value: Conditions | str | None) -> dict[str, bool]:
    """Parse what a user knows of the server: all of it, or words such as ``no-put,copies``."""
    if value is None:
        return {}
    known = [field.name for field in fields(Conditions)]
    if isinstance(value, Conditions):
        return {name: getattr(value, name) for name in known}
    if not isinstance(value, str):
        raise ValueError(f"conditions: {value!r} is neither Conditions nor words such as 'no-put,copies'")
    if value == "all":
        return dict.fromkeys(known, True)
    found: dict[str, bool] = {}
    for word in value.split(","):
        name = word.strip().removeprefix("no-")
        if name not in known:
            raise ValueError(f"conditions: {word!r} is not 'all', or one of {', '.join(known)}, with or without 'no-'")
        found[name] = not word.strip().startswith("no-")
    return found


class Honoured:
    """What the server of one backend honours. Thread-safe. Properties that are `known` are not tried."""

    def __init__(self, bucket: Bucket, folder: str, known: Mapping[str, bool]) -> None:
        self._bucket, self._folder = bucket, folder
        self._given = dict(known)
        self._lock = threading.Lock()  # guards the fields below; held while one thread tries
        self._found: dict[str, bool] = {}
        self._left: set[str] = set()  # keys of trials that may be there still, or uploads to them

    def conditions(self, of: Of) -> Conditions:
        """Return the properties; those of other requests may be unknown, and are said to hold. After an error the next
        call tries again.
        """
        known = self.known()
        if not all(name in known for name in NEEDED[of]):
            with self._lock:
                if not all(name in self._found for name in NEEDED[of]):
                    found = self._tried(_tried_put if of == "put" else _tried_upload)
                    self._found = self._found | found
            known = self.known()
        return Conditions(**known)

    def known(self) -> dict[str, bool]:
        """Return the properties that are known, without a request."""
        return {**self._found, **self._given}

    def warnings(self) -> list[str]:
        """Return what a user should know of the server, in sentences."""
        known = Conditions(**self.known())
        missing = [text for of in NEEDED for text in known.missing(of)]
        if not missing:
            return []
        what = f"s3://{self._bucket.bucket}: the server ignores {' and '.join(missing)}"
        return [f"{what}: a version that another program stores in the moment before a commit is replaced unseen"]

    def close(self) -> None:
        """Remove what trials could not remove before."""
        with self._lock:
            self._tidy()

    def _tried(self, trial: Callable[[_Key], dict[str, bool]]) -> dict[str, bool]:
        key = _Key(self._bucket, f"{self._folder}try-{secrets.token_hex(8)}+%41")
        self._left.add(key.name)
        try:
            found = trial(key)
            key.end()
            self._left.discard(key.name)
        finally:
            self._tidy()
        return found

    def _tidy(self) -> None:
        """End all uploads to keys of failed trials, as the answer to a beginning may be lost; delete the keys."""
        for name in sorted(self._left):
            with contextlib.suppress(OSError):
                patiently(partial(_remove, self._bucket, name), unless=errno.ETIMEDOUT)
                self._left.discard(name)


def _remove(bucket: Bucket, name: str) -> None:
    try:
        for one in bucket.uploads(name):
            if one.name == name:
                bucket.abort(name, one.upload)
    except OSError as error:
        if passing(error):
            raise
    bucket.delete(name)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer to a request of a trial."""

    etag: str | None  # of the result; None: the request was not carried out
    status: int = 200  # of a refusal

    @property
    def done(self) -> bool:
        return self.etag is not None

    @property
    def refused(self) -> bool:
        """Return whether it was refused because of its condition."""
        return self.status == 412


def _answer(request: Callable[..., str], *arguments: Any) -> _Answer:
    """Make a request. An error that says nothing about what the server supports is raised: the next call tries again.
    A failure (500) is such an error, unless it is what the server answers each time.
    """
    try:
        return _Answer(request(*arguments))
    except ServerError as error:
        if error.status == 500 and error.retry and error.retry_after is None:
            if not _fails_again(partial(request, *arguments)):
                raise  # the first one may have been carried out
        elif error.retry or error.status in (401, 403) or error.errno in (errno.EACCES, errno.ENOSPC, errno.ENXIO):
            raise
        return _Answer(None, error.status)
    except NoETag:
        return _Answer(None)


def _fails_again(request: Callable[[], str]) -> bool:
    """Return whether a request that has failed fails each time."""
    try:
        patiently(request)
    except ServerError as error:
        return error.status == 500
    return False


class _Key:
    """The key of one trial, and its open uploads."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self.name = bucket, name
        self._uploads: set[str] = set()

    def end(self) -> None:
        """End the uploads, and delete the key."""
        for upload in self._uploads:
            self._bucket.abort(self.name, upload)
        self.delete()

    def put(self, condition: Mapping[str, str]) -> str:
        return self._bucket.put(self.name, [memoryview(b"1")], condition)[0]

    def begin(self) -> str:
        upload = self._bucket.create(self.name, {})
        self._uploads.add(upload)
        return upload

    def send(self, upload: str) -> str:
        return self._bucket.send(self.name, upload, 1, [memoryview(b"1")])

    def copy(self, upload: str, source: str, etag: str | None) -> str:
        return self._bucket.copy(self.name, upload, 1, source, 0, 1, etag)

    def complete(self, upload: str, part: str, condition: Mapping[str, str]) -> str:
        etag, _ = self._bucket.complete(self.name, upload, [(1, part)], condition)
        self._uploads.discard(upload)
        return etag

    def delete(self) -> None:
        self._bucket.delete(self.name)

    def etag(self) -> str:
        stored = self._bucket.head(self.name)
        return "" if stored is None else stored.etag


def _tried_put(key: _Key) -> dict[str, bool]:
    first = _answer(key.put, NEW)
    etag = first.etag or key.put({})
    again = _answer(key.put, NEW) if first.done else first
    other = _answer(key.put, {"If-Match": STALE})
    etag = other.etag or (again.etag if first.done else None) or etag
    put = other.refused and _answer(key.put, {"If-Match": etag}).done  # which proves the ETag, too
    return {"create": first.done and again.refused, "put": put, "put_etags": put or key.etag() == etag}


def _tried_upload(key: _Key) -> dict[str, bool]:
    etag, upload = key.put({}), key.begin()
    found, part = _tried_copies(key, upload, etag)
    if not part:
        upload = key.begin()  # a server without copies may have made an empty part
        part = key.send(upload)
    key.delete()
    first = _answer(key.complete, upload, part, NEW)
    if first.etag is None:
        upload = key.begin()
        etag = key.complete(upload, key.send(upload), {})
        return found | {"complete": False, "etags": etag == key.etag()}
    upload, etag = key.begin(), first.etag
    part = key.send(upload)
    for condition in (NEW, {"If-Match": STALE}):
        answer = _answer(key.complete, upload, part, condition)
        if not answer.refused:
            etag = etag if answer.etag is None else answer.etag
            return found | {"complete": False, "etags": etag == key.etag()}
    if etag and _answer(key.complete, upload, part, {"If-Match": etag}).done:
        return found | {"complete": True, "etags": True}
    stored = key.etag()
    complete = stored != etag and _answer(key.complete, upload, part, {"If-Match": stored}).done
    return found | {"complete": complete, "etags": stored == etag}


def _tried_copies(key: _Key, upload: str, etag: str) -> tuple[dict[str, bool], str]:
    """Return the properties of copies, and the ETag of the copied part; "": there are no copies."""
    for source in (key.name, quote(key.name)):  # the second is the name for servers that decode it twice
        answer = _answer(key.copy, upload, source, STALE)
        obeys = answer.refused
        if obeys:
            answer = _answer(key.copy, upload, source, etag)
            obeys = answer.done
            if answer.refused:
                answer = _answer(key.copy, upload, source, None)
        if answer.etag:
            return {"copies": True, "copy": obeys, "escapes": source == key.name}, answer.etag
        if answer.status != 404:
            break
    return {"copies": False, "copy": False, "escapes": False}, ""
