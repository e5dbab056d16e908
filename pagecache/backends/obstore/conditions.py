"""Find out whether a service honours conditional writes, with one private key, before the first commit.

Each condition must be refused when it does not hold, and accepted when it does.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
from typing import Any

from .errors import RequestError
from .requests import Requests, Stored

STALE = {"e_tag": '"0x8D4BCC2E4835CD0"', "version": "1"}


class Honoured:
    """The conditions that the service of one backend honours. Thread-safe."""

    def __init__(self, requests: Requests, folder: str) -> None:
        self._requests, self._folder = requests, folder
        self._lock = threading.Lock()  # held while one thread tries
        self._found: dict[str, bool] | None = None

    def conditions(self) -> dict[str, bool]:
        """Return whether `create` and `replace` are checked. After an error the next call tries again."""
        with self._lock:
            if self._found is None:
                self._found = self._tried(f"{self._folder}try-{secrets.token_hex(8)}")
            return self._found

    def missing(self) -> list[str]:
        """Return the ignored conditions, as far as they are known."""
        return [name for name, honoured in (self._found or {}).items() if not honoured]

    def _tried(self, name: str) -> dict[str, bool]:
        try:
            first = self._put(name, "create")
            again = first is not None and self._put(name, "create") is None
            replace = self._put(name, STALE) is None
            stored = self._requests.head(name)
            if stored is None:
                return {"create": False, "replace": False}
            return {"create": again, "replace": replace and self._put(name, stored.mode()) is not None}
        finally:
            with contextlib.suppress(OSError):
                self._requests.delete(name)

    def _put(self, name: str, mode: Any) -> Stored | bool | None:
        """Return None if the condition was refused."""
        try:
            return self._requests.put(name, b"1", "", {}, mode) or True
        except RequestError as error:
            if error.errno not in (errno.ESTALE, errno.ENOTSUP):
                raise
            return None
