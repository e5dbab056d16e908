"""The server behind a mount, without a kernel: numbers, names that move, listings that meet changes."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from pagecache import PageCache
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.protocol import ObjectStat, close_backend_file
from pagecache.engine.commit.versions import Versions
from pagecache.fuse import Server, callers, moving
from pagecache.fuse.answers import Answers
from pagecache.fuse.attributes import Attributes, Owner
from pagecache.fuse.callers import NONE, Callers
from pagecache.fuse.files import OpenFile
from pagecache.fuse.server import Listing
from pagecache.testing import FaultyBackend, Gate, Rule
from pagecache.volume import lifetimes
from pagecache.volume.inode import Inode

from ..file.rig import Patch, Task, beside, raises, raising
from ..stores import ObjectBackend, ObjectFile
from .mounts import code

CREATE = os.O_RDWR | os.O_CREAT
T = TypeVar("T")


class Mount(Server):
    """A server without a kernel: of a directory with `a`, and `b` in `d`.

    one, two, three     threads of programs that make calls
    """

    def __init__(self, root: Path, cache: PageCache) -> None:
        self.faulty, self.root = FaultyBackend(DirectoryBackend(root)), root
        super().__init__(cache.attach(self.faulty))
        callers = Callers()
        self.one, self.two, self.three = (Program(self, callers, thread) for thread in (11, 12, 13))

    def replace(self, *names: str) -> None:
        """Another program gives names to new files."""
        for name in names:
            (self.root / "next").write_bytes(b"new")
            os.rename(self.root / "next", self.root / name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Mount]:
    (tmp_path / "d").mkdir()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "d" / "b").write_bytes(b"bb")
    with PageCache("1MiB") as cache:
        server = Mount(tmp_path, cache)
        yield server
        server.close()


@pytest.mark.parametrize("call", ["lookup", "readdir", "stat"])
def test_a_file_that_is_freed_beside_its_status_has_its_size(
    server: Mount, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    volume = server.volume
    owner, name = {"lookup": (Versions, "quiet"), "readdir": (Inode, "has_local"), "stat": (Inode, "extent")}[call]
    at = getattr(owner, name)
    with volume.open("a", "r+b") as file:
        file.pwrite(b"new", 0)
        inode = file._inode
        if call == "lookup":
            file.fsync()

    def free(self: Any, *args: Any) -> Any:
        found = at(self, *args)
        if not inode.freed and (self is inode or getattr(self, "_file", None) is inode):
            monkeypatch.setattr(owner, name, at)
            volume.sync()
            with monkeypatch.context() as patch:
                patch.setattr(lifetimes, "hollow_max", lambda _capacity: 0)
                volume.drop_clean()
                lifetimes.prune(volume)
            assert inode.freed
        return found

    monkeypatch.setattr(owner, name, free)
    if call == "lookup":
        size = server.lookup(1, "a").size
    elif call == "readdir":
        size = next(entry.size for name, entry in server.names.entries("") if name == "a")
    else:
        size = volume.stat("a").size
    assert (size, inode.freed) == (3, True)


def test_a_number_lives_until_it_is_forgotten_as_often_as_it_was_returned(server: Mount) -> None:
    """It stays the same when the file is looked up again."""
    number = server.lookup(1, "a").number
    assert server.lookup(1, "a").number == number
    server.forget(number)
    assert server.getattr(number).size == 1
    server.forget(number)
    assert code(server.getattr, number) == errno.ESTALE
    assert server.lookup(1, "a").number == number
    server.forget(number)
    assert len(server.nodes) == 1


def test_a_directory_lives_as_long_as_what_is_in_it(server: Mount) -> None:
    directory = server.lookup(1, "d").number
    inner = server.lookup(directory, "b").number
    server.forget(directory)
    assert server.getattr(inner).size == 2
    server.forget(inner)
    assert len(server.nodes) == 1


def test_an_open_file_keeps_its_number(server: Mount) -> None:
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDWR)
    server.forget(number)
    server.unlink(1, "a")
    assert server.getattr(number).nlink == 0
    server.release(fh)
    assert len(server.nodes) == 1


@pytest.mark.parametrize("call", ["open", "link", "lookup"])
def test_a_call_that_ends_late_takes_no_number_from_the_next_node_that_has_it(
    server: Mount, monkeypatch: Patch, call: str
) -> None:
    """The kernel had its answer at the deadline, has forgotten the nodes since, and has found them again."""
    known = {name: server.lookup(1, name).number for name in ("d", "a")}

    def forget_and_find() -> None:
        for name, number in known.items():
            server.forget(number)
            assert server.lookup(1, name).number == number

    if call == "open":
        beside(monkeypatch, server.files, "open_file", forget_and_find)
        server.release(server.open(known["a"], os.O_RDONLY)[0])
    elif call == "lookup":
        beside(monkeypatch, server.names, "status", forget_and_find)
        server.forget(server.lookup(known["d"], "b").number)
    else:
        beside(monkeypatch, server.names, "link", forget_and_find)
        assert code(server.link, known["a"], 1, "c") == errno.ESTALE
        assert server.lookup(1, "c").number == known["a"]
        server.forget(known["a"])
    assert [server.getattr(number).number for number in known.values()] == list(known.values())
    for number in known.values():
        server.forget(number)
        assert code(server.getattr, number) == errno.ESTALE
    assert len(server.nodes) == 1


def test_listed_entries_count_as_returned(server: Mount) -> None:
    listing = server.opendir(1)
    assert sorted(name for name, _ in listing.entries) == ["a", "d"]
    numbers = [found.number for index in range(2) if (found := server.entry(listing, index)) is not None]
    assert len(server.nodes) == 3
    for number in numbers:
        server.forget(number)
    assert len(server.nodes) == 1


def test_the_second_open_of_a_file_without_a_name_counts_as_a_handle(server: Mount) -> None:
    """Its release takes one away. [I-30]"""
    volume, number = server.files.volume, server.lookup(1, "a").number
    opened = [server.open(number, os.O_RDONLY)[0]]
    server.unlink(1, "a")
    opened.append(server.open(number, os.O_RDONLY)[0])
    for left in (2, 1, 0):
        volume.cache.check()
        assert volume.handles == left
        if left:
            server.release(opened.pop())


@pytest.mark.parametrize("taker", ["unlink", "rename over it", "rename it"])
def test_an_open_that_came_first_finds_the_file_that_its_name_stood_for(
    server: Mount, monkeypatch: Patch, taker: str
) -> None:
    """Otherwise it may fail twice, and the kernel looks the path up again only once."""
    monkeypatch.setattr(moving, "OPEN_TIMEOUT_S", 60.0)
    directory, number = server.lookup(1, "d").number, server.lookup(1, "a").number
    take: Callable[[], None] = {
        "unlink": lambda: server.unlink(1, "a"),
        "rename over it": lambda: server.rename(directory, "b", 1, "a"),
        "rename it": lambda: server.rename(1, "a", directory, "c"),
    }[taker]
    gate = Gate()
    beside(monkeypatch, server.files, "open_file", gate.enter, after=True)
    opening = Task(server.open, number, os.O_RDONLY)
    gate.wait_entered()
    taking = Task(take)
    assert taking.waits()  # for the open
    gate.release()
    fh, _ = opening.result()
    taking.result()
    assert server.files.read(fh, 0, 9) == b"a"


def test_a_listing_does_not_report_the_size_that_a_file_had_before_it_was_closed(
    server: Mount, monkeypatch: Patch
) -> None:
    """The kernel would cut the file to it. It is open when the entry is read, and closed a moment later."""
    number = server.lookup(1, "a").number
    listing = server.opendir(1)
    index = [name for name, _ in listing.entries].index("a")
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"longer")
    beside(monkeypatch, server, "_opened", lambda: server.release(fh), after=True)
    told = server.entry(listing, index)
    now = server.entry_now(listing, index)
    assert told is None
    assert now is not None
    assert now.size == 6


@pytest.mark.parametrize("change", [{"size": 3}, {"mtime_ns": 5 * 10**9}], ids=["size", "times"])
def test_attributes_are_set_beside_the_release_of_what_was_open(
    server: Mount, monkeypatch: Patch, change: dict[str, int]
) -> None:
    """A program that closes a file and sets its times overtakes the release, for which no program waits."""
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"longer")
    beside(monkeypatch, server, "_opened", lambda: server.release(fh), after=True)
    told = server.setattr(number, change)
    server.volume.sync()
    found = (server.root / "a").stat()
    assert told.size == found.st_size == change.get("size", 6)
    assert told.mtime_ns == found.st_mtime_ns == change.get("mtime_ns", told.mtime_ns)


def test_numbers_follow_renames(server: Mount) -> None:
    directory, file = server.lookup(1, "d").number, server.lookup(1, "a").number
    inner = server.lookup(directory, "b").number
    server.rename(1, "d", 1, "e")
    server.rename(1, "a", directory, "b")
    assert server.nodes.key(server.node(file)) == "e/b"
    assert code(server.getattr, inner) == errno.ESTALE
    new = server.mkdir(1, "d", 0o755)
    assert new.number != directory


@pytest.mark.parametrize("cached", [False, True])
def test_an_open_finds_no_other_object_in_a_store_that_compares_none(monkeypatch: Patch, cached: bool) -> None:
    """The names have moved after the kernel's look. The objects of such a store have identities, too."""
    monkeypatch.setattr(moving, "OPEN_TIMEOUT_S", 0.01)
    with PageCache("1MiB") as cache:
        server = Server(cache.attach(MemoryBackend()))
        numbers = {}
        for name in ("a", "b"):
            fh, made = server.create(1, name, 0o600, CREATE)
            server.files.write(fh, 0, name.encode())
            numbers[name] = made.number
            server.flush(fh)
            server.release(fh)
        if not cached:
            for backend_file in server.volume.engine.take_idle(0):
                close_backend_file(backend_file)

        def move() -> None:
            server.rename(1, "a", 1, "c")
            server.rename(1, "b", 1, "a")

        beside(monkeypatch, server.files, "open_file", move)
        fh, _ = server.open(numbers["a"], os.O_RDONLY)
        assert server.files.read(fh, 0, 10) == b"a"
        server.release(fh)
        server.close()


def test_a_name_that_is_gone_is_looked_up_again(server: Mount) -> None:
    """An older listing may have it: ESTALE makes the kernel look once more, where ENOENT is an error."""
    listing = server.opendir(1)
    assert listing.certain()
    gone = server.lookup(1, "a").number
    server.unlink(1, "a")
    assert not listing.certain()
    assert code(server.open, gone, os.O_RDWR) == errno.ESTALE
    assert code(server.getattr, gone) == errno.ESTALE
    assert code(server.lookup, 1, "a") == errno.ENOENT
    listing = server.opendir(1)
    assert listing.certain()
    assert [name for name, _ in listing.entries] == ["d"]


def place(listing: Listing, name: str) -> int:
    return [entry for entry, _ in listing.entries].index(name)


def now(server: Server, listing: Listing, name: str) -> Attributes:
    found = server.entry_now(listing, place(listing, name))
    assert found is not None
    return found


def test_a_listing_that_meets_a_close_reports_no_old_size(server: Mount, monkeypatch: Patch) -> None:
    """The close comes before, amid and after it: the handle reports the size, or the store is asked."""
    number = server.lookup(1, "a").number
    listing = server.opendir(1)
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"longer")
    server.flush(fh)
    release, sizes = server.files.release, list[int | None]()

    def look() -> None:
        found = server.entry(listing, place(listing, "a"))
        sizes.append(None if found is None else found.size)

    def released(number: int) -> None:
        look()
        release(number)
        look()

    monkeypatch.setattr(server.files, "release", released)
    server.release(fh)
    look()
    assert sizes == [6, None, None]
    assert now(server, listing, "a").size == 6


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_listing_reports_no_size_from_before_a_change_of_a_closed_file(server: Mount, forgotten: bool) -> None:
    """The kernel would cut the file to it. It may have forgotten the file since; and the store may refuse the look."""
    listing = server.opendir(1)
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"longer")
    server.flush(fh)
    server.release(fh)
    if forgotten:
        server.forget(number, 1)
    assert server.entry(listing, place(listing, "a")) is None
    server.faulty.use([Rule("stat", error=errno.EACCES)])
    alone = now(server, listing, "a")
    assert (alone.number, alone.nlink) == (number, 0)  # the kernel gets the name alone
    server.faulty.use([])
    if not forgotten:
        server.forget(number, 1)
    assert server.nodes.child(server.node(1), "a") is None  # that was no lookup


def test_a_listing_that_meets_a_rename_reports_nothing_of_the_replaced_file(server: Mount) -> None:
    made, _ = server.create(1, "new", 0o600, os.O_RDWR)
    server.files.write(made, 0, b"renamed")
    server.flush(made)
    server.release(made)
    listing = server.opendir(1)
    server.rename(1, "new", 1, "a")
    assert server.entry(listing, place(listing, "a")) is None
    assert now(server, listing, "a").size == 7
    assert server.entry(listing, place(listing, "new")) is None
    assert server.entry_now(listing, place(listing, "new")) is None  # gone: the kernel gets no such name


def test_a_listing_that_meets_another_kind_of_thing_under_its_name(server: Mount) -> None:
    """The object that has the name now keeps its number."""
    listing = server.opendir(1)
    server.unlink(1, "a")
    made = server.mkdir(1, "a", 0o700)
    assert server.entry(listing, place(listing, "a")) is None
    assert now(server, listing, "a").number == made.number
    assert stat.S_ISDIR(server.getattr(made.number).mode)


def test_a_look_that_meets_the_end_of_its_name_looks_again(server: Mount, monkeypatch: Patch) -> None:
    """The kernel would keep a name that is gone, and get ESTALE from it."""
    beside(monkeypatch, server.names, "status", lambda: server.rename(1, "a", 1, "other"), after=True)
    assert code(server.lookup, 1, "a") == errno.ENOENT
    assert server.lookup(1, "other").size == 1


def waits_for(call: Callable[[], object], meanwhile: Callable[[], object]) -> None:
    """Make a call that waits until the other one has been made."""
    calling = Task(call)
    assert calling.waits()
    meanwhile()
    calling.result()


@pytest.fixture
def patient(monkeypatch: Patch) -> None:
    """Calls that take names away wait for a minute."""
    for name in ("OPEN_TIMEOUT_S", "RETURN_TIMEOUT_S"):
        monkeypatch.setattr(moving, name, 60.0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["rename", "unlink"])
def test_an_open_that_came_too_late_finds_its_file_when_it_comes_again(server: Mount, how: str) -> None:
    """A second rename or removal of the name waits for it: the kernel begins anew only once."""
    (server.root / "c").write_bytes(b"ccc")
    number, directory = server.lookup(1, "a").number, server.lookup(1, "d").number
    server.rename(directory, "b", 1, "a")
    assert code(server.one.open, number) == errno.ESTALE
    number, read = server.one.lookup("a"), list[bytes]()
    take = partial(server.rename, 1, "c", 1, "a") if how == "rename" else partial(server.unlink, 1, "a")
    waits_for(take, lambda: read.append(server.one.read(number)))
    assert read == [b"bb"]


@pytest.mark.usefixtures("patient")
def test_a_file_that_lost_another_name_keeps_the_one_that_an_open_comes_back_for(server: Mount) -> None:
    """It is still open, so its first open may come by a name that was taken. [2.20]"""
    number, directory = server.lookup(1, "a").number, server.lookup(1, "d").number
    server.link(number, 1, "other")
    fh, _ = server.open(number, os.O_RDONLY)
    server.unlink(1, "other")
    server.release(fh)
    assert code(server.one.open, number) == errno.ESTALE
    number, read = server.one.lookup("a"), list[bytes]()
    waits_for(lambda: server.rename(directory, "b", 1, "a"), lambda: read.append(server.one.read(number)))
    assert read == [b"a"]


def test_an_open_that_comes_back_while_its_name_is_elsewhere_is_no_first_try(server: Mount) -> None:
    """The kernel repeats a lookup that found nothing, once the rename has ended that it ran beside."""
    number = server.lookup(1, "a").number
    server.link(number, 1, "other")
    server.open(number, os.O_RDONLY)
    server.unlink(1, "other")
    assert code(server.one.open, number) == errno.ESTALE
    server.rename(1, "a", 1, "moved")
    assert code(server.one.lookup, "a") == errno.ENOENT
    server.rename(1, "moved", 1, "a")
    assert server.one.read(server.one.lookup("a")) == b"a"


def test_a_thread_that_is_late_comes_for_another_call(
    server: Mount, monkeypatch: Patch, taken: tuple[int, int]
) -> None:
    """Its lookups keep no name, and its next failure is a first one."""
    number, _ = taken
    monkeypatch.setattr(callers, "AGAIN_S", 0.0)
    assert code(server.one.open, number) == errno.ESTALE
    server.one.lookup("a")
    assert not server._moving._awaited
    monkeypatch.undo()
    late = Callers()
    late.failed(11, "open", number, stale=True, again=False)
    late._callers[11].until = 0.0
    late.failed(11, "getattr", NONE, stale=True, again=False)
    assert late.knows(11)
    assert code(server.one.open, number) == errno.ESTALE
    assert server.one.read(number) == b"a"


@pytest.mark.parametrize("op", ["release", "write"])
def test_an_open_that_comes_back_is_no_first_try_after_a_request_that_was_on_its_way(
    server: Mount, op: str, taken: tuple[int, int]
) -> None:
    """The kernel waits for no release, and for no write of its pages: the thread is in its next call since."""
    number, _ = taken
    for fails in (False, True):
        assert code(server.one.open, number) == errno.ESTALE
        assert code(server.one.late, op, fails) == (errno.ESTALE if fails else None)
        assert server.one.read(number) == b"a"


@pytest.mark.usefixtures("patient")
def test_a_lookup_that_comes_back_waits_for_the_call_that_takes_the_name_away(server: Mount) -> None:
    """Otherwise it would lead to the file that is about to lose the name."""
    (server.root / "c").write_bytes(b"ccc")
    number, directory = server.lookup(1, "a").number, server.lookup(1, "d").number
    server.rename(directory, "b", 1, "a")
    assert code(server.one.open, number) == errno.ESTALE
    found: list[int] = []
    with Gate() as gate:
        server.faulty.use([Rule("rename", gate=gate)])
        renaming = Task(server.rename, 1, "c", 1, "a")
        gate.wait_entered()
        waits_for(lambda: found.append(server.one.lookup("a")), gate.release)
        renaming.result()
    assert server.one.read(found[0]) == b"ccc"


class Replies:
    """A loop that records the codes of replies."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def reply_error(self, _token: int, code: int) -> None:
        self.codes.append(code)

    def done(self, token: int) -> None:
        """Do nothing."""

    def __getattr__(self, _name: str) -> Callable[..., bool]:
        return lambda *_: not self.codes.append(0)  # type: ignore[func-returns-value]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("then", ["its second try", "its own unlink", "another call", "nothing there", "a directory"])
def test_the_requests_of_a_thread_keep_a_name_from_its_lookup_to_its_call(server: Mount, then: str) -> None:
    """Then another program takes the name at once. The thread may also come for something else, or fail before."""
    replies: Any = Replies()
    answers = Answers(replies, server, None)
    number, directory = server.lookup(1, "a").number, server.lookup(1, "d").number

    def ask(op: str, number: int, **fields: Any) -> int:
        request: Any = SimpleNamespace(op=op, number=number, thread=11, token=1, fh=None, again=False, **fields)
        answers.answer(request)
        last: int = replies.codes[-1]
        return last

    server.rename(directory, "b", 1, "a")
    assert ask("setattr", number, changes={"size": 1}) == errno.ESTALE
    assert ask("lookup", 1, name="a") == 0
    assert len(server._moving._awaited) == 1
    if then == "its second try":
        assert ask("setattr", server.lookup(1, "a").number, changes={"size": 1}) == 0
    elif then == "another call":
        assert ask("opendir", 1) == 0
    elif then == "nothing there":
        assert ask("lookup", 1, name="none") == errno.ENOENT
    elif then == "a directory":
        assert ask("lookup", 1, name="d") == 0
    if then == "its own unlink":
        assert ask("unlink", 1, name="a") == 0
    else:
        server.unlink(1, "a")
    assert not server._moving._awaited


@pytest.mark.usefixtures("patient")
def test_an_open_of_an_unknown_thread_that_came_too_late_may_come_back_by_each_name(
    server: Mount, monkeypatch: Patch
) -> None:
    """The names that the file has, and the one that it lost last. A call that takes one of them away waits a moment,
    and no longer: the program may have been killed.
    """
    monkeypatch.setattr(moving, "RETURN_TIMEOUT_S", 0.5)
    number = server.lookup(1, "a").number
    server.link(number, 1, "other")
    server.unlink(1, "a")
    gate = server.names.status

    def lost(key: str) -> ObjectStat:
        raise OSError(errno.ESTALE, "taken", key)

    monkeypatch.setattr(server.names, "status", lost)
    monkeypatch.setattr(server.files, "open_file", lambda key, flags: lost(key))
    assert code(server.open, number, os.O_RDONLY) == errno.ESTALE
    monkeypatch.setattr(server.names, "status", gate)
    assert {name for (_, name), _ in server._moving._awaited.values()} == {"a", "other"}
    waits_for(lambda: server.unlink(1, "other"), lambda: None)


@pytest.mark.parametrize("how", ["rename", "create", "behind"])
def test_a_name_has_the_size_of_the_file_that_has_it_now(server: Mount, how: str) -> None:
    """The file that had it before is open, with unsaved bytes, and has another name, or none. [2.20]"""
    held = server.volume.open("a", "r+b")
    held.pwrite(b"x" * 100, 0)
    if how == "behind":
        os.replace(server.root / "d" / "b", server.root / "a")
    else:
        server.link(server.lookup(1, "a").number, 1, "backup")
    if how == "rename":
        server.rename(server.lookup(1, "d").number, "b", 1, "a")
    elif how == "create":
        server.unlink(1, "a")
        (server.root / "a").write_bytes(b"bb")
    size = 2
    for _ in range(2):
        assert server.lookup(1, "a").size == server.names.status("a").size == size
        assert dict(server.names.entries(""))["a"].size == size
        with server.volume.open("a", "r+b") as file:
            assert file.pread(200, 0)[:2] == b"bb"
            file.pwrite(b"c", 50)
            size = 51
            assert server.names.status("a").size == dict(server.names.entries(""))["a"].size == size
    if how != "behind":
        assert server.lookup(1, "backup").size == dict(server.names.entries(""))["backup"].size == 100
    held.close()


def test_a_name_that_is_replaced_during_its_lookup_has_no_size_of_another_file(
    server: Mount, monkeypatch: Patch
) -> None:
    """Another program replaces it when the cache has found its file, and has not asked the store yet. [2.20]"""
    held = server.volume.open("a", "r+b")
    held.pwrite(b"x" * 100, 0)
    beside(monkeypatch, DirectoryBackend, "lstat", lambda: os.replace(server.root / "d" / "b", server.root / "a"))
    assert server.names.status("a").size == 2
    held.close()


def told_beside_a_rename(server: Mount, source: tuple[int, str], call: Callable[[], object]) -> int | None:
    """Let a call wait until a rename to `a` has ended, and return its answer."""
    with Gate() as gate:
        server.faulty.use([Rule("rename", gate=gate)])
        renaming = Task(server.rename, *source, 1, "a")
        gate.wait_entered()
        calling = Task(code, call)
        assert calling.waits()
        gate.release()
        renaming.result()
        return calling.result()


@pytest.mark.parametrize("late", [False, True], ids=["in time", "too late"])
def test_an_open_is_answered_when_no_call_takes_its_name_away(server: Mount, late: bool) -> None:
    """Otherwise it would come again while the next rename runs, and find the object that is about to lose its name."""
    (server.root / "c").write_bytes(b"ccc")
    number, directory = server.lookup(1, "a").number, server.lookup(1, "d").number
    if late:
        server.rename(directory, "b", 1, "a")
    assert told_beside_a_rename(server, (1, "c"), lambda: server.open(number, os.O_RDONLY)) == errno.ESTALE
    found = server.lookup(1, "a")
    assert found.size == 3
    server.open(found.number, os.O_RDONLY)


def test_times_of_an_open_file_never_go_to_what_replaces_it(server: Mount) -> None:
    """They are set while the rename runs: the file has no name when it is over, and its open descriptors see them."""
    directory, number = server.lookup(1, "d").number, server.lookup(1, "a").number
    server.open(number, os.O_RDONLY)
    before = os.stat(server.root / "d" / "b").st_mtime_ns
    changes = {"mtime_ns": 5 * 10**9}
    assert told_beside_a_rename(server, (directory, "b"), lambda: server.setattr(number, changes)) is None
    assert os.stat(server.root / "a").st_mtime_ns == before
    assert server.getattr(number).mtime_ns == 5 * 10**9


def test_names_that_opens_came_too_late_for_are_not_remembered_forever(server: Mount, monkeypatch: Patch) -> None:
    monkeypatch.setattr(moving, "RETURN_TIMEOUT_S", -1.0)
    for index in range(5):
        (server.root / f"f{index}").write_bytes(b"")
        number = server.lookup(1, f"f{index}").number
        server.unlink(1, f"f{index}")
        assert code(server.open, number, os.O_RDONLY) == errno.ESTALE
    assert len(server._moving._awaited) == 1


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_new_object_is_given_to_its_maker_and_no_other(server: Mount, monkeypatch: Patch, kind: str) -> None:
    """Another program puts an old object under the name of a new one before that gets its mode."""
    old = server.root / "old"
    if kind == "file":
        old.write_bytes(b"private")
    else:
        old.mkdir()
        (old / "file").write_bytes(b"private")
    old.chmod(0o700)

    def swap() -> None:
        os.rename(server.root / "new", server.root / "aside")
        os.rename(old, server.root / "new")

    beside(monkeypatch, server.files, "open_file", swap, after=True)
    beside(monkeypatch, server.names, "mkdir", swap, after=True)
    made = code(server.create, 1, "new", 0o666, os.O_RDWR) if kind == "file" else code(server.mkdir, 1, "new", 0o777)
    assert made == errno.ESTALE
    assert stat.S_IMODE((server.root / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["folder", "fifo"])
@pytest.mark.parametrize("by", ["mode", "owner", "owner of a user's mount"])
def test_a_new_object_may_have_a_mode_and_an_owner_of_its_store(
    server: Mount, monkeypatch: Patch, kind: str, by: str
) -> None:
    """As on SMB, vfat, NFS with all_squash. An object that another program has put there may look the same, so it is
    not given away; a user's mount can change only what the store lets it.
    """
    if by != "mode" and os.geteuid() != 0:
        pytest.skip("only root can set another owner")
    new = server.root / "new"
    call, bits = (server.mkdir, 0) if kind == "folder" else (server.mknod, stat.S_IFIFO)

    def set_by_store() -> None:
        new.chmod(0o755 if by == "mode" else 0o700)
        if by != "mode":
            os.chown(new, 12, 34)

    if by == "owner of a user's mount":
        monkeypatch.setattr(os, "geteuid", lambda: 56)
    for mode in (0o755, 0o700, 0o777):
        beside(monkeypatch, server.names, "mkdir" if kind == "folder" else "mknod", set_by_store, after=True)
        made = call(1, "new", bits | mode, None if by == "mode" else Owner(56, 78))
        found = new.stat()
        assert (made.mode, made.uid, made.gid) == (found.st_mode, found.st_uid, found.st_gid)
        assert stat.S_IMODE(found.st_mode) == {"mode": 0o755, "owner": 0o700}.get(by, mode)
        assert by == "mode" or (found.st_uid, found.st_gid) == (12, 34)
        (server.rmdir if kind == "folder" else server.unlink)(1, "new")


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_made_in_a_directory_that_is_renamed_is_made_once(server: Mount, monkeypatch: Patch, kind: str) -> None:
    """The rename comes behind the making, before the new object gets its mode. Linux 6.8 and newer do not lock a
    directory that is renamed within its parent.
    """
    directory = server.lookup(1, "d").number
    beside(monkeypatch, server.names, "setattr" if kind == "file" else "status", lambda: server.rename(1, "d", 1, "e"))
    made = server.root / "e" / "new"
    if kind == "file":
        fh, _ = server.create(directory, "new", 0o640, os.O_WRONLY | os.O_EXCL)
        server.files.write(fh, 0, b"new")
        server.release(fh)
        assert made.read_bytes() == b"new"
    elif kind == "folder":
        server.mkdir(directory, "new", 0o755)
    else:
        server.symlink(directory, "new", "target")
        assert os.readlink(made) == "target"
    assert stat.S_IMODE(made.lstat().st_mode) == {"file": 0o640, "folder": 0o755, "link": 0o777}[kind]
    assert not (server.root / "d").exists()


def test_a_file_that_another_program_has_just_made_is_not_opened_unchecked(server: Mount) -> None:
    (server.root / "foreign").write_bytes(b"private")
    assert code(server.create, 1, "foreign", 0o666, os.O_RDWR) == errno.ESTALE


def test_an_object_has_one_number_under_all_its_names_and_another_object_another(server: Mount) -> None:
    os.link(server.root / "a", server.root / "second")
    number = server.lookup(1, "a").number
    assert server.lookup(1, "second").number == number
    (server.root / "other").write_bytes(b"another object")
    os.rename(server.root / "other", server.root / "a")
    assert server.lookup(1, "a").number != number
    fh, _ = server.open(number, os.O_RDONLY)  # by its second name
    assert server.files.read(fh, 0, 100) != b"another object"


class Program:
    """A thread of a program: its calls, as the loop makes them."""

    def __init__(self, server: Server, callers: Callers, thread: int) -> None:
        self._server, self._callers, self._thread = server, callers, thread

    def _call(self, op: str, number: int, call: Callable[[bool], T]) -> T:
        comes_back = self._callers.knows(self._thread)
        again = self._callers.comes(self._thread, op, number)
        try:
            return call(again)
        except OSError as error:
            stale = error.errno == errno.ESTALE
            number = number if op in ("open", "truncate") else NONE
            self._callers.failed(self._thread, op, number, stale=stale, again=again)
            raise
        finally:
            if comes_back and not self._callers.knows(self._thread):
                self._server.came(self._thread)

    def lookup(self, name: str, parent: int = 1) -> int:
        caller = self._thread if self._callers.knows(self._thread) else 0
        found = self._call("lookup", parent, lambda again: self._server.lookup(parent, name, caller))
        passing = stat.S_IFMT(found.mode) in (stat.S_IFDIR, stat.S_IFLNK)
        self._callers.found(self._thread, found.number, passing=passing)
        return found.number

    def getattr(self, number: int) -> Attributes:
        return self._call("getattr", number, lambda again: self._server.getattr(number))

    def open(self, number: int, flags: int = os.O_RDONLY) -> int:
        return self._call("open", number, lambda again: self._server.open(number, flags, again)[0])

    def opendir(self, number: int) -> Listing:
        return self._call("opendir", number, lambda again: self._server.opendir(number))

    def truncate(self, number: int, size: int, fh: int | None = None) -> int:
        op = "truncate" if fh is None else "ftruncate"
        return self._call(op, number, lambda again: self._server.setattr(number, {"size": size}, fh, again)).size

    def late(self, op: str, fails: bool) -> None:
        def end(_again: bool) -> None:
            if fails:
                raise OSError(errno.ESTALE, "gone")

        self._call(op, NONE, end)

    def chmod(self, number: int) -> None:
        self._call("chmod", number, lambda again: self._server.setattr(number, {"mode": 0o600}, None, again))

    def read(self, number: int) -> bytes:
        fh = self.open(number)
        found = self._server.files.read(fh, 0, 100)
        self._server.release(fh)
        return found


@pytest.fixture
def taken(server: Mount) -> Iterator[tuple[int, int]]:
    """A file that is open, and whose name another program has given to another file: its number, and the handle."""
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDWR)
    server.replace("a")
    yield number, fh
    server.release(fh)


def test_every_thread_that_comes_by_a_name_that_another_program_took_looks_again(
    server: Mount, taken: tuple[int, int]
) -> None:
    """The file of that name is still open, and opens again by its descriptor, which no lookup leads to."""
    old, fh = taken
    for program in (server.one, server.two, server.three):
        assert code(program.open, old) == errno.ESTALE
    for program in (server.one, server.two):
        assert program.read(program.lookup("a")) == b"new"
    assert server.three.read(old) == b"a"
    for program in (server.one, server.two, server.three):  # the kernel keeps names for a second
        assert code(program.open, old, os.O_RDWR | os.O_TRUNC) == errno.ESTALE
    assert code(server.two.lookup, "none") == errno.ENOENT
    assert code(server.two.open, old) == errno.ESTALE  # by another old name: that lookup has found nothing
    assert server.files.read(fh, 0, 100) == b"a"


@pytest.mark.parametrize("by", ["its other name", "a lookup of the name", "a listing"])
def test_an_open_by_a_taken_name_looks_again_whoever_has_found_that_first(server: Mount, by: str) -> None:
    old = server.lookup(1, "a").number
    server.link(old, 1, "second")
    server.one.open(old, os.O_RDWR)
    server.replace("a")
    if by == "its other name":
        assert server.two.lookup("second") == old
        assert code(server.two.open, old) == errno.ESTALE
        assert server.two.lookup("second") == old
        assert server.two.read(old) == b"a"
    elif by == "a listing":
        listing = server.opendir(1)
        assert server.entry(listing, place(listing, "a")) is None
        server.entry_now(listing, place(listing, "a"))
    else:
        assert server.two.lookup("a") != old
    assert code(server.one.open, old) == errno.ESTALE
    assert server.one.read(server.one.lookup("a")) == b"new"


@pytest.mark.parametrize("order", ["the name first", "the open first"])
def test_an_open_by_a_taken_name_beside_the_lookup_that_finds_it_taken(
    server: Mount, monkeypatch: Patch, order: str
) -> None:
    """The lookup is one of the file's other name, by which the open must not go on: it may have come by the first."""
    old = server.lookup(1, "a").number
    os.link(server.root / "a", server.root / "second")
    assert server.lookup(1, "second").number == old
    server.replace("a")
    beside(monkeypatch, server.nodes, "keys", lambda: server.two.lookup("second"), after=order == "the open first")
    assert code(server.one.open, old, os.O_RDWR | os.O_TRUNC) == errno.ESTALE
    assert (server.root / "second").read_bytes() == b"a"
    assert server.one.read(server.one.lookup("second")) == b"a"


def test_an_open_in_a_directory_that_another_program_renames_meanwhile_does_not_reach_another_file(
    server: Mount, monkeypatch: Patch
) -> None:
    """A lookup of the directory comes between its failure and its look at the names."""
    directory = server.lookup(1, "d").number
    old = server.lookup(directory, "b").number
    server.one.open(old)
    os.rename(server.root / "d", server.root / "moved")
    (server.root / "d").mkdir()
    (server.root / "d" / "b").write_bytes(b"new")
    beside(monkeypatch, server.nodes, "lose", lambda: (server.two.lookup("d"), server.two.lookup("moved")))
    assert code(server.one.open, old) == errno.ESTALE
    assert server.one.read(server.one.lookup("b", server.one.lookup("d"))) == b"new"


def test_a_call_that_has_looked_its_name_up_again_does_not_fail_again(server: Mount) -> None:
    """The kernel looks a path up once more, and no third time: other names of the file may be taken meanwhile."""
    names = ("a", "second", "third", "fourth")
    old = server.lookup(1, "a").number
    for name in names[1:]:
        server.link(old, 1, name)
    server.replace("a", "second")
    assert code(server.one.open, old) == errno.ESTALE
    assert server.one.lookup("fourth") == old
    server.replace("third")
    server.one.open(old)
    assert code(server.two.open, old) == errno.ESTALE
    server.replace("fourth")
    assert server.two.read(old) == b"a"  # by a descriptor


def test_any_call_that_looks_its_path_up_again_does_not_fail_again(server: Mount) -> None:
    """The first failure is one of a truncate of a file that is not open, of a lookup, or of a status."""
    (server.root / "c").write_bytes(b"ccc")
    first, second, directory = (server.lookup(1, name).number for name in ("a", "c", "d"))
    server.link(second, 1, "e")
    server.replace("e")
    assert server.lookup(1, "c").number == second  # it has a name less
    os.rename(server.root / "c", server.root / "a")
    assert code(server.one.truncate, first, 1) == errno.ESTALE
    assert server.one.lookup("a") == second
    assert server.one.truncate(second, 2) == 2
    os.rename(server.root / "d", server.root / "moved")
    (server.root / "d").mkdir()
    assert code(server.one.lookup, "b", directory) == errno.ESTALE
    assert server.one.lookup("a") == second
    assert server.one.read(second) == b"cc"
    assert code(server.two.getattr, first) == errno.ESTALE  # of the permission check before an open
    assert server.two.lookup("a") == second
    assert server.two.read(second) == b"cc"


def test_a_path_through_the_mount_to_a_descriptor_opens_its_file(server: Mount, taken: tuple[int, int]) -> None:
    """The lookups are of directories and links on the way."""
    old, _ = taken
    os.symlink("/proc/self/fd/3", server.root / "link")
    assert code(server.one.open, old) == errno.ESTALE
    server.one.lookup("d")
    server.one.lookup("link")
    assert server.one.read(old) == b"a"


def test_a_second_try_that_fails_is_the_last(server: Mount) -> None:
    """The call after it is the first try of another one, and may come by a name that was taken."""
    old = server.lookup(1, "a").number
    server.replace("a")
    assert [code(server.one.open, old) for _ in range(4)] == [errno.ESTALE] * 4
    second = server.lookup(1, "a").number
    server.one.open(second)
    server.replace("a")
    assert code(server.one.open, second) == errno.ESTALE
    assert server.one.opendir(server.one.lookup("d"))  # that was its second try
    assert code(server.one.open, second) == errno.ESTALE


def test_a_name_that_was_taken_long_ago_costs_nothing(server: Mount) -> None:
    """The kernel does not keep it any longer."""
    server.nodes.kept_s = 0.0
    old = server.lookup(1, "a").number
    server.link(old, 1, "second")
    server.replace("a")
    assert code(server.one.open, old) == errno.ESTALE
    assert server.two.read(old) == b"a"


@pytest.mark.parametrize("by", ["a lookup", "a listing"])
def test_an_open_by_one_of_two_names_that_the_kernel_keeps_looks_again(
    server: Mount, monkeypatch: Patch, by: str
) -> None:
    """Another program has renamed the file while it was looked up: each name was the only one when it was found."""
    listing = server.opendir(1)

    def renamed() -> None:
        os.rename(server.root / "a", server.root / "renamed")
        server.release(server.two.open(server.two.lookup("renamed")))

    if by == "a lookup":
        beside(monkeypatch, server.names, "status", renamed, after=True)
        number = server.one.lookup("a")
    else:
        os.rename(server.root / "a", server.root / "renamed")
        number = server.two.lookup("renamed")
        entry = server.entry(listing, place(listing, "a"))
        assert entry is not None
        assert entry.number == number
    assert code(server.one.open, number) == errno.ESTALE
    assert code(server.one.lookup, "a") == errno.ENOENT
    assert code(server.two.open, number) == errno.ESTALE
    assert server.two.read(server.two.lookup("renamed")) == b"a"


def test_a_name_that_is_removed_during_its_lookup_is_not_kept(server: Mount, monkeypatch: Patch) -> None:
    """The file is open, and has another name: its status has one name less, which is not the reason to keep one."""
    os.link(server.root / "a", server.root / "second")
    server.open(server.lookup(1, "second").number, os.O_RDONLY)
    beside(monkeypatch, OpenFile, "stat", lambda: os.unlink(server.root / "a"))
    assert server.lookup(1, "a").nlink == 2  # with one the kernel would keep the name (reply.c)
    assert server.lookup(1, "second").nlink == 1


def test_a_truncate_by_a_name_that_another_program_took_looks_again(server: Mount, taken: tuple[int, int]) -> None:
    """Otherwise it cuts the file that had the name, and is still open for writing. ftruncate and descriptors do."""
    old, fh = taken
    assert code(server.one.truncate, old, 0) == errno.ESTALE
    assert server.one.truncate(server.one.lookup("a"), 2) == 2
    assert (server.root / "a").read_bytes() == b"ne"
    assert server.files.read(fh, 0, 100) == b"a"
    assert code(server.two.truncate, old, 5) == errno.ESTALE
    assert server.two.truncate(old, 5) == 5  # by a descriptor: it comes again without a lookup
    assert server.two.truncate(old, 7, fh) == 7


def test_a_truncate_by_a_taken_name_of_a_closed_file_cuts_no_other_name(server: Mount) -> None:
    """Another program has linked the file since; its new name is known, too."""
    old = server.lookup(1, "a").number
    os.link(server.root / "a", server.root / "second")
    assert server.lookup(1, "second").number == old
    server.replace("a")
    assert code(server.one.truncate, old, 0) == errno.ESTALE
    assert (server.root / "second").read_bytes() == b"a"
    assert server.one.truncate(server.one.lookup("a"), 1) == 1
    assert (server.root / "a").read_bytes() == b"n"


def test_a_failed_change_by_a_descriptor_is_no_first_try_of_an_open(server: Mount, taken: tuple[int, int]) -> None:
    """The kernel does not make it again, and the open after it may come by the name that was taken."""
    old, _ = taken
    assert code(server.one.chmod, old) == errno.ESTALE
    assert code(server.one.open, old) == errno.ESTALE
    assert server.one.read(server.one.lookup("a")) == b"new"


@pytest.mark.parametrize("how", ["unlink", "rename over"])
def test_an_open_by_a_name_that_was_taken_and_is_removed_here_looks_again(
    server: Mount, how: str, taken: tuple[int, int]
) -> None:
    """The open was on its way; another program had given the name to another file before."""
    old, fh = taken
    if how == "unlink":
        server.unlink(1, "a")
    else:
        server.rename(server.lookup(1, "d").number, "b", 1, "a")
    assert code(server.one.open, old, os.O_RDWR | os.O_TRUNC) == errno.ESTALE
    assert server.files.read(fh, 0, 100) == b"a"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_lookup_of_the_new_name_before_a_rename_has_returned_takes_no_name_away(
    server: Mount, monkeypatch: Patch, kind: str
) -> None:
    name = "a" if kind == "file" else "d"
    number = server.lookup(1, name).number
    found: list[int] = []
    beside(monkeypatch, server.names, "rename", lambda: found.append(server.lookup(1, "new").number), after=True)
    server.rename(1, name, 1, "new")
    assert found == [number]
    assert server.nodes.keys(server.node(number)) == ["new"]
    assert server.getattr(number).nlink >= 1
    assert server.nodes.child(server.nodes.root, name) is None


def test_a_rename_into_a_directory_that_another_program_has_renamed_looks_again(server: Mount) -> None:
    """A listing has shown its new name, by which the kernel comes."""
    directory = server.lookup(1, "d").number
    os.rename(server.root / "d", server.root / "moved")
    listing = server.opendir(1)
    entry = server.entry(listing, place(listing, "moved"))
    assert entry is not None
    assert entry.number == directory
    assert code(server.rename, 1, "a", directory, "a") == errno.ESTALE
    assert server.lookup(1, "moved").number == directory
    server.rename(1, "a", directory, "a")
    assert (server.root / "moved" / "a").read_bytes() == b"a"
    assert code(server.rename, 1, "none", directory, "a") == errno.ENOENT


def test_a_rename_of_a_directory_that_an_object_marks_is_refused() -> None:
    """A rename would leave the object `d/`, and so the directory. `mv` makes the other and removes this one."""
    with PageCache("1MiB") as cache:
        server = Server(cache.attach(ObjectBackend({"d/": b""})))
        server.lookup(1, "d")
        assert code(server.rename, 1, "d", 1, "e") == errno.EXDEV
        server.mkdir(1, "e", 0o755)
        server.rmdir(1, "d")
        assert [name for name, _ in server.opendir(1).entries] == ["e"]
        server.close()


def test_a_lookup_of_a_file_that_is_closed_and_replaced_meanwhile_says_what_it_has_found(
    server: Mount, monkeypatch: Patch
) -> None:
    """ESTALE would be the second one for a stat, whose first try has met another change of the name."""
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDONLY)

    def close_and_replace() -> None:
        server.release(fh)
        server.replace("a")

    beside(monkeypatch, server, "_opened", close_and_replace)
    monkeypatch.setattr(server, "_taken", lambda node: 0)
    found = server.lookup(1, "a")
    assert (found.number, found.size) == (number, 1)


def test_a_failed_call_keeps_no_number_and_no_file(server: Mount, monkeypatch: Patch) -> None:
    """It fails after its file was found, or opened: the kernel never forgets, or releases, what it did not get."""
    (server.root / "empty").touch()
    empty = server.lookup(1, "empty").number
    fh, _ = server.open(empty, os.O_RDWR)
    lookups = server.node(empty).lookups
    with monkeypatch.context() as patch:
        patch.setattr(server, "_stat", raising(OSError(errno.EIO, "no answer")))
        assert code(server.lookup, 1, "empty") == errno.EIO
        assert code(server.link, empty, 1, "link") == errno.EIO
        assert code(server.open, empty, os.O_RDWR | os.O_TRUNC) == errno.EIO
    assert server.node(empty).lookups == lookups
    assert list(server.files.by_number) == [fh]


def test_threads_that_do_not_come_again_are_forgotten(monkeypatch: Patch) -> None:
    monkeypatch.setattr(callers, "CALLERS_MAX", 3)
    known = Callers()

    def fail(thread: int) -> None:
        known.failed(thread, "open", 100, stale=True, again=False)

    for thread in range(1, 8):
        fail(thread)
    assert [known.comes(thread, "open", 100) for thread in range(1, 8)] == [False] * 4 + [True] * 3
    fail(0)  # a thread that has no number here
    assert not known.comes(0, "open", 100)
    monkeypatch.setattr(callers, "STATUS_S", 0.0)
    known.failed(1, "getattr", 100, stale=True, again=False)
    assert not known.comes(1, "open", 100)  # it was a stat, which has ended
    monkeypatch.setattr(callers, "AGAIN_S", 0.0)
    fail(1)
    assert not known.comes(1, "open", 100)


def test_a_rename_looks_at_no_linked_file(server: Mount, monkeypatch: Patch) -> None:
    """Its cost does not depend on the number of known files with several names."""
    for k in range(20):
        (server.root / f"first{k}").write_bytes(b"x")
        os.link(server.root / f"first{k}", server.root / f"second{k}")
        server.lookup(1, f"first{k}")
    calls: list[str] = []
    backend: Any = server.volume.engine.backend

    def recorded(name: str) -> None:
        call = getattr(backend, name)

        def record(key: str) -> Any:
            calls.append(key)
            return call(key)

        monkeypatch.setattr(backend, name, record)

    recorded("lstat")
    recorded("canonical")
    server.rename(1, "a", 1, "b")
    server.lookup(1, "second3")
    assert not [key for key in calls if key not in ("a", "b", "second3")]


@pytest.mark.parametrize("by", ["a lookup", "a listing"])
def test_a_symbolic_link_that_is_replaced_before_it_is_followed(server: Mount, by: str) -> None:
    """The kernel follows it after the lookup, whatever has the name by then; after a listing it looks it up again."""
    (server.root / "link").symlink_to("a")
    listing = server.opendir(1)
    found = server.lookup(1, "link") if by == "a lookup" else server.entry(listing, place(listing, "link"))
    assert found is not None
    server.unlink(1, "link") if by == "a lookup" else os.unlink(server.root / "link")
    (server.root / "link").write_bytes(b"a file")
    if by == "a lookup":
        assert server.readlink(found.number) == "a"
    else:
        assert code(server.readlink, found.number) == errno.ESTALE


def test_a_truncate_by_name_of_an_open_file_cuts_what_another_program_has_appended(server: Mount) -> None:
    (server.root / "a").write_bytes(b"a")
    number = server.lookup(1, "a").number
    fh = server.open(number, os.O_RDWR)[0]
    with (server.root / "a").open("ab") as other:
        other.write(b"longer")
    assert server.setattr(number, {"size": 1}).size == 1
    server.fsync(fh)
    assert (server.root / "a").read_bytes() == b"a"


def test_only_ftruncate_to_the_present_size_moves_the_time_of_a_file(server: Mount) -> None:
    fh, made = server.create(1, "empty", 0o600, os.O_RDWR)
    server.setattr(made.number, {"mtime_ns": 10**9, "atime_ns": 10**9})
    assert server.setattr(made.number, {"size": 0}).mtime_ns == 10**9
    assert server.setattr(made.number, {"size": 0}, fh).mtime_ns > 10**9
    server.fsync(fh)
    assert server.getattr(made.number).mtime_ns > 10**9


def test_a_write_moves_times_that_were_set_without_a_name(server: Mount) -> None:
    fh, made = server.create(1, "gone", 0o600, os.O_RDWR)
    server.unlink(1, "gone")
    server.setattr(made.number, {"mtime_ns": 10**9, "atime_ns": 10**9, "mode": 0o640})
    assert server.getattr(made.number).mtime_ns == 10**9
    server.files.write(fh, 0, b"bytes")
    server.flush(fh)
    found = server.getattr(made.number)
    assert found.mtime_ns > 10**9
    assert stat.S_IMODE(found.mode) == 0o640


@pytest.mark.parametrize("call", ["open", "create"])
def test_a_call_that_fails_behind_its_open_publishes_nothing(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The name has moved to another object meanwhile, or the answer cannot be made."""
    store = ObjectBackend({})
    store.put("a", b"confirmed")
    store.put("b", b"b")
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        if call == "open":
            node = server.node(server.lookup(1, "b").number)
            raises(FileNotFoundError, server._open_by_key, node, "a", os.O_WRONLY | os.O_TRUNC)
        else:
            monkeypatch.setattr(server, "_made", raising(OSError(errno.EIO, "no")))
            raises(OSError, server.create, 1, "new", 0o600, os.O_WRONLY, match="no")
        cache.sync(20)
        assert not server.files.by_number
        assert (store.committed("a"), store.committed("new")) == (b"confirmed", None)


def test_an_open_keeps_no_pages_until_the_answer_of_one_that_drops_them(server: Mount) -> None:
    """Of two opens beside each other either may be answered first, and a change beside an open may be behind it."""
    number = server.lookup(1, "a").number

    def opened() -> tuple[int, bool]:
        fh, kept = server.open(number, os.O_RDONLY)
        server.release(fh)
        return fh, kept

    one, two = opened(), opened()
    assert (one[1], two[1]) == (False, False)
    server.delivered(number, one[0])
    assert not opened()[1]
    server.delivered(number, two[0])
    third = opened()
    assert not third[1]
    server.delivered(number, third[0])
    assert opened()[1]
    assert opened()[1]
    server.changed("a")
    last = opened()
    assert not last[1]
    server.changed("a")
    server.delivered(number, last[0])
    assert not opened()[1]


@pytest.mark.parametrize("call", ["open", "listing"])
def test_a_version_that_was_replaced_below_an_open_is_in_the_way_of_no_call(monkeypatch: Patch, call: str) -> None:
    """The name has another version by now. The open of the earlier one is released, beside the replacement, too."""
    monkeypatch.setattr(ObjectFile, "stat", lambda file: ObjectStat(size=len(file.base), version=file.version))
    store = ObjectBackend({})
    store.put("a", b"one")
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        number = server.lookup(1, "a").number
        listing = server.opendir(1)
        one, two = (server.open(number, os.O_RDWR)[0] for _ in range(2))
        store.put("a", b"longer")
        assert server.told_size(number) == 3
        server.release(server.open(number, os.O_RDONLY)[0])
        if call == "listing":
            server.entry(listing, 0)
            found = server.entry_now(listing, 0)
            assert found is not None
            assert found.size == server.getattr(number).size == 6
        else:
            assert server.lookup(1, "a").size == server.told_size(number) == 6
            assert server.known(number) is None
        assert code(server.setattr, number, {"size": 2}, one) == errno.ESTALE
        server.setattr(number, {"mtime_ns": time.time_ns()})
        assert store.committed("a") == b"longer"
        assert server.setattr(number, {"size": 4}).size == 4
        cache.sync(20)
        assert store.committed("a") == b"long"
        opened = server.files.get(two)
        monkeypatch.setattr(server, "_opened", lambda node, fh=None: [opened])  # it was replaced after this look
        assert (server.told_size(number), server.known(number)) == (4, None)
        for fh in (one, two):
            server.release(fh)
        assert not server.files.by_number
        assert not server.node(number).opens


@pytest.mark.parametrize("how", ["made", "renamed", "listed", "opened"])
def test_an_object_that_replaces_an_open_one_has_a_number_and_a_size_of_its_own(monkeypatch: Patch, how: str) -> None:
    """In a store that knows names only: others have removed the open object, or renamed one to its name."""
    monkeypatch.setattr(ObjectFile, "stat", lambda file: ObjectStat(size=len(file.base), version=file.version))
    store = ObjectBackend({})
    store.put("a", b"one")
    store.put("b", b"longer")
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        number = server.lookup(1, "a").number
        fh, _ = server.open(number, os.O_RDONLY)
        assert server.files.read(fh, 0, 100) == b"one"
        listing = server.opendir(1)
        if how == "made":
            store.remove("a")
            assert code(server.lookup, 1, "a") == errno.ENOENT
            made, found = server.create(1, "a", 0o600, CREATE)
            server.files.write(made, 0, b"longer")
            server.flush(made)
            server.release(made)
        else:
            server.volume.rename("b", "a")
        if how == "listed":
            assert server.entry(listing, place(listing, "a")) is None
            found = now(server, listing, "a")
        elif how == "opened":  # by a name that the kernel keeps
            assert code(server.open, number, os.O_RDONLY | os.O_TRUNC) == errno.ESTALE
        found = server.lookup(1, "a")
        assert (found.size, server.getattr(found.number).size) == (6, 6)
        assert found.number != number
        assert (server.getattr(number).size, server.getattr(number).nlink) == (3, 0)
        assert server.files.read(fh, 0, 100) == b"one"
        for each in (server.open(found.number, os.O_RDONLY)[0], fh):
            server.release(each)
        assert (server.lookup(1, "a").number, server.getattr(found.number).size) == (found.number, 6)
        cache.sync(20)
        assert store.committed("a") == b"longer"


@pytest.mark.parametrize("change", ["size", "mtime_ns"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["read", "written"])
def test_a_change_by_name_is_one_of_the_object_that_has_replaced_an_open_one(
    monkeypatch: Patch, flags: int, change: str
) -> None:
    """The kernel keeps the name of the open object, and looks it up again after ESTALE. Others have renamed one to it,
    in a store that knows names only.
    """
    monkeypatch.setattr(ObjectFile, "stat", lambda file: ObjectStat(size=len(file.base), version=file.version))
    store = ObjectBackend({})
    store.put("a", b"one")
    store.put("b", b"longer")
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        changed: list[int] = []
        monkeypatch.setattr(server.names, "keeps_modes", True)
        monkeypatch.setattr(server.names, "setattr", lambda _, found, changes: changed.append(found.size))
        number = server.lookup(1, "a").number
        fh, _ = server.open(number, flags)
        assert server.files.read(fh, 0, 100) == b"one"
        server.volume.rename("b", "a")
        changes = {change: 1 if change == "size" else time.time_ns()}
        assert code(server.setattr, number, changes) == errno.ESTALE
        found = server.lookup(1, "a")
        assert found.number != number
        assert server.setattr(found.number, changes).size == (1 if change == "size" else 6)
        assert server.files.read(fh, 0, 100) == b"one"
        assert server.setattr(number, changes, again=True).size == (1 if change == "size" else 3)  # /proc/self/fd/N
        assert server.files.read(fh, 0, 100) == (b"o" if change == "size" else b"one")
        assert changed == ([] if change == "size" else [6])
        server.release(fh)
        cache.sync(20)
        assert store.committed("a") == (b"l" if change == "size" else b"longer")


def test_an_ftruncate_to_the_present_size_moves_no_time_of_the_object_that_has_replaced_its_file(
    monkeypatch: Patch,
) -> None:
    store = ObjectBackend({})
    store.put("a", b"one")
    store.put("b", b"longer")
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        monkeypatch.setattr(server.names, "keeps_modes", True)
        monkeypatch.setattr(server.names, "setattr", raising(AssertionError("of another object")))
        number = server.lookup(1, "a").number
        fh, _ = server.open(number, os.O_RDWR)
        server.volume.rename("b", "a")
        assert server.setattr(number, {"size": 3}, fh).size == 3
        assert server.lookup(1, "a").number != number
        server.release(fh)


def test_lookups_beside_each_other_find_one_number_for_an_object_that_replaces_an_open_one(monkeypatch: Patch) -> None:
    """Both find that the open object has lost its name; the first has opened the other one by then."""
    store = ObjectBackend({})
    store.put("a", b"one")
    store.put("b", b"longer")
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        old, _ = server.open(server.lookup(1, "a").number, os.O_RDONLY)
        server.volume.rename("b", "a")
        first: list[tuple[int, int]] = []

        def find() -> None:
            number = server.lookup(1, "a").number
            first.append((number, server.open(number, os.O_RDONLY)[0]))

        beside(monkeypatch, server, "_has_lost_name", find, after=True)
        found = server.lookup(1, "a")
        ((number, fh),) = first
        assert found.number == number
        assert server.nodes.key(server.node(number)) == "a"
        for each in (old, fh):
            server.release(each)


class Opens(Answers):
    """Answers of opens to a loop that records their codes: `of` makes one, and returns its code."""

    def __init__(self, server: Server) -> None:
        replies: Any = Replies()
        super().__init__(replies, server, None)
        self.replies = replies

    def _reply_opened(self, request: Any, fh: int, kept: bool, made: Attributes | None = None) -> None:
        self._system.release(fh)
        self.replies.codes.append(0)

    def of(self, number: int, thread: int) -> int:
        flags = os.O_WRONLY | os.O_APPEND
        request: Any = SimpleNamespace(op="open", number=number, thread=thread, token=1, flags=flags, again=False)
        self.answer(request)
        last: int = self.replies.codes[-1]
        return last


@pytest.mark.parametrize("by", ["the mount", "another program"])
@pytest.mark.parametrize("thread", [0, 11])
def test_an_append_beside_other_appends_is_sent_back_once(
    server: Mount, monkeypatch: Patch, thread: int, by: str
) -> None:
    """Also if the server does not see the number of its thread, which is in another pid namespace."""
    answers, number = Opens(server), server.lookup(1, "a").number
    fh, genuine = server.open(number, os.O_RDWR)[0], server.open

    def append(*arguments: Any) -> tuple[int, bool]:
        if by == "the mount":
            server.files.write(fh, server.files.get(fh).file.size, b"x")
        else:
            with (server.root / "a").open("ab") as other:
                other.write(b"other")
        return genuine(*arguments)

    monkeypatch.setattr(server, "open", append)
    assert [answers.of(number, thread), answers.of(server.lookup(1, "a").number, thread)] == [errno.ESTALE, 0]
    server.release(fh)


def test_an_append_to_a_replaced_object_comes_again_with_its_size(monkeypatch: Patch) -> None:
    """A reader has an earlier version open, and goes on reading it."""
    monkeypatch.setattr(ObjectFile, "stat", lambda file: ObjectStat(size=len(file.base), version=file.version))
    store = ObjectBackend({})
    store.put("a", b"one")
    with PageCache("4MiB") as cache:
        server = Server(cache.attach(store))
        answers, number = Opens(server), server.lookup(1, "a").number
        fh = server.open(number, os.O_RDONLY)[0]
        store.put("a", b"longer")
        assert answers.of(number, 11) == errno.ESTALE
        assert server.lookup(1, "a").size == 6
        assert answers.of(number, 11) == 0
        server.release(fh)


@pytest.mark.parametrize("call", ["entry", "entry_now"])
def test_a_listed_file_of_a_store_that_counts_no_names_has_one(server: Mount, monkeypatch: Patch, call: str) -> None:
    """Without a name the kernel would not count the lookup of the entry."""
    genuine = server.names.status, server.names.entries
    monkeypatch.setattr(server.names, "status", lambda key: replace(genuine[0](key), nlink=0))
    monkeypatch.setattr(
        server.names, "entries", lambda key: [(name, replace(found, nlink=0)) for name, found in genuine[1](key)]
    )
    listing = server.opendir(1)
    found = getattr(server, call)(listing, place(listing, "a"))
    assert found.nlink == 1
    assert server.node(found.number).lookups == 1
