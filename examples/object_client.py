"""A client of an object store with a cache inside: objects are opened, changed at any offset, and published as a whole.

It changes a large object in place, and a second one without the cache: download, edit, upload. A proxy counts the
traffic of both and delays every request by 20 ms; boto3 compares the two objects. The server runs on this machine.
Argument: MiB of the object.

It needs boto3 and the server, ministack: `pip install '.[dev]'` in a checkout has both.
"""

import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

try:
    import boto3
except ImportError:
    raise SystemExit("this example needs boto3 and ministack: run pip install '.[dev]' in a checkout") from None

from proxy import FaultyProxy

from pagecache import CachedFile, PageCache
from pagecache.backends.s3 import S3Backend
from pagecache.options import OpenMode

MiB = 1 << 20
SIZE = (int(sys.argv[1]) if __name__ == "__main__" and len(sys.argv) > 1 else 40) * MiB
EDITS, REGION = 200, 16 * MiB


class ObjectClient:
    """Objects of one bucket, through a separate cache. A context manager.

    Args:
        bucket: its name.
        endpoint: of the service; None: AWS.
        capacity: memory of the cache.
    """

    def __init__(self, bucket: str, endpoint: str | None = None, capacity: str = "64MiB") -> None:
        self._cache = PageCache(capacity)
        self._volume = self._cache.attach(S3Backend(bucket, endpoint_url=endpoint), read_ahead="8MiB")

    def open(self, key: str, mode: OpenMode = "rb") -> CachedFile:
        """Open an object: its changes appear as a whole at an fsync, or when it is closed."""
        return self._volume.open(key, mode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._cache.__exit__(*exception)  # type: ignore[arg-type]


def edits() -> Iterator[tuple[int, bytes]]:
    """Yield equal edits each time: 4 KiB at random offsets in one part of the object."""
    choose = random.Random(1)
    for _ in range(EDITS):
        yield SIZE // 2 + choose.randrange(REGION - 4096), choose.randbytes(4096)


def with_the_cache(endpoint: str, key: str) -> None:
    with ObjectClient("demo", endpoint) as client, client.open(key, "r+") as file:
        for offset, data in edits():
            file.pwrite(data, offset)


def without(endpoint: str, key: str) -> None:
    client = store(endpoint)
    with tempfile.TemporaryFile() as copy:
        client.download_fileobj("demo", key, copy)
        for offset, data in edits():
            os.pwrite(copy.fileno(), data, offset)
        copy.seek(0)
        client.upload_fileobj(copy, "demo", key)
    client.close()


def store(endpoint: str) -> Any:
    return boto3.client("s3", endpoint_url=endpoint)


def checksum(endpoint: str, key: str) -> str:
    client, total = store(endpoint), hashlib.sha256()
    for chunk in client.get_object(Bucket="demo", Key=key)["Body"].iter_chunks(MiB):
        total.update(chunk)
    client.close()
    return total.hexdigest()


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run an S3 server on 127.0.0.1."""
    if find_spec("ministack") is None:
        raise SystemExit("this example needs ministack, an S3 server: run pip install '.[dev]' in a checkout")
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": "0",
        "SERVICES": "s3",
        "IOT_MTLS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder),  # its other files are removed with the folder
    }
    os.environ.update(AWS_ACCESS_KEY_ID="demo", AWS_SECRET_ACCESS_KEY="demo", AWS_DEFAULT_REGION="us-east-1")
    command = [sys.executable, "-c", "from ministack.app import main; main()"]
    log = folder / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=output, stderr=output)
    try:
        while not (ready := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start: {log.read_text()}")
            time.sleep(0.05)
        yield ready[0]
    finally:
        process.kill()
        process.wait()


def measured(proxy: FaultyProxy, work: Callable[[str, str], None], key: str) -> str:
    """Return the traffic, requests and seconds of the work."""
    proxy.taken()
    begin = time.perf_counter()
    work(proxy.endpoint, key)
    seconds, calls = time.perf_counter() - begin, proxy.taken()
    up, down = (sum(getattr(call, way) for call in calls) / MiB for way in ("up", "down"))
    return f"{up:6.1f} MiB up  {down:6.1f} MiB down  {len(calls):4} requests  {seconds:6.2f} s"


def main(folder: Path) -> None:
    with server(folder) as endpoint, FaultyProxy(endpoint, latency=0.02) as proxy:
        client = store(endpoint)
        client.create_bucket(Bucket="demo")
        with tempfile.TemporaryFile() as content:
            for n in range(SIZE // MiB):
                content.write(random.Random(n).randbytes(MiB))
            for key in ("cached", "naive"):
                content.seek(0)
                client.put_object(Bucket="demo", Key=key, Body=content)
        client.close()
        print(f"{EDITS} edits of 4 KiB within {REGION // MiB} MiB of an object of {SIZE // MiB} MiB, 20 ms a request")
        print("with the cache            ", measured(proxy, with_the_cache, "cached"))
        print("download, edit, upload    ", measured(proxy, without, "naive"))
        same = checksum(endpoint, "cached") == checksum(endpoint, "naive")
        print("both objects are equal, verified by boto3" if same else "THE OBJECTS DIFFER")
        if not same:
            raise SystemExit(1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
