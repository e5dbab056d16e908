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

import errno
import os
import random
import threading
from collections.abc import Hashable
from contextlib import suppress
from functools import partial
from typing import cast

from ..backends.protocol import Backend, BackendFile, BackendLimits, NamespaceBackend, ObjectStat
from . import conformance_bytes as rules
from .checks import each, promise, raises, same, skip
from .conformance_bytes import BytePromises, Opened, commit, content, read, supported, together, write


def namespace(backend: Backend) -> NamespaceBackend:
    """Return the backend if it has directories; checked by method, since decorators pass on the methods of the inner
    backend.
    """
    if not hasattr(backend, "readdir"):
        skip("no directories, links and attributes")
    return cast(NamespaceBackend, backend)


def identity(found: ObjectStat) -> Hashable:
    """Return the identity in a status."""
    if found.identity is None:
        skip("objects have no identity: the store knows them by name only")
    return found.identity


class BackendConformance(BytePromises):
    """The conformance suite. Subclass it and define `make_backend`; also `make_key` if keys are not text."""

    # --------------------------------------------------------------------------------------- names

    @promise("limits", rules.LIMITS)
    def test_limits_are_limits(self, backend: Backend) -> None:
        """`limits` is a BackendLimits."""
        assert isinstance(backend.limits, BackendLimits), f"limits is {backend.limits!r}, and no BackendLimits"

    @promise("open and stat", rules.METHODS)
    def test_missing_object_is_not_found(self, backend: Backend) -> None:
        """`open` and `stat` of a missing object raise FileNotFoundError."""
        with raises(FileNotFoundError) as raised:
            backend.open(self.make_key(0))
        assert raised.value.errno is not None, "FileNotFoundError without an errno"
        with raises(FileNotFoundError):
            backend.stat(self.make_key(0))

    @promise("open and stat", rules.METHODS)
    def test_created_object_is_empty(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`open(create=True)` makes an empty object, which stat finds after a commit, or leaves an existing one."""
        file = opened(0, b"")
        same(file.stat().size, 0)
        same(backend.stat(self.make_key(0)).size, 0)
        same(read(backend, file, 0, unit), b"")
        opened(1, b"kept")
        same(read(backend, opened(1, b""), 0, unit), b"kept")

    @promise("open and stat", rules.METHODS)
    def test_exclusive_create_refuses_an_existing_object(self, backend: Backend, opened: Opened) -> None:
        """`open(create=True, exclusive=True)` of an existing object raises FileExistsError and changes nothing.

        The open raises; if a commit makes the object, the commit at the latest.
        """
        opened(0, b"kept")
        with raises(OSError) as refused:
            made = backend.open(self.make_key(0), create=True, exclusive=True)
            if backend.limits.commit_on_close:
                try:
                    made.write_from(0, [memoryview(b"mine")])
                    made.commit()
                finally:
                    if hasattr(made, "close"):
                        made.close()
        same(isinstance(refused.value, OSError) and refused.value.errno in (errno.EEXIST, errno.ESTALE), True)
        same(read(backend, backend.open(self.make_key(0)), 0, 4), b"kept")

    @promise("open and stat", rules.METHODS)
    def test_one_of_many_exclusive_creators_wins(self, backend: Backend) -> None:
        """If several callers create an object exclusively at once, exactly one succeeds."""
        if backend.limits.commit_on_close:
            skip("commit_on_close: creators meet at commit only")
        won: list[BackendFile] = []
        lost: list[FileExistsError] = []

        def create() -> None:
            try:
                won.append(backend.open(self.make_key(0), create=True, exclusive=True))
            except FileExistsError as error:
                lost.append(error)

        together([create] * 6)
        same((len(won), len(lost)), (1, 5))
        if hasattr(won[0], "close"):
            won[0].close()

    @promise("remove", rules.NAMES)
    def test_removed_object_is_not_found(self, backend: Backend, opened: Opened) -> None:
        """A removed object is not found, nor removed again; other objects stay."""
        opened(0, b"here")
        opened(1, b"stays")
        supported(lambda: backend.remove(self.make_key(0)))
        with raises(FileNotFoundError):
            backend.stat(self.make_key(0))
        with raises(FileNotFoundError):
            backend.remove(self.make_key(0))
        same(backend.stat(self.make_key(1)).size, 5)

    @promise("versions", rules.VERSIONS)
    def test_object_made_anew_has_nothing_of_the_old_one(self, backend: Backend, opened: Opened) -> None:
        """An object that was removed and made again has no byte of the old one, and another version."""
        old = opened(0, b"old content").stat().version
        supported(lambda: backend.remove(self.make_key(0)))
        file = opened(0, b"new")
        same(read(backend, file, 0, 20), b"new")
        assert old is None or backend.stat(self.make_key(0)).version != old, f"both have the version {old!r}"

    @promise("rename", rules.NAMES)
    def test_rename_moves(self, backend: Backend, opened: Opened) -> None:
        """`rename` moves an existing object; without one it raises FileNotFoundError and leaves the destination.

        It is repeated as after a lost answer, with an open file of the object.
        """
        opened(0, b"moved")
        supported(lambda: backend.rename(self.make_key(0), self.make_key(1)))
        with raises(FileNotFoundError):
            backend.stat(self.make_key(0))
        for destination in (2, 1):
            with raises(FileNotFoundError):
                backend.rename(self.make_key(0), self.make_key(destination))
        same(read(backend, opened(1), 0, 10), b"moved")

    @promise("rename", rules.NAMES)
    def test_creation_that_was_closed_uncommitted_is_no_source_of_a_rename(
        self, backend: Backend, opened: Opened
    ) -> None:
        """A creation that was closed without a commit is not renamed, and replaces nothing."""
        if not backend.limits.commit_on_close:
            skip("not commit_on_close: a creation is an object at once")
        opened(1, b"stays")
        made = backend.open(self.make_key(0), create=True)
        if not hasattr(made, "close"):
            skip("files are not closed")
        made.close()
        with raises(FileNotFoundError):
            supported(lambda: backend.rename(self.make_key(0), self.make_key(1)))
        same(read(backend, opened(1), 0, 10), b"stays")

    @promise("rename", rules.NAMES)
    def test_rename_replaces_if_allowed(self, backend: Backend, opened: Opened) -> None:
        """`rename` replaces the object of the new name; replace=False raises FileExistsError instead."""
        opened(0, b"first")
        opened(1, b"the second")
        with raises(FileExistsError):
            supported(lambda: backend.rename(self.make_key(0), self.make_key(1), replace=False))
        same([backend.stat(self.make_key(i)).size for i in range(2)], [5, 10])
        backend.rename(self.make_key(0), self.make_key(1))
        same(read(backend, opened(1), 0, 20), b"first")
        backend.rename(self.make_key(1), self.make_key(0), replace=False)
        same(backend.stat(self.make_key(0)).size, 5)
        with raises(FileNotFoundError):
            backend.stat(self.make_key(1))

    @promise("list", rules.METHODS)
    def test_list_has_every_object_with_key_and_size(self, backend: Backend, opened: Opened) -> None:
        """`list` returns every object once, with its key and size."""
        same(list(supported(lambda: list(backend.list(self.prefix)))), [])
        for i in range(5):
            opened(i, bytes(i))
        found = {backend.canonical(stat.key): stat.size for stat in backend.list(self.prefix)}
        same(found, {backend.canonical(self.make_key(i)): i for i in range(5)})

    @promise("list", rules.METHODS)
    def test_list_follows_what_changes(self, backend: Backend, opened: Opened) -> None:
        """`list` returns no removed object, and current sizes."""
        for i in range(3):
            opened(i, b"x")
        supported(lambda: list(backend.list(self.prefix)))
        supported(lambda: backend.remove(self.make_key(0)))
        file = opened(1)
        write(backend, file, 0, b"longer")
        file.commit()
        found = {backend.canonical(stat.key): stat.size for stat in backend.list(self.prefix)}
        same(found, {backend.canonical(self.make_key(1)): 6, backend.canonical(self.make_key(2)): 1})

    @promise("list", rules.METHODS)
    def test_list_obeys_the_prefix(self, backend: Backend, opened: Opened) -> None:
        """`list(prefix)` returns exactly the objects whose keys begin with the prefix."""
        keys = [self.make_key(i) for i in range(12)]
        if not all(isinstance(key, str) for key in keys):
            skip("keys are not text")
        supported(lambda: list(backend.list(self.prefix)))
        for i in range(12):
            opened(i, b"x")
        prefix = str(keys[1])
        found = sorted(str(stat.key) for stat in backend.list(prefix))
        same(found, sorted(str(key) for key in keys if str(key).startswith(prefix)))
        same(list(backend.list(f"{self.prefix}no such prefix")), [])

    @promise("canonical", rules.ONE)
    def test_canonical_is_stable_and_keeps_objects_apart(self, backend: Backend, opened: Opened) -> None:
        """`canonical` returns one key for a name, whether or not the object exists, and others for other names."""
        before = [backend.canonical(self.make_key(i)) for i in range(3)]
        for i in range(3):
            opened(i, b"x")
        after = [backend.canonical(self.make_key(i)) for i in range(3)]
        same(after, before)
        same(len(set(after)), 3)
        same([backend.canonical(key) for key in after], after)

    @promise("identity", rules.ONE)
    def test_identity_belongs_to_the_object(self, backend: Backend, opened: Opened) -> None:
        """Every status of an object has its identity, under any name, and no other object has it."""
        keys = [self.make_key(i) for i in range(3)]
        file, other = opened(0, b"one"), opened(1, b"other")
        found = identity(file.stat())
        same([identity(backend.stat(keys[0])), identity(backend.open(keys[0]).stat())], [found, found])
        assert identity(other.stat()) != found, f"two objects have the identity {found!r}"
        write(backend, file, 0, b"more bytes")
        file.commit()
        same(identity(backend.stat(keys[0])), found)
        supported(lambda: backend.rename(keys[0], keys[2]))
        same([identity(backend.stat(keys[2])), identity(file.stat())], [found, found])
        listed = {backend.canonical(stat.key): stat for stat in supported(lambda: list(backend.list(self.prefix)))}
        same(identity(listed[backend.canonical(keys[2])]), found)

    @promise("identity", rules.ONE)
    @each("change", ["remove", "rename"])
    def test_open_file_never_reaches_another_object_of_its_name(
        self, backend: Backend, opened: Opened, unit: int, change: str
    ) -> None:
        """An open file never reads or changes another object that has its name now."""
        old, new = content(unit, 1), content(unit, 2)
        file = opened(0, old)
        found = identity(file.stat())
        if change == "remove":
            supported(lambda: backend.remove(self.make_key(0)))
            opened(0, new)
        else:
            opened(1, new)
            supported(lambda: backend.rename(self.make_key(1), self.make_key(0)))
        after = identity(backend.stat(self.make_key(0)))
        assert after != found, f"the object and its successor have the identity {found!r}"
        with suppress(OSError):
            got = read(backend, file, 0, unit)
            assert got != new, "a file that was open before reads the bytes of the new object"
        with suppress(OSError):
            write(backend, file, 0, content(unit, 3))
            file.commit()
        same(read(backend, opened(0), 0, unit), new)

    @promise("directories", rules.METHODS)
    def test_directories(self, backend: Backend) -> None:
        """`mkdir`, `rmdir` and `readdir` work, and open of a directory raises IsADirectoryError."""
        tree = namespace(backend)
        key = self.make_key(0)
        supported(lambda: tree.mkdir(key))
        same(backend.stat(key).kind, "dir")
        with raises(FileExistsError):
            tree.mkdir(key)
        with raises(IsADirectoryError):
            backend.open(key)
        same(list(tree.readdir(key)), [])
        tree.rmdir(key)
        with raises(FileNotFoundError):
            backend.stat(key)

    @promise("links", rules.ONE)
    def test_links(self, backend: Backend, opened: Opened) -> None:
        """Links work, and an object has one identity under all its names."""
        tree = namespace(backend)
        opened(0, b"linked")
        supported(lambda: tree.link(self.make_key(0), self.make_key(1)))
        target = os.path.relpath(str(self.make_key(0)), os.path.dirname(str(self.make_key(2))) or ".")
        supported(lambda: tree.symlink(target, self.make_key(2)))
        same(tree.readlink(self.make_key(2)), target)
        found = [backend.stat(self.make_key(i)).identity for i in range(3)]
        same(found, [found[0]] * 3)

    @promise("attributes", rules.METHODS)
    def test_attributes(self, backend: Backend, opened: Opened) -> None:
        """`setattr` changes the given attributes, and stat returns them."""
        tree = namespace(backend)
        opened(0, b"content")
        changed: ObjectStat = supported(lambda: tree.setattr(self.make_key(0), mode=0o640, mtime_ns=10**18))
        same((changed.mode, changed.mtime_ns), (0o640, 10**18))
        same(backend.stat(self.make_key(0)).mtime_ns, 10**18)

    # --------------------------------------------------------------------------------------- commit

    @promise("versions", rules.VERSIONS)
    def test_commit_returns_the_version_that_stat_gives(self, backend: Backend, opened: Opened) -> None:
        """`commit` returns the version that stat returns from then on, or None."""
        file = opened(0, b"content")
        version = file.commit()
        assert version is None or isinstance(version, str), f"commit answered {version!r}, which is no version"
        same(backend.stat(self.make_key(0)).version, version)
        same(file.stat().version, version)

    @promise("versions", rules.VERSIONS)
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

    @promise("commit", rules.COMMIT)
    def test_commit_can_be_repeated(self, backend: Backend, opened: Opened) -> None:
        """`commit` may be repeated without new bytes."""
        file = opened(0, b"content")
        for _ in range(3):
            file.commit()
        same(read(backend, file, 0, 10), b"content")

    @promise("publish by commit", rules.LIMITS)
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

    @promise("rollback", rules.COMMIT)
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

    @promise("sync", rules.METHODS)
    def test_sync_after_everything(self, backend: Backend, opened: Opened) -> None:
        """`sync` may be called at any time, and again."""
        opened(0, b"content")
        supported(backend.sync)
        supported(backend.sync)

    # --------------------------------------------------------------------------------------- side by side

    @promise("concurrent calls", rules.CONCURRENT)
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

    @promise("concurrent calls", rules.CONCURRENT)
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

    @promise("concurrent calls", rules.CONCURRENT)
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

    @promise("read and write", rules.REFLECT)
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
