"""The servers of these tests: they answer, keep the data that they promise to keep, and never outlive the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from .servers import KINDS, Bucket, Server, new_bucket


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rgw"])
def test_a_server_stores_and_gives_ranges(kind: str, started: Callable[[str], Server]) -> None:
    with new_bucket(started(kind)) as bucket:
        bucket.client.put_object(Bucket=bucket.name, Key="a/k", Body=b"0123456789")
        answer = bucket.client.get_object(Bucket=bucket.name, Key="a/k", Range="bytes=2-4")
        with answer["Body"] as body:
            assert body.read() == b"234"
        assert bucket.keys() == ["a/k"]
        assert bucket.uploads() == []


def test_leftovers_of_a_test_are_found(bucket: Bucket) -> None:
    upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="k")["UploadId"]
    bucket.client.put_object(Bucket=bucket.name, Key="p/.pagecache/s/1", Body=b"")
    assert bucket.left_behind() == ["upload of 'k'", "object 'p/.pagecache/s/1'"]
    with pytest.raises(AssertionError, match="left behind"), new_bucket(bucket.server) as other:
        other.client.create_multipart_upload(Bucket=other.name, Key="k")
    bucket.client.abort_multipart_upload(Bucket=bucket.name, Key="k", UploadId=upload)
    bucket.client.delete_object(Bucket=bucket.name, Key="p/.pagecache/s/1")


def test_the_servers_honour_the_conditions_that_are_said_of_them(bucket: Bucket) -> None:
    """If this fails, other tests on this server prove something else: see servers.py."""
    client, name = bucket.client, bucket.name
    client.put_object(Bucket=name, Key="k", Body=b"theirs")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=name, Key="k", Body=b"ours", IfNoneMatch="*")
    upload = client.create_multipart_upload(Bucket=name, Key="k")["UploadId"]
    part = client.upload_part(Bucket=name, Key="k", UploadId=upload, PartNumber=1, Body=b"ours")
    whole = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    arguments = {"Bucket": name, "Key": "k", "UploadId": upload}
    if bucket.server.kind == "moto":
        client.complete_multipart_upload(**arguments, MultipartUpload=whole, IfMatch='"0"')
        return
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.complete_multipart_upload(**arguments, MultipartUpload=whole, IfMatch='"0"')
    client.abort_multipart_upload(**arguments)


def test_rclone_honours_no_condition(rclone: Server) -> None:
    with new_bucket(rclone) as bucket:
        for body in (b"one", b"two"):
            bucket.client.put_object(Bucket=bucket.name, Key="k", Body=body, IfNoneMatch="*")


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_objects_on_ministack_survive_a_restart_at_the_same_address(
    way: str, new_server: Callable[[str], Server]
) -> None:
    server = new_server("ministack")
    with new_bucket(server) as bucket:
        bucket.client.put_object(Bucket=bucket.name, Key="k", Body=b"stays")
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key="k")
        before = server.endpoint
        getattr(server, way)()
        with pytest.raises(EndpointConnectionError):
            bucket.client.head_object(Bucket=bucket.name, Key="k")
        server.start()
        assert server.endpoint == before
        with bucket.client.get_object(Bucket=bucket.name, Key="k")["Body"] as body:
            assert body.read() == b"stays"
        assert bucket.uploads() == []


def test_a_server_that_cannot_start_says_why(new_server: Callable[[str], Server], tmp_path: Path) -> None:
    first = new_server("rclone")
    second = new_server("rclone")
    second.kill()
    second.port = first.port
    with pytest.raises(RuntimeError, match="in use"):
        second.start()


def test_servers_end_with_a_test_process_that_is_killed(tmp_path: Path) -> None:
    """After SIGKILL none of its servers runs."""
    code = (
        "import pathlib, sys, time\n"
        "from tests.s3.servers import Server\n"
        "print(Server('moto', pathlib.Path(sys.argv[1])).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "moto")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as tests:
        assert tests.stdout is not None
        server = int(tests.stdout.readline())
        os.kill(server, 0)
        tests.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while runs(server):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Return whether such a process exists, zombies aside."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
