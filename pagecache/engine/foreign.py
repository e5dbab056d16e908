"""Exceptions of a backend, read so that reading them never raises.

A backend may raise any object: `str()` of it may raise, or return megabytes or no text; its attributes may be of any
type. The engine reads such an exception only here: errno, text, the attributes of `BackendError`. `as_os_error` makes
the caller's exception: an OSError with an errno.

An exception of a signal handler may strike in between, on the main thread only; it propagates.
"""

from __future__ import annotations

import errno
import io
import math
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import BackendError, BackendProtocolError, Key, PageCacheError
from ..quantities import printable

T = TypeVar("T")

TEXT_MAX = 2000
"""Maximum characters of a text."""
ERRNO_MAX = 1 << 31

CODES: tuple[tuple[type[OSError], int], ...] = (
    (FileNotFoundError, errno.ENOENT),
    (FileExistsError, errno.EEXIST),
    (PermissionError, errno.EACCES),
    (IsADirectoryError, errno.EISDIR),
    (NotADirectoryError, errno.ENOTDIR),
    (InterruptedError, errno.EINTR),
    (TimeoutError, errno.ETIMEDOUT),
    (BlockingIOError, errno.EAGAIN),
    (BrokenPipeError, errno.EPIPE),
    (ConnectionAbortedError, errno.ECONNABORTED),
    (ConnectionRefusedError, errno.ECONNREFUSED),
    (ConnectionResetError, errno.ECONNRESET),
    (io.UnsupportedOperation, errno.EOPNOTSUPP),
)
"""The errno of an error that was made without one, by its class."""


def is_interrupt(error: BaseException) -> bool:
    """Return whether Ctrl-C, or the exit of a signal handler, ended a call that the main thread made itself.

    The backend has not failed then.
    """
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


def _guarded(call: Callable[[], T], otherwise: T) -> T:
    """Run a call that may run code of the exception."""
    try:
        return call()
    except Exception:
        return otherwise
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            raise
        return otherwise


def _attribute(error: BaseException, name: str) -> Any:
    return _guarded(lambda: getattr(error, name, None), None)


def _plain(value: Any) -> int | None:
    """Return an int as a plain one; None: it is no int. Checked by type: `isinstance` would read the value's class."""
    return int.__add__(value, 0) if issubclass(type(value), int) else None


def _given_errno(error: OSError) -> int | None:
    code = _plain(_attribute(error, "errno"))
    return code if code is not None and 0 < code < ERRNO_MAX else None


def errno_of(error: BaseException) -> int:
    """Return the errno of an error: its own, that of its class, otherwise EIO."""
    if not isinstance(error, OSError):
        return errno.EIO
    return _given_errno(error) or next((code for kind, code in CODES if isinstance(error, kind)), errno.EIO)


def is_unsupported(error: BaseException) -> bool:
    """Return whether the backend says that it has no such call."""
    return isinstance(error, io.UnsupportedOperation) or errno_of(error) in (errno.ENOSYS, errno.EOPNOTSUPP)


def text_of(error: BaseException) -> str:
    """Return the message, without the code and the file name that an OSError puts around it, with escapes in place of
    line ends and other invisible characters: it goes to logs and terminals.
    """
    text = _guarded(lambda: printable(_text(error)), None)
    if text is None:
        return f"{type.__repr__(type(error))}, whose text cannot be had: its str() raises"
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}… ({len(text)} characters)"


def shown(error: BaseException) -> str:
    """Return `str()` of an error, which may be one of the cache or of a backend."""
    text = _guarded(lambda: str.__str__(str(error)), None)
    return text_of(error) if text is None else text


def _text(error: BaseException) -> str:
    # str.__str__ gives a plain str, also for a subclass that overrides methods.
    text = str.__str__(str(_attribute(error, "strerror") or error))
    if isinstance(error, OSError):
        return text or os.strerror(errno_of(error))
    return f"{type(error).__name__}: {text}"


def as_os_error(error: BaseException, key: Key | None = None) -> OSError:
    """Return the error itself if it is an OSError, with an errno; otherwise a PageCacheError in its place."""
    if isinstance(error, OSError):
        if _given_errno(error) is None or type(_attribute(error, "errno")) is not int:
            _guarded(lambda: _complete(error), None)
        if _given_errno(error) is not None:
            return error
    return PageCacheError(text_of(error), key, errno=errno_of(error))


def raised_by(error: BaseException, what: str, key: Key | None) -> OSError:
    """Return the caller's error for an exception of a backend's method that carries no bytes."""
    if isinstance(error, OSError):
        return as_os_error(error, key)
    return BackendProtocolError(f"{what}() raised {text_of(error)}", key)


def named(error: OSError, key: Key) -> OSError:
    """Make the error name the object if it names none."""
    if _attribute(error, "filename") is None:
        _guarded(lambda: setattr(error, "filename", key), None)
    return error


def _complete(error: OSError) -> None:
    code = errno_of(error)
    text = text_of(error)  # first: from the unchanged error
    error.errno, error.strerror = code, text


def said_to_be_transient(error: BackendError) -> bool:
    return _guarded(lambda: bool(error.retry), False)


def retry_after_of(error: BaseException) -> float | None:
    """Return `BackendError.retry_after`, if it is a number of seconds."""
    seconds = _guarded(lambda: float(getattr(error, "retry_after", None) or 0.0), math.nan)
    given = _attribute(error, "retry_after") is not None
    return max(0.0, seconds) if given and math.isfinite(seconds) else None


def max_write_of(error: BaseException) -> int | None:
    return _plain(_attribute(error, "max_write")) if isinstance(error, BackendError) else None


def is_kept(error: BaseException) -> bool:
    """Return `BackendError.kept`: bytes acknowledged before the failed commit are still there."""
    return _guarded(lambda: bool(getattr(error, "kept", False)), False)
