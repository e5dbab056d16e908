"""The requests to an S3 bucket, one method each.

Bytes go directly from and to the memory of the caller: a body is sent in pieces of its buffers, and ranges are read
straight into them. Each sent body carries its MD5, which servers check; if the ETag of the reply is an MD5, it is
compared here as well, because some servers do not check.

Questions without bytes (HEAD, lists) are retried after a transient error, a few times: a server that closed an idle
connection must not fail one. Exceptions: questions that the cache itself repeats (`once`), until the deadline of its
caller, and questions without a timely reply. All other requests are tried once here: the caller decides which may be
repeated. `errors.py` explains errors.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote_plus, urlencode
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from ...errors import BackendError
from ..spool import revoked
from .errors import BROKEN_OFF, NoETag, OtherBytes, ServerError, Unreadable, about, named, passing
from .http import EMPTY, Answer, Http, text_of

ID = "pagecache-id"
"""Metadata that distinguishes commits of this backend from all others."""
KEPT = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires",
        "x-amz-storage-class", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-website-redirect-location")  # fmt: skip
"""Properties of an object other than its bytes, as headers; copies of parts do not carry them."""
NOT_COPIED = KEPT[-4:]
"""Those that a copy of a whole object does not carry either."""
META = "x-amz-meta-"
TAGS = "x-amz-tagging"
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
QUESTIONS = 4
"""Largest number of attempts of a question."""
FIRST_PAUSE = 0.05
"""Seconds before the second attempt, doubled each time, with full jitter, if the server names none."""
SLEEP_MAX = 2.0
"""Largest number of seconds that a thread sleeps before a repeated request."""
PIECE = 256 << 10
"""Bytes: urllib3 buffers as many before they are copied to their place."""
SENT_PIECE = 64 << 10
"""Bytes of one send, which must end within the timeout of a connection."""
IDLE_PAGES_MAX = 1000
"""Largest number of consecutive pages of a list without a name beyond the earlier ones. Some servers send empty pages,
and a name may have thousands of uploads."""
T = TypeVar("T")


# ---------------------------------------------------------------- objects


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of an object.

    Attributes:
        etag: as the server writes it.
        size: bytes.
        mtime: seconds since 1970; None: unknown.
        id: of the commit that made it; "" if it was made by another program.
        carried: its properties other than its bytes, as headers of the request that makes the next version. That of
            its tags has the name of the object instead: they are fetched when needed.
        date: of the answer, by the server's clock; "": it has none.
    """

    etag: str
    size: int
    mtime: float | None = None
    id: str = ""
    carried: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    date: str = field(default="", compare=False, repr=False)

    @property
    def pause(self) -> float:
        """Seconds, 1 at most, until each other version has another time than this one, or another id."""
        if self.id or self.mtime is None or not self.date:
            return 0.0
        return min(max(self.mtime + 1.0 - _time(self.date), 0.0), 1.0)

    @property
    def version(self) -> str:
        return self.etag.strip('"')


def _stored(headers: Mapping[str, str], name: str, size: str) -> Stored:
    """Return the version that the headers of an answer describe."""
    if "etag" not in headers or not size.isdecimal():
        raise Unreadable("the answer has no ETag, or no size")
    carried = {word: headers[word] for word in KEPT if word in headers}
    metadata = {word.lower(): value for word, value in headers.items() if word.lower().startswith(META)}
    id = metadata.pop(META + ID, "")
    if headers.get("x-amz-tagging-count", "0") != "0":
        carried[TAGS] = name
    when = _seconds(headers.get("last-modified"))
    return Stored(headers["etag"], int(size), when, id, carried | metadata, headers.get("date", ""))


@dataclass(slots=True, eq=False, weakref_slot=True)
class Upload:
    """A multipart upload to the object's own key. A repeated commit continues from `done`."""

    name: str
    upload: str
    id: str  # of the commit, in the metadata of the object
    tags: str = ""  # as the header that gives them
    failures: int = 0  # completions that failed, and may have been carried out
    done: dict[int, tuple[Any, str, str]] = field(default_factory=dict)  # number: request, version of the source, etag


def _seconds(moment: str | None) -> float | None:
    """Return whole seconds: some servers report fractions in a listing, but never for the object itself."""
    return None if moment is None else float(int(_time(moment)))


def _time(moment: str) -> float:
    """Return seconds since 1970."""
    try:
        found = datetime.fromisoformat(moment) if moment[:1].isdecimal() else parsedate_to_datetime(moment)
    except (TypeError, ValueError) as error:
        raise Unreadable(f"{moment!r} is not a time") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _of_answer(answer: Answer) -> float:
    """Return the time of an answer, by the server's clock if it has one."""
    with contextlib.suppress(KeyError, Unreadable):
        return _time(answer.headers["date"])
    return time.time()


@dataclass(frozen=True)
class Begun:
    """An open upload, and the seconds since it began by the server's clock."""

    name: str
    upload: str
    age: float


def patiently(call: Callable[[], T], *, unless: int | None = None) -> T:
    """Make a repeatable call, with some retries while its error is transient; no retry for the errno `unless`, or if
    the server asks for a longer pause than a thread should sleep: the caller has its own retries.
    """
    for before in range(1, QUESTIONS):
        try:
            return call()
        except OSError as error:
            pause = getattr(error, "retry_after", None)
            if not passing(error) or error.errno == unless or (pause or 0.0) > SLEEP_MAX:
                raise
        time.sleep(FIRST_PAUSE * 2 ** (before - 1) * random.random() if pause is None else pause)
    return call()


class Bucket:
    """The requests to one bucket. Thread-safe."""

    def __init__(self, bucket: str, http: Http) -> None:
        self.bucket, self.http = bucket, http

    def close(self) -> None:
        self.http.close()

    # ------------------------------------------------------------ reading

    def head(self, name: str, *, once: bool = False) -> Stored | None:
        """Return the stored version; None: nothing. `once`: no retries."""

        def ask() -> Stored:
            headers = self.http.ask("HEAD", name).headers
            return _stored(headers, name, headers.get("content-length", ""))

        try:
            return self._query("HEAD", name, ask, once=once)
        except ServerError as error:
            if error.code == "NoSuchBucket":
                raise self._no_bucket("HEAD") from error
            if error.status == 404:
                return None
            raise

    def beginning(self, name: str, length: int) -> tuple[Stored | None, bytes]:
        """Return the stored version and its first bytes, at most `length`; None: nothing is stored."""
        try:
            with about("GET", self.bucket, name):
                answer = self.http.ask("GET", name, headers={"Range": f"bytes=0-{length - 1}"}, body=True)
                with contextlib.closing(answer.body) as body:
                    match = RANGE.fullmatch(answer.headers.get("content-range", ""))
                    size = match[3] if match else answer.headers.get("content-length", "")
                    if (match and match[1] != "0") or not size.isdecimal():
                        raise self._no_ranges(name)
                    room = memoryview(bytearray(min(length, int(size))))
                    with room:
                        return _stored(answer.headers, name, size), bytes(room[: _filled(body, [room])])
        except ServerError as error:
            if error.code == "NoSuchBucket":
                raise self._no_bucket("GET") from error
            if error.status == 404:
                return None, b""
            if error.status == 416:  # it is empty
                return self.head(name, once=True), b""
            raise

    def check_bucket(self) -> float:
        """Return the server's time, in seconds since 1970; ENOENT: there is no such bucket."""
        try:
            return _of_answer(self._query("HEAD", "", lambda: self.http.ask("HEAD")))
        except ServerError as error:
            if error.status == 404:
                raise self._no_bucket("HEAD") from error
            raise

    def _no_bucket(self, verb: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, self._error(verb, "", "there is no such bucket (NoSuchBucket)"))

    def _error(self, verb: str, name: str, what: str) -> str:
        return named(verb, self.bucket, name, what)

    def properties(self, stored: Stored | None, id: str) -> dict[str, str]:
        """Return the properties of a version, as headers of a request that makes another, with the id of a commit."""
        carried = {} if stored is None else dict(stored.carried)
        if TAGS in carried:
            carried[TAGS] = self.tags(carried[TAGS])
        return carried | ({META + ID: id} if id else {})

    def tags(self, name: str) -> str:
        """Return the tags of an object, as the header that gives them to another."""
        with about("GET of the tags", self.bucket, name):
            found = self.http.ask("GET", name, query=[("tagging", "")]).xml()
        tags = [(text_of(tag, "Key"), text_of(tag, "Value")) for tag in found.iter("Tag")]
        return urlencode(tags, quote_via=quote)  # "+" is no space everywhere

    def keep_tags(self, stored: Stored, name: str, tags: str) -> bool:
        """Give an object its tags, if it lacks them. Return whether it has them, and is still that version."""
        for last in (False, True):
            found = self.head(name)
            if found is None or found.etag != stored.etag:
                return False
            if TAGS in found.carried and self.tags(name) == tags:
                return True
            if not last:
                pairs = [(escape(key), escape(value)) for key, value in parse_qsl(tags, keep_blank_values=True)]
                listed = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in pairs)
                sent = _document("Tagging", f"<TagSet>{listed}</TagSet>")
                self._send("PUT of the tags", name, [("tagging", "")], [memoryview(sent)])
        return False

    def get(self, name: str, begin: int, buffers: Sequence[memoryview], etag: str | None) -> int:
        """Fill the buffers from `begin` on; `etag`: of that version only. Return the number of bytes read, at least
        one.

        Raises:
            OSError: ESTALE: another version is stored; ENOENT; ERANGE: it ends before `begin`.
        """
        length = sum(map(len, buffers))
        headers = {"Range": f"bytes={begin}-{begin + length - 1}"} | ({"If-Match": etag} if etag else {})
        with about("GET", self.bucket, name):
            answer = self.http.ask("GET", name, headers=headers, body=True)
            with contextlib.closing(answer.body) as body:
                self._check_range(answer.headers, name, begin, length, etag)
                return _filled(body, buffers)

    def _check_range(self, headers: Mapping[str, str], name: str, begin: int, length: int, etag: str | None) -> None:
        """Check the reply: some servers send the whole object, or another version."""
        if etag and headers.get("etag", etag) != etag:
            raise OSError(errno.ESTALE, self._error("GET", name, f"version {headers['etag']}, not {etag}"))
        match = RANGE.fullmatch(headers.get("content-range", ""))
        starts = int(match[1]) if match else 0
        if starts != begin or int(headers.get("content-length", length)) > length:
            raise self._no_ranges(name)

    def _no_ranges(self, name: str) -> BackendError:
        return BackendError(errno.EPROTO, self._error("GET", name, "the server does not answer ranges"), retry=False)

    # ------------------------------------------------------------ writing

    def put(self, name: str, buffers: Sequence[memoryview], headers: Mapping[str, str]) -> tuple[str, float]:
        """Store an object; return its etag and time. `headers`: properties and a condition; ESTALE: that is not met."""
        answer, md5 = self._send("PUT", name, (), buffers, headers)
        return self._etag(answer, "PUT", name, md5), _of_answer(answer)

    def create(self, name: str, headers: Mapping[str, str]) -> str:
        """Begin a multipart upload, of an object with properties; return its id."""
        with about("CreateMultipartUpload", self.bucket, name):
            answer = self.http.ask("POST", name, query=[("uploads", "")], headers=headers).xml()
            if not (upload := text_of(answer, "UploadId")):  # a part without it could be stored as the object
                raise Unreadable("the answer has no UploadId")
            return upload

    def send(self, name: str, upload: str, number: int, buffers: Sequence[memoryview]) -> str:
        """Send one part; return its etag."""
        verb = f"UploadPart {number}"
        answer, md5 = self._send(verb, name, _part(upload, number), buffers)
        return self._etag(answer, verb, name, md5)

    def copy(self, name: str, upload: str, number: int, source: str, begin: int, end: int, etag: str | None) -> str:
        """Copy [begin, end) of an object as a part; return its etag. ESTALE: the source is not the version `etag`."""
        headers = self._source(source, etag) | {"x-amz-copy-source-range": f"bytes={begin}-{end - 1}"}
        with about(f"UploadPartCopy {number}", self.bucket, name):
            answer = self.http.ask("PUT", name, query=_part(upload, number), headers=headers, slow=True)
            found = text_of(answer.xml(), "ETag")
        if not found:
            raise self._no_etag(f"UploadPartCopy {number}", name)
        return found

    def complete(
        self, name: str, upload: str, parts: Sequence[tuple[int, str]], condition: Mapping[str, str]
    ) -> tuple[str, float]:
        """Publish an upload; return the object's etag, "" if the server does not send it, and its time. OSError without
        `retry`: the result is unknown.
        """
        listed = (f"<Part><PartNumber>{n}</PartNumber><ETag>{escape(etag)}</ETag></Part>" for n, etag in parts)
        sent = _document("CompleteMultipartUpload", "".join(listed))
        with about("CompleteMultipartUpload", self.bucket, name):
            answer = self.http.ask(
                "POST", name, query=[("uploadId", upload)], headers=condition, sent=[sent], slow=True
            )
            return text_of(answer.xml(), "ETag"), _of_answer(answer)

    def abort(self, name: str, upload: str) -> None:
        """Abort an upload, which may be gone already."""
        try:
            with about("AbortMultipartUpload", self.bucket, name):
                self.http.ask("DELETE", name, query=[("uploadId", upload)])
        except ServerError as error:
            if error.status != 404:
                raise

    def copy_object(self, source: str, name: str, version: Stored) -> str:
        """Copy a whole object of at most 5 GiB; return its etag."""
        headers = {word: version.carried[word] for word in NOT_COPIED if word in version.carried}
        with about("CopyObject", self.bucket, name):
            answer = self.http.ask("PUT", name, headers=headers | self._source(source, version.etag), slow=True)
            if not (etag := text_of(answer.xml(), "ETag")):  # the source is removed after this
                raise Unreadable("the answer has no ETag")
            return etag

    def _source(self, name: str, etag: str | None) -> dict[str, str]:
        """Return the headers of a copy from an object; `etag`: from that version only."""
        found = {"x-amz-copy-source": quote(f"{self.bucket}/{name}", safe="/~")}
        return found | ({"x-amz-copy-source-if-match": etag} if etag else {})

    def delete(self, name: str) -> None:
        with about("DELETE", self.bucket, name):
            self.http.ask("DELETE", name)

    # ------------------------------------------------------------ lists

    def names(self, prefix: str, *, once: bool = False) -> Iterator[tuple[str, Stored]]:
        """Yield the objects with this prefix, page by page. `once`: no retries for the first page."""
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        markers = {"continuation-token": "NextContinuationToken"}
        try:
            for name, entry, _ in self._entries("list", query, "Contents", markers, once=once):
                if not name.startswith(prefix):  # a clean-up deletes these names
                    what = f"the server lists {name!r}, which is not below this prefix"
                    raise BackendError(errno.EPROTO, self._error("list", prefix, what), retry=False)
                etag, size, when = (text_of(entry, word) for word in ("ETag", "Size", "LastModified"))
                with about("list", self.bucket, name):
                    stored = Stored(etag, int(size), _seconds(when))
                yield name, stored
        except ServerError as error:
            if error.code == "NoSuchBucket":
                raise self._no_bucket("list") from error
            raise

    def uploads(self, prefix: str) -> Iterator[Begun]:
        """Yield open uploads to keys with this prefix; ENOTSUP: the server does not list them."""
        verb, query = "ListMultipartUploads", {"uploads": "", "prefix": prefix}
        markers = {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
        try:
            for name, entry, now in self._entries(verb, query, "Upload", markers):
                with about(verb, self.bucket, name):
                    since = _time(text_of(entry, "Initiated"))
                if name.startswith(prefix):  # some servers list all
                    yield Begun(name, text_of(entry, "UploadId"), now - since)
        except ServerError as error:
            if error.code != "NoSuchUpload":  # some servers report an empty list so
                raise

    def _entries(
        self, verb: str, query: dict[str, str], tag: str, markers: Mapping[str, str], *, once: bool = False
    ) -> Iterator[tuple[str, Element, float]]:
        """Yield the entries of a list with their keys, and the time of the answer, page by page. `markers`: parameters
        of the next page, and the elements that have them.

        A server that sends the same page again and again must not keep a program busy.
        """
        seen: set[object] = set()
        last, idle = "", 0

        def ask() -> tuple[Answer, Element]:
            answer = self.http.ask("GET", query=query.items())
            return answer, answer.xml()

        while True:
            answer, page = self._query(verb, query["prefix"], ask, once=once)
            once, decode = False, unquote_plus if text_of(page, "EncodingType") == "url" else str
            entries = [(decode(text_of(entry, "Key")), entry) for entry in page.iter(tag)]
            newest = max((key for key, _ in entries), default="")
            last, idle = (newest, 0) if newest > last else (last, idle + 1)
            marker = tuple(text_of(page, one) for one in markers.values())
            more = text_of(page, "IsTruncated") == "true"
            if more and (marker in seen or not marker[0] or idle > IDLE_PAGES_MAX):
                what = "the list has no end: the server repeats a page, or sends many without a new name"
                raise BackendError(errno.EPROTO, self._error(verb, query["prefix"], what), retry=False)
            seen.add(marker)
            now = _of_answer(answer)
            yield from ((key, entry, now) for key, entry in entries)
            if not more:
                return
            query.update(zip(markers, marker, strict=True))

    def knows(self, name: str, upload: str) -> bool:
        """Return whether an upload is open."""
        return any(one.upload == upload for one in self.uploads(name))

    def begun_since(self, name: str, seconds: float) -> list[str]:
        """Return the uploads to this key that began in the last `seconds`, by the server's clock, and have no parts."""
        recent = [one.upload for one in self.uploads(name) if one.name == name and one.age <= seconds]
        with about("ListParts", self.bucket, name):
            return [
                upload
                for upload in recent
                if self.http.ask("GET", name, query=[("uploadId", upload)]).xml().find("Part") is None
            ]

    # ------------------------------------------------------------ shared

    def _query(self, verb: str, name: str, question: Callable[[], T], *, once: bool = False) -> T:
        """Ask a question that changes nothing; retry while the error is transient, except after a timeout."""

        def attempt() -> T:
            with about(verb, self.bucket, name):
                return question()

        return attempt() if once else patiently(attempt, unless=errno.ETIMEDOUT)

    def _send(
        self,
        verb: str,
        name: str,
        query: Sequence[tuple[str, str]],
        buffers: Sequence[memoryview],
        headers: Mapping[str, str] = EMPTY,
    ) -> tuple[Answer, bytes]:
        """Send a body; return the answer, and the MD5 of the body. Its pieces are revoked at the end: errors of the
        client are parts of reference cycles, which keep their arguments.
        """
        total = hashlib.md5(usedforsecurity=False)
        for buffer in buffers:
            total.update(buffer)
        md5 = total.digest()
        pieces = [b[at : at + SENT_PIECE] for b in buffers for at in range(0, len(b), SENT_PIECE)]
        with about(verb, self.bucket, name), revoked(pieces):
            given = {**headers, "Content-MD5": base64.b64encode(md5).decode()}
            return self.http.ask("PUT", name, query=query, headers=given, sent=pieces), md5

    def _etag(self, answer: Answer, verb: str, name: str, md5: bytes) -> str:
        """Return the etag of sent bytes: an MD5, unless the server encrypts with customer keys."""
        etag = answer.headers.get("etag", "")
        if not etag:
            raise self._no_etag(verb, name)
        plain, encryption = etag.strip('"'), answer.headers.get("x-amz-server-side-encryption", "")
        encrypted = encryption.startswith("aws:") or "x-amz-server-side-encryption-customer-algorithm" in answer.headers
        if re.fullmatch(r"[0-9a-f]{32}", plain) and not encrypted and plain != md5.hex():
            what = f"stored with the MD5 {plain}, sent with {md5.hex()}"
            raise OtherBytes(errno.EIO, self._error(verb, name, what), retry=True)
        return etag

    def _no_etag(self, verb: str, name: str) -> NoETag:
        return NoETag(errno.EIO, self._error(verb, name, "the answer has no ETag"), retry=True)


def _part(upload: str, number: int) -> list[tuple[str, str]]:
    return [("partNumber", str(number)), ("uploadId", upload)]


def _document(tag: str, content: str) -> bytes:
    return f'<{tag} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{content}</{tag}>'.encode()


def _filled(body: Any, buffers: Sequence[memoryview]) -> int:
    """Fill the buffers, and return the number of received bytes, also after an error."""
    done = 0
    for buffer in buffers:
        at = 0
        while at < len(buffer):
            try:
                with buffer[at : at + PIECE] as piece:  # revoked: errors keep their arguments
                    moved = body.readinto(piece)
            except BROKEN_OFF:
                if not done:
                    raise
                return done
            if not moved:
                return done
            at, done = at + moved, done + moved
    return done
