"""A cache on a local disk, in front of an S3 server.

A second process reads the same objects: it asks for their versions, and reads no byte of them from the server. Then the
server stops, a program writes and calls fsync, and is killed; the next one finds what fsync has put on disk, and saves
it once the server goes on. The server runs on this machine. Argument: MiB of the objects.

It needs boto3 and the server, ministack: `pip install '.[dev]'` in a checkout has both.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from object_client import MiB, server, store
from proxy import FaultyProxy, ProxyRule

from pagecache import DiskTier, PageCache
from pagecache.backends.s3 import S3Backend

OBJECT = 4 * MiB
COUNT = (int(sys.argv[1]) if __name__ == "__main__" and len(sys.argv) > 1 else 16) * MiB // OBJECT

READ = """
import sys
from pagecache import DiskTier, PageCache
from pagecache.backends.s3 import S3Backend

endpoint, folder, count = sys.argv[1:]
with PageCache("64MiB", disk=DiskTier(folder, size="4GiB")) as cache:
    volume = cache.attach(S3Backend("demo", endpoint_url=endpoint))
    for number in range(int(count)):
        with volume.open(f"object{number}") as file:
            while file.read(1 << 20):
                pass
"""

WRITE = """
import os, sys
from pagecache import DiskTier, PageCache
from pagecache.backends.s3 import S3Backend

endpoint, folder, count = sys.argv[1:]
cache = PageCache("64MiB", disk=DiskTier(folder, size="4GiB"))
volume = cache.attach(S3Backend("demo", endpoint_url=endpoint), durability="disk")
with volume.open("log", "x") as file:
    print("open", flush=True)
    sys.stdin.readline()
    for number in range(1000):
        file.append(b"line %06d\\n" % number)
        file.fsync()
        print(number, flush=True)
"""


def run(program: str, proxy: FaultyProxy, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, proxy.endpoint, str(folder), str(COUNT)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read(proxy: FaultyProxy, folder: Path) -> str:
    """Read all objects in another process; return its requests and seconds."""
    proxy.taken()
    begin = time.perf_counter()
    with run(READ, proxy, folder) as reader:
        reader.communicate()
    if reader.returncode:
        raise SystemExit("the reader failed")
    seconds, calls = time.perf_counter() - begin, proxy.taken()
    kinds = Counter(call.method for call in calls)
    requests = ", ".join(f"{number} {method}" for method, number in sorted(kinds.items()))
    return f"{requests or 'none':20} {sum(call.down for call in calls) / MiB:7.1f} MiB  {seconds:6.2f} s"


def killed_writer(proxy: FaultyProxy, folder: Path) -> int:
    """Kill a program that writes while the server does not answer; return the last line that fsync has put on disk."""
    with run(WRITE, proxy, folder) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        stopped = ProxyRule("reset", times=1 << 30)
        proxy.rules.append(stopped)
        writer.stdin.write("\n")
        writer.stdin.flush()
        lines = [int(writer.stdout.readline()) for _ in range(200)]
        writer.kill()
        lines += map(int, writer.stdout.read().split())
        proxy.rules.remove(stopped)
        return lines[-1]


def main(folder: Path) -> None:
    with server(folder) as endpoint, FaultyProxy(endpoint, latency=0.02) as proxy:
        client = store(endpoint)
        client.create_bucket(Bucket="demo")
        for number in range(COUNT):
            client.put_object(Bucket="demo", Key=f"object{number}", Body=random.Random(number).randbytes(OBJECT))
        print(f"{COUNT} objects of 4 MiB, 20 ms a request")
        print("the first process reads them       ", read(proxy, folder / "tier"))
        print("another process reads them         ", read(proxy, folder / "tier"))
        last = killed_writer(proxy, folder / "tier")
        print(f"the server stopped; a program wrote {last + 1} lines, each with an fsync, and was killed")
        with PageCache("64MiB", disk=DiskTier(folder / "tier", size="4GiB")) as cache:
            volume = cache.attach(S3Backend("demo", endpoint_url=proxy.endpoint), durability="disk")
            for found in volume.recovered():
                print(f"found on disk: {found.key!r}, {found.size} bytes that the server does not have")
            volume.sync(durability="backend")
        content = client.get_object(Bucket="demo", Key="log")["Body"].read()
        client.close()
        lines = content.decode().splitlines()
        if lines[: last + 1] != [f"line {number:06}" for number in range(last + 1)]:
            raise SystemExit("LINES ARE LOST")
        print(f"the server has all {last + 1} lines, verified by boto3")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
