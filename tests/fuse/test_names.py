"""Memory of the kernel's names: the size of each, that they are counted, bounded, and freed."""

from __future__ import annotations

import errno
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pagecache import Volume
from pagecache.fuse import Loop, Server, nodes
from pagecache.fuse.loop import ON_THE_WAY_S
from pagecache.fuse.namespace import namespace_of
from pagecache.fuse.nodes import Node, Nodes

from ..file.rig import Patch, Task, eventually, stored
from .mounts import Mounted, needs_mounts

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]
LONG = 60.0


def fill(store: Path, count: int) -> list[str]:
    names = [f"file{number:05}" for number in range(count)]
    for name in names:
        (store / name).touch()
    return names


def test_a_name_takes_less_than_a_kilobyte_and_gives_it_back(volume: Volume, store: Path) -> None:
    names = fill(store, 2000)
    server = Server(volume)
    server.forget(server.lookup(1, names[0]).number)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        numbers = [server.lookup(1, name).number for name in names]
        there = tracemalloc.get_traced_memory()[0] - before
        for number in numbers:
            server.forget(number)
        del numbers
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert there / len(names) < 800
    assert left < there / 2  # of tables, which `shrink` reduces if that pays
    assert len(server.nodes) == 1


def test_attributes_of_a_file_are_those_that_were_found(volume: Volume, store: Path) -> None:
    """Its attributes are kept in a packed form, also times before 1970 and sizes beyond 4 GiB."""
    (store / "a").write_bytes(b"a")
    os.truncate(store / "a", 5 << 32)
    os.utime(store / "a", ns=(-5, 1 << 62))
    server = Server(volume)
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDONLY)
    assert server.known(number) == server.getattr(number)
    found = server.node(number).seen
    assert found is not None
    assert (found.size, found.mtime_ns, found.atime_ns) == (5 << 32, 1 << 62, -5)
    server.release(fh)


def test_idle_names_beyond_the_bound_are_asked_for_once(monkeypatch: Patch) -> None:
    """The oldest first, none that is open or has entries; again when the table has grown by an eighth."""
    monkeypatch.setattr(nodes, "NAMES_MAX", 80)
    table = Nodes()
    found: list[Node] = [table.found(table.root, f"f{number}", "file") for number in range(79)]
    assert table.idle() == []
    assert not table.is_crowded()
    directory = table.found(table.root, "d", "dir")
    table.found(directory, "x", "file")
    assert table.is_crowded()
    table.opened(found[0], 1)
    assert table.idle() == [node.number for node in found[1:13]]
    assert table.idle() == []
    for number in range(11):
        table.found(table.root, f"g{number}", "file")
    assert len(table.idle()) == 23
    for node in found:
        table.forget(node.number, 1)
    assert len(table) == 1 + 1 + 2 + 11  # the root, the open file, the directory and its entries, the last ones


def test_a_kernel_that_forgets_nothing_is_asked_once(monkeypatch: Patch) -> None:
    """Older kernels refuse the request; the mount goes on."""
    monkeypatch.setattr(nodes, "NAMES_MAX", 8)
    table, sent = Nodes(), list[bytes]()

    def refuse(message: bytes) -> None:
        sent.append(message)
        raise OSError(errno.EINVAL, "no such message")

    found = list[Node]()
    for number in range(100):
        found.append(table.found(table.root, f"f{number}", "file"))
        table.prune(refuse)
    for node in found[7:]:
        table.forget(node.number, 1)
    table.found(table.root, "again", "file")
    assert not table.is_crowded()
    assert len(sent) == 1


def test_a_server_with_an_open_of_its_own_is_served(volume: Volume, store: Path, mnt: Path) -> None:
    """It need not know which calls come again. The loop says how long the kernel keeps a name."""
    (store / "a").write_bytes(b"content")
    opened: list[int] = []

    class Own(Server):
        def open(self, number: int, flags: int) -> tuple[int, bool]:  # type: ignore[override]
            opened.append(number)
            return super().open(number, flags)

    server = Own(volume)
    with Loop(server, mnt, entry_timeout=5.0, timeout=LONG):
        assert (mnt / "a").read_bytes() == b"content"
        assert opened == [server.lookup(1, "a").number]
        assert server.nodes.kept_s == 5.0 + ON_THE_WAY_S


def test_nodes_that_are_forgotten_at_once_are_one_request(volume: Volume, store: Path, mnt: Path) -> None:
    """A node that cannot be forgotten stops no other."""
    names = fill(store, 300)
    go_on, forgotten = threading.Event(), list[int]()

    class Slow(Server):
        def forget(self, number: int, times: int = 1) -> None:
            assert go_on.wait(LONG)
            super().forget(number, times)
            forgotten.append(number)
            if len(forgotten) == 1:
                raise ZeroDivisionError

    server = Slow(volume)
    with Loop(server, mnt, timeout=LONG) as loop:
        for name in names:
            os.stat(mnt / name)
        asked = loop.counts()["asked"]
        for name in names:
            loop.invalidate_entry(1, name)
        eventually(lambda: loop.counts()["forgets"] == len(names))
        assert loop.counts()["asked"] == asked + 1
        go_on.set()
        assert loop.drain(LONG)
        assert len(forgotten) == len(names)
        assert len(server.nodes) == 1


def test_a_mount_asks_the_kernel_to_forget_names_that_no_process_uses(tmp_path: Path, store: Path) -> None:
    """The kernel supports this from Linux 6.18 on; every name is found as before, open files go on."""
    names = fill(store, 400)
    (store / names[0]).write_bytes(b"zero")
    with Mounted(tmp_path / "m", "tests.fuse.below:few_names", "--option", f"root={store}") as mounted:
        with (mounted.path / names[0]).open("rb", buffering=0) as file:
            for name in names:
                assert (mounted.path / name).stat().st_size == (4 if name == names[0] else 0)
            release = tuple(int(part) for part in os.uname().release.split(".")[:2])
            if release >= (6, 18):
                eventually(lambda: mounted.number("mounted_names") <= 100 + 100 // 8)
            assert file.read() == b"zero"
        for name in names:
            (mounted.path / name).unlink()
        assert os.listdir(store) == []
        eventually(lambda: mounted.number("mounted_names") == 1)


@pytest.mark.parametrize(("call", "times"), [("lstat", 1), ("lstat", 2), ("readdir", 1)])
def test_the_size_of_a_file_that_is_saved_beside_a_look_is_not_older_than_its_bytes(
    volume: Volume, monkeypatch: Patch, call: str, times: int
) -> None:
    """The store is asked, a file comes to its name and is written back, and then the answer arrives; perhaps twice."""
    stored(volume, "a", b"former", "xb")
    namespace, files = namespace_of(volume), [volume.open(f"new{number}", "xb") for number in range(times)]
    for file in files:
        file.write(b"whole file")
    real, coming, here = getattr(volume.engine.backend, call), [*enumerate(files)], threading.get_ident()

    def beside(key: str) -> Any:
        if not coming or threading.get_ident() != here:
            return real(key)
        number, file = coming.pop(0)
        Task(volume.rename, f"new{number}", "a").result()
        found = list(real(key)) if call == "readdir" else real(key)
        Task(file.fsync).result()
        return found

    monkeypatch.setattr(volume.engine.backend, call, beside)
    found = namespace.status("a") if call == "lstat" else dict(namespace.entries(""))["a"]
    assert (found.size, coming) == (10, [])
    for file in files:
        file.close()


def test_the_size_by_a_new_name_is_that_of_another_program_s_change(volume: Volume, store: Path) -> None:
    (store / "a").write_bytes(b"former")
    with volume.open("a") as file:
        assert file.read() == b"former"
    os.link(store / "a", store / "b")
    (store / "a").write_bytes(b"longer by another program")
    assert namespace_of(volume).status("b").size == 25
