"""Names of requests to an S3 server, and the requests that a proxy has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from examples.proxy import ProxyCall

__all__ = ["counted", "is_for", "name_of", "refusal"]


def name_of(call: ProxyCall) -> str:
    """The name of a request in the documentation of S3."""
    query, inside = call.query, call.path.strip("/").count("/") > 0
    copies = "x-amz-copy-source" in call.headers
    match call.method:
        case "PUT" if "partNumber" in query:
            return "UploadPartCopy" if copies else "UploadPart"
        case "PUT":
            return "CopyObject" if copies else "PutObject" if inside else "CreateBucket"
        case "POST" if "uploads" in query:
            return "CreateMultipartUpload"
        case "POST" if "uploadId" in query:
            return "CompleteMultipartUpload"
        case "POST":
            return "DeleteObjects"
        case "DELETE":
            return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
        case "HEAD":
            return "HeadObject" if inside else "HeadBucket"
        case "GET" if "uploads" in query:
            return "ListMultipartUploads"
        case "GET" if "uploadId" in query:
            return "ListParts"
        case "GET" if inside:
            return "GetObjectTagging" if "tagging" in query else "GetObject"
    return "ListObjectsV2"


def is_for(*names: str) -> Callable[[ProxyCall], bool]:
    """A test whether a request is one of these."""
    return lambda call: name_of(call) in names


def refusal(code: str) -> bytes:
    """The body of an answer with this error."""
    return f"<Error><Code>{code}</Code><Message>planted</Message></Error>".encode()


def counted(calls: Iterable[ProxyCall]) -> Counter[str]:
    return Counter(map(name_of, calls))
