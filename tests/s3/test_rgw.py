"""Ceph's gateway, as Debian ships it: the conformance suite, edits, and the tester (`make test-rgw`).

Its programs are started by `rgw.py`. PAGECACHE_RGW_SECONDS is the time of the tester, ten minutes by default: half of
it on each of two clusters. Release 16 never frees a part that was sent twice (some 20 MB/s of the tester's bytes), and
the store of a cluster is memory.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pagecache import PageCache
from pagecache.backends.s3 import S3Backend
from pagecache.backends.s3.conditions import Conditions
from pagecache.cli import main

from .servers import Bucket, Server, missing, new_bucket
from .test_peculiar import PART, check_edits

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("rgw"), pytest.mark.timeout(0)]


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    """Of a new cluster."""
    if missing("rgw"):
        pytest.skip("the gateway is not installed (`make test-rgw` does it)")
    server = Server("rgw", tmp_path)
    try:
        with new_bucket(server) as made:
            yield made
    finally:
        server.close()


def test_the_trial_finds_what_the_gateway_honours(bucket: Bucket) -> None:
    """Of release 16; a later one may honour more."""
    backend = S3Backend(bucket.name, "p", endpoint_url=bucket.server.endpoint, part_size=PART)
    backend.honours(of="put")
    found = backend.honours()
    backend.close()
    assert found == Conditions(put=False, complete=False, copy=False, escapes=False, etags=False)


def test_objects_are_created_edited_and_renamed(bucket: Bucket) -> None:
    with PageCache("64MiB") as cache:
        backend = S3Backend(bucket.name, "p", endpoint_url=bucket.server.endpoint, part_size=PART)
        check_edits(cache.attach(backend), bucket)


def test_check_backend_finds_no_broken_promise(bucket: Bucket) -> None:
    """Except one: a commit that leaves out a sent part is refused; the cache sends the bytes again."""
    result = CliRunner().invoke(main, ["check-backend", bucket.url("p"), "--timeout", "300"])
    broken = re.findall(r"^BROKEN .*\n +found: (.*)$", result.output, re.MULTILINE)
    assert all("InvalidPart" in found and "it is sent again" in found for found in broken), result.output
    assert len(broken) <= 1, result.output


@pytest.mark.parametrize("half", [1, 2])
def test_the_tester_finds_nothing(bucket: Bucket, half: int) -> None:
    """In a process of its own: it ends at once if a call hangs."""
    seconds = float(os.environ.get("PAGECACHE_RGW_SECONDS", "600")) / 2
    size = ["--size", "12MiB", "--capacity", "64MiB", "--files", "3", "--threads", "4", "--tasks", "6"]
    command = [sys.executable, "-m", "pagecache", "stress", bucket.url("p", part_size="5MiB"), *size]
    command += ["--seed", str(half), "--duration", f"{seconds}s", "--patience", "300s"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
