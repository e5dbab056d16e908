"""The objects of an S3 bucket, or of all that speaks its protocol, below a prefix.

    s3.py             the backend: keys, names, private objects, which conditions the server honours
    s3_object.py      one open object and its commit
    s3_assembly.py    the requests of a commit
    s3_plan.py        which requests these are
    s3_calls.py       each request, and its errors

Private objects are below `PREFIX/.pagecache/SESSION/`: what is staged, parts that are joined, and a note for each
upload that is open, which says whose it is. They are never listed, no key reaches them, and each is deleted when
nothing needs it any more. A process that dies leaves its session behind; `remove_leftovers` finds it by its age.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import itertools
import json
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ..config import Size, parse_size, with_overrides
from ..errors import Key
from .protocol import Backend, BackendLimits, ObjectStat
from .s3_assembly import side_by_side
from .s3_calls import Bucket, Stored, Upload
from .s3_errors import NoETag, Told, unclear
from .s3_object import S3File
from .s3_plan import Sizes

__all__ = ["Conditions", "S3Backend", "S3File", "backend_from_s3_url"]

PRIVATE = ".pagecache/"
NOTE = ".upload"
KEY_MAX = 1024
LEFT_AFTER = 86400.0
"""Seconds."""
RENAMED_MAX = 1 << 16
LEAST = 5 << 20
SKEW = 2.0
"""Seconds: servers tell the time of an upload in whole ones."""
STALE = '"00000000000000000000000000000000"'


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a server honours.

    Attributes:
        put: `If-Match` and `If-None-Match` of objects that are stored as a whole.
        complete: those of an upload that is published.
        copy: that of the version a part is copied from.
        copies: parts are copied at all.
        etags: what an upload is published with is what the object has from then on.
    """

    put: bool = True
    complete: bool = True
    copy: bool = True
    copies: bool = True
    etags: bool = True

    @property
    def everything(self) -> bool:
        return self.put and self.complete and (self.copy or not self.copies)


def _missing(key: Key) -> OSError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)


class S3Backend(Backend):
    """The objects of a bucket whose names begin with a prefix, by the rest of their name.

    Objects become visible by a commit. What is handed over before is a multipart upload or private objects, and a
    commit that would replace another version than the one that was opened is refused (ESTALE).

    Args:
        bucket: its name; it has to exist.
        prefix: what all names begin with, a folder: a slash follows it.
        endpoint_url: of a service other than AWS.
        part_size: bytes of a part, from 5 MiB; what a change of one byte moves. The cache needs eight of them.
        region_name, profile_name: as boto3 has them; credentials come from its ordinary chain.
        addressing: "path" or "virtual"; "auto": as boto3 decides.
        conditions: which conditional requests the server honours; None: it is tried, with private objects, before the
            first hand-over.
        least_part: bytes that every part of an upload but the last has to have; less where a server takes less.
        limits: of one call; default: whole parts, 16 calls at once.
        overrides: fields of `BackendLimits`, such as ``max_inflight=32``.

    Raises:
        ModuleNotFoundError: boto3 is not installed.
        ValueError: one of them is not what it should be; says which and why.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        part_size: Size = "8MiB",
        region_name: str | None = None,
        profile_name: str | None = None,
        addressing: str = "auto",
        conditions: Conditions | None = None,
        least_part: Size = LEAST,
        limits: BackendLimits | None = None,
        **overrides: Any,
    ) -> None:
        if not isinstance(bucket, str) or not bucket or "/" in bucket:
            raise ValueError(f"bucket: {bucket!r} is not the name of a bucket")
        if addressing not in ("auto", "path", "virtual"):
            raise ValueError(f"addressing: {addressing!r} is not one of 'auto', 'path', 'virtual'")
        part, least = parse_size(part_size, "part_size"), parse_size(least_part, "least_part")
        if part < least or part > 1 << 30:
            raise ValueError(f"part_size: {part_size!r} is not from {least} bytes to 1 GiB")
        self.sizes = Sizes(part=part)
        whole = BackendLimits(
            max_read=part, max_write=part, write_unit=part, max_vectors=1 << 14, max_inflight=16, commit_on_close=True
        )
        self.limits = with_overrides(limits or whole, overrides)
        if not self.limits.commit_on_close or self.limits.durable_writes:
            raise ValueError("limits: objects become visible by a commit, and are not durable before")
        if self.limits.write_unit != part:
            raise ValueError(f"limits: write_unit {self.limits.write_unit} is not part_size ({part})")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        options = {"endpoint_url": endpoint_url, "region_name": region_name}
        connections = int(self.limits.max_inflight) * 2
        self.bucket = Bucket(bucket, options, {"profile_name": profile_name}, connections, addressing)
        self._conditions = conditions
        self._trying = threading.Lock()  # one tries what the server honours
        self._lock = threading.Lock()  # guards the rest
        self._files: weakref.WeakSet[S3File] = weakref.WeakSet()
        self._renamed: dict[str, tuple[str, str]] = {}  # name: its version, and what that was before
        self._seen_bucket = False
        self._session = f"{int(time.time())}-{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._dead: set[str] = set()  # private objects to be deleted
        self._given_up: set[tuple[str, str]] = set()  # uploads to be aborted: name and id
        self._begun: set[str] = set()  # ids of uploads that are open
        self._doubtful: dict[str, float] = {}  # name: when an upload was begun, perhaps

    # ---------------------------------------------------------------- keys

    def canonical(self, key: Key) -> Key:
        name = os.fspath(key) if isinstance(key, str | os.PathLike) else None
        if not isinstance(name, str):
            raise ValueError(f"{key!r} is not a key of an object: it must be a str or an os.PathLike of str")
        if not name:
            raise ValueError(f"{key!r} is not a key of an object: it is empty")
        if name.startswith(PRIVATE):
            raise ValueError(f"{key!r} is not a key of an object: {PRIVATE} is the backend's own")
        try:
            length = len((self.prefix + name).encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"{key!r} is not a key of an object: it is not UTF-8") from error
        if length > KEY_MAX:
            raise ValueError(f"{key!r} is not a key of an object: {length} bytes with the prefix, {KEY_MAX} at most")
        return name

    def _name(self, key: Key) -> str:
        return self.prefix + str(self.canonical(key))

    def _allow(self) -> None:
        if self.limits.read_only:
            raise io.UnsupportedOperation(errno.ENOTSUP, f"s3://{self.bucket.bucket} was given as read_only")

    # ---------------------------------------------------------------- objects

    def _found(self, name: str) -> Stored | None:
        """What is stored.

        Raises:
            OSError: ENXIO, not even the bucket is there.
        """
        stored = self.bucket.head(name)
        if stored is None and not self._seen_bucket:
            self.bucket.check_bucket()
        self._seen_bucket = True
        return stored

    def told(self, name: str, stored: Stored) -> ObjectStat:
        """With the version that it had before a rename of ours: a copy has another, of the same content."""
        with self._lock:
            version, before = self._renamed.get(name, (stored.version, stored.version))
            if version != stored.version:
                del self._renamed[name]
                before = stored.version
        return ObjectStat(size=stored.size, version=before, mtime=stored.mtime)

    def _tell(self, name: str, version: str, before: str) -> None:
        with self._lock:
            self._renamed.pop(name, None)
            if version != before:
                self._renamed[name] = version, before
            if len(self._renamed) > RENAMED_MAX:
                del self._renamed[next(iter(self._renamed))]

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> S3File:
        name = self._name(key)
        if create:
            self._allow()
        base = self._found(name)
        if base is None and not create:
            raise _missing(key)
        if base is not None and create and exclusive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
        file = S3File(self, key, name, base)
        with self._lock:
            self._files.add(file)
        return file

    def stat(self, key: Key) -> ObjectStat:
        name = self._name(key)
        stored = self._found(name)
        if stored is None:
            raise _missing(key)
        return self.told(name, stored)

    def remove(self, key: Key) -> None:
        name = self._name(key)
        self._allow()
        if self._found(name) is not None:
            self.bucket.delete(name)
        elif not self._open_on(name):  # which are of an object that was created, and not committed yet
            raise _missing(key)
        self._detach(name)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        """A copy and a removal: not atomic. Whoever dies in between leaves both."""
        old, new = self._name(src), self._name(dst)
        self._allow()
        following = self._open_on(old)
        stored = self._found(old)
        if stored is None and not following:
            raise _missing(src)
        there = self._found(new)
        if there is not None and not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dst)
        if old == new:
            return
        now: Stored | None = None
        if stored is not None:
            now = self._copied(old, new, stored)
            self._tell(new, now.version, str(self.told(old, stored).version))
            self.bucket.delete(old)
        elif there is not None:
            self.bucket.delete(new)  # what replaces it is not stored yet
        self._detach(new)
        for file in following:
            file.moved(dst, new, now)

    def _copied(self, old: str, new: str, stored: Stored) -> Stored:
        if stored.size > self.sizes.part_most:
            self._copied_in_parts(old, new, stored)
        else:
            self.bucket.copy_object(old, new, stored.etag)
        now = self.bucket.head(new)
        if now is None or now.size != stored.size:
            raise OSError(errno.EIO, f"the copy of s3://{self.bucket.bucket}/{old} is not there as it was made", new)
        return now

    def _copied_in_parts(self, old: str, new: str, stored: Stored) -> None:
        step = self.sizes.copied
        ranges = [(n, at, min(at + step, stored.size)) for n, at in enumerate(range(0, stored.size, step), 1)]
        upload = self.bucket.create(new, {**stored.carried, "Metadata": dict(stored.carried.get("Metadata", {}))})

        def copy(span: tuple[int, int, int]) -> tuple[int, str]:
            return span[0], self.bucket.copy(new, upload, span[0], old, span[1], span[2], stored.etag)

        try:
            self.bucket.complete(new, upload, side_by_side(copy, ranges, int(self.limits.max_inflight)), {})
        except BaseException:
            self.give_up(new, upload)
            raise

    def _open_on(self, name: str) -> builtins.list[S3File]:
        with self._lock:
            return [file for file in self._files if not file.detached and file.name == name]

    def _detach(self, name: str) -> None:
        for file in self._open_on(name):
            file.detached = True

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        """In the order of their names; a page at a time is asked for, of a thousand objects."""
        own = self.prefix + PRIVATE
        for name, stored in self.bucket.names(self.prefix + prefix):
            if not name.startswith(own) and name != self.prefix:
                yield replace(self.told(name, stored), key=name[len(self.prefix) :])

    def close(self) -> None:
        """What is still to be deleted and aborted is; connections are closed."""
        for file in list(self._files):
            file.close()
        with contextlib.suppress(OSError):
            self._settle_leftovers()
        self.bucket.close()

    # ---------------------------------------------------------------- private objects

    def private_name(self, end: str = "") -> str:
        return f"{self.prefix}{PRIVATE}{self._session}/{next(self._numbers)}{end}"

    def begin_upload(self, name: str, id: str, extra: Mapping[str, Any]) -> Upload:
        """An upload, and the note that it is ours: nothing else tells it from those of other programs."""
        before = time.monotonic()
        try:
            upload = self.bucket.create(name, extra)
        except OSError as error:
            if unclear(error):
                with self._lock:
                    self._doubtful[name] = before
            raise
        note = self.private_name(NOTE)
        try:
            text = json.dumps({"key": name, "upload": upload}).encode()
            self.bucket.put(note, [memoryview(text)], {}, condition={})
        except BaseException:
            self.give_up(name, upload)
            self.discard({note})
            raise
        with self._lock:
            self._begun.add(upload)
        return Upload(name, upload, id, note)

    def discard(self, names: Iterable[str]) -> None:
        """Delete private objects, now or later: nothing depends on it."""
        with self._lock:
            self._dead.update(names)
            waiting = bool(self._dead or self._given_up or self._doubtful)
        if waiting:
            with contextlib.suppress(OSError):
                self._settle_leftovers()

    def give_up(self, name: str, upload: str) -> None:
        """Abort an upload, now or later."""
        with self._lock:
            self._begun.discard(upload)
            self._given_up.add((name, upload))
        with contextlib.suppress(OSError):
            self._settle_leftovers()

    def _settle_leftovers(self) -> None:
        with self._lock:
            dead, uploads, doubtful = set(self._dead), set(self._given_up), dict(self._doubtful)
        for name, since in doubtful.items():
            self._end_doubtful(name, since)
        for name, upload in uploads:
            self.bucket.abort(name, upload)
            with self._lock:
                self._given_up.discard((name, upload))
        self.bucket.delete_all(sorted(dead))
        with self._lock:
            self._dead -= dead

    def _end_doubtful(self, name: str, since: float) -> None:
        """An upload may have been begun whose id never came: it has no parts, and began just then."""
        for upload in self.bucket.begun_since(name, time.monotonic() - since + SKEW):
            with self._lock:
                known = upload in self._begun
            if not known:
                self.bucket.abort(name, upload)
        with self._lock:
            if self._doubtful.get(name) == since:
                del self._doubtful[name]

    def remove_leftovers(self, older_than: float = LEFT_AFTER, *, dry_run: bool = False) -> builtins.list[str]:
        """Delete what processes that died have left: private objects, and the uploads that they have notes of.

        Args:
            older_than: seconds since a session has stored anything, by the server's clock. 0: all but this one.
            dry_run: say what there is, and leave it.

        Returns:
            What was removed, as text.
        """
        top = self.prefix + PRIVATE
        sessions: dict[str, builtins.list[tuple[str, Stored]]] = {}
        for name, stored in self.bucket.names(top):
            sessions.setdefault(name[len(top) :].partition("/")[0], []).append((name, stored))
        removed, now = [], self.bucket.check_bucket()
        for session, objects in sessions.items():
            newest = max(stored.mtime or 0.0 for _, stored in objects)
            if session == self._session or (older_than and now - newest < older_than):
                continue
            for name, stored in objects:
                if name.endswith(NOTE) and (upload := self._noted(name, stored)):
                    removed.append(f"upload of {upload[0]}")
                    if not dry_run:
                        self.bucket.abort(*upload)
            removed += [name for name, _ in objects]
            if not dry_run:
                self.bucket.delete_all(name for name, _ in objects)
        return removed

    def _noted(self, name: str, stored: Stored) -> tuple[str, str] | None:
        room = memoryview(bytearray(stored.size))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            done = self.bucket.get(name, 0, [room], None) if stored.size else 0
            note = json.loads(bytes(room[:done]))
            return str(note["key"]), str(note["upload"])
        return None

    # ---------------------------------------------------------------- conditions

    def honours(self) -> Conditions:
        """Which conditional requests mean anything here. Tried once, on a private object."""
        with self._trying:
            if self._conditions is None:
                name = self.private_name(".try")
                try:
                    self._conditions = self._tried(name)
                finally:
                    self.discard({name})
            return self._conditions

    def _tried(self, name: str) -> Conditions:
        one, two = memoryview(b"1"), memoryview(b"2")
        self.bucket.put(name, [one], {}, condition={})
        put = all(
            _refused(lambda condition=condition: self.bucket.put(name, [one], {}, condition=condition))
            for condition in ({"IfNoneMatch": "*"}, {"IfMatch": STALE})
        )
        with self._trial(name) as upload:
            copies = _done(lambda: self.bucket.copy(name, upload, 1, name, 0, 1, None))
            copy = copies and _refused(lambda: self.bucket.copy(name, upload, 2, name, 0, 1, STALE))
        with self._trial(name) as upload:
            parts = [(1, self.bucket.send(name, upload, 1, [two]))]
            told: builtins.list[str] = []
            complete = _refused(lambda: told.append(self.bucket.complete(name, upload, parts, {"IfMatch": STALE})[0]))
            if complete:
                told.append(self.bucket.complete(name, upload, parts, {})[0])
        stored = self.bucket.head(name)
        return Conditions(put, complete, copy, copies, stored is not None and [stored.etag] == told)

    @contextmanager
    def _trial(self, name: str) -> Iterator[str]:
        upload = self.bucket.create(name, {})
        try:
            yield upload
        finally:
            self.give_up(name, upload)


def _refused(call: Any) -> bool:
    """Whether a request with a condition that does not hold is refused for it."""
    try:
        call()
    except Told as error:
        if error.status == 412:
            return True
        if error.status == 501:
            return False
        raise
    return False


def _done(call: Any) -> bool:
    """Whether the server can carry out a request at all."""
    try:
        call()
    except Told as error:
        if error.status in (401, 403, 429, 503):
            raise
        return False
    except NoETag:
        return False
    return True


# ---------------------------------------------------------------- by URL


QUERY = {"endpoint": "endpoint_url", "region": "region_name", "profile": "profile_name"}
TEXT = ("endpoint_url", "region_name", "profile_name", "part_size", "addressing", "least_part")


def backend_from_s3_url(url: str, **options: Any) -> S3Backend:
    """`s3://BUCKET/PREFIX?endpoint=URL&region=R&profile=P&part_size=16MiB`; options are those of `S3Backend`.

    Raises:
        ValueError: it is no such URL, or has a word that is not known.
    """
    parts = urlsplit(url)
    if parts.fragment or not parts.netloc:
        raise ValueError(f"{url!r}: it is not of the form s3://BUCKET/PREFIX?endpoint=URL")
    given: dict[str, Any] = {}
    for word, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        name = QUERY.get(word, word)
        if name not in (*TEXT, *(f.name for f in fields(BackendLimits) if f.type in ("int", "Size"))):
            known = ", ".join([*QUERY, *TEXT[3:]])
            raise ValueError(f"{url!r}: {word!r} is not one of {known}, or a limit")
        given[name] = int(value) if value.isdecimal() else value
    return S3Backend(unquote(parts.netloc), unquote(parts.path).strip("/"), **given | options)
