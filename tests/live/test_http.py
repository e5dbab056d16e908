"""Bytes of requests: valid ones, their ends, and refused ones, in any division into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecache.observe.http import BODY_MOST, HEAD_MOST, Refused, Request, Requests


def read(data: bytes, *pieces: int) -> list[Request]:
    """All requests of the bytes, fed in pieces of these lengths, over and over; at once without any."""
    requests = Requests()
    found = []
    at = turn = 0
    while at < len(data):
        step = pieces[turn % len(pieces)] if pieces else len(data)
        requests.feed(data[at : at + step])
        at, turn = at + step, turn + 1
        while (request := requests.next()) is not None:
            found.append(request)
    return found


def refused(data: bytes) -> int:
    with pytest.raises(Refused) as caught:
        read(data)
    return caught.value.status


GOOD = {
    "a plain one": (b"GET /v1/stats HTTP/1.1\r\nHost: cache\r\n\r\n", Request("GET", "/v1/stats", {})),
    "line feeds alone": (b"GET / HTTP/1.1\nHost: cache\n\n", Request("GET", "/", {})),
    "parameters": (b"GET /a?x=1&y=%2F+z HTTP/1.1\r\n\r\n", Request("GET", "/a", {"x": "1", "y": "/ z"})),
    "an absolute target": (b"GET http://cache/a HTTP/1.1\r\n\r\n", Request("GET", "/a", {})),
    "a path in percents": (b"GET /%61 HTTP/1.1\r\n\r\n", Request("GET", "/a", {})),
    "the older version": (b"GET / HTTP/1.0\r\n\r\n", Request("GET", "/", {}, last=True)),
    "the older version, kept": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Request("GET", "/", {})),
    "the last one": (b"GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", Request("GET", "/", {}, last=True)),
    "a body": (b"POST /s HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET ", Request("POST", "/s", {})),
    "the same length twice": (
        b"POST /s HTTP/1.1\r\n" + b"Content-Length: 2\r\n" * 2 + b"\r\nab",
        Request("POST", "/s", {}),
    ),
    "chunks": (
        b"POST /s HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nGET\r\nA;x=y\r\n0123456789\r\n0\r\nT: t\r\n\r\n",
        Request("POST", "/s", {}),
    ),
    "lines between requests": (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Request("GET", "/", {})),
}

BAD = {
    "no request at all": (b"hello\r\n\r\n", 400),
    "without a version": (b"GET /\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\n\r\n", 400),
    "a method that is none": (b"G@T / HTTP/1.1\r\n\r\n", 400),
    "bytes that are no text": (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
    "a zero byte in a field": (b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", 400),
    "a field without a name": (b"GET / HTTP/1.1\r\n: b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
    "a folded field": (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
    "a lone carriage return": (b"GET / HTTP/1.1\r\nA: b\rContent-Length: 5\r\n\r\n", 400),
    "a parameter twice": (b"GET /?a=1&a=2 HTTP/1.1\r\n\r\n", 400),
    "a parameter that is none": (b"GET /?a HTTP/1.1\r\n\r\n", 400),
    "very many parameters": (b"GET /?" + b"&".join(b"a%d=1" % k for k in range(100)) + b" HTTP/1.1\r\n\r\n", 400),
    "percents that are no text": (b"GET /%ff HTTP/1.1\r\n\r\n", 400),
    "a length that is none": (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a length and chunks": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunks of the older version": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a chunk's size that is none": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    "a chunk longer than it says": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
    "another coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "two codings": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "an expectation": (b"POST / HTTP/1.1\r\nExpect: wonders\r\n\r\n", 417),
    "another version": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a long body": (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_MOST + 1), 413),
    "a long chunk": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (BODY_MOST + 1), 413),
    "very many chunks": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * BODY_MOST, 413),
    "a long trailer": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * BODY_MOST, 413),
    "a long line of a trailer": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a" * HEAD_MOST, 413),
    "a long head": (b"GET / HTTP/1.1\r\nA: " + b"b" * HEAD_MOST, 431),
    "a long head of many lines": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * HEAD_MOST, 431),
}


@pytest.mark.parametrize("what", GOOD)
@pytest.mark.parametrize("piece", [0, 1, 3])
def test_requests_are_understood_in_whatever_pieces_they_come(what: str, piece: int) -> None:
    data, expected = GOOD[what]
    assert read(data * 3, *[piece] * (piece > 0)) == [expected] * 3


@pytest.mark.parametrize("what", BAD)
def test_an_invalid_request_is_refused(what: str) -> None:
    data, status = BAD[what]
    assert refused(data) == status


@pytest.mark.parametrize("what", GOOD)
def test_a_request_is_not_there_before_its_last_byte(what: str) -> None:
    data, _ = GOOD[what]
    assert read(data[:-1]) == []


PIECES = st.lists(st.integers(1, 40), min_size=1, max_size=8)
FRAGMENTS = st.sampled_from(
    [b"GET ", b"POST ", b"/", b"/v1/stats", b"?a=1", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r\n\r\n", b": ",
     b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Connection: close", b"Expect: 100-continue", b"3\r\nabc",
     b"0\r\n\r\n", b"%", b"%ff", b"\0", b"\xff", b" ", b"x"]
)  # fmt: skip


@given(st.lists(FRAGMENTS | st.binary(max_size=6), max_size=40).map(b"".join), PIECES)
def test_any_bytes_are_requests_or_refused_and_pieces_do_not_matter(data: bytes, pieces: list[int]) -> None:
    """The requests understood before a refusal are equal, too."""

    def outcome(*pieces: int) -> tuple[list[Request], int | None]:
        requests, found = Requests(), []
        at = turn = 0
        try:
            while at < len(data):
                step = pieces[turn % len(pieces)] if pieces else len(data)
                requests.feed(data[at : at + step])
                at, turn = at + step, turn + 1
                while (request := requests.next()) is not None:
                    found.append(request)
        except Refused as problem:
            return found, problem.status
        return found, None

    assert outcome(*pieces) == outcome()
