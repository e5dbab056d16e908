"""One cache for all callers with equal options, in any instance; other processes have separate ones."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

import pagecache
from pagecache.fsspec import PageCacheFile, PageCacheFileSystem

from ..file.rig import raises, run_program
from . import workers
from .conftest import Make
from .targets import Copies, OwnMemory, Store


def in_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=60)


def test_instances_of_equal_options_share_one_cache(make: Make) -> None:
    """fsspec has an instance for each thread; each has to see bytes that the other has written and not stored."""
    one, other = make("memory"), in_thread(lambda: make("memory"))
    assert one is make("memory")
    assert one is not other
    assert one.volume is other.volume
    assert one.volume is make(fs=fsspec.filesystem("memory"), capacity=4 << 20).volume
    assert one.volume is make("memory", skip_instance_cache=True).volume
    with one.open("/file", "wb") as file:
        file.write(b"not stored")
        assert other.cat_file("/file") == b"not stored"
        assert not fsspec.filesystem("memory").exists("/file")


def test_targets_share_a_budget_and_no_bytes(make: Make, tmp_path: Path) -> None:
    memory, local, folder = make("memory"), make("file"), make("file", {"auto_mkdir": True})
    assert len({memory.volume, local.volume, folder.volume}) == 3
    assert memory.cache is local.cache is folder.cache
    assert make("memory", read_ahead=0).cache is memory.cache
    assert make("memory", read_ahead=0).volume is not memory.volume
    assert make("memory", capacity="8MiB").cache is not memory.cache
    assert make("memory", dirty_expire=1.0).cache is not memory.cache


def test_an_instance_with_a_state_of_its_own_is_another_target(make: Make) -> None:
    one, other = OwnMemory(), OwnMemory()
    make(fs=one).pipe_file("/file", b"one")
    make(fs=other).pipe_file("/file", b"other")
    assert (one.cat_file("/file"), other.cat_file("/file")) == (b"one", b"other")
    assert (make(fs=one).cat_file("/file"), make(fs=other).cat_file("/file")) == (b"one", b"other")


def test_files_of_one_url_belong_to_one_file_system(make: Make) -> None:
    make("memory").pipe({"/a": b"a", "/b": b"b"})
    opened = [fsspec.open(f"pagecache::memory://{name}", pagecache={"capacity": "4MiB"}) for name in "ab"]
    assert opened[0].fs is opened[1].fs
    assert opened[0].fs.volume is make("memory").volume
    with fsspec.open_files("pagecache::memory:///*", pagecache={"capacity": "4MiB"}) as files:
        assert [file.read() for file in files] == [b"a", b"b"]
    with fsspec.open_files(["pagecache::memory:///c", "pagecache::memory:///d"], "wb", capacity="4MiB") as files:
        for file in files:
            file.write(b"many")
    assert fsspec.filesystem("memory").cat_file("/d") == b"many"


def test_many_files_at_once_come_through_the_cache(make: Make) -> None:
    """They do even if the target would return them."""
    fs = make(fs=Copies())
    names = ["/a", "/b"]
    opened = fsspec.core.OpenFiles([fsspec.core.OpenFile(fs, name, "wb") for name in names], mode="wb", fs=fs)
    with opened as files:
        for file in files:
            assert isinstance(file, PageCacheFile)
            file.write(b"x")
    assert fs.cat(names) == dict.fromkeys(names, b"x")


def test_options_come_from_urls_and_from_configuration(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"capacity": "2MiB"}, {"pagecache": {"capacity": "2MiB"}}):
        fs, path = fsspec.url_to_fs("pagecache::memory://bucket/key", **options)
        assert (fs.cache.capacity, path) == (2 << 20, "/bucket/key")
        fs.close()
    monkeypatch.setitem(fsspec.config.conf, "pagecache", {"capacity": "3MiB"})
    fs = fsspec.filesystem("pagecache", target_protocol="memory")
    assert fs.cache.capacity == 3 << 20
    fs.close()


def test_chains_of_more_than_two(make: Make) -> None:
    import zipfile

    memory = fsspec.filesystem("memory")
    with memory.open("/archive.zip", "wb") as below, zipfile.ZipFile(below, "w") as archive:
        archive.writestr("inside", b"packed")
    with fsspec.open("pagecache::zip://inside::memory:///archive.zip", capacity="4MiB") as file:
        assert file.read() == b"packed"
        file.fs.close()
    above = fsspec.open("zip://inside::pagecache::memory:///archive.zip", pagecache={"capacity": "4MiB"})
    with above as file:
        assert file.read() == b"packed"
    above.fs.close()
    above.fs.fo.close()  # it leaves that to the garbage collector
    make("memory")


def test_close_saves_and_the_next_use_begins_anew(make: Make) -> None:
    fs, other = make("memory"), make("memory", read_ahead=0)
    other.pipe_file("/other", b"x")
    file = fs.open("/file", "wb")
    file.write(b"saved by close")
    first = fs.volume
    assert fs.close() == []
    assert fs.close() == []
    assert fsspec.filesystem("memory").cat_file("/file") == b"saved by close"
    raises(pagecache.ShutdownError, file.write, b"more")
    file.close()
    assert not other.cache.closed, "others use it"
    assert fs.cat_file("/file") == b"saved by close"
    assert fs.volume is not first
    cache = fs.cache
    fs.close()
    other.close()
    assert cache.closed, "it is no longer used"
    assert fs.info("/file")["size"] == len(b"saved by close")
    fs.sync()


def test_a_cache_that_was_closed_under_it_is_made_anew(make: Make) -> None:
    fs = make("memory")
    fs.pipe_file("/file", b"x")
    fs.cache.close()
    assert fs.cat_file("/file") == b"x"


def test_threads_make_one_cache(make: Make) -> None:
    ready = threading.Barrier(8)

    def volume() -> Any:
        fs = PageCacheFileSystem("memory", capacity="4MiB")
        ready.wait(60)
        return fs.volume

    with ThreadPoolExecutor(8) as pool:
        found = {done.result(timeout=60) for done in [pool.submit(volume) for _ in range(8)]}
    assert found == {make("memory").volume}
    assert len(make("memory").cache.volumes()) == 1


# ---------------------------------------------------------------------------------------------- pickles


def test_a_file_system_pickles(fs: PageCacheFileSystem, root: str) -> None:
    fs.pipe_file(f"{root}/file", b"x")
    again = pickle.loads(pickle.dumps(fs))
    assert again is fs
    apart = in_thread(lambda: pickle.loads(pickle.dumps(fs)))
    assert apart.volume is fs.volume
    assert PageCacheFileSystem.from_json(fs.to_json()) is fs


@pytest.mark.parametrize(("mode", "again_mode"), [("r+b", "r+b"), ("wb", "r+b"), ("ab", "ab"), ("w+b", "r+b")])
def test_a_file_that_is_saved_pickles_and_goes_on(
    fs: PageCacheFileSystem, root: str, mode: str, again_mode: str
) -> None:
    fs.pipe_file(f"{root}/file", b"")
    with fs.open(f"{root}/file", mode) as file:
        file.write(b"first,")
        file.sync()
        again = pickle.loads(pickle.dumps(file))
    with again:
        assert (again.mode, again.tell()) == (again_mode, 6)
        again.write(b"second")
    assert fs.cat_file(f"{root}/file") == b"first,second"


def test_a_file_with_bytes_that_are_not_saved_does_not_pickle(fs: PageCacheFileSystem, root: str) -> None:
    """This holds for writers and readers: no other process would find the bytes."""
    fs.pipe_file(f"{root}/file", b"old")
    with fs.open(f"{root}/file", "r+b") as file, fs.open(f"{root}/file") as reader:
        file.write(b"new")
        for one in (file, reader):
            raises(TypeError, pickle.dumps, one, match=r"has bytes that are not saved; sync\(\) or close\(\) first")
    raises(TypeError, pickle.dumps, file, match="it is closed")
    with fs.volume.open(fs._key(f"{root}/file")) as plain, pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(plain)


# ---------------------------------------------------------------------------------------------- processes


@pytest.fixture(params=["spawn", "forkserver"])
def pool(request: pytest.FixtureRequest) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(request.param)) as executor:
        yield executor


@pytest.mark.parametrize("target", ["file", "store"])
def test_workers_get_file_systems_and_files(make: Make, tmp_path: Path, pool: ProcessPoolExecutor, target: str) -> None:
    """Each process has its own cache; a file closed by one can be opened by another."""
    fs, path = make("file") if target == "file" else make(fs=Store()), f"{tmp_path}/file"
    fs.pipe_file(path, b"0123456789")

    def ask(call: Callable[..., Any], *arguments: Any) -> Any:
        return pool.submit(call, *arguments).result(timeout=200)

    pid, data = ask(workers.content, fs, path)
    assert pid != os.getpid()
    assert data == b"0123456789"
    with fs.open(path) as file:
        file.seek(7)
        assert ask(workers.rest_of, file) == ("rb", 7, b"789")
    assert ask(workers.patch, fs, path, 2, b"ab") == pid
    assert fs.cat_file(path) == b"01ab456789"
    with fs.open(path, "ab") as file:
        file.write(b"+")
        file.sync()
        if target == "file":  # an object that is open here may not be replaced there
            ask(workers.go_on_writing, file, b"++")
    assert fs.cat_file(path)[:11] == b"01ab456789+"
    opened = fsspec.open(f"pagecache::file://{path}", capacity="4MiB")
    assert ask(workers.rest_of_opened, opened)[:11] == b"01ab456789+"


PRELUDE = """
import multiprocessing, sys
import pagecache
from pagecache.fsspec import PageCacheFileSystem
from tests.fsspec.targets import Store, Threaded
root = sys.argv[1]
file, store = PageCacheFileSystem("file"), PageCacheFileSystem(fs=Store())
"""


def script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a program, which works in the folder `store` there."""
    (folder / "store").mkdir()
    return run_program(folder, PRELUDE + textwrap.dedent(text), str(folder / "store"))


def test_a_forked_child_has_a_cache_of_its_own(tmp_path: Path) -> None:
    """Its file systems work; its parent's open files raise a clear error."""
    done = script(
        tmp_path,
        """
        threaded = PageCacheFileSystem(fs=Threaded())
        threaded.pipe_file("bucket/parent", b"parent")
        open_before = {}
        for name, fs in (("file", file), ("store", store)):
            fs.pipe_file(f"{root}/{name}", b"parent")
            open_before[name] = fs.open(f"{root}/{name}", "r+b")
            open_before[name].write(b"P")

        def child():
            for name, fs in (("file", file), ("store", store)):
                with fs.open(f"{root}/{name}-of-child", "wb") as f:
                    f.write(b"child")
                assert fs.cat_file(f"{root}/{name}-of-child") == b"child"
                assert fs.cat_file(f"{root}/{name}") == b"parent", "what the parent has not stored is his"
                try:
                    open_before[name].read(1)
                except pagecache.ForkedError as error:
                    print(type(error).__name__, flush=True)
                again = PageCacheFileSystem("file") if name == "file" else fs
                assert again.volume is fs.volume
            threaded.pipe_file("bucket/child", b"child")
            assert threaded.cat_file("bucket/child") == b"child"

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(100)
        print(process.exitcode)
        for name, fs in (("file", file), ("store", store)):
            open_before[name].close()
            print(fs.cat_file(f"{root}/{name}"), fs.cat_file(f"{root}/{name}-of-child"))
        """,
    )
    both = "b'Parent' b'child'"
    assert done.stdout.split("\n") == ["ForkedError", "ForkedError", "0", both, both, ""], done.stderr


def test_the_end_of_the_process_saves_what_is_closed_and_says_what_is_not(tmp_path: Path) -> None:
    """Half an object is never published without its writer; a file that is changed in place is saved."""
    done = script(
        tmp_path,
        """
        for name, fs in (("file", file), ("store", store)):
            fs.pipe_file(f"{root}/{name}-closed", b"closed")
            left_open = fs.open(f"{root}/{name}-open", "wb")
            left_open.write(b"open")
            globals()[name + "_open"] = left_open
        """,
    )
    assert done.returncode == 0
    found = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir() if path.is_file()}
    assert found == {"file-closed": b"closed", "file-open": b"open", "store-closed": b"closed"}
    assert "not saved" in done.stderr
    assert "store-open" in done.stderr
    assert "file-open" not in done.stderr
