"""The backend keeps the promises of the protocol on three servers, which honour different conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pagecache.backends import Backend
from pagecache.backends.s3 import S3Backend
from pagecache.testing import BackendConformance
from pagecache.testing.checks import each

from .servers import Bucket, Server, new_bucket


class OnServer(BackendConformance):
    """Checks with a new bucket each. Only the objects may be left in it."""

    kind = ""
    options: ClassVar[dict[str, Any]] = {}
    bucket: Bucket

    @pytest.fixture(autouse=True)
    def _bucket(self, started: Callable[[str], Server]) -> Iterator[None]:
        with ExitStack() as stack:
            self.bucket = stack.enter_context(new_bucket(started(self.kind)))
            yield

    def make_backend(self, tmp_path: Path) -> Backend:
        return S3Backend(self.bucket.name, "some/folder", endpoint_url=self.bucket.server.endpoint, **self.options)

    def fail_commit(self, backend: Backend) -> None:
        bucket: Any = backend.bucket  # type: ignore[attr-defined]
        complete = bucket.complete

        def fail(*_: Any) -> Any:
            bucket.complete = complete
            raise OSError(5, "planted")

        bucket.complete = fail


class TestMoto(OnServer):
    """Parts of at least 5 MiB; no conditions on multipart uploads."""

    kind = "moto"
    options: ClassVar[dict[str, Any]] = {"part_size": "5MiB"}

    @pytest.mark.slow
    @each("seed", range(5))
    def test_random_operations_match_a_model(self, backend: Any, opened: Any, unit: int, seed: int) -> None:
        super().test_random_operations_match_a_model(backend, opened, unit, seed)

    @pytest.mark.slow
    def test_writes_of_disjoint_ranges_side_by_side(self, backend: Any, opened: Any, unit: int) -> None:
        super().test_writes_of_disjoint_ranges_side_by_side(backend, opened, unit)


@pytest.mark.smoke("s3:")
class TestMinistack(OnServer):
    """All conditions; parts of any size."""

    kind = "ministack"
    options: ClassVar[dict[str, Any]] = {"part_size": "64KiB", "least_part": 1}


class TestRclone(OnServer):
    """No conditions, and no copies of parts."""

    kind = "rclone"
    options: ClassVar[dict[str, Any]] = {"part_size": "64KiB", "least_part": 1}

    def test_objects_side_by_side(self, backend: Any, opened: Any, unit: int) -> None:
        """The server removes a folder that a DELETE empties, which fails a PUT into it: one object stays there."""
        kept = backend.prefix + ".pagecache/kept"
        backend.bucket.put(kept, [], {})
        super().test_objects_side_by_side(backend, opened, unit)
        backend.bucket.delete(kept)
