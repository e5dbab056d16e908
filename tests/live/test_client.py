"""The reader of the documents: each failure has a kind, the socket and the remedy."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache.observe.client import LiveError, ask, find_sockets

from .conftest import Served
from .fake import Fake


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    made = Fake(tmp_path / "f")
    yield made
    made.stop()


def failure(path: str | Path, target: str = "/v1/stats", **more: Any) -> tuple[str, str]:
    with pytest.raises(LiveError) as caught:
        ask(path, target, **more)
    assert str(caught.value) == f"{path}: {caught.value.message}"
    return caught.value.kind, caught.value.message


def test_a_document_is_read_with_its_parameters(served: Served) -> None:
    with served.volume.open("odd & \udcff", "w") as f:
        f.write(b"x")
    assert ask(served.path, "/v1/files", match="& ", sort="key", volume=None)["total"] == 1
    begun = ask(served.path, "/v1/sync", method="POST", volume="V")
    assert ask(served.path, f"/v1/sync/{begun['ticket']}")["ticket"] == begun["ticket"]
    assert failure(served.path, "/v1/files", limit=5000)[0] == "Refused"


def stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def datagrams(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.detach()


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda path: None, "NoSocket", "no such socket"),
        (lambda path: path.write_text(""), "NoSocket", "not a socket"),
        (lambda path: path.mkdir(), "NoSocket", "not a socket"),
        (stale, "NotListening", "nobody listens: its owner died, or closed the cache"),
        (datagrams, "NoSocket", "wrong type"),
    ],
)
def test_a_path_without_a_cache_is_reported(tmp_path: Path, make: Callable[[Path], Any], kind: str, words: str) -> None:
    make(tmp_path / "s")
    found = failure(tmp_path / "s")
    assert (found[0], words in found[1]) == (kind, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_socket_of_another_user_is_not_allowed(served: Served) -> None:
    os.chmod(served.path, 0)
    assert failure(served.path)[0] == "NotAllowed"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((200, {"schema": 2}), "NewerSchema", "the cache speaks schema 2, this program knows 1: update pagecache here"),
        ((200, {"schema": 0}), "NotPagecache", "not a pagecache socket"),
        ((200, ["schema"]), "NotPagecache", "not a pagecache socket"),
        ((503, {"schema": 1, "error": "the cache is closed"}), "Refused", "the cache is closed"),
        ((0, b"SSH-2.0\r\n"), "NotPagecache", "not a pagecache socket"),
        ((0, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), "NotPagecache", "not a pagecache socket"),
        ((0, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "NotListening", "the answer ended early"),
        ((0, b""), "NotListening", "the connection broke"),
    ],
)
def test_an_answer_that_is_no_document_is_reported(fake: Fake, answer: tuple[int, Any], kind: str, words: str) -> None:
    fake.stats = answer
    found = failure(fake.path)
    assert (found[0], words in found[1]) == (kind, True)


def test_sockets_are_found_by_the_environment(tmp_path: Path) -> None:
    """Named paths first, whether they exist or not; then those of the folder, each once."""
    (tmp_path / "pagecache").mkdir()
    for name in ("b.sock", "a.sock", "no"):
        (tmp_path / "pagecache" / name).touch()
    found = [tmp_path / "pagecache" / name for name in ("a.sock", "b.sock")]
    environment = {"PAGECACHE_SOCKET": f"/none:{found[1]}:", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert find_sockets(environment) == [Path("/none"), found[1], found[0]]
    assert find_sockets({}) == []
