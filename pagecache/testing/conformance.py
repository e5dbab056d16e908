"""A pytest suite that checks the promises of a backend. Subclass it in a test module:

    class TestMyBackend(BackendConformance):
        def make_backend(self, tmp_path):
            return MyBackend(tmp_path)

Each test covers one promise of `pagecache.backends.protocol`, and uses the backend as the cache does: within its
limits, repeating calls after short results, and committing before it expects to see bytes. Features that a backend
lacks (io.UnsupportedOperation, a missing method, a limit) are skipped, with the reason.

The suite cannot check whether committed bytes survive a power cut, nor foreign changes of objects.
"""

from __future__ import annotations

import random
import threading
from functools import partial

from ..backends.protocol import Backend
from .checks import each, promise, raises, same, skip
from .conformance_base import (
    COMMIT,
    CONCURRENT,
    LIMITS,
    METHODS,
    REFLECT,
    VERSIONS,
    Opened,
    commit,
    content,
    read,
    supported,
    together,
    write,
)
from .conformance_bytes import BytePromises
from .conformance_names import NamePromises


class BackendConformance(NamePromises, BytePromises):
    """The conformance suite. Subclass it and define `make_backend`; also `make_key` if keys are not text."""

    # --------------------------------------------------------------------------------------- commit

    @promise("versions", VERSIONS)
    def test_commit_returns_the_version_that_stat_gives(self, backend: Backend, opened: Opened) -> None:
        """`commit` returns the version that stat returns from then on, or None."""
        file = opened(0, b"content")
        version = file.commit()
        assert version is None or isinstance(version, str), f"commit answered {version!r}, which is no version"
        same(backend.stat(self.make_key(0)).version, version)
        same(file.stat().version, version)

    @promise("versions", VERSIONS)
    @each("change", ["write", "truncate", "punch"])
    def test_version_changes_with_the_content(self, backend: Backend, opened: Opened, change: str) -> None:
        """The version changes whenever the content may have changed."""
        file = opened(0, b"0" * 100)
        versions = [file.commit()]
        if versions == [None]:
            skip("the backend has no versions")
        for i in range(1, 6):
            if change == "write":
                write(backend, file, 0, str(i).encode() * 100)
            elif change == "truncate":
                file.truncate(100 - i)
            elif hasattr(file, "punch_hole"):
                file.punch_hole(i, 1)
            else:
                skip("no punch_hole")
            versions.append(file.commit())
        assert len(set(versions)) == len(versions), f"the versions of different contents were {versions}"

    @promise("commit", COMMIT)
    def test_commit_can_be_repeated(self, backend: Backend, opened: Opened) -> None:
        """`commit` may be repeated without new bytes."""
        file = opened(0, b"content")
        for _ in range(3):
            file.commit()
        same(read(backend, file, 0, 10), b"content")

    @promise("publish by commit", LIMITS)
    def test_nothing_is_visible_before_commit(self, backend: Backend, opened: Opened) -> None:
        """With commit_on_close no other file sees a new object, or a change, before commit."""
        if not backend.limits.commit_on_close:
            skip("not commit_on_close: bytes may be visible at once")
        opened(0, b"old")
        file = opened(0)
        write(backend, file, 0, b"newer")
        made = backend.open(self.make_key(1), create=True)
        write(backend, made, 0, b"made")
        same(backend.stat(self.make_key(0)).size, 3)
        with raises(FileNotFoundError):
            backend.stat(self.make_key(1))
        file.commit()
        made.commit()
        same([backend.stat(self.make_key(i)).size for i in range(2)], [5, 4])

    @promise("rollback", COMMIT)
    def test_rollback_forgets(self, backend: Backend, opened: Opened) -> None:
        """`rollback` drops all uncommitted bytes; commit_on_close requires it."""
        file = opened(0, b"old")
        if not hasattr(file, "rollback"):
            assert not backend.limits.commit_on_close, "rollback is required with commit_on_close"
            skip("no rollback")
        write(backend, file, 0, b"newer")
        file.rollback()
        file.commit()
        same(read(backend, opened(0), 0, 10), b"old")

    @promise("sync", METHODS)
    def test_sync_after_everything(self, backend: Backend, opened: Opened) -> None:
        """`sync` may be called at any time, and again."""
        opened(0, b"content")
        supported(backend.sync)
        supported(backend.sync)

    # --------------------------------------------------------------------------------------- side by side

    @promise("concurrent calls", CONCURRENT)
    def test_writes_of_disjoint_ranges_side_by_side(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`write_from` calls on disjoint ranges of one object may run concurrently, unless ordered_writes=True."""
        if backend.limits.ordered_writes:
            skip("ordered_writes: the cache sends one call at a time")
        file, rounds = opened(0, b""), 8
        count = min(6, backend.limits.max_inflight)

        def writer(me: int) -> None:
            for i in range(rounds):
                index = i * count + me
                write(backend, file, index * unit, content(unit, index))

        together([partial(writer, me) for me in range(count)])
        file.commit()
        expected = b"".join(content(unit, index) for index in range(rounds * count))
        same(read(backend, file, 0, len(expected) + 1), expected)

    @promise("concurrent calls", CONCURRENT)
    def test_read_beside_writes_sees_old_or_new(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`read_into` may run beside write_from, and returns old or new bytes."""
        file, done = opened(0, bytes(unit)), threading.Event()
        seen: set[int] = set()

        def reader() -> None:
            while not done.is_set():
                seen.update(read(backend, file, 0, unit))

        def writer() -> None:
            try:
                for value in range(1, 10):
                    write(backend, file, 0, bytes([value]) * unit)
            finally:
                done.set()

        together([reader, writer])
        assert seen <= set(range(10)), f"bytes that no call wrote: {sorted(seen - set(range(10)))}"

    @promise("concurrent calls", CONCURRENT)
    def test_objects_side_by_side(self, backend: Backend, opened: Opened, unit: int) -> None:
        """Several objects may be used concurrently."""

        def worker(i: int) -> None:
            file = opened(i, b"")
            write(backend, file, 0, content(unit, i))
            file.commit()

        together([partial(worker, i) for i in range(6)])
        for i in range(6):
            same(read(backend, opened(i), 0, 2 * unit), content(unit, i))

    # --------------------------------------------------------------------------------------- all of it

    @promise("read and write", REFLECT)
    @each("seed", range(5))
    def test_random_operations_match_a_model(self, backend: Backend, opened: Opened, unit: int, seed: int) -> None:
        """Writes, truncates, holes, commits and opens in any order give the right bytes."""
        choose, model = random.Random(seed), bytearray()
        file = opened(0, b"")
        for _ in range(40):
            verb = choose.choice(["write", "write", "write", "truncate", "punch", "commit", "reopen"])
            offset, length = choose.randrange(8) * unit, choose.randrange(1, 3 * unit)
            if verb == "write":
                if offset + length < len(model):
                    length += -length % int(backend.limits.write_unit)
                data = choose.randbytes(length)
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + length] = data
                write(backend, file, offset, data)
            elif verb == "truncate":
                size = offset + choose.randrange(unit)
                model = model[:size] + bytearray(max(0, size - len(model)))
                file.truncate(size)
            elif verb == "punch" and hasattr(file, "punch_hole"):
                end = min(offset + length, len(model))
                model[offset:end] = bytes(max(0, end - offset))
                file.punch_hole(offset, length)
            else:
                commit(backend, file, model)
                file = opened(0) if verb == "reopen" else file
                same(backend.stat(self.make_key(0)).size, len(model))
                same(read(backend, file, 0, len(model) + unit), model)
        commit(backend, file, model)
        same(read(backend, opened(0), 0, len(model) + unit), model)
