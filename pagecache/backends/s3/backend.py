"""The objects of an S3 bucket below a prefix, on any service with the S3 protocol.

Modules:

    backend.py        the backend: keys and names
    session.py        private objects of this process in the bucket
    conditions.py     which conditional requests the server honours
    object.py         one open object and its commit
    draft.py          the state of its next version
    assembly.py       the requests of a commit
    plan.py           the choice of these requests
    calls.py          each request, and its errors

Nothing below `PREFIX/.pagecache/` is listed, and no key reaches it: that is private to the backend.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, Unpack, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from ...config import Size, parse_size, with_overrides
from ...errors import Key
from ...options import LimitsOverrides
from ..protocol import Backend, BackendLimits, ObjectStat
from ..url import without_user
from .assembly import side_by_side
from .calls import Bucket, Stored
from .conditions import Conditions, tried
from .errors import unclear
from .object import S3File
from .plan import Sizes
from .session import PRIVATE, Session

__all__ = ["Conditions", "S3Backend", "S3File", "backend_from_s3_url"]

KEY_MAX = 1024
LEFT_AFTER = 86400.0
"""Seconds."""
RENAMED_MAX = 1 << 16
UNSETTLED_MAX = 1 << 10
LEAST = 5 << 20


def _missing(key: Key) -> OSError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)


def _seconds(value: float | str, what: str) -> float:
    """Parse a time from an argument, or from a URL.

    Raises:
        ValueError: names option, value and rule.
    """
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(value, bool) and 0 < float(value) < math.inf:
            return float(value)
    raise ValueError(f"{what}: {value!r} is not a number of seconds above 0")


@contextmanager
def _about(key: Key | None) -> Iterator[None]:
    """Make errors name the key: a request has the name of the object only."""
    try:
        yield
    except OSError as error:
        if error.filename is None and key is not None:
            error.filename = key
        raise


def _detach(files: list[S3File]) -> None:
    """Take the name from open files."""
    for file in files:
        file.detached = True


@dataclass(eq=False, slots=True)
class _Change:
    """A remove or rename whose last request, the deletion of the old name, was sent.

    Attributes:
        version: of the object that had the old name.
        new: the new name; None: a remove.
        finish: does the backend's own part, for its open files.
        done: the request was carried out, and the own part is done.
    """

    version: str
    new: str | None
    finish: Callable[[], None]
    done: bool = False


Addressing = Literal["auto", "path", "virtual"]
"""How a request names the bucket."""


class S3Backend(Backend):
    """The objects of a bucket whose names begin with a prefix, by the remaining name.

    Objects become visible by a commit. Earlier write-back goes to a multipart upload or private objects, and a commit
    that would replace another version than the opened one is refused (ESTALE).

    Args:
        bucket: name of an existing bucket.
        prefix: common beginning of all names, a folder: a slash follows it.
        endpoint_url: of a service other than AWS.
        part_size: bytes of a part, from 5 MiB; a change of one byte moves that much. The cache needs eight of them.
        region_name, profile_name: as in boto3; credentials come from its ordinary chain.
        addressing: "path" or "virtual"; "auto": as boto3 decides.
        conditions: the conditional requests that the server honours; None: tried with private objects, before the first
            write-back.
        least_part: minimum bytes of every part of an upload but the last; less if a server accepts less.
        connect_timeout: seconds until a connection that the server does not accept is an error (ETIMEDOUT).
        read_timeout: seconds without a byte from the server until a request is one; copies and completions of uploads
            get at least ten minutes.
        limits: of one call; default: whole parts, 16 concurrent calls.
        overrides: fields of `BackendLimits`, such as ``max_inflight=32``.

    Raises:
        ModuleNotFoundError: boto3 is not installed.
        ValueError: an argument is invalid; names it and the reason.
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
        addressing: Addressing = "auto",
        conditions: Conditions | None = None,
        least_part: Size = LEAST,
        connect_timeout: float = 5.0,
        read_timeout: float = 20.0,
        limits: BackendLimits | None = None,
        **overrides: Unpack[LimitsOverrides],
    ) -> None:
        if not isinstance(bucket, str) or not bucket or "/" in bucket:
            raise ValueError(f"bucket: {bucket!r} is not the name of a bucket")
        if addressing not in get_args(Addressing):
            raise ValueError(f"addressing: {addressing!r} is not one of 'auto', 'path', 'virtual'")
        part, least = parse_size(part_size, "part_size"), parse_size(least_part, "least_part")
        if part < least or part > 1 << 30:
            raise ValueError(f"part_size: {part_size!r} is not from {least} bytes to 1 GiB")
        self.sizes = Sizes(part=part)
        whole = BackendLimits(
            max_read=part, max_write=part, write_unit=part, max_vectors=1 << 14, max_inflight=16, commit_on_close=True
        )
        given = with_overrides(limits or whole, overrides)
        chosen = limits is not None or "read_ahead" in overrides
        self.limits = given if chosen else replace(given, read_ahead=int(given.max_inflight) * part)
        if not self.limits.commit_on_close or self.limits.durable_writes:
            raise ValueError("limits: objects become visible by a commit, and are not durable before")
        if self.limits.write_unit != part:
            raise ValueError(f"limits: write_unit {self.limits.write_unit} is not part_size ({part})")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        options = {"endpoint_url": endpoint_url, "region_name": region_name}
        connections = int(self.limits.max_inflight) * 2
        timeouts = _seconds(connect_timeout, "connect_timeout"), _seconds(read_timeout, "read_timeout")
        self.bucket = Bucket(bucket, options, {"profile_name": profile_name}, connections, addressing, timeouts)
        self._conditions = conditions
        self._trying = threading.Lock()  # held while one thread tries the conditions
        self._lock = threading.Lock()  # guards the fields below
        self._files: weakref.WeakSet[S3File] = weakref.WeakSet()
        self._renamed: dict[str, tuple[str, str]] = {}  # name -> its version, and the version before the rename
        self._unsettled: dict[str, _Change] = {}  # old name -> its change, while the result of that is unknown
        self._seen_bucket = False
        self.session = Session(self.bucket, self.prefix)

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
        """Return the stored version. This settles an earlier change of the name whose reply was lost.

        Raises:
            FileNotFoundError: there is no such bucket.
        """
        with self._lock:
            change = self._unsettled.get(name)  # taken first: an earlier reply proves nothing about it
        stored = self.bucket.head(name, once=True)  # the cache repeats the call
        if stored is None and not self._seen_bucket:
            self.bucket.check_bucket()
        self._seen_bucket = True
        if change is not None:
            self._settle(name, change, stored)
        return stored

    def settle(self, name: str) -> None:
        """Settle a change of the name whose reply was lost: open files may have another name by it, or none."""
        if name in self._unsettled:
            self._found(name)

    def _settle(self, name: str, change: _Change, stored: Stored | None) -> None:
        """Record whether a change was carried out, from the version that has the old name now."""
        with self._lock:
            if self._unsettled.get(name) is not change:
                return
            del self._unsettled[name]
        if stored is None or stored.version != change.version:
            self._finish(change)

    def _finish(self, change: _Change) -> None:
        change.finish()
        change.done = True

    def _delete(self, name: str, change: _Change) -> None:
        """Delete an object, the last request of a change. If the reply is lost, look up the name; if that fails too,
        the next call for the name does.
        """
        try:
            self.bucket.delete(name)
        except OSError as error:
            if not unclear(error):
                raise
            with self._lock:
                self._unsettled[name] = change
                if len(self._unsettled) > UNSETTLED_MAX:
                    del self._unsettled[next(iter(self._unsettled))]
            with contextlib.suppress(OSError):
                self._found(name)
            if not change.done:
                raise
        else:
            self._finish(change)

    def _was_done(self, name: str, new: str | None) -> bool:
        """Return whether an earlier call of this kind was carried out, and its reply was lost."""
        with self._lock:
            change = self._unsettled.get(name)
        if change is None or change.new != new:
            return False
        self._found(name)
        return change.done

    def status_of(self, name: str, stored: Stored) -> ObjectStat:
        """Return the status with the version from before a rename: a copy has another version of equal content."""
        with self._lock:
            version, before = self._renamed.get(name, (stored.version, stored.version))
            if version != stored.version:
                del self._renamed[name]
                before = stored.version
        return ObjectStat(size=stored.size, version=before, mtime=stored.mtime)

    def _remember_rename(self, name: str, version: str, before: str) -> None:
        with self._lock:
            self._renamed.pop(name, None)
            if version != before:
                self._renamed[name] = version, before
            if len(self._renamed) > RENAMED_MAX:
                del self._renamed[next(iter(self._renamed))]

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> S3File:
        name = self._name(key)
        with _about(key):
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
        with _about(key):
            stored = self._found(name)
        if stored is None:
            raise _missing(key)
        return self.status_of(name, stored)

    def remove(self, key: Key) -> None:
        name = self._name(key)
        with _about(key):
            self._allow()
            if self._was_done(name, None):
                return
            stored, files = self._found(name), self._open_on(name)
            if stored is not None:
                self._delete(name, _Change(stored.version, None, partial(_detach, files)))
            elif files:  # of an object that was created, and is not committed yet
                _detach(files)
            else:
                raise _missing(key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        """Rename by a copy and a removal: not atomic. A process that dies in between leaves both."""
        old, new = self._name(src), self._name(dst)
        with _about(src):
            self._allow()
            if self._was_done(old, new):
                return
            stored, following = self._found(old), self._open_on(old)
        if stored is None:  # an object that was created, and is not committed yet, is not in the bucket
            following = [file for file in following if file.is_created()]
            if not following:
                raise _missing(src)
        with _about(dst):
            there = self._found(new)
        if there is not None and not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dst)
        if old == new:
            return
        replaced = self._open_on(new)
        if stored is None:
            if there is not None and any(file.is_doubtful() for file in following):
                what = f"a commit of {src!r} may have been carried out; commit it before it replaces an object"
                raise OSError(errno.EBUSY, what, dst)
            if there is not None:
                with _about(dst):  # its replacement is not stored yet
                    self._delete(new, _Change(there.version, None, partial(_detach, replaced)))
            self._follow(following, replaced, dst, new, None)
            return
        with _about(dst):
            now = self._copied(old, new, stored, there)
        before = str(self.status_of(old, stored).version)

        def finish() -> None:
            self._remember_rename(new, now.version, before)
            self._follow(following, replaced, dst, new, now)

        with _about(src):
            self._check_copied(old, stored)
            self._delete(old, _Change(stored.version, new, finish))

    def _follow(
        self, following: builtins.list[S3File], replaced: builtins.list[S3File], dst: Key, new: str, now: Stored | None
    ) -> None:
        """Rename open files; those of the replaced object lose their name."""
        _detach(replaced)
        for file in following:
            file.moved(dst, new, now)

    def _copied(self, old: str, new: str, stored: Stored, there: Stored | None) -> Stored:
        """Copy an object under a name that `there` has, and return the copy."""
        if stored.size > self.sizes.part_most:
            self._copied_in_parts(old, new, stored)
        else:
            try:
                self.bucket.copy_object(old, new, stored.etag)
            except OSError as error:
                if unclear(error):
                    with contextlib.suppress(OSError):
                        found = self.bucket.head(new)
                        if found is not None and found != there and found.is_copy_of(stored):
                            return found
                raise
        now = self.bucket.head(new)
        if now is None or now.size != stored.size:
            raise OSError(errno.EIO, f"the copy of s3://{self.bucket.bucket}/{old} is not there as it was made")
        return now

    def _check_copied(self, old: str, stored: Stored) -> None:
        """Check that the copied version is still stored, before it is deleted.

        Raises:
            OSError: ESTALE: another program has stored another version.
        """
        found = self.bucket.head(old)
        if found is not None and found.etag != stored.etag:
            what = f"version {found.version} was stored while version {stored.version} was copied; both names are left"
            raise OSError(errno.ESTALE, what)

    def _copied_in_parts(self, old: str, new: str, stored: Stored) -> None:
        step = self.sizes.copied
        ranges = [(n, at, min(at + step, stored.size)) for n, at in enumerate(range(0, stored.size, step), 1)]
        extra = {**stored.carried, "Metadata": dict(stored.carried.get("Metadata", {}))}
        upload = self.session.begin_upload(new, stored.id or "", extra)

        def copy(span: tuple[int, int, int]) -> tuple[int, str]:
            return span[0], self.bucket.copy(new, upload.upload, span[0], old, span[1], span[2], stored.etag)

        try:
            self.bucket.complete(new, upload.upload, side_by_side(copy, ranges, int(self.limits.max_inflight)), {})
        except BaseException:
            self.session.give_up(new, upload.upload)
            raise
        finally:
            self.session.discard({upload.note})

    def _open_on(self, name: str) -> builtins.list[S3File]:
        with self._lock:
            return [file for file in self._files if not file.detached and file.name == name]

    def leave(self, file: S3File) -> None:
        """Forget a file that was closed."""
        with self._lock:
            self._files.discard(file)

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        """Yield the objects sorted by name, in requests of a thousand objects."""
        own = self.prefix + PRIVATE
        with _about(prefix or None):
            for name, stored in self.bucket.names(self.prefix + prefix, once=True):
                if not name.startswith(own) and name != self.prefix:
                    yield replace(self.status_of(name, stored), key=name[len(self.prefix) :])

    def close(self) -> None:
        """Delete and abort everything pending; close connections."""
        for file in list(self._files):
            file.close()
        self.session.close()
        self.bucket.close()

    # ---------------------------------------------------------------- what others left

    def remove_leftovers(self, older_than: float = LEFT_AFTER, *, dry_run: bool = False) -> builtins.list[str]:
        """Delete leftovers of dead processes: private objects, and the uploads in their notes.

        Args:
            older_than: seconds since a session stored or renewed an object, by the server's clock. A working session
                does so every ten minutes while it has private objects. 0: all sessions but this one.
            dry_run: report the leftovers, and keep them.

        Returns:
            The removed leftovers, as text.
        """
        return self.session.remove_others(older_than, dry_run=dry_run)

    # ---------------------------------------------------------------- conditions

    def honours(self) -> Conditions:
        """Return the conditional requests that the server honours. Tried once, on a private object."""
        with self._trying:
            if self._conditions is None:
                self._conditions = tried(self.bucket, self.session)
            return self._conditions


# ---------------------------------------------------------------- by URL


QUERY = {"endpoint": "endpoint_url", "region": "region_name", "profile": "profile_name"}
TEXT = (
    "endpoint_url",
    "region_name",
    "profile_name",
    "part_size",
    "addressing",
    "least_part",
    "connect_timeout",
    "read_timeout",
)


def backend_from_s3_url(url: str, **options: Any) -> S3Backend:
    """Return a backend for `s3://BUCKET/PREFIX?endpoint=URL&region=R&profile=P&part_size=16MiB`; options are those of
    `S3Backend`.

    Raises:
        ValueError: it is no such URL, or has an unknown word.
    """
    parts = urlsplit(url)
    if parts.fragment or not parts.netloc:
        raise ValueError(f"{without_user(url)!r}: it is not of the form s3://BUCKET/PREFIX?endpoint=URL")
    given: dict[str, Any] = {}
    for word, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        name = QUERY.get(word, word)
        if name not in (*TEXT, *(f.name for f in fields(BackendLimits) if f.type in ("int", "Size"))):
            known = ", ".join([*QUERY, *TEXT[3:]])
            raise ValueError(f"{without_user(url)!r}: {word!r} is not one of {known}, or a limit")
        given[name] = int(value) if value.isdecimal() else value
    return S3Backend(unquote(parts.netloc), unquote(parts.path).strip("/"), **given | options)
