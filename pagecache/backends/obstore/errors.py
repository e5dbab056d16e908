"""Errors of obstore as OSErrors.

The class says little: most failures are a `GenericError` whose text has the status of HTTP, or the kind of a broken
connection. obstore reports no headers, so a service that throttles is asked again after a fixed pause.
"""

from __future__ import annotations

import errno
import re

from ...distribution import needs

try:
    from obstore import exceptions as exceptions
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(needs("obstore is not installed", "obstore"), name=error.name) from error

from ...errors import BackendError
from ...quantities import printable

CLASSES = (
    (FileNotFoundError, errno.ENOENT),
    ((exceptions.AlreadyExistsError, exceptions.PreconditionError, exceptions.NotModifiedError), errno.ESTALE),
    ((exceptions.PermissionDeniedError, exceptions.UnauthenticatedError), errno.EACCES),
    (exceptions.NotSupportedError, errno.ENOTSUP),
    ((ValueError, TypeError, exceptions.InvalidPathError), errno.EINVAL),
)
BY_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 409: errno.ESTALE, 412: errno.ESTALE,
             413: errno.EFBIG, 416: errno.ERANGE, 501: errno.ENOTSUP, 507: errno.ENOSPC}  # fmt: skip
BY_CODE = {"NoSuchBucket": errno.ENXIO, "ContainerNotFound": errno.ENXIO}
"""The status alone says that an object is missing."""
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
THROTTLED = frozenset({429, 503})
PAUSE = 1.0
"""Seconds. Google takes one change of a name per second."""
STATUS = re.compile(r"status code: (\d{3})")
BODY = re.compile(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<\n]*))?")


class RequestError(BackendError):
    """A failed request. `refused`: it was certainly not carried out."""

    refused = False


def translated(error: Exception, what: str) -> RequestError:
    """Return the error of a request in the form of the backend protocol."""
    text, _, debug = str(error).partition("\n\nDebug source")
    found, body = STATUS.search(text), BODY.search(text)
    status = int(found[1]) if found else 0
    said = ": ".join(part for part in body.groups() if part) if body else text.partition("<?xml")[0].strip()
    by_class = next((code for classes, code in CLASSES if isinstance(error, classes)), BY_STATUS.get(status))
    number = BY_CODE.get(body[1], by_class) if body else by_class
    if number is None and "StartTooLarge" in debug:
        number = errno.ERANGE
    refused = number is not None or (400 <= status < 500 and status not in TRY_AGAIN)
    again = not refused
    if number is None and not status:
        number = errno.ETIMEDOUT if "Timeout" in debug or "TimedOut" in debug else errno.ECONNRESET
        if "kind: Connect" in debug:
            number, refused = errno.ECONNREFUSED, True
    if number is None:
        number = errno.EAGAIN if status in THROTTLED else errno.EIO if again else errno.EINVAL
    message = printable(f"{what}: {said}" + (f" ({status})" if status and body else ""))
    made = RequestError(number, message, retry=again, retry_after=PAUSE if status in THROTTLED else None)
    made.refused = refused
    return made
