"""Refusals of a server: the error has the request, the key, and the likely cause."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable

import pytest

from examples.proxy import FaultyProxy, ProxyRule
from pagecache import BackendError, RetryPolicy, Volume
from pagecache.backends.s3 import S3Backend

from ..file.rig import raises
from .requests import is_for, refusal
from .servers import Bucket

SERVERS = ("ministack",)  # the refusals are simulated
BACKEND, VOLUME = {"prefix": "below"}, {"retry": RetryPolicy(attempts=1)}
POLICY = "a policy of the bucket, or of these credentials, does not allow it"
LIKELY = "the credentials are wrong, or a policy of the bucket does not allow it"
CREDENTIALS = "the server does not accept these credentials"
CLOCKS = "the clocks of this machine and of the server differ"


@pytest.mark.parametrize(
    ("status", "code", "likely"),
    [
        (403, "AccessDenied", POLICY),
        (403, "SignatureDoesNotMatch", CREDENTIALS),
        (403, "InvalidAccessKeyId", CREDENTIALS),
        (400, "ExpiredToken", CREDENTIALS),
        (403, "RequestTimeTooSkewed", CLOCKS),
        (403, "InvalidObjectState", None),
    ],
)
def test_a_refusal_says_what_is_likely(
    backend: S3Backend, proxy: FaultyProxy, bucket: Bucket, status: int, code: str, likely: str | None
) -> None:
    bucket.put("below/k", b"stored")
    file = backend.open("k")
    proxy.rules = [ProxyRule("status", is_for("GetObject"), status=status, body=refusal(code))]
    raised = raises(BackendError, file.read_into, 0, [memoryview(bytearray(6))])
    assert (raised.errno, raised.retry) == (errno.EACCES, False)
    message = f"GET of s3://{bucket.name}/below/k: {code} ({status}): planted"
    assert raised.strerror == message + (f"; {likely}" if likely else "")


def test_a_refusal_without_a_word_says_what_it_may_be(backend: S3Backend, proxy: FaultyProxy, bucket: Bucket) -> None:
    """The answer to a HEAD has no body. For a key it may mean that there is none."""
    proxy.rules = [ProxyRule("status", is_for("HeadObject"), status=403)]
    raised = raises(BackendError, backend.stat, "k")
    assert str(raised.strerror).startswith(f"HEAD of s3://{bucket.name}/below/k: 403: Forbidden; {LIKELY}; ")
    assert "without permission to list the bucket" in str(raised)
    proxy.rules = [ProxyRule("status", is_for("HeadBucket"), status=403)]
    raised = raises(BackendError, backend.stat, "k")
    assert str(raised.strerror) == f"HEAD of s3://{bucket.name}: 403: Forbidden; {LIKELY}"


CALLS: dict[str, Callable[[Volume], object]] = {
    "open": lambda volume: volume.open("k"),
    "create": lambda volume: volume.open("k", "w"),
    "stat": lambda volume: volume.stat("k"),
    "list": lambda volume: list(volume.list("k")),
    "remove": lambda volume: volume.remove("k"),
    "rename": lambda volume: volume.rename("k", "other"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", ["refused", "no bucket", "connection"])
def test_the_error_of_a_call_for_names_has_the_key_without_the_prefix(
    volume: Volume, proxy: FaultyProxy, bucket: Bucket, call: str, fault: str
) -> None:
    """It is in `filename`, whatever the error, and however deep the prefix."""
    rule = ProxyRule("reset" if fault == "connection" else "status", times=math.inf)
    rule.status, rule.body = (404, refusal("NoSuchBucket")) if fault == "no bucket" else (403, refusal("AccessDenied"))
    proxy.rules = [rule]
    raised = raises(OSError, CALLS[call], volume, match=bucket.name)
    assert raised.filename == "k"
    assert str(raised).endswith(": 'k'")


@pytest.mark.parametrize(("request_", "key"), [("CopyObject", "other"), ("DeleteObject", "k")])
def test_the_error_of_a_rename_has_the_key_that_it_is_about(
    backend: S3Backend, proxy: FaultyProxy, bucket: Bucket, request_: str, key: str
) -> None:
    bucket.put("below/k", b"stored")
    proxy.rules = [ProxyRule("status", is_for(request_), status=403, body=refusal("AccessDenied"))]
    assert raises(BackendError, backend.rename, "k", "other").filename == key
