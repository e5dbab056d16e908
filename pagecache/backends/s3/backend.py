"""The objects of an S3 bucket below a prefix, on any service with the S3 protocol.

Nothing below `PREFIX/.pagecache/` is listed, and no key reaches it: that is private to the backend.
"""

from __future__ import annotations

import builtins
import errno
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from inspect import signature
from typing import Any, Literal, Unpack, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from ...config import Size, parse_size
from ...errors import BackendError, Key, os_error
from ...options import LimitsOverrides
from ..objects.buckets import BucketBackend
from ..objects.names import Names
from ..objects.words import PRIVATE, flag, seconds
from ..protocol import BackendLimits, ObjectStat
from ..url import without_user
from .beginnings import LENGTH, Beginnings
from .calls import Bucket, Stored
from .conditions import TEXTS, Conditions, Honoured, Of, parse_conditions
from .http import Http
from .object import S3Object
from .plan import Sizes
from .requests import Requests
from .uploads import Uploads

LEFT_AFTER = 86400.0
"""Seconds."""
LEAST = 5 << 20


Addressing = Literal["auto", "path", "virtual"]
"""How a request names the bucket."""


class S3Backend(BucketBackend[Stored]):
    """The objects of a bucket whose names begin with a prefix, by the remaining name.

    Objects become visible by a commit. Earlier write-back goes to a multipart upload, and a commit that would replace
    another version than the opened one is refused (ESTALE).

    Args:
        bucket: name of an existing bucket.
        prefix: common beginning of all names, a folder: a slash follows it.
        endpoint_url: of a service other than AWS.
        part_size: bytes of a part, from 5 MiB; a change of one byte moves that much.
        region_name, profile_name: as in boto3; credentials come from its ordinary chain.
        addressing: "path" or "virtual"; "auto": as boto3 decides.
        conditions: what is known of the server: `Conditions`, or words such as ``no-put,copies``, or ``all``. The rest
            is tried with a private key, before the first commit that needs it.
        require_conditions: refuse to write if the server does not honour conditional writes.
        least_part: minimum bytes of every part of an upload but the last; less if a server accepts less.
        connect_timeout: seconds until a connection that the server does not accept is an error (ETIMEDOUT).
        read_timeout: seconds without a byte from the server until a request is one; copies and completions of uploads
            get at least ten minutes.
        limits: of one call; default: whole parts, 16 concurrent calls, retries for 60 seconds.
        overrides: fields of `BackendLimits`, such as ``max_inflight=32``.

    Raises:
        ModuleNotFoundError: boto3 is not installed.
        ValueError: an argument is invalid; names it and the reason.
    """

    requests: Requests

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
        conditions: Conditions | str | None = None,
        require_conditions: bool | str = False,
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
        super().__init__(prefix, f"s3://{bucket}", limits or whole, overrides)
        if self.limits.write_unit != part:
            raise ValueError(f"limits: write_unit {self.limits.write_unit} is not part_size ({part})")
        options = {"endpoint_url": endpoint_url, "region_name": region_name}
        connections = int(self.limits.max_inflight) * 2
        timeouts = seconds(connect_timeout, "connect_timeout"), seconds(read_timeout, "read_timeout")
        http = Http(bucket, options, {"profile_name": profile_name}, connections, addressing, timeouts)
        self.name = f"s3://{bucket}/{self.prefix}" + (f"?endpoint={http.service}" if http.service else "")
        self.bucket = Bucket(bucket, http)
        self._honoured = Honoured(self.bucket, self.prefix + PRIVATE, parse_conditions(conditions))
        self._required = flag(require_conditions, "require_conditions")
        self.uploads = Uploads(self.bucket, self.prefix)
        self.requests = Requests(self.bucket, self.uploads, self._honoured, self.sizes, int(self.limits.max_inflight))
        self.names: Names[Stored] = Names(self.requests)
        self._beginnings = Beginnings()

    # ---------------------------------------------------------------- objects

    def open(
        self, key: Key, *, create: bool = False, exclusive: bool = False, read: bool = False, seen: Stored | None = None
    ) -> S3Object:
        """Open an object. `read`: its beginning comes with the answer. `seen`: a version that is believed to be stored
        still. An exclusive creation asks nothing: if there is an object, its commit is refused.
        """
        name, base, beginning = self._name(key), None, b""
        if create:
            self._allow(key)
        with self.requests.about(key):
            if create and exclusive:
                self.names.settle(name)
                self.requests.check_bucket()
            elif seen is not None and not self.names.is_unsettled(name):
                base = seen
            elif read and not self.names.is_unsettled(name):
                base, beginning = self.requests.beginning(name, min(LENGTH, self.sizes.part))
                if base is None:
                    self.names.check_missing(name)
            else:
                base = self.names.look(name)
        if base is None and not create:
            raise os_error(errno.ENOENT, key)
        file = S3Object(self, key, name, base, self._beginnings.keep(beginning) if beginning else None)
        self.names.add(file)
        return file

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        """Yield the objects sorted by name, in requests of a thousand objects."""
        own = self.prefix + PRIVATE
        with self.requests.about(prefix or None):
            for name, stored in self.bucket.names(self.prefix + prefix, once=True):
                if not name.startswith(own) and name != self.prefix:
                    yield replace(self.requests.status(stored), key=name[len(self.prefix) :])

    def close(self) -> None:
        """Delete and abort everything pending; close connections."""
        super().close()
        self._honoured.close()
        self.uploads.close()
        self.bucket.close()

    # ---------------------------------------------------------------- what others left

    def remove_leftovers(self, older_than: float = LEFT_AFTER, *, dry_run: bool = False) -> builtins.list[str]:
        """Abort uploads below the prefix that were not completed, of dead processes and of other programs, and delete
        private objects: keys of trials that failed.

        Args:
            older_than: seconds since an upload began, or an object was stored, by the server's clock. A program at work
                whose upload is aborted sends its object again. 0: all but the uploads of this backend.
            dry_run: report the leftovers, and keep them.

        Returns:
            The removed leftovers, as text.
        """
        return self.uploads.remove_old(older_than, dry_run=dry_run)

    # ---------------------------------------------------------------- conditions

    def honours(self, name: str = "", of: Of = "upload") -> Conditions:
        """Return what the server honours in commits of an object. Tried once, with a private key.

        Raises:
            OSError: ENOTSUP: not what `require_conditions` requires.
        """
        found = self._honoured.conditions(of)
        if self._required and (missing := found.missing(of)):
            what = f"require_conditions: the server of s3://{self.bucket.bucket} ignores {' and '.join(missing)}"
            raise BackendError(errno.ENOTSUP, what, retry=False)
        if self._required and not found.copy:  # its copies may be of another version
            found = replace(found, copies=False)
        return found.of_copies_from(name)

    def server_properties(self) -> builtins.list[tuple[str, bool, str, str]]:
        """Return the properties of the server: name, whether it has it, what it is, and what is done otherwise."""
        found = {**asdict(self._honoured.conditions("put")), **asdict(self._honoured.conditions("upload"))}
        return [(name, found[name], *TEXTS[name]) for name in found]

    def warnings(self) -> builtins.list[str]:
        """Return what a user should know of the server, as far as it is known."""
        return self._honoured.warnings()


# ---------------------------------------------------------------- by URL


QUERY = {"endpoint": "endpoint_url", "region": "region_name", "profile": "profile_name"}
OPTIONS = [name for name, option in signature(S3Backend).parameters.items()
           if option.kind is option.KEYWORD_ONLY and name != "limits"]  # fmt: skip


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
        if name not in (*OPTIONS, *(f.name for f in fields(BackendLimits) if f.type in ("int", "Size"))):
            known = ", ".join([*QUERY, *(name for name in OPTIONS if name not in QUERY.values())])
            raise ValueError(f"{without_user(url)!r}: {word!r} is not one of {known}, or a limit")
        given[name] = int(value) if value.isdecimal() else value
    return S3Backend(unquote(parts.netloc), unquote(parts.path).strip("/"), **given | options)
