"""The proxy of these tests follows its rules, and counts; leftovers in a bucket are found."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ResponseStreamingError

from examples.proxy import FaultyProxy, ProxyRule

from ..file.rig import raises
from .requests import counted, is_for
from .servers import Bucket, new_bucket

DATA = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def stored(bucket: Bucket) -> None:
    bucket.put("k", DATA)


def test_requests_go_through_and_are_counted_with_their_bytes(bucket: Bucket, proxy: FaultyProxy) -> None:
    client = bucket.server.client(proxy.endpoint)
    with client.get_object(Bucket=bucket.name, Key="k", Range="bytes=100-1099")["Body"] as body:
        assert body.read() == DATA[100:1100]
    client.put_object(Bucket=bucket.name, Key="k2", Body=DATA)
    client.head_object(Bucket=bucket.name, Key="k2")
    calls = proxy.taken()
    assert counted(calls) == {"GetObject": 1, "PutObject": 1, "HeadObject": 1}
    assert [(call.status, call.up, call.down) for call in calls] == [(206, 0, 1000), (200, len(DATA), 0), (200, 0, 0)]
    assert proxy.taken() == []


@pytest.mark.parametrize("fault", ["reset", "lost", "midway"])
def test_a_connection_is_reset_before_or_after_the_server_has_the_request(
    bucket: Bucket, proxy: FaultyProxy, fault: str
) -> None:
    client = bucket.server.client(proxy.endpoint)
    proxy.rules.append(ProxyRule(fault, is_for("PutObject"), nth=2))  # type: ignore[arg-type]
    client.put_object(Bucket=bucket.name, Key="a", Body=b"1")
    raises(ConnectionClosedError, client.put_object, Bucket=bucket.name, Key="b", Body=DATA)
    stored = bucket.keys()
    assert ("b" in stored) == (fault == "lost")
    client.put_object(Bucket=bucket.name, Key="c", Body=b"1")
    assert [call.fault for call in proxy.taken()] == ["", fault, ""]


def test_an_answer_is_made_up_or_cut(bucket: Bucket, proxy: FaultyProxy) -> None:
    client = bucket.server.client(proxy.endpoint)
    error = b"<Error><Code>SlowDown</Code><Message>less</Message></Error>"
    proxy.rules = [
        ProxyRule("status", is_for("GetObject"), status=503, body=error),
        ProxyRule("cut", is_for("GetObject"), nth=2, bytes=1000),
    ]
    raises(ClientError, client.get_object, Bucket=bucket.name, Key="k", match="SlowDown")
    body = client.get_object(Bucket=bucket.name, Key="k")["Body"]
    raises(ResponseStreamingError, body.read)
    body.close()
    assert [(call.status, call.down) for call in proxy.taken()] == [(503, len(error)), (200, 1000)]


def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    closed = threading.Event()

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                connection.shutdown(socket.SHUT_RDWR)  # as after an idle time: without a notice beforehand
            closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        with FaultyProxy(f"http://127.0.0.1:{listener.getsockname()[1]}") as proxy:
            client = http.client.HTTPConnection(proxy.host, int(proxy.endpoint.rpartition(":")[2]), timeout=30)
            for _ in range(2):
                client.request("GET", "/k")
                assert client.getresponse().read() == b"ok"
                assert closed.wait(30)
            client.close()
        server.join()


def test_a_target_that_is_no_address_is_refused() -> None:
    raises(ValueError, FaultyProxy, "somewhere", match="http://HOST:PORT")


def test_leftovers_of_a_test_are_found(bucket: Bucket) -> None:
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key="k")
    bucket.put("p/.pagecache/s/1", b"")
    assert bucket.left_behind() == ["upload of 'k'", "object 'p/.pagecache/s/1'"]
    with pytest.raises(AssertionError, match="left behind"), new_bucket(bucket.server) as other:
        other.client.create_multipart_upload(Bucket=other.name, Key="k")
    bucket.clear()
