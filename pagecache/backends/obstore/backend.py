"""The objects of a container below a prefix: keys and options. Names are those of `..objects`.

Nothing below `PREFIX/.pagecache/` is listed, and no key reaches it: that is private to the backend.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import timedelta
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
        where: URL of the container, for messages; it is the name in a disk tier of a store that has none.
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
        self.name = _store_name(reads, self.prefix, where)
        self._required = flag(require_conditions, "require_conditions")
        self.requests = Requests(reads, writes or reads, shown, generations=generations)
        self.names: Names[Stored] = Names(self.requests)
        self._honoured = Honoured(self.requests, self.prefix + PRIVATE)

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
    "s3": {
        "AWS_ENDPOINT": "endpoint",
        "AWS_ENDPOINT_URL": "endpoint",
        "AWS_ENDPOINT_URL_S3": "endpoint_url_s3",
        "AWS_REGION": "region",
        "AWS_DEFAULT_REGION": "default_region",
        "AWS_BUCKET": "bucket",
        "AWS_BUCKET_NAME": "bucket",
    },
    "gs": {
        "GOOGLE_BASE_URL": "base_url",
        "GOOGLE_SERVICE_ACCOUNT_PATH": "service_account",
        "GOOGLE_SERVICE_ACCOUNT": "service_account",
        "GOOGLE_SERVICE_ACCOUNT_KEY": "service_account_key",
        "GOOGLE_BUCKET": "bucket",
        "GOOGLE_BUCKET_NAME": "bucket",
    },
    "az": {
        "AZURE_ENDPOINT": "endpoint",
        "AZURE_STORAGE_ENDPOINT": "endpoint",
        "AZURE_STORAGE_ACCOUNT_NAME": "account_name",
        "AZURE_STORAGE_USE_EMULATOR": "use_emulator",
        "AZURE_USE_FABRIC_ENDPOINT": "use_fabric_endpoint",
        "AZURE_CONTAINER_NAME": "container_name",
    },
}
"""What obstore takes from the environment and chooses the store. It does not report the values that it uses."""
SCHEMES = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az"}
GOOGLE = "https://storage.googleapis.com"


def _store_name(store: Any, prefix: str, where: str | None) -> str:
    """Return the name of a store in a disk tier: one for the same objects, in any process."""
    import obstore.store as stores

    known = next((each for each in type(store).__mro__ if each.__module__ == stores.__name__), object)
    layer = "" if known is type(store) else f"{type(store).__qualname__} of "  # it may change bytes
    kind = known.__name__
    if kind == "LocalStore":
        return f"{layer}obstore:file://{os.path.realpath(store.prefix or '/').rstrip('/')}/{prefix}"
    if kind == "HTTPStore":
        return f"{layer}obstore:{store_of(store.url.partition('?')[0].rstrip('/') + '/' + prefix, {})}"
    if scheme := SCHEMES.get(kind):
        words = ENVIRONMENT[scheme]
        # Settings of obstore that were given precede those of the environment, of which the last one counts.
        found = {words[name]: value for name, value in os.environ.items() if name in words} | dict(store.config)
        if container := found.get("container_name" if scheme == "az" else "bucket"):
            path = f"{store.prefix}/{prefix}" if store.prefix else prefix
            return f"{layer}{'obstore:' * (scheme == 's3')}{scheme}://{container}/{path}{_service(scheme, found)}"
    return f"{where or f'obstore:{os.urandom(16).hex()}'}/{prefix}"  # two of them look alike


def _service(scheme: str, found: dict[str, Any]) -> str:
    """Return the service and the account of a store, as the query of its URL; "": Google itself."""
    if scheme == "s3":  # without an endpoint, the region leads to one of Amazon's
        endpoint, account = found.get("endpoint_url_s3") or found.get("endpoint"), None
        if endpoint is None:
            return f"?region={found.get('region') or found.get('default_region') or 'us-east-1'}"
    elif scheme == "gs":
        endpoint, account = found.get("base_url"), None
        if endpoint is None and (place := found.get("service_account")):
            with open(place, encoding="utf-8") as file:
                found["service_account_key"] = file.read()
        if endpoint is None and (key := found.get("service_account_key")):
            endpoint = json.loads(key).get("gcs_base_url")
        endpoint = None if endpoint is not None and endpoint.rstrip("/") == GOOGLE else endpoint
    else:
        endpoint, account = found.get("endpoint"), found.get("account_name")
        if _is_set(found.get("use_emulator")):
            endpoint = os.environ.get("AZURITE_BLOB_STORAGE_URL", "http://127.0.0.1:10000")
            account = account or "devstoreaccount1"
        elif endpoint is None and _is_set(found.get("use_fabric_endpoint")):
            endpoint = "https://blob.fabric.microsoft.com"
    endpoint = endpoint and without_user(endpoint).partition("?")[0].rstrip("/")
    query = [f"{word}={value}" for word, value in (("account", account), ("endpoint", endpoint)) if value]
    return "?" + "&".join(query) if query else ""


def _is_set(value: object) -> bool:
    return str(value).lower() in ("1", "true", "on", "yes", "y")  # as obstore reads it


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
