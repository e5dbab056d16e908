"""Keys and options of stores in buckets, as arguments and in URLs.

Names of objects are keys behind a prefix. What lies below `PRIVATE` is the backend's own, and no key reaches it.
"""

from __future__ import annotations

import contextlib
import math
import os

from ...errors import Key

PRIVATE = ".pagecache/"
"""Below the prefix: keys of the backend, which are never listed."""
KEY_MAX = 1024
"""Bytes of a name, with the prefix."""


def key_of(key: Key, prefix: str) -> str:
    """Return a key as it is used for a name.

    Raises:
        ValueError: it is none; names the rule.
    """
    name = os.fspath(key) if isinstance(key, str | os.PathLike) else None
    if not isinstance(name, str):
        raise not_a_key(key, "it must be a str or an os.PathLike of str")
    if not name:
        raise not_a_key(key, "it is empty")
    if name.startswith(PRIVATE):
        raise not_a_key(key, f"{PRIVATE} is the backend's own")
    try:
        length = len((prefix + name).encode())
    except UnicodeEncodeError as error:
        raise not_a_key(key, "it is not UTF-8") from error
    if length > KEY_MAX:
        raise not_a_key(key, f"{length} bytes with the prefix, {KEY_MAX} at most")
    return name


def not_a_key(key: Key, why: str) -> ValueError:
    return ValueError(f"{key!r} is not a key of an object: {why}")


def flag(value: object, what: str) -> bool:
    """Parse yes or no."""
    for answer, words in ((True, ("yes", "true", "1")), (False, ("no", "false", "0"))):
        if str(value).lower() in words:
            return answer
    raise ValueError(f"{what}: {value!r} is not yes or no")


def seconds(value: float | str, what: str) -> float:
    """Parse a time above 0."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and 0 < float(value) < math.inf:
            return float(value)
    raise ValueError(f"{what}: {value!r} is not a number of seconds above 0")
