"""The objects of a container below a prefix: keys and options. Names are those of `..objects`.

Nothing below `PREFIX/.pagecache/` is listed, and no key reaches it: that is private to the backend.
"""

from __future__ import annotations

import builtins
import errno
import functools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Unpack
from urllib.parse import parse_qsl, unquote, urlsplit

from ...config import Size, parse_size
from ...errors import BackendError, Key
from ...options import LimitsOverrides
from ..objects.buckets import BucketBackend
from ..objects.names import Names
from ..objects.words import PRIVATE, flag, not_a_key, seconds
from ..protocol import BackendLimits, ObjectStat
from ..url import store_of, without_user
from .conditions import Honoured
from .errors import exceptions
from .object import ObstoreObject
from .requests import Requests, Stored

SINGLE_MAX = 4 << 30
ONCE = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
"""The cache repeats calls, as its policy says."""
UPLOAD_TIMEOUT = timedelta(hours=1)


class ObstoreBackend(BucketBackend[Stored]):
    """The objects of a store of obstore whose names begin with a prefix, by the remaining name.

    Objects become visible by a commit, which is refused (ESTALE) if it would replace another version than the opened
    one.

    Args:
        reads: a store of obstore, whose own retries are off.
        prefix: common beginning of all names, a folder.
        writes: the store for uploads; None: `reads`.
        where: URL of the container, for messages.
        generations: versions are Google's generations.
        single_put: largest object in bytes that one conditional request stores; larger ones are sent in parts.
        require_conditions: refuse to write what no condition guards.
        limits: of one call; default: 8 MiB, 16 concurrent calls, retries for 60 seconds.
        overrides: fields of `BackendLimits`, such as ``max_inflight=32``.

    Raises:
        ValueError: an argument is invalid; names it and the reason.
    """

    requests: Requests

    def __init__(
        self,
        reads: Any,
        prefix: str = "",
        *,
        writes: Any = None,
        where: str | None = None,
        generations: bool = False,
        single_put: Size = "1GiB",
        require_conditions: bool | str = False,
        limits: BackendLimits | None = None,
        **overrides: Unpack[LimitsOverrides],
    ) -> None:
        self.single_put = parse_size(single_put, "single_put")
        if self.single_put > SINGLE_MAX:
            raise ValueError(f"single_put: {single_put!r} is above 4 GiB")
        whole = BackendLimits(max_read="8MiB", max_write="8MiB", max_inflight=16, commit_on_close=True)
        shown = where or "obstore:"
        super().__init__(prefix, shown, limits or whole, overrides)
        self._store = _store(reads, self.prefix)  # with the environment of now, as the client has it
        self._required = flag(require_conditions, "require_conditions")
        self.requests = Requests(reads, writes or reads, shown, generations=generations)
        self.names: Names[Stored] = Names(self.requests)
        self._honoured = Honoured(self.requests, self.prefix + PRIVATE)

    @functools.cached_property
    def name(self) -> str:
        """Name of the store in a disk tier."""
        return store_of(*self._store)

    # ---------------------------------------------------------------- keys

    def canonical(self, key: Key) -> Key:
        name = str(super().canonical(key))
        if {"", ".", ".."} & set(name.split("/")):
            raise not_a_key(key, "obstore has no names with an empty part, '.' or '..'")
        if any(character < " " or character == "\x7f" for character in name):
            raise not_a_key(key, "it has a control character")
        return name

    # ---------------------------------------------------------------- objects

    def open(
        self, key: Key, *, create: bool = False, exclusive: bool = False, seen: Stored | None = None
    ) -> ObstoreObject:
        """Open an object. `seen`: a version that is believed to be stored still."""
        file = ObstoreObject(self, key, self._name(key), self._base(key, create, exclusive, seen))
        self.names.add(file)
        return file

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        """Yield the objects sorted by name, in requests of a thousand objects."""
        start, own = self.prefix + prefix, self.prefix + PRIVATE
        if {"", ".", ".."} & set(prefix.split("/")[:-1]):
            return
        for name, stat in self.requests.names(start):
            if not name.startswith(own):
                yield replace(stat, key=name[len(self.prefix) :])

    # ---------------------------------------------------------------- conditions

    def honours(self, condition: str) -> bool:
        """Return whether the service checks the condition `create` or `replace`. Tried once, with a private key."""
        honoured = self._honoured.conditions()[condition]
        if not honoured and self._required:
            what = f"require_conditions: the service of {self.where} ignores the condition to {condition} an object"
            raise BackendError(errno.ENOTSUP, what, retry=False)
        return honoured

    def require_single_put(self, size: int) -> None:
        """Refuse an object in parts if `require_conditions` asks for a condition."""
        if self._required:
            what = f"require_conditions: an object of {size} bytes is above single_put ({self.single_put})"
            raise BackendError(errno.EFBIG, f"{what}, and no condition guards its parts", retry=False)

    def warnings(self) -> builtins.list[str]:
        """Return what a user should know of the service, as far as it is known."""
        return [
            f"{self.where}: the service ignores the condition to {name} an object: a version that another program "
            "stores in the moment before a commit is replaced unseen"
            for name in self._honoured.missing()
        ]


# ---------------------------------------------------------------- by URL

OWN = ("single_put", "require_conditions")
TIMEOUTS = {"connect_timeout": 5.0, "read_timeout": 20.0}
GS = {"endpoint": "base_url", "service_account": "service_account", "anonymous": "skip_signature"}
AZ = {"endpoint": "endpoint", "account": "account_name", "emulator": "use_emulator", "anonymous": "skip_signature"}
FLAGS = ("skip_signature", "use_emulator")
ENVIRONMENT = {
    "S3Store": r"AWS_(ENDPOINT|ENDPOINT_URL_S3|REGION|DEFAULT_REGION|BUCKET)(_URL|_NAME)?",
    "GCSStore": r"GOOGLE_(BASE_URL|SERVICE_ACCOUNT_KEY|SERVICE_ACCOUNT|BUCKET)(_PATH|_NAME)?",
    "AzureStore": r"AZUR(?:E|E_STORAGE|ITE)_(ENDPOINT|ACCOUNT_NAME|USE_EMULATOR|USE_FABRIC_ENDPOINT|CONTAINER_NAME"
    r"|BLOB_STORAGE_URL)",
}
"""What obstore takes from the environment and chooses the store: its settings. It does not report their values."""


def _store(store: Any, prefix: str) -> tuple[str, dict[str, Any]]:
    """Return the place of a store, and the options that may choose it. A subclass may change bytes: it has no place."""
    kind = type(store).__name__ if type(store).__module__ == "obstore.store" else ""
    found: dict[str, Any] = {}
    place = ""
    if kind == "LocalStore":
        place = os.path.realpath(store.prefix or "/")
    elif kind == "HTTPStore":
        place = store.url.partition("?")[0].rstrip("/")
    elif kind in ENVIRONMENT:
        words = ((re.fullmatch(ENVIRONMENT[kind], name), value) for name, value in os.environ.items())
        found = {word[1].lower(): value for word, value in words if word} | store.config
        if file := found.pop("service_account", None):
            found["service_account_key"] = Path(file).read_text(encoding="utf-8")
        found["gcs_base_url"] = json.loads(found.get("service_account_key", "{}")).get("gcs_base_url")
        if place := found.pop("container_name" if kind == "AzureStore" else "bucket", ""):
            place += f"/{store.prefix}" if store.prefix else ""
    return (f"obstore:{kind}:{place}/{prefix}", found) if place else ("", {"reads": store})


def _from_url(url: str, scheme: str, words: dict[str, str], options: dict[str, Any]) -> ObstoreBackend:
    parts = urlsplit(url)
    if parts.fragment or not parts.netloc or "@" in parts.netloc:
        what = f"it is not of the form {scheme}://NAME/PREFIX; credentials come from the environment"
        raise ValueError(f"{without_user(url)!r}: {what}")
    given: dict[str, Any] = {}
    limits = [f.name for f in fields(BackendLimits)]
    numbers = [f.name for f in fields(BackendLimits) if f.type in ("int", "Size")]
    for word, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        if word not in (*words, *OWN, *TIMEOUTS, *numbers):
            known = ", ".join([*words, *OWN, *TIMEOUTS])
            raise ValueError(f"{without_user(url)!r}: {word!r} is not one of {known}, or a limit")
        given[word] = int(value) if value.isdecimal() else value
    given |= options
    config = {words[word]: given.pop(word) for word in words if word in given}
    config = {name: flag(value, name) if name in FLAGS else str(value) for name, value in config.items()}
    connect, read = (timedelta(seconds=seconds(given.pop(name, default), name)) for name, default in TIMEOUTS.items())
    if unknown := set(given) - {*OWN, *limits, "limits"}:
        raise ValueError(f"{without_user(url)!r}: {sorted(unknown)[0]!r} is no option of this backend")
    import obstore.store as stores

    kind: Any = stores.GCSStore if scheme == "gs" else stores.AzureStore
    endpoint = str(config.get("base_url" if scheme == "gs" else "endpoint", ""))
    client: dict[str, Any] = {"connect_timeout": connect, "timeout": UPLOAD_TIMEOUT}
    if endpoint and config.get("use_emulator"):
        raise ValueError(f"{without_user(url)!r}: emulator=yes has an endpoint of its own; give one of the two")
    if endpoint.startswith("http://") or config.get("use_emulator"):
        client["allow_http"] = True
    name = unquote(parts.netloc)
    try:
        reads, writes = (
            kind(name, config=config, client_options=how, retry_config=ONCE)
            for how in ({**client, "read_timeout": read}, client)
        )
    except (exceptions.BaseError, ValueError, TypeError) as error:
        what = str(error).partition("\n\nDebug source")[0]
        raise ValueError(f"{without_user(url)!r}: {what}") from error
    where, prefix = f"{scheme}://{name}", unquote(parts.path).strip("/")
    unsigned = bool(config.get("skip_signature"))
    if unsigned:  # for a write, obstore would ask the machine for credentials
        given["read_only"] = True
    backend = ObstoreBackend(reads, prefix, writes=writes, where=where, generations=scheme == "gs", **given)
    if unsigned:
        backend.why_read_only = f"{where} was given with anonymous=yes, and only reads can be unsigned"
    return backend


def backend_from_gs_url(url: str, **options: Any) -> ObstoreBackend:
    """Return a backend for `gs://BUCKET/PREFIX?endpoint=URL&service_account=FILE`; credentials: `GOOGLE_*`.

    Raises:
        ValueError: it is no such URL, or has an unknown word.
    """
    return _from_url(url, "gs", GS, options)


def backend_from_az_url(url: str, **options: Any) -> ObstoreBackend:
    """Return a backend for `az://CONTAINER/PREFIX?account=NAME&endpoint=URL`; credentials: `AZURE_*`.

    Raises:
        ValueError: it is no such URL, or has an unknown word.
    """
    return _from_url(url, "az", AZ, options)
