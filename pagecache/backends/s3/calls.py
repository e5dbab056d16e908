"""The requests to an S3 bucket, one method each.

Bytes go directly from and to the memory of the caller. A sent body is a file over the caller's buffers, in order, and
is not joined; ranges are read straight into them. Each sent body carries its MD5, which servers check; if the ETag of
the reply is an MD5, it is compared here as well, because some servers do not check.

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
import itertools
import random
import re
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

from ...distribution import needs

try:
    import boto3
    import botocore.session
    from botocore import exceptions
    from botocore.config import Config
    from botocore.loaders import create_loader
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(needs("boto3 is not installed", "s3"), name=error.name) from error

from ...errors import BackendError
from ..protocol import ObjectStat
from ..spool import revoke
from .errors import NoETag, ServerError, about, named, passing, refused

__all__ = ["ID", "Begun", "Bucket", "Stored", "Upload", "patiently"]

ID = "pagecache-id"
"""Metadata that distinguishes commits of this backend from all others."""
DELETED_AT_ONCE = 1000
LONG_TIMEOUT = 600.0
"""Minimum seconds for copies and completions, which take minutes for large objects."""
KEPT = ("ContentType", "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "Expires",
        "StorageClass", "ServerSideEncryption", "SSEKMSKeyId", "WebsiteRedirectLocation")  # fmt: skip
"""Properties of an object other than its bytes; copies of parts do not carry them."""
NOT_COPIED = KEPT[-4:]
"""Those that a copy of a whole object does not carry either."""
LOADER = create_loader()
"""The descriptions of the service are read once."""
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
QUESTIONS = 4
"""Largest number of attempts of a question."""
FIRST_PAUSE = 0.05
"""Seconds before the second attempt, doubled each time, with full jitter, if the server names none."""
SLEEP_MAX = 2.0
"""Largest number of seconds that a thread sleeps before a repeated request."""
PIECE = 256 << 10
"""Bytes: urllib3 buffers as many before they are copied to their place."""
IDLE_PAGES_MAX = 1000
"""Largest number of consecutive pages of a list without a name beyond the earlier ones. Some servers send empty pages,
and a name may have thousands of uploads."""
T = TypeVar("T")


# ---------------------------------------------------------------- bodies


class Body:
    """A file over several buffers, for the client to send.

    Reads are as short as the buffers, and revoked when it is closed: the client's errors are parts of reference cycles,
    which keep their arguments.
    """

    def __init__(self, buffers: Sequence[memoryview]) -> None:
        self._read: list[weakref.ref[memoryview]] = []
        self._buffers = [buffer for buffer in buffers if len(buffer)]
        self._starts = [0, *itertools.accumulate(map(len, self._buffers))]
        self._at = self._index = 0

    def __len__(self) -> int:
        return self._starts[-1]

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self))[whence]
        self._index = next((i for i in range(len(self._buffers)) if self._starts[i + 1] > self._at), len(self._buffers))
        return self._at

    def read(self, size: int = -1) -> memoryview | bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(len(self)), b""))
        if self._index == len(self._buffers):
            return b""
        begin = self._at - self._starts[self._index]
        piece = self._buffers[self._index][begin : begin + size]
        self._at += len(piece)
        if self._at == self._starts[self._index + 1]:
            self._index += 1
        self._read = [reference for reference in self._read if reference() is not None]
        self._read.append(weakref.ref(piece))
        return piece

    def close(self) -> None:
        """Release the buffers."""
        self._buffers, self._starts, self._index, self._at = [], [0], 0, 0
        revoke(piece for reference in self._read if (piece := reference()) is not None)
        self._read = []

    def digest(self) -> bytes:
        total = hashlib.md5(usedforsecurity=False)
        for buffer in self._buffers:
            total.update(buffer)
        return total.digest()


# ---------------------------------------------------------------- objects


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of an object.

    Attributes:
        etag: as the server writes it.
        size: bytes.
        mtime: seconds since 1970; None: unknown.
        id: of the commit that made it; "" if it was made by another program.
        carried: its properties other than its bytes, as arguments of the next version.
    """

    etag: str
    size: int
    mtime: float | None = None
    id: str = ""
    carried: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def version(self) -> str:
        return self.etag.strip('"')

    def status(self) -> ObjectStat:
        return ObjectStat(size=self.size, version=self.version, mtime=self.mtime)

    def is_copy_of(self, other: Stored) -> bool:
        """Return whether a copy of the other version has these properties; the copy may have another etag."""
        return self.size == other.size and (self.etag == other.etag or self.id == other.id != "")


def _stored(answer: Any, name: str, size: int) -> Stored:
    """Return the version that the headers of an answer describe."""
    carried = {word: answer[word] for word in KEPT if answer.get(word) is not None}
    metadata = {word.lower(): value for word, value in answer.get("Metadata", {}).items()}
    id = metadata.pop(ID, "")
    if answer.get("TagCount"):
        carried["Tagging"] = name  # fetched when needed
    carried["Metadata"] = metadata
    return Stored(answer["ETag"], size, _seconds(answer.get("LastModified")), id, carried)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Upload:
    """A multipart upload to the object's own key.

    Attributes:
        name: its key.
        upload: its id.
        id: the commit's id in the metadata of the object.
        tags: of the object, as the header that gives them.
        failures: failed completions, which may have been carried out.
        done: part number -> the request of a commit, the version of its source, and the part's etag. A repeated commit
            continues from there.
    """

    name: str
    upload: str
    id: str
    tags: str = ""
    failures: int = 0
    done: dict[int, tuple[Any, str, str]] = field(default_factory=dict)


def _seconds(moment: Any) -> float | None:
    """Return whole seconds: some servers report fractions in a listing, but never for the object itself."""
    return None if moment is None else float(int(moment.timestamp()))


def _of_answer(answer: Any) -> float:
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    with contextlib.suppress(TypeError, ValueError):
        return parsedate_to_datetime(date).timestamp()
    return time.time()


@dataclass(frozen=True)
class Begun:
    """An open upload, with its start by the server's clock: in seconds since 1970, and in seconds ago."""

    name: str
    upload: str
    since: float
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
    """The requests to one bucket. Thread-safe.

    Args:
        bucket: its name.
        options: of `boto3.session.Session.client`.
        session: of `boto3.session.Session`.
        connections: largest number of connections.
        addressing: "path", "virtual" or "auto".
        timeouts: seconds for a connection, and seconds without a byte from the server.
    """

    def __init__(
        self,
        bucket: str,
        options: dict[str, Any],
        session: dict[str, Any],
        connections: int,
        addressing: str,
        timeouts: tuple[float, float],
    ) -> None:
        self.bucket = bucket
        inner = botocore.session.Session()
        inner.register_component("data_loader", LOADER)
        made = boto3.session.Session(botocore_session=inner, **session)

        connect_timeout, read_timeout = timeouts

        def client(read_timeout: float) -> Any:
            config = Config(
                retries={"total_max_attempts": 1},
                s3={"addressing_style": addressing, "payload_signing_enabled": False},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=connections,
                connect_timeout=connect_timeout,
                read_timeout=read_timeout,
            )
            return made.client("s3", config=config, **options)

        self.client, self._patient = client(read_timeout), client(max(read_timeout, LONG_TIMEOUT))
        for each in (self.client, self._patient):
            for verb in ("PutObject", "UploadPart"):
                each.meta.events.register_last(f"before-call.s3.{verb}", _at_once)
            each.meta.events.register_first("needs-retry.s3.HeadBucket", _without_region)

    def close(self) -> None:
        self.client.close()
        self._patient.close()

    # ------------------------------------------------------------ reading

    def head(self, name: str, *, once: bool = False) -> Stored | None:
        """Return the stored version; None: nothing. `once`: no retries."""
        try:
            answer = self._query("HEAD", name, lambda: self.client.head_object(Bucket=self.bucket, Key=name), once=once)
        except ServerError as error:
            if error.code == "NoSuchBucket":
                raise self._no_bucket("HEAD") from error
            if error.status == 404:
                return None
            raise
        return _stored(answer, name, int(answer["ContentLength"]))

    def beginning(self, name: str, length: int) -> tuple[Stored | None, bytes]:
        """Return the stored version and its first bytes, at most `length`; None: nothing is stored."""
        try:
            with about("GET", self.bucket, name):
                answer = self.client.get_object(Bucket=self.bucket, Key=name, Range=f"bytes=0-{length - 1}")
                with contextlib.closing(answer["Body"]) as body:
                    match = RANGE.fullmatch(answer.get("ContentRange") or "")
                    size = match[3] if match else str(answer["ContentLength"])
                    if (match and match[1] != "0") or not size.isdecimal():
                        raise self._no_ranges(name)
                    room = memoryview(bytearray(min(length, int(size))))
                    with room:
                        return _stored(answer, name, int(size)), bytes(room[: _filled(body, [room])])
        except ServerError as error:
            if error.code == "NoSuchBucket":
                raise self._no_bucket("GET") from error
            if error.status == 404:
                return None, b""
            if error.status == 416:  # it is empty
                return self.head(name, once=True), b""
            raise

    def check_bucket(self) -> float:
        """Return the server's time, in seconds since 1970.

        Raises:
            OSError: ENOENT: there is no such bucket; EACCES: no permission.
        """
        try:
            return _of_answer(self._query("HEAD", "", lambda: self.client.head_bucket(Bucket=self.bucket)))
        except ServerError as error:
            if error.status == 404:
                raise self._no_bucket("HEAD") from error
            raise

    def _no_bucket(self, verb: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, self._error(verb, "", "there is no such bucket (NoSuchBucket)"))

    def _error(self, verb: str, name: str, what: str) -> str:
        return named(verb, self.bucket, name, what)

    def properties(self, stored: Stored | None, id: str) -> dict[str, Any]:
        """Return the properties of a version without its bytes, as arguments of another one that a commit with this id
        makes.
        """
        carried = {} if stored is None else dict(stored.carried)
        if "Tagging" in carried:
            carried["Tagging"] = self.tags(carried["Tagging"])
        return carried | {"Metadata": {**carried.get("Metadata", {}), **({ID: id} if id else {})}}

    def tags(self, name: str) -> str:
        """Return the tags of an object, as the header that gives them to another."""
        with about("GET of the tags", self.bucket, name):
            found = self.client.get_object_tagging(Bucket=self.bucket, Key=name)["TagSet"]
        return urlencode([(tag["Key"], tag["Value"]) for tag in found], quote_via=quote)  # "+" is no space everywhere

    def keep_tags(self, stored: Stored, name: str, tags: str) -> bool:
        """Give an object its tags, if the server did not take them with its bytes. Return whether it has them, and is
        still that version.
        """
        for last in (False, True):
            found = self.head(name)
            if found is None or found.etag != stored.etag:
                return False
            if "Tagging" in found.carried and self.tags(name) == tags:
                return True
            if not last:
                listed = [{"Key": key, "Value": value} for key, value in parse_qsl(tags, keep_blank_values=True)]
                with about("PUT of the tags", self.bucket, name):
                    self.client.put_object_tagging(Bucket=self.bucket, Key=name, Tagging={"TagSet": listed})
        return False

    def get(self, name: str, begin: int, buffers: Sequence[memoryview], etag: str | None) -> int:
        """Fill the buffers from `begin` on; `etag`: of that version only. Return the number of bytes read, at least
        one.

        Raises:
            OSError: ESTALE: another version is stored; ENOENT; ERANGE: it ends before `begin`.
        """
        length = sum(map(len, buffers))
        extra = {"IfMatch": etag} if etag else {}
        with about("GET", self.bucket, name):
            span = f"bytes={begin}-{begin + length - 1}"
            answer = self.client.get_object(Bucket=self.bucket, Key=name, Range=span, **extra)
            with contextlib.closing(answer["Body"]) as body:
                self._check_range(answer, name, begin, length, etag)
                return _filled(body, buffers)

    def _check_range(self, answer: Any, name: str, begin: int, length: int, etag: str | None) -> None:
        """Check the reply: some servers send the whole object, or another version."""
        if etag and answer.get("ETag", etag) != etag:
            raise OSError(errno.ESTALE, self._error("GET", name, f"version {answer['ETag']}, not {etag}"))
        match = RANGE.fullmatch(answer.get("ContentRange") or "")
        starts = int(match[1]) if match else 0
        if starts != begin or int(answer["ContentLength"]) > length:
            raise self._no_ranges(name)

    def _no_ranges(self, name: str) -> BackendError:
        return BackendError(errno.EPROTO, self._error("GET", name, "the server does not answer ranges"), retry=False)

    # ------------------------------------------------------------ writing

    def put(
        self, name: str, buffers: Sequence[memoryview], extra: Mapping[str, Any], *, condition: Mapping[str, str]
    ) -> tuple[str, float]:
        """Store an object as a whole; return its etag and time.

        Raises:
            OSError: ESTALE: the condition does not hold.
        """
        with self._sent("PUT", name, buffers) as (body, md5):
            answer = self.client.put_object(
                Bucket=self.bucket, Key=name, Body=body, ContentMD5=_base64(md5), **extra, **condition
            )
        return self._etag(answer, "PUT", name, md5), _of_answer(answer)

    def create(self, name: str, extra: Mapping[str, Any]) -> str:
        """Begin a multipart upload; return its id."""
        with about("CreateMultipartUpload", self.bucket, name):
            answer = self.client.create_multipart_upload(Bucket=self.bucket, Key=name, **extra)
            upload: str = answer["UploadId"]
            return upload

    def send(self, name: str, upload: str, number: int, buffers: Sequence[memoryview]) -> str:
        """Send one part; return its etag."""
        with self._sent(f"UploadPart {number}", name, buffers) as (body, md5):
            answer = self.client.upload_part(
                Bucket=self.bucket, Key=name, UploadId=upload, PartNumber=number, Body=body, ContentMD5=_base64(md5)
            )
        return self._etag(answer, f"UploadPart {number}", name, md5)

    def copy(self, name: str, upload: str, number: int, source: str, begin: int, end: int, etag: str | None) -> str:
        """Copy one part from [begin, end) of an object; return its etag. ESTALE: that has another version than
        `etag`.
        """
        extra = {"CopySourceIfMatch": etag} if etag else {}
        with about(f"UploadPartCopy {number}", self.bucket, name):
            answer = self._patient.upload_part_copy(
                Bucket=self.bucket, Key=name, UploadId=upload, PartNumber=number,
                CopySource={"Bucket": self.bucket, "Key": source}, CopySourceRange=f"bytes={begin}-{end - 1}", **extra,
            )  # fmt: skip
        found: str = answer.get("CopyPartResult", {}).get("ETag", "")
        if not found:
            raise self._no_etag(f"UploadPartCopy {number}", name)
        return found

    def complete(
        self, name: str, upload: str, parts: Sequence[tuple[int, str]], condition: Mapping[str, str]
    ) -> tuple[str, float]:
        """Publish an upload; return the object's etag, "" if the server does not send it, and its time. OSError without
        `retry`: the result is unknown.
        """
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        with about("CompleteMultipartUpload", self.bucket, name):
            answer = self._patient.complete_multipart_upload(
                Bucket=self.bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": listed}, **condition
            )
        return answer.get("ETag") or "", _of_answer(answer)

    def abort(self, name: str, upload: str) -> None:
        """Abort an upload, which may be gone already."""
        try:
            with about("AbortMultipartUpload", self.bucket, name):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=name, UploadId=upload)
        except ServerError as error:
            if error.status != 404:
                raise

    def copy_object(self, source: str, name: str, version: Stored) -> str:
        """Copy a whole object of at most 5 GiB; return its etag."""
        extra = {word: version.carried[word] for word in NOT_COPIED if word in version.carried}
        with about("CopyObject", self.bucket, name):
            answer = self._patient.copy_object(
                Bucket=self.bucket, Key=name, CopySource={"Bucket": self.bucket, "Key": source},
                CopySourceIfMatch=version.etag, **extra,
            )  # fmt: skip
        found: str = answer.get("CopyObjectResult", {}).get("ETag", "")
        return found

    def delete(self, name: str) -> None:
        with about("DELETE", self.bucket, name):
            self.client.delete_object(Bucket=self.bucket, Key=name)

    def delete_all(self, names: Iterable[str]) -> None:
        """Delete objects. Raises OSError for the first refused one; missing ones count as deleted."""
        rest = list(names)
        while rest:
            batch, rest = rest[:DELETED_AT_ONCE], rest[DELETED_AT_ONCE:]
            if len(batch) == 1:
                self.delete(batch[0])
                continue
            with about("DeleteObjects", self.bucket, batch[0]):
                listed = {"Objects": [{"Key": name} for name in batch], "Quiet": True}
                answer = self.client.delete_objects(Bucket=self.bucket, Delete=listed)
            for one in answer.get("Errors", ()):
                if (code := str(one.get("Code"))) != "NoSuchKey":
                    raise refused(code, named("DeleteObjects", self.bucket, str(one.get("Key"))))

    # ------------------------------------------------------------ lists

    def names(self, prefix: str, start_after: str = "", *, once: bool = False) -> Iterator[tuple[str, Stored]]:
        """Yield the objects with this prefix, page by page. `once`: no retries for the first page.

        Raises:
            OSError: EPROTO: the list has no end, or another prefix.
        """
        extra: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix}
        if start_after:
            extra["StartAfter"] = start_after
        pages = self._pages("list", prefix)
        while True:
            try:
                page = self._query("list", prefix, lambda: self.client.list_objects_v2(**extra), once=once)
            except ServerError as error:
                if error.code == "NoSuchBucket":
                    raise self._no_bucket("list") from error
                raise
            once = False
            for entry in pages(page, "Contents", "NextContinuationToken"):
                if not entry["Key"].startswith(prefix):  # a clean-up deletes these names
                    what = f"the server lists {entry['Key']!r}, which is not below this prefix"
                    raise BackendError(errno.EPROTO, self._error("list", prefix, what), retry=False)
                yield entry["Key"], Stored(entry.get("ETag", ""), int(entry["Size"]), _seconds(entry["LastModified"]))
            if not page.get("IsTruncated"):
                return
            extra["ContinuationToken"] = page["NextContinuationToken"]

    def uploads(self, prefix: str) -> Iterator[Begun]:
        """Yield open uploads to keys with this prefix.

        Raises:
            OSError: ENOTSUP: the server does not list them; EPROTO: the list has no end.
        """
        extra: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix}
        pages = self._pages("ListMultipartUploads", prefix)
        while True:
            try:
                page = self._query("ListMultipartUploads", prefix, partial(self.client.list_multipart_uploads, **extra))
            except ServerError as error:
                if error.code == "NoSuchUpload":  # some servers report an empty list so
                    return
                raise
            for entry in pages(page, "Uploads", "NextKeyMarker", "NextUploadIdMarker"):
                since = entry["Initiated"].timestamp()
                if entry["Key"].startswith(prefix):  # some servers list all
                    yield Begun(entry["Key"], entry["UploadId"], since, _of_answer(page) - since)
            if not page.get("IsTruncated"):
                return
            extra |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _pages(self, verb: str, prefix: str) -> Callable[..., Sequence[Any]]:
        """Return a check of the pages of one list: it takes a page, the name of its entries and those of its markers,
        and returns the entries.

        A server that sends the same page again and again must not keep a program busy.
        """
        seen: set[object] = set()
        last, idle = "", 0

        def check(page: Any, what: str, *markers: str) -> Sequence[Any]:
            nonlocal last, idle
            entries: Sequence[Any] = page.get(what) or ()
            newest = max((entry["Key"] for entry in entries), default="")
            idle = 0 if newest > last else idle + 1
            last = max(last, newest)
            marker = tuple(page.get(one) for one in markers)
            if page.get("IsTruncated") and (marker in seen or marker[0] is None or idle > IDLE_PAGES_MAX):
                what = "the list has no end: the server repeats a page, or sends many without a new name"
                raise BackendError(errno.EPROTO, self._error(verb, prefix, what), retry=False)
            seen.add(marker)
            return entries

        return check

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
                if not self.client.list_parts(Bucket=self.bucket, Key=name, UploadId=upload).get("Parts")
            ]

    # ------------------------------------------------------------ shared

    def _query(self, verb: str, name: str, question: Callable[[], T], *, once: bool = False) -> T:
        """Ask a question that changes nothing; retry while the error is transient, except after a timeout."""

        def attempt() -> T:
            with about(verb, self.bucket, name):
                return question()

        return attempt() if once else patiently(attempt, unless=errno.ETIMEDOUT)

    @contextmanager
    def _sent(self, verb: str, name: str, buffers: Sequence[memoryview]) -> Iterator[tuple[Body, bytes]]:
        body = Body(buffers)
        try:
            with about(verb, self.bucket, name):
                yield body, body.digest()
        finally:
            body.close()

    def _etag(self, answer: Any, verb: str, name: str, md5: bytes) -> str:
        """Return the etag of sent bytes: an MD5, unless the server encrypts with customer keys."""
        etag: str = answer.get("ETag", "")
        if not etag:
            raise self._no_etag(verb, name)
        plain = etag.strip('"')
        encrypted = answer.get("SSECustomerAlgorithm") or str(answer.get("ServerSideEncryption", "")).startswith("aws:")
        if re.fullmatch(r"[0-9a-f]{32}", plain) and not encrypted and plain != md5.hex():
            what = f"stored with the MD5 {plain}, sent with {md5.hex()}"
            raise BackendError(errno.EIO, self._error(verb, name, what), retry=True)
        return etag

    def _no_etag(self, verb: str, name: str) -> NoETag:
        return NoETag(errno.EIO, self._error(verb, name, "the answer has no ETag"), retry=True)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _at_once(params: dict[str, Any], **_: Any) -> None:
    """Send bodies without `Expect: 100-continue`: that is a round trip each time, and the reply is nearly always
    yes.
    """
    params["headers"].pop("Expect", None)


def _without_region(request_dict: dict[str, Any], response: Any, **_: Any) -> None:
    """End redirects that name no region: the client asks HEAD of the bucket for it, which is redirected as well,
    without end.
    """
    headers = response[1].get("ResponseMetadata", {}).get("HTTPHeaders", {}) if response else {}
    if "x-amz-bucket-region" not in headers:
        request_dict["context"]["s3_redirect"]["redirected"] = True


def _filled(body: Any, buffers: Sequence[memoryview]) -> int:
    """Fill the buffers, and return the number of received bytes, also after an error."""
    done = 0
    for buffer in buffers:
        at = 0
        while at < len(buffer):
            try:
                with buffer[at : at + PIECE] as piece:  # revoked: errors keep their arguments
                    moved = body.readinto(piece)
            except exceptions.BotoCoreError:
                if not done:
                    raise
                return done
            if not moved:
                return done
            at, done = at + moved, done + moved
    return done
