"""Backends by URL, as the command line and configuration files name them.

    memory:            objects in this process
    dir:PATH           files below an existing directory
    s3://BUCKET/PREFIX objects of a bucket; `?endpoint=URL` for a service other than AWS; needs the extra `s3`
    gs://BUCKET/PREFIX objects of Google Cloud Storage; needs the extra `obstore`
    az://CONTAINER/... blobs of Azure, in the same way
    fsspec:URL         objects of any file system of fsspec, such as fsspec:s3://bucket/folder; needs the extra `fsspec`
    SCHEME:...         a scheme that an installed package registered under the entry-point group `pagecache.backends`

An entry point names a callable, called as `callable(url, **options)`. Schemes of this package that need an extra are
listed here too: their error says what to install.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from importlib import import_module
from itertools import pairwise
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qsl

from .plain import as_directory, completed
from .protocol import AsyncBackend, Backend, BackendLimits

GROUP = "pagecache.backends"
USER = re.compile(r"(?<=//)[^/?#]*@")
PASSWORD = re.compile(r"(?<=://)([^/?#@:]*):[^/?#]*@")
WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
INCIDENTAL = re.compile("secret|token|pass|passwd|password|passphrase|pwd|credentials?|creds?|cookies?|timeout|pkey")
"""Words in the names of options that change while the store stays the same."""
INCIDENTAL_LAST = re.compile(
    "auth|authorization|session|sas|sig|signature|signer|keyid|retries|attempts|concurrency|connections"
)
INCIDENTAL_PAIRS = re.compile(
    "(account|access|api|client|secret|private|storage|ssh|master) keys?|key (id|file|filename|path|data|pem)"
    "|(client|tenant|object) id|time out|(block|batch|chunk|part|upload) size|max paths"
    "|(fill|instance|listings) cache|cache (type|options|regions)|listings expiry"
)
"""Their last word, and two words in them."""
LIMITS = {field.name for field in fields(BackendLimits)}


def without_user(url: str) -> str:
    """Return a URL without user and password, for texts that others may read.

    >>> without_user("fsspec:ftp://me:secret@host/folder")
    'fsspec:ftp://host/folder'
    """
    return USER.sub("", url)


def is_incidental(name: str) -> bool:
    """Return whether an option of this name changes while the store stays the same: credentials, timeouts, sizes of
    requests, caches of the client.
    """
    words = [word.lower() for word in WORD.findall(name)]
    if any(map(INCIDENTAL.fullmatch, words)) or words in (["key"], ["keys"]):
        return True
    pairs = (" ".join(pair) for pair in pairwise(words))
    return bool(words) and (
        INCIDENTAL_LAST.fullmatch(words[-1]) is not None or any(map(INCIDENTAL_PAIRS.fullmatch, pairs))
    )


def store_of(place: str, options: Mapping[str, Any]) -> str:
    """Return the name of a store in a disk tier: its place, and a digest of the user there and of the options that may
    choose the store, and may be secrets.

    Raises:
        ValueError: an option is an object that may be the store itself, such as a client; names the option.
    """
    import hashlib  # a program with one store and no disk tier does not need it

    place, _, query = place.partition("?") if "://" in place else (place, "", "")
    asked: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        asked.setdefault(name, []).append(value)
    given = {name: values if values[1:] else values[0] for name, values in asked.items()} | dict(options)
    shown = without_user(place)
    chosen = _chosen("", {name: value for name, value in given.items() if name not in LIMITS})
    found = (PASSWORD.sub(r"\1@", place), chosen)
    return shown if found == (shown, []) else f"{shown}#{hashlib.sha256(repr(found).encode()).hexdigest()[:16]}"


def _chosen(name: str, value: Any) -> Any:
    """Return the value of an option without credentials."""
    if isinstance(value, Mapping):
        kept = {str(each): value[each] for each in value if not is_incidental(str(each))}
        return [(each, _chosen(each, kept[each])) for each in sorted(kept)]
    if isinstance(value, list | tuple):
        return [_chosen(name, each) for each in value]
    if value is None or isinstance(value, str | int | float | Enum | PurePath):
        parts = str(value).split(";")  # of a connection string; the command line makes numbers of texts
        shown = [part for part in parts if parts == [part] or not is_incidental(part.partition("=")[0])]
        return PASSWORD.sub(r"\1@", ";".join(sorted(shown)))
    what = f"{name}: {type(value).__name__} is an object, which gives the store no name in a disk tier"
    raise ValueError(f"{what}; pass volume_id= (or set the backend's `name`), which no other store has")


BUILT_IN = {
    "memory": ".memory:MemoryBackend",
    "dir": ".directory:DirectoryBackend",
    "fsspec": ".fsspec:backend_from_fsspec_url",
    "s3": ".s3:backend_from_s3_url",
    "gs": ".obstore:backend_from_gs_url",
    "az": ".obstore:backend_from_az_url",
}
"""Schemes of this package, with the module and the name of what makes a backend. They are imported on first use."""


def _made(scheme: str, url: str, options: dict[str, Any]) -> Backend | AsyncBackend:
    """Return a backend of this package."""
    rest = url.partition(":")[2]
    if scheme == "memory" and rest not in ("", "//"):
        raise ValueError(f"{without_user(url)!r}: nothing may follow 'memory:'")
    if scheme == "dir" and not rest:
        raise ValueError(f"{without_user(url)!r}: a path must follow 'dir:'")
    module, _, name = BUILT_IN[scheme].partition(":")
    try:
        make: Any = getattr(import_module(module, __package__), name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{without_user(url)!r}: {error}") from error
    arguments = () if scheme == "memory" else (rest if scheme == "dir" else url,)
    made: Backend | AsyncBackend = make(*arguments, **options)
    return made


def backend_from_url(url: str, **options: Any) -> Backend | AsyncBackend:
    """Return the backend for a URL.

    Args:
        url: `SCHEME:REST`.
        options: go to the backend's constructor.

    Raises:
        ValueError: no such scheme, or its extra is not installed; names the known schemes.

    >>> type(backend_from_url("memory:")).__name__
    'MemoryBackend'
    """
    if not isinstance(url, str):
        meant = f"; did you mean {as_directory(os.fspath(url))!r}?" if isinstance(url, os.PathLike) else ""
        raise TypeError(f"url must be a str, not {type(url).__name__}{meant}")
    scheme, colon, _ = url.partition(":")
    if colon and scheme in BUILT_IN:
        return _made(scheme, url, options)
    from importlib.metadata import entry_points

    registered = {point.name: point for point in entry_points(group=GROUP)}
    if colon and scheme in registered:
        backend: Backend | AsyncBackend = registered[scheme].load()(url, **options)
        return backend
    known = ", ".join(f"{name}:" for name in sorted(BUILT_IN.keys() | registered.keys()))
    what = f"no backend for the scheme {scheme + ':'!r}" if colon else "not a URL of the form SCHEME:REST"
    raise ValueError(f"{without_user(url)!r}: {what} (known schemes: {known}){meant_by(url)}")


def meant_by(text: str) -> str:
    """Return what a text that is no URL of a backend may have been meant as, as the end of a sentence."""
    scheme, colon, _ = text.partition(":")
    if not text or (colon and scheme != "file"):
        return ""
    url = f"{text}:" if text in BUILT_IN else as_directory(without_user(text))
    return f"; did you mean {url!r}?"


def as_backend(backend: Any, what: str, options: dict[str, Any]) -> Any:
    """Return a backend that was given as an object or as a URL, completed; `what`: the name of the argument.

    Raises:
        TypeError: the object is no backend.
    """
    return completed(backend_from_url(backend, **options) if isinstance(backend, str) else backend, what)


def check_mirror(backend: Any, mirror: Any) -> None:
    """Check the second stream.

    Raises:
        ValueError: names the value and the rule.
    """
    if mirror is backend:
        raise ValueError("mirror: it is the backend itself; a second copy needs a second place")
    unit = int(mirror.limits.write_unit)
    if unit != 1:
        raise ValueError(
            f"mirror: write_unit {unit} is not 1; a mirror gets what is written back, never what lies beside it"
        )
    if mirror.limits.read_only:
        raise ValueError("mirror: it is read-only")
