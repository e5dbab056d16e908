"""A store of whole objects with a backend over it, seen from both sides: a file system of the tests, or a bucket."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

from examples.proxy import FaultyProxy, ProxyCall, ProxyRule
from pagecache import CachedFile
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.s3 import S3Backend
from tests.fsspec_below.stores import Elsewhere, Parts, Whole, once
from tests.s3.requests import is_for, name_of
from tests.s3.servers import Bucket

FILE_SYSTEMS = {"whole": Whole, "parts": Parts, "elsewhere": Elsewhere}
SERVERS = ("moto_small", "ministack")
EVERYWHERE = [*FILE_SYSTEMS, *SERVERS]

LARGE = 3 << 20
OLD = random.Random(1).randbytes(LARGE)


def put(file: Any, offset: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += file.write_from(offset + done, [memoryview(data)[done : done + (1 << 20)]])


def get(file: Any, offset: int, length: int) -> bytes:
    room = bytearray(length)
    return bytes(room[: file.read_into(offset, [memoryview(room)])])


class Place:
    """A file system, and its content. `key`: that of an object of this name."""

    def __init__(self, fs: Any, root: str, *, key: bytes | None = None, **options: Any) -> None:
        self.fs, self.root = fs, root
        self.backend: Any = FsspecBackend(fs, root, **options)
        if key is not None:
            self.put("key", key)

    def another(self) -> Any:
        """Another backend of this place."""
        return FsspecBackend(self.fs, self.root)

    def names(self) -> list[str]:
        """The names of all objects, past the backend."""
        if isinstance(self.fs, Elsewhere):
            return sorted(str(path.relative_to(self.root)) for path in Path(self.root).rglob("*") if path.is_file())
        return sorted(self.fs.objects)

    def put(self, name: str, content: bytes) -> None:
        if isinstance(self.fs, Elsewhere):
            fresh = Path(self.root, f"{name}.new")
            fresh.write_bytes(content)
            fresh.rename(Path(self.root, name))
        else:
            self.fs.put(f"{self.root}/{name}", content)

    def take_away(self, name: str) -> None:
        """Remove as another client does."""
        if isinstance(self.fs, Elsewhere):
            Path(self.root, name).unlink()
        else:
            del self.fs.objects[f"{self.root}/{name}"]

    def written(self, data: bytes, name: str = "key", **how: bool) -> Any:
        """Open an object by the backend, and write to its beginning."""
        file = self.backend.open(name, **how)
        put(file, 0, data)
        return file

    def content(self, name: str) -> bytes | None:
        if isinstance(self.fs, Elsewhere):
            path = Path(self.root, name)
            return path.read_bytes() if path.exists() else None
        found: bytes | None = self.fs.content(f"{self.root}/{name}")
        return found

    def lose(self, failed_looks: int) -> None:
        """Lose the answer of the request that ends a name, and then so many look-ups."""
        left = [failed_looks]

        def fail(path: str) -> None:
            if left[0]:
                left[0] -= 1
                raise ConnectionRefusedError("the network is away")

        def answer(path: str) -> None:
            hooks.after.clear()
            hooks.before["info"] = fail
            raise ConnectionResetError("the answer is lost")

        hooks = self.fs.hooks
        hooks.after["mv" if isinstance(self.fs, Elsewhere) else "rm_file"] = answer

    def lose_commit(self, *, landed: bool) -> None:
        """Lose the request that publishes an object, or its answer, if it `landed`."""
        hooks = self.fs.hooks
        publish = "mv" if isinstance(self.fs, Elsewhere) else "cp_file"
        (hooks.after if landed else hooks.before)[publish] = once(TimeoutError("no answer"))

    def repair(self) -> None:
        """Lose nothing from here on."""
        self.fs.hooks.before.clear()
        self.fs.hooks.after.clear()

    def save(self, file: CachedFile) -> None:
        file.fsync()

    def close(self) -> None:
        self.backend.close()


class S3Place(Place):
    """A bucket behind a proxy, and its content."""

    def __init__(self, bucket: Bucket, proxy: FaultyProxy) -> None:
        self.bucket, self.proxy, self.fs = bucket, proxy, None
        self.made: list[S3Backend] = []
        self.backend = self.another()

    def another(self) -> S3Backend:
        made = S3Backend(self.bucket.name, endpoint_url=self.proxy.endpoint, part_size=1 << 20, least_part=1)
        self.made.append(made)
        return made

    def close(self) -> None:
        for backend in self.made:  # begun uploads go
            backend.close()

    def names(self) -> list[str]:
        return self.bucket.keys()

    def put(self, name: str, content: bytes) -> None:
        self.bucket.put(name, content)

    def take_away(self, name: str) -> None:
        self.bucket.remove(name)

    def content(self, name: str) -> bytes | None:
        return self.bucket.get(name) if name in self.names() else None

    def lose(self, failed_looks: int) -> None:
        self._lose(ProxyRule("lost", is_for("DeleteObject")), failed_looks)

    def lose_commit(self, *, landed: bool) -> None:
        """The backend looks for its commit: those requests are lost too, until `repair`."""
        self._lose(ProxyRule("lost" if landed else "reset", publishes), 1000)

    def _lose(self, first: ProxyRule, then: int) -> None:
        self.proxy.rules = [ProxyRule("reset", lambda call: first.seen > 0, times=then)] * bool(then) + [first]

    def repair(self) -> None:
        self.proxy.rules.clear()

    def save(self, file: CachedFile) -> None:
        """Bytes that were uploaded for an old name are sent again."""
        with contextlib.suppress(OSError):
            file.fsync()
        file.volume.retry_failed()
        file.fsync()


def publishes(call: ProxyCall) -> bool:
    """Return whether a request stores an object, and none of the trial of its server."""
    return name_of(call) in ("PutObject", "CompleteMultipartUpload") and "/.pagecache/" not in call.path


def storing(place: Place, size: int) -> str:
    """The method that stores an object of this size."""
    if isinstance(place.fs, Parts):
        return "upload"
    return "pipe_file" if size <= 1 << 20 else "put_file"
