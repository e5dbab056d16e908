"""The table of paths, methods and parameters of docs/live.md, and the document for each request."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ShutdownError
from . import documents
from .documents import SCHEMA, NotThere
from .syncs import Busy, Syncs

if TYPE_CHECKING:
    from ..cache import PageCache

__all__ = ["Response", "answer", "error", "gone"]

SYNC = "/v1/sync/"
SIZE_MOST = 2**63 - 1
PARAMETERS_MOST = 16

Query = Mapping[str, str]
Document = Callable[["PageCache", Syncs, Query], dict[str, Any]]


class Response(NamedTuple):
    """One answer. `allow`: the methods that the path has, if the request had another one."""

    status: int
    body: bytes
    content_type: str = "application/json"
    allow: str = ""


def error(status: int, message: str, allow: str = "") -> Response:
    """Return an error as JSON."""
    return Response(status, json.dumps({"schema": SCHEMA, "error": message}).encode(), allow=allow)


def gone() -> Response:
    """Return the answer of a closed cache."""
    return error(503, "the cache is closed")


def answer(cache: PageCache, syncs: Syncs, method: str, target: str) -> Response:
    """Return the complete answer to a request. Never raises for a mistake of the client."""
    try:
        path, query = _parsed(target)
    except ValueError as wrong:
        return error(400, f"{target[:80]!r} is not a path with parameters: {wrong}")
    methods = _methods(path)
    if methods is None:
        return error(404, f"no document {path[:80]!r}; there are: {', '.join(_paths())}")
    found = methods.get("GET" if method == "HEAD" else method)
    if found is None:
        allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
        return error(405, f"{method[:20]} {path}: only {allowed}", allowed)
    document, parameters = found
    try:
        for name in query:
            if name not in parameters:
                raise ValueError(f"parameter {name[:40]!r}: {path} takes {', '.join(parameters) or 'none'}")
        return document(cache, syncs, query)
    except NotThere as missing:
        return error(404, str(missing))
    except ValueError as wrong:
        return error(400, str(wrong))
    except Busy as busy:
        return error(503, str(busy))
    except ShutdownError:
        return gone()


def _parsed(target: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(target)
    pairs = parse_qsl(
        parts.query,
        keep_blank_values=True,
        strict_parsing=bool(parts.query),
        errors="strict",
        max_num_fields=PARAMETERS_MOST,
    )
    query = dict(pairs)
    if len(query) < len(pairs):
        raise ValueError("a parameter is there twice")
    return unquote(parts.path, errors="strict"), query


Route = tuple[Callable[["PageCache", Syncs, Query], Response], tuple[str, ...]]


def _paths() -> list[str]:
    """Return the paths of all documents."""
    return [*(path for path in ROUTES if path != "/"), f"{SYNC}NUMBER"]


def _methods(path: str) -> dict[str, Route] | None:
    """Return the routes of a path by method; None: there is no such path."""
    if path in ROUTES:
        return ROUTES[path]
    number = path.removeprefix(SYNC)
    if number == path:
        return None
    return {"GET": (_json(lambda cache, syncs, query: syncs.document(_number(number, "ticket"))), ())}


def _json(document: Document) -> Callable[[PageCache, Syncs, Query], Response]:
    def respond(cache: PageCache, syncs: Syncs, query: Query) -> Response:
        return Response(200, json.dumps(document(cache, syncs, query)).encode())

    return respond


def _prometheus(cache: PageCache, syncs: Syncs, query: Query) -> Response:
    from . import metrics  # the library takes 50 ms to import, and most caches are never scraped

    return Response(200, metrics.text(documents.stats(cache)), metrics.CONTENT_TYPE)


def _files(cache: PageCache, syncs: Syncs, query: Query) -> dict[str, Any]:
    sort = query.get("sort", documents.SORTS[0])
    if sort not in documents.SORTS:
        raise ValueError(f"sort: {sort[:40]!r} is not one of {', '.join(documents.SORTS)}")
    limit = _number(query.get("limit", str(documents.LIMIT)), "limit", documents.LIMIT_MOST)
    return documents.files(cache, query.get("volume"), sort, limit, query.get("match", ""))


def _sync(cache: PageCache, syncs: Syncs, query: Query) -> dict[str, Any]:
    return syncs.begin(documents.volume_named(cache, query.get("volume")))


def _number(text: str, name: str, most: int = SIZE_MOST) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= most):
        raise ValueError(f"{name}: {text[:40]!r} is not a number from 0 to {most}")
    return int(text)


ROUTES: dict[str, dict[str, Route]] = {
    "/": {"GET": (_json(lambda cache, syncs, query: {"schema": SCHEMA, "documents": _paths()}), ())},
    "/metrics": {"GET": (_prometheus, ())},
    "/v1/stats": {"GET": (_json(lambda cache, syncs, query: documents.stats(cache)), ())},
    "/v1/files": {"GET": (_json(_files), ("volume", "sort", "limit", "match"))},
    "/v1/waits": {"GET": (_json(lambda cache, syncs, query: documents.waits(cache)), ())},
    "/v1/failed": {"GET": (_json(lambda c, syncs, query: documents.failed(c, query.get("volume"))), ("volume",))},
    "/v1/sync": {"POST": (_json(_sync), ("volume",))},
}
