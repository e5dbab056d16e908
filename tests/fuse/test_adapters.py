"""`Files` and `TrioFiles`, and the server behind a mount, without a kernel: what a server author relies on."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from pagecache import PageCache, RetryPolicy, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.protocol import ObjectStat
from pagecache.errors import DataLossError, ShutdownError
from pagecache.fuse import Files, Server, TrioFiles, errno_of, moving
from pagecache.fuse.attributes import Attributes
from pagecache.fuse.files import OpenFile
from pagecache.fuse.nodes import Node
from pagecache.fuse.server import Listing
from pagecache.fuse.tasks import Aside
from pagecache.testing import FaultyBackend, Gate, Rule

from .mounts import needs_mounts

CREATE = os.O_RDWR | os.O_CREAT
ONCE = RetryPolicy(attempts=1, failed_retry=None)


@pytest.fixture
def backend() -> FaultyBackend:
    return FaultyBackend(MemoryBackend())


@pytest.fixture
def volume(backend: FaultyBackend) -> Iterator[Volume]:
    with PageCache("1MiB", flush_interval=3600, dirty_expire=3600, retry=ONCE) as cache:
        yield cache.attach(backend, read_ahead=0)


@pytest.fixture
def files(volume: Volume) -> Iterator[Files]:
    made = Files(volume)
    yield made
    made.close()


def code(call: object, *arguments: object) -> int | None:
    assert callable(call)
    try:
        call(*arguments)
    except OSError as error:
        return errno_of(error)
    return None


def test_the_verbs(files: Files, backend: FaultyBackend) -> None:
    """Each does what the request of its name asks for."""
    fh = files.open("a", CREATE)
    assert files.write(fh, 0, b"hello world") == 11
    assert files.read(fh, 6, 100) == b"world"
    assert files.size("a") == 11
    files.truncate(fh, 5)
    files.fallocate(fh, 0x03, 0, 2)
    files.fallocate(fh, 0x10, 4, 4)
    assert files.read(fh, 0, 100) == b"\0\0ll\0\0\0\0"
    files.flush(fh)
    assert backend.inner.snapshot("a") == b"\0\0ll\0\0\0\0"  # type: ignore[attr-defined]
    files.fsync(fh)
    files.release(fh)
    assert code(files.read, fh, 0, 1) == errno.EBADF
    files.release(fh)


def test_space_is_not_promised(files: Files) -> None:
    fh = files.open("a", CREATE)
    for mode in (0, 1, 0x02, 0x40):
        assert code(files.fallocate, fh, mode, 0, 4096) == errno.EOPNOTSUPP


def test_appended_bytes_go_where_the_kernel_says(files: Files) -> None:
    """It has decided where, and O_APPEND is no affair of the cache's then."""
    fh = files.open("a", CREATE | os.O_APPEND)
    files.write(fh, 0, b"12345")
    files.write(fh, 2, b"x")
    assert files.read(fh, 0, 10) == b"12x45"


def test_a_failure_is_told_to_each_open_once(files: Files, backend: FaultyBackend) -> None:
    """By flush or write; by fsync as long as it is so; and again when it happens again."""
    one, other = files.open("a", CREATE), files.open("a", CREATE)
    files.write(one, 0, b"x" * 4096)
    backend.use([Rule("write", error=errno.ENOSPC)])
    assert [code(files.flush, one) for _ in range(3)] == [errno.ENOSPC, None, None]
    assert [code(files.write, other, 0, b"y") for _ in range(3)] == [errno.ENOSPC, None, None]
    assert [code(files.fsync, one) for _ in range(3)] == [errno.ENOSPC] * 3
    assert code(files.write, one, 0, b"z") is None
    assert code(files.flush, one) == errno.ENOSPC
    backend.use([])
    assert [code(files.fsync, fh) for fh in (one, other)] == [None, None]
    files.write(other, 0, b"!")
    backend.use([Rule("write", error=errno.EDQUOT)])
    assert code(files.flush, other) == errno.EDQUOT
    backend.use([])
    assert code(files.flush, other) is None
    assert backend.inner.snapshot("a")[:1] == b"!"  # type: ignore[attr-defined]


def test_a_loss_is_told_to_each_open_once(files: Files) -> None:
    one, other = files.open("a", CREATE), files.open("a", os.O_RDONLY)
    files.write(one, 0, b"x" * 4096)
    files.volume.discard("a")
    for fh in (one, other):
        with pytest.raises(DataLossError):
            files.flush(fh)
        assert code(files.flush, fh) is None


def test_a_release_that_fails_keeps_the_data_and_says_so(
    files: Files, backend: FaultyBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a flush before it, as when a connection is cut."""
    fh = files.open("a", CREATE)
    files.write(fh, 0, b"x" * 4096)
    backend.use([Rule("write", error=errno.ENOSPC)])
    files.release(fh)
    assert "not saved when it was closed" in caplog.text
    assert [(entry.offset, entry.length) for entry in files.volume.failed()] == [(0, 4096)]
    backend.use([])
    files.volume.sync(20)
    assert backend.inner.snapshot("a") == b"x" * 4096  # type: ignore[attr-defined]


def test_what_is_published_as_a_whole_is_published_by_a_flush_that_has_something_to_publish() -> None:
    """Descriptors that are closed by children of a program publish nothing half-written twice."""
    backend = FaultyBackend(MemoryBackend())

    class Whole(FaultyBackend):
        limits = MemoryBackend(commit_on_close=True).limits

    with PageCache("1MiB") as cache:
        whole = Whole(MemoryBackend(commit_on_close=True))
        files = Files(cache.attach(whole))
        fh = files.open("a", CREATE)
        files.flush(fh)
        assert whole.calls_of("commit") == []
        files.write(fh, 0, b"one")
        files.flush(fh)
        files.flush(fh)
        assert len(whole.calls_of("commit")) == 1
        files.release(fh)
        assert len(whole.calls_of("commit")) == 1
        empty = files.open("empty", CREATE)
        files.flush(empty)
        files.release(empty)
        assert len(whole.calls_of("commit")) == 2
    assert backend.calls == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (ShutdownError("gone", "a"), errno.EIO),
        (OSError(errno.ECONNRESET, "reset"), errno.EIO),
        (TimeoutError("late"), errno.EIO),
        (io.UnsupportedOperation("no"), errno.EOPNOTSUPP),
        (ValueError("no key"), errno.EINVAL),
        (MemoryError(), errno.ENOMEM),
        (KeyError("odd"), errno.EIO),
        (OSError(errno.EDEADLK, "itself"), errno.EDEADLK),
    ],
    ids=lambda value: str(value),
)
def test_what_a_program_is_told(error: BaseException, expected: int) -> None:
    assert errno_of(error) == expected


def test_hits_on_trio_need_no_thread(volume: Volume, backend: FaultyBackend) -> None:
    """Reads and writes of what is cached do not suspend; a miss leaves the loop free."""
    gate = Gate()

    async def run() -> None:
        files = TrioFiles(volume)
        fh = await files.open("a", CREATE)
        await files.write(fh, 0, b"x" * 8192)
        with trio.CancelScope() as scope:  # whoever suspends in it is cancelled
            scope.cancel()
            assert await files.read(fh, 0, 8192) == b"x" * 8192
            assert await files.write(fh, 0, b"y") == 1
        assert not scope.cancelled_caught
        await files.fsync(fh)
        volume.drop_clean()
        backend.use([Rule("read", gate=gate)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(files.read, fh, 0, 10)
            await trio.to_thread.run_sync(gate.wait_entered)
            gate.release()
        assert await files.size("a") == 8192
        await files.release(fh)

    trio.run(run)


def test_errors_on_trio_are_what_the_binding_wants(volume: Volume) -> None:
    class BindingError(Exception):
        pass

    async def run() -> None:
        files = TrioFiles(volume, error=BindingError)
        with pytest.raises(BindingError) as caught:
            await files.open("none")
        assert caught.value.args == (errno.ENOENT,)
        with pytest.raises(BindingError):
            await files.read(17, 0, 1)
        with pytest.raises(FileNotFoundError):
            await TrioFiles(volume).open("none")

    trio.run(run)


def test_an_answer_after_the_deadline_is_undone(volume: Volume, backend: FaultyBackend) -> None:
    """The task goes on with ETIMEDOUT; what was opened for it in the end is closed again."""
    gate = Gate()
    backend.use([Rule("open", gate=gate)])
    closed = threading.Event()

    async def run() -> None:
        files = TrioFiles(volume, deadline=0.05)
        release = files.files.release

        def released(fh: int) -> None:
            release(fh)
            closed.set()

        files.files.release = released  # type: ignore[method-assign]
        with pytest.raises(OSError) as caught:
            await files.open("a", CREATE)
        assert caught.value.errno == errno.ETIMEDOUT
        gate.release()
        await trio.to_thread.run_sync(closed.wait, 20)
        assert files.files.by_number == {}

    trio.run(run)
    assert closed.is_set()


def test_calls_that_hang_do_not_take_all_threads_of_the_loop() -> None:
    """They are as many as they may be; the next one fails at its deadline, and the loop goes on."""
    hold = threading.Event()

    async def run() -> None:
        aside = Aside(deadline=0.05, threads=2)
        for _ in range(4):
            with pytest.raises(OSError):
                await aside.call(hold.wait)
        hold.set()
        assert await Aside(threads=2).call(lambda: 7) == 7

    trio.run(run)


# -- the inode table, by the operations of a server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "d").mkdir()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "d" / "b").write_bytes(b"bb")
    with PageCache("1MiB") as cache:
        server = Server(cache.attach(FaultyBackend(DirectoryBackend(tmp_path))))
        yield server
        server.close()


def test_a_number_lives_until_it_is_forgotten_as_often_as_it_was_told(server: Server) -> None:
    """And is the same when it is looked up again."""
    number = server.lookup(1, "a").number
    assert server.lookup(1, "a").number == number
    server.forget(number)
    assert server.getattr(number).size == 1
    server.forget(number)
    assert code(server.getattr, number) == errno.ESTALE
    assert server.lookup(1, "a").number == number
    server.forget(number)
    assert len(server.nodes) == 1


def test_a_directory_lives_as_long_as_what_is_in_it(server: Server) -> None:
    directory = server.lookup(1, "d").number
    inner = server.lookup(directory, "b").number
    server.forget(directory)
    assert server.getattr(inner).size == 2
    server.forget(inner)
    assert len(server.nodes) == 1


def test_an_open_file_keeps_its_number(server: Server) -> None:
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDWR)
    server.forget(number)
    server.unlink(1, "a")
    assert server.getattr(number).nlink == 0
    server.release(fh)
    assert len(server.nodes) == 1


def test_listed_entries_count_as_told(server: Server) -> None:
    listing = server.opendir(1)
    assert sorted(name for name, _, _ in listing.entries) == ["a", "d"]
    numbers = [found.number for index in range(2) if (found := server.entry(listing, index)) is not None]
    assert len(server.nodes) == 3
    for number in numbers:
        server.forget(number)
    assert len(server.nodes) == 1


@pytest.mark.parametrize("taker", ["unlink", "rename over it", "rename it"])
@pytest.mark.parametrize("order", ["open first", "name first"])
def test_an_open_that_came_first_finds_the_file_that_its_name_stood_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, taker: str, order: str
) -> None:
    """Else the program is told ESTALE, when that happens a second time: the kernel looks the path up anew only once."""
    monkeypatch.setattr(moving, "PATIENCE", 60.0)
    directory, number = server.lookup(1, "d").number, server.lookup(1, "a").number
    take: Callable[[], None] = {
        "unlink": lambda: server.unlink(1, "a"),
        "rename over it": lambda: server.rename(directory, "b", 1, "a"),
        "rename it": lambda: server.rename(1, "a", directory, "c"),
    }[taker]
    if order == "name first":
        take()
        assert code(server.open, number, os.O_RDONLY) == (None if taker == "rename it" else errno.ESTALE)
        return
    found: list[tuple[int, bool]] = []
    has_it, go_on, open_file = threading.Event(), threading.Event(), server.files.open_file

    def slowly(key: str, flags: int) -> OpenFile:
        opened = open_file(key, flags)
        has_it.set()
        go_on.wait(60)
        return opened

    monkeypatch.setattr(server.files, "open_file", slowly)
    opener = threading.Thread(target=lambda: found.append(server.open(number, os.O_RDONLY)))
    opener.start()
    has_it.wait(60)
    taking = threading.Thread(target=take)
    taking.start()
    taking.join(0.2)
    waited = taking.is_alive()
    go_on.set()
    for thread in (opener, taking):
        thread.join(60)
    assert waited, "for who opens"
    ((fh, _),) = found
    assert server.files.read(fh, 0, 9) == b"a"
    server.release(fh)


def test_a_listing_does_not_tell_the_size_that_a_file_had_before_it_was_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would cut the file to it. It is open when the entry is looked at, and closed a moment later."""
    number = server.lookup(1, "a").number
    listing = server.opendir(1)
    index = [name for name, _, _ in listing.entries].index("a")
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"longer")
    opened = server._opened

    def closed_meanwhile(node: Node) -> list[OpenFile]:
        found = opened(node)
        server.release(fh)
        return found

    monkeypatch.setattr(server, "_opened", closed_meanwhile)
    told = server.entry(listing, index)
    monkeypatch.undo()
    now = server.entry_now(listing, index)
    assert told is None
    assert now is not None
    assert now.size == 6


def test_a_listing_does_not_tell_the_size_of_what_was_replaced(server: Server) -> None:
    directory = server.lookup(1, "d").number
    server.lookup(directory, "b")
    listing = server.opendir(1)
    index = [name for name, _, _ in listing.entries].index("a")
    server.rename(directory, "b", 1, "a")
    assert server.entry(listing, index) is None
    now = server.entry_now(listing, index)
    assert now is not None
    assert now.size == 2


def test_numbers_follow_renames(server: Server) -> None:
    directory, file = server.lookup(1, "d").number, server.lookup(1, "a").number
    inner = server.lookup(directory, "b").number
    server.rename(1, "d", 1, "e")
    server.rename(1, "a", directory, "b")
    assert server.nodes.key(server.node(file)) == "e/b"
    assert code(server.getattr, inner) == errno.ESTALE
    new = server.mkdir(1, "d", 0o755)
    assert new.number != directory


def test_an_open_by_a_name_that_is_being_renamed_finds_the_file(server: Server) -> None:
    """Whichever comes first: the rename that runs is waited for, and the new name is asked."""
    backend: FaultyBackend = server.volume.backend  # type: ignore[assignment]
    directory = server.lookup(1, "d").number
    inner = server.lookup(directory, "b").number
    gate = Gate()
    backend.use([Rule("rename", gate=gate)])
    results: list[bytes] = []

    def read() -> None:
        fh, _ = server.open(inner, os.O_RDONLY)
        results.append(server.files.read(fh, 0, 10))
        server.release(fh)

    renaming = threading.Thread(target=server.rename, args=(1, "d", 1, "e"))
    renaming.start()
    gate.wait_entered()
    reading = threading.Thread(target=read)
    reading.start()
    gate.release()
    renaming.join(20)
    reading.join(20)
    assert results == [b"bb"]


def test_a_name_that_is_gone_is_looked_up_again(server: Server) -> None:
    """The kernel may take it for one that is there: from a listing that is older than the removal. ESTALE has it look
    once more, where ENOENT would be the program's error.
    """
    listing = server.opendir(1)
    assert listing.certain()
    gone = server.lookup(1, "a").number
    server.unlink(1, "a")
    assert not listing.certain()
    assert code(server.open, gone, os.O_RDWR) == errno.ESTALE
    assert code(server.getattr, gone) == errno.ESTALE
    assert code(server.lookup, 1, "a") == errno.ENOENT
    server.rewind(listing)
    assert listing.certain()
    assert [name for name, _, _ in listing.entries] == ["d"]


def test_a_listing_never_tells_an_old_size(server: Server) -> None:
    """Of a file that was written and closed since: the kernel would cut it to that size."""
    listing = server.opendir(1)
    number = server.lookup(1, "a").number
    fh, _ = server.open(number, os.O_RDWR)
    server.files.write(fh, 0, b"longer")
    index = [name for name, _, _ in listing.entries].index("a")
    found = server.entry(listing, index)
    assert found is not None
    assert found.size == 6
    server.flush(fh)
    server.release(fh)
    assert server.entry(listing, index) is None
    assert now(server, listing, "a").size == 6
    server.setattr(number, {"size": 3})
    assert now(server, listing, "a").size == 3


def place(listing: Listing, name: str) -> int:
    return [entry for entry, _, _ in listing.entries].index(name)


def now(server: Server, listing: Listing, name: str) -> Attributes:
    found = server.entry_now(listing, place(listing, name))
    assert found is not None
    return found


def test_a_listing_that_meets_a_close_tells_no_old_size(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, amid and after it: the handle says the size, or nobody does and it is asked for."""
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


def test_a_listing_that_meets_a_rename_tells_nothing_of_what_was_replaced(server: Server) -> None:
    made, _ = server.create(1, "new", 0o600, os.O_RDWR)
    server.files.write(made, 0, b"renamed")
    server.flush(made)
    server.release(made)
    listing = server.opendir(1)
    server.rename(1, "new", 1, "a")
    assert server.entry(listing, place(listing, "a")) is None
    assert now(server, listing, "a").size == 7
    assert server.entry(listing, place(listing, "new")) is None
    assert server.entry_now(listing, place(listing, "new")) is None  # gone: the kernel is told of no such name


def test_a_listing_that_meets_another_kind_of_thing_under_its_name(server: Server) -> None:
    """What has the name now keeps its number."""
    listing = server.opendir(1)
    server.unlink(1, "a")
    made = server.mkdir(1, "a", 0o700)
    assert server.entry(listing, place(listing, "a")) is None
    assert now(server, listing, "a").number == made.number
    assert stat.S_ISDIR(server.getattr(made.number).mode)


def test_a_look_that_meets_the_end_of_its_name_looks_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would believe in a name that is gone, and get ESTALE from it."""
    look = server.names.look

    def looked(key: str) -> ObjectStat:
        found = look(key)
        monkeypatch.setattr(server.names, "look", look)
        server.rename(1, "a", 1, "other")
        return found

    monkeypatch.setattr(server.names, "look", looked)
    assert code(server.lookup, 1, "a") == errno.ENOENT
    assert server.lookup(1, "other").size == 1


def test_attributes_that_are_not_kept_are_refused() -> None:
    with PageCache("1MiB") as cache:
        server = Server(cache.attach("memory:"))
        fh, made = server.create(1, "a", 0o600, os.O_RDWR)
        mode = made.mode & 0o7777
        server.setattr(made.number, {"mode": mode, "uid": made.uid, "size": 10})
        assert server.getattr(made.number).size == 10
        for changes in ({"mode": mode ^ 0o111}, {"uid": made.uid + 1}, {"mtime_ns": 5}):
            assert code(server.setattr, made.number, changes) == errno.EOPNOTSUPP
        server.release(fh)


SERVES_ITSELF = """
import mmap, os, stat, subprocess, sys, threading
import pyfuse3, trio
import pagecache
sys.path.insert(0, sys.argv[2])
from fuse_trio import Server, Tables

path, cache = sys.argv[1], pagecache.PageCache("4MiB")
volume = cache.attach(Tables())
server = Server(volume)
pyfuse3.init(server, path)
loop = threading.Thread(target=trio.run, args=(pyfuse3.main,))
loop.start()
with open(os.path.join(path, "3"), "r+b") as file:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source, volume.open("2", "r+") as other:
        other.pwrite(source, 0)  # faults that this very process serves
        assert other.pread(len(source), 0) == source[:]
        other.fsync()
    with mmap.mmap(file.fileno(), 0) as destination, volume.open("1") as first:
        length = first.pread_into(destination, 0)
        assert destination[:length] == first.pread(length, 0)
    os.fsync(file.fileno())
    assert volume.open("3").pread(6, 0) == b"0 0\\n1 "
subprocess.run(["fusermount3", "-u", path], check=True)
loop.join()
pyfuse3.close(unmount=False)
print("served")
os._exit(0)
"""


ASKS_ITSELF = """
import errno, os, subprocess, sys, threading
import pyfuse3, trio
import pagecache
from pagecache.backends.passing import PassingBackend, PassingFile
sys.path.insert(0, sys.argv[2])
import fuse_trio

path, nested, said = sys.argv[1], {}, []

class File(PassingFile):
    def __init__(self, inner, key):
        super().__init__(inner)
        self.key = key

    def read_into(self, offset, buffers):
        fd = nested.pop(self.key, None)  # once
        if fd is not None:
            try:
                said.append(len(os.pread(fd, 10, 0)))
            except OSError as error:
                said.append(errno.errorcode[error.errno])
            done.set()
        return super().read_into(offset, buffers)

class Nested(PassingBackend):
    def open(self, key, *, create=False, exclusive=False):
        return File(self.inner.open(key, create=create, exclusive=exclusive), key)

class Server(fuse_trio.Server):
    def __init__(self, volume):
        super().__init__(volume)
        self.files = files = pagecache.fuse.TrioFiles(volume, error=pyfuse3.FUSEError, deadline=1)
        self.read, self.write, self.flush, self.release = files.read, files.write, files.flush, files.release

import pagecache.fuse
done = threading.Event()
volume = pagecache.PageCache("4MiB").attach(Nested(fuse_trio.Tables()), read_ahead=0)
pyfuse3.init(Server(volume), path)
loop = threading.Thread(target=trio.run, args=(pyfuse3.main,))
loop.start()
fds = {key: os.open(os.path.join(path, key), os.O_RDONLY) for key in "123"}
nested["2"] = fds["1"]
assert os.pread(fds["2"], 9, 0) == b"0 0\\n1 1\\n2"  # its backend reads another file of the mount
assert said.pop() == 10
done.clear()
nested["3"] = fds["3"]
try:
    assert os.pread(fds["3"], 9, 0) == b"0 0\\n1 1\\n2"  # its backend reads what it is asked for itself
except OSError as error:
    assert error.errno == errno.EIO  # the kernel may ask once more by itself, and is answered then
assert done.wait(30)
assert said == ["EIO"], said
assert os.pread(fds["3"], 9, 0) == b"0 0\\n1 1\\n2"  # nobody waits for anything any more
for fd in fds.values():
    os.close(fd)
subprocess.run(["fusermount3", "-u", path], check=True)
loop.join()
pyfuse3.close(unmount=False)
print("served")
os._exit(0)
"""


@needs_mounts
@pytest.mark.parametrize("program", [SERVES_ITSELF, ASKS_ITSELF], ids=["memory", "backend"])
def test_a_process_uses_the_mount_that_it_serves_itself(tmp_path: Path, program: str) -> None:
    """Sources of writes and destinations of reads that are mappings of its own mount: no deadlock. Its backend may read
    other files there; what only that very call could answer is an error for it after the deadline. [T-65]
    """
    examples = Path(__file__).parent.parent.parent / "examples"
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), str(examples)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        # A thread that waits for a page cannot be killed before the connection is cut.
        cut = threading.Timer(60, lambda: subprocess.run(["umount", "-f", "-l", str(tmp_path)], check=False))
        cut.start()
        try:
            said, complained = process.communicate()
        finally:
            cut.cancel()
    assert said == "served\n", complained
