"""One job of a library that reads and writes objects of S3, in a separate environment: s3fs or smart_open.

    python s3_peer_job.py LIBRARY ENDPOINT BUCKET

Run by path with the interpreter of that environment, so nothing of pagecache is imported here. A line on stdin is a
job, as JSON; a line on stdout answers it. Objects are reopened for each job, so nothing is cached when it begins:

    {"do": "read", "key": K, "cache": C}                     the whole object, in pieces of 1 MiB
    {"do": "random", "key": K, "cache": C, "offsets": [..]}  4 KiB at each
    {"do": "write", "key": K, "size": N}                     N bytes, in pieces of 1 MiB

`cache`: the cache_type of s3fs; smart_open has none.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

PIECE = 1 << 20
Open = Callable[[str, str, str], Any]


def with_s3fs(endpoint: str, bucket: str) -> Open:
    s3fs: Any = import_module("s3fs")
    files = s3fs.S3FileSystem(client_kwargs={"endpoint_url": endpoint}, skip_instance_cache=True)

    def opened(key: str, mode: str, cache: str) -> Any:
        files.invalidate_cache()
        options = {"cache_type": cache} if cache else {}
        return files.open(f"{bucket}/{key}", mode, **options)

    return opened


def with_smart_open(endpoint: str, bucket: str) -> Open:
    boto3, smart_open = import_module("boto3"), import_module("smart_open")
    client = boto3.client("s3", endpoint_url=endpoint)

    def opened(key: str, mode: str, cache: str) -> Any:
        return smart_open.open(f"s3://{bucket}/{key}", mode, transport_params={"client": client})

    return opened


def carry_out(opened: Open, job: dict[str, Any]) -> None:
    what, key, cache = job["do"], job["key"], job.get("cache", "")
    with opened(key, "wb" if what == "write" else "rb", cache) as file:
        if what == "read":
            while file.read(PIECE):
                pass
        elif what == "random":
            for offset in job["offsets"]:
                file.seek(offset)
                file.read(4096)
        else:
            piece = b"w" * PIECE
            for _ in range(job["size"] // PIECE):
                file.write(piece)


def main(library: str, endpoint: str, bucket: str) -> None:
    opened = {"s3fs": with_s3fs, "smart_open": with_smart_open}[library](endpoint, bucket)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            carry_out(opened, json.loads(line))
        except Exception as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        else:
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
