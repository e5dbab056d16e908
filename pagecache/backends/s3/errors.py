"""Errors of an S3 client and its servers as OSErrors.

The errno classifies the failure, the class decides whether a retry may help, and the text has the request, its key, and
the server's code. A request may have been carried out although its reply was an error: `unclear` identifies such
errors.

Names of objects and texts of a server are foreign: `named` and the translation below are the ways in which
they get into an error, and escape them.
"""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ...distribution import needs

try:
    from botocore import exceptions
    from urllib3.exceptions import HTTPError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(needs("boto3 is not installed", "s3"), name=error.name) from error

from ...errors import BackendError
from ...quantities import printable

NOT_ACCEPTED = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
BY_CODE = dict.fromkeys(NOT_ACCEPTED, errno.EACCES) | {
    "NoSuchKey": errno.ENOENT,
    "NoSuchBucket": errno.ENXIO,
    "NoSuchUpload": errno.ENOENT,
    "PreconditionFailed": errno.ESTALE,
    "InvalidRange": errno.ERANGE,
    "EntityTooLarge": errno.EFBIG,
    "KeyTooLongError": errno.ENAMETOOLONG,
    "QuotaExceeded": errno.ENOSPC,
    "XMinioStorageFull": errno.ENOSPC,
    "NotImplemented": errno.ENOTSUP,
    "MethodNotAllowed": errno.EPERM,
    "InvalidObjectState": errno.EACCES,
    "AccessDenied": errno.EACCES,
}
BY_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 405: errno.EPERM, 412: errno.ESTALE,
             413: errno.EFBIG, 416: errno.ERANGE, 501: errno.ENOTSUP, 507: errno.ENOSPC}  # fmt: skip
TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
CODES_TO_TRY_AGAIN = frozenset(
    {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "BadDigest", "IncompleteBody", "InternalError"}
)
SLOW_DOWN = frozenset({"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "429", "503"})
PAUSE = 1.0
"""Seconds before the retry of a request that a server throttles, if it names none."""
PAUSE_MAX = 60.0
"""Largest number of seconds that a server can ask for."""
BROKEN_OFF = exceptions.BotoCoreError  # in the middle of a body
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ServerError(BackendError):
    """An error in a reply of the server, with its code and the status of HTTP."""

    code: str = ""
    status: int = 0


class Refused(Exception):
    """An answer of the server that is an error, with code and message of its body, if that has them. `about` makes a
    `ServerError` of it.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message, self.headers = status, code or str(status), message, headers


class Unreadable(Exception):
    """An answer that was cut off."""


class NoETag(BackendError):
    """A successful reply without the etag of the stored object."""


class OtherBytes(BackendError):
    """A successful reply with the etag of other bytes than those sent."""


class SendAgain(BackendError):
    """Acknowledged bytes are gone: the cache has them, and sends them again."""


def named(verb: str, bucket: str, name: str = "", what: object = "") -> str:
    """Return the text of an error: the request, the object, and the rest of the sentence."""
    return printable(f"{verb} of s3://{bucket}" + (f"/{name}" if name else "") + (f": {what}" if what else ""))


def send_again(why: object, code: int = errno.EAGAIN) -> SendAgain:
    """`code`: EAGAIN says that nothing was published, EIO that something may have been."""
    return SendAgain(code, f"{why}; it is sent again", retry=True, retry_after=0.0)


def keeping(error: OSError) -> OSError:
    """Mark a repeatable error of a commit that has forgotten nothing: repeating the commit suffices."""
    if isinstance(error, BackendError):
        error.kept |= error.retry and not isinstance(error, SendAgain)
        return error
    if not passing(error):
        return error
    return BackendError(error.errno or errno.EIO, str(error.strerror or error), retry=True, kept=True)


def passing(error: OSError) -> bool:
    """Return whether a retry may help."""
    if isinstance(error, BackendError):
        return error.retry
    return error.errno in (errno.ECONNRESET, errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EIO)


def may_pass(error: BaseException) -> bool:
    """Return whether a retry may help, and the server does not ask for fewer requests."""
    return isinstance(error, OSError) and passing(error) and getattr(error, "retry_after", None) is None


def unclear(error: BaseException) -> bool:
    """Return whether the request may have been carried out in spite of the error."""
    if isinstance(error, ServerError):
        return error.status >= 500 and error.status != 501
    return isinstance(error, OSError) and (isinstance(error, NoETag) or not isinstance(error, BackendError))


def _meaning(code: str, number: int | None, *, of_key: bool = False) -> str:
    """Return a likely cause of a refused permission, which the server's code hardly explains; "": of another error."""
    if number != errno.EACCES or code == "InvalidObjectState":
        return ""
    if code == "RequestTimeTooSkewed":
        return "the clocks of this machine and of the server differ"
    if code in NOT_ACCEPTED:
        return "the server does not accept these credentials"
    likely = "the credentials are wrong, or a policy of the bucket does not allow it"
    if of_key:
        return f"{likely}; without permission to list the bucket an object that is not there is answered so, too"
    return likely if code.isdecimal() else "a policy of the bucket, or of these credentials, does not allow it"


def _pause(headers: Mapping[str, str]) -> float:
    """Return the seconds that a throttling server asks for. A value that is no number of seconds is ignored."""
    with contextlib.suppress(ValueError):
        seconds = float(headers.get("retry-after", PAUSE))
        if 0.0 <= seconds < math.inf:
            return min(seconds, PAUSE_MAX)
    return PAUSE


def _server_error(error: Refused, what: str, *, of_key: bool) -> OSError:
    status, code = error.status, error.code
    number = BY_CODE.get(code) or BY_STATUS.get(status)
    answered = str(status) if code == str(status) else f"{code} ({status})"
    message = printable(f"{what}: {answered}: {error.message}".rstrip(": "))
    if status in REDIRECTS:
        message += "; the server redirects, and names no region: give `endpoint` or `region` of the bucket"
    if meant := _meaning(code, number, of_key=of_key):
        message += f"; {meant}"
    again = code in CODES_TO_TRY_AGAIN or (number is None and status in TRY_AGAIN) or status == 200
    if again:
        number = errno.EAGAIN if code in SLOW_DOWN or status == 409 else errno.EIO
    after = None
    if again and (code in SLOW_DOWN or status in (429, 503)):
        after = _pause(error.headers)
    made = ServerError(number or errno.EINVAL, message, retry=again, retry_after=after)
    made.code, made.status = code, 500 if status == 200 else status  # an error in the body of a successful reply
    return made


def _translated(error: Exception, what: str, *, of_key: bool) -> OSError:
    """Return an error of the client or of the server in the form of the backend protocol."""
    if isinstance(error, Refused):
        return _server_error(error, what, of_key=of_key)
    text = printable(f"{what}: {error}")
    for classes, number in (
        ((exceptions.ReadTimeoutError, exceptions.ConnectTimeoutError), errno.ETIMEDOUT),
        ((exceptions.SSLError, exceptions.ProxyConnectionError), errno.EIO),
        (exceptions.EndpointConnectionError, errno.ECONNREFUSED),
        ((exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.ResponseStreamingError), errno.ECONNRESET),
        (exceptions.IncompleteReadError, errno.ECONNRESET),
        (Unreadable, errno.EIO),
    ):
        if isinstance(error, classes):
            return OSError(number, text)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return BackendError(errno.EACCES, text, retry=False)
    if isinstance(error, exceptions.CredentialRetrievalError):
        return BackendError(errno.EACCES, text, retry=True)
    if isinstance(error, exceptions.BotoCoreError):
        return BackendError(errno.EINVAL, text, retry=False)
    return OSError(errno.ECONNRESET, text)


@contextmanager
def about(verb: str, bucket: str, name: str) -> Iterator[None]:
    """Convert errors of the client to OSErrors that name the request and the object."""
    try:
        yield
    except (exceptions.BotoCoreError, HTTPError, Refused, Unreadable) as error:
        raise _translated(error, named(verb, bucket, name), of_key=verb == "HEAD" and name != "") from error
