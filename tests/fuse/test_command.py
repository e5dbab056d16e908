"""`pagecache mount`, from its beginning to its end: refusals, the data it saves, and messages when it cannot."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecache.backends.protocol import BackendLimits
from pagecache.fuse import mount as mounts
from pagecache.fuse.mount import Mount, reading
from pagecache.fuse.mounting import options_from
from pagecache.fuse.mountpoint import CannotMount, check_store
from pagecache.fuse.options import MountOptions, WrongOption, with_words
from pagecache.observe.client import ask
from pagecache.target import Target

from ..file.rig import eventually, raises, raising
from .below import Switch
from .mounts import KINDS, Mounted, needs_mounts, run

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]

BELOW = "tests.fuse.below"
PAGE = 4096


@pytest.fixture
def switch(store: Path, tmp_path: Path) -> Iterator[Switch]:
    found = Switch(tmp_path)
    yield found
    if (tmp_path / "hang").exists():
        found.go_on()


def refused(*arguments: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "pagecache", "mount", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize("background", [True, False])
def test_a_failed_mount_is_one_sentence(tmp_path: Path, store: Path, background: bool) -> None:
    """The exit status is set too, even if the server was to run in the background."""
    more = [] if background else ["-f"]
    none, file = tmp_path / "none", tmp_path / "file"
    file.touch()
    assert refused("memory:", none, *more) == (1, f"pagecache mount: {none}: No such file or directory")
    assert refused("memory:", file, *more) == (1, f"pagecache mount: {file}: not a directory")
    usage: list[tuple[str, list[str], str]] = [
        (f"dir:{none}", [], str(none)),
        ("nonsense", [], "'nonsense' is neither a URL"),
        ("memory:", ["-o", "colour=red"], "-o colour=red: no such option"),
        ("memory:", ["--direct-io", "--kernel-cache"], ""),
        ("memory:", ["--capacity", "1 parsec"], "1 parsec"),
    ]
    for url, words, told in usage:
        status, text = refused(url, store, *words, *more)
        assert status == 2
        assert told in text


def test_nothing_is_mounted_over_a_live_mount(tmp_path: Path, store: Path) -> None:
    """The mountpoint may be written in any form; the live mount goes on, and can be unmounted and mounted again."""
    (store / "a").write_bytes(b"a")
    with Mounted(tmp_path / "with a blank", f"dir:{store}") as mounted:
        (tmp_path / "link").symlink_to(mounted.path)
        for path, more in ((mounted.path, []), (tmp_path / "link", ["-f"])):
            status, text = refused("memory:", path, *more)
            assert status == 1
            assert f"{path}: dir:{store} (fuse.pagecache) is mounted there" in text
            assert f"fusermount3 -u {mounted.path} first" in text  # which follows no link
        assert (mounted.path / "a").read_bytes() == b"a"
        assert mounted.unmount() == 0
        assert not os.path.ismount(mounted.path)
        mounted.start()
        assert (mounted.path / "a").read_bytes() == b"a"


def test_user_password_and_options_of_a_url_are_not_in_the_list_of_mounts(tmp_path: Path) -> None:
    with Mounted(tmp_path, "fsspec:memory://me:secret@host/folder") as mounted:
        listed = [line for line in Path("/proc/mounts").read_text().splitlines() if str(mounted.path) in line]
        assert [line.split()[0] for line in listed] == ["fsspec:memory://host/folder"]


@pytest.mark.parametrize("mode", KINDS)
def test_a_mount_whose_server_was_killed_is_said_to_be_gone(tmp_path: Path, store: Path, mode: str) -> None:
    """Then it can be mounted again. The command that is told unmounts it though a program uses it still."""
    (store / "a").write_bytes(b"a")
    with Mounted(tmp_path, f"dir:{store}", mode, "-o", "attr_timeout=0") as mounted:
        path = mounted.path
        (tmp_path / "link").symlink_to(path)
        used = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            mounted.kill()
            command = f"fusermount3 -u -z {path}"
            gone = f"pagecache mount: the server of the mount at {path} is gone; unmount it with {command}"
            for place, more in ((path, []), (path, ["-f"]), (path / "below", []), (tmp_path / "link", [])):
                assert refused("memory:", place, *more) == (1, gone)
            run(*command.split())
            mounted.start()
        finally:
            os.close(used)
        assert (mounted.path / "a").read_bytes() == b"a"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a tmpfs")
def test_a_mountpoint_without_a_server_can_be_mounted_over(tmp_path: Path, store: Path) -> None:
    """A volume of a container is an example."""
    (store / "a").write_bytes(b"a")
    mounted = Mounted(tmp_path, f"dir:{store}")
    run("mount", "-t", "tmpfs", "none", mounted.path)
    with mounted:  # its end removes anything mounted there
        assert (mounted.path / "a").read_bytes() == b"a"
        assert mounted.unmount() == 0
        assert os.path.ismount(mounted.path)
    assert not os.path.ismount(mounted.path)


@pytest.mark.parametrize("kind", ["dir", "fsspec", "decorated"])
def test_a_store_and_its_mountpoint_are_not_in_one_another(tmp_path: Path, store: Path, kind: str) -> None:
    """The file system would contain itself, or hide its store. The sentence has both paths and says which."""
    inner = store / "in it"
    inner.mkdir()
    (tmp_path / "link").symlink_to(store)
    urls = {"dir": f"dir:{store}", "fsspec": f"fsspec:file://{store}", "decorated": f"{BELOW}:switched"}
    backend = Target(urls[kind], {"folder": str(tmp_path)} if kind == "decorated" else {}).make()
    try:
        for path, why in (
            (store, "which it would hide"),
            (tmp_path / "link", "which it would hide"),
            (inner, "which would contain itself"),
            (tmp_path / "link" / inner.name, "which would contain itself"),
            (tmp_path, "and would be hidden"),
        ):
            caught = raises(CannotMount, check_store, backend, str(path))
            text = str(caught)
            assert text.startswith(f"{path}: ")
            assert f"the directory to be mounted, {store}, " in text
            assert why in text
            assert text.endswith(": a mountpoint and the store mounted on it cannot contain each other")
        (tmp_path / "store2").mkdir()  # a name with the same prefix only
        check_store(backend, str(tmp_path / "store2"))
    finally:
        backend.close()


def test_words_after_o() -> None:
    """Options of mount(8), of libfuse, and of this command; those addressed to mount(8) itself are ignored."""
    plain = MountOptions(url="memory:", mountpoint="/mnt")
    made = with_words(plain, ["ro,allow_other,uid=7,file_mode=600", "timeout=2.5,noatime,_netdev,x-systemd.automount"])
    assert made.read_only
    assert made.allow_other
    assert (made.uid, made.file_mode, made.timeout) == (7, 0o600, 2.5)
    assert made.flags == {"noatime"}
    for word in ("direct_io=1", "max_read=4096", "capacity"):
        raises(ValueError, with_words, plain, [word], match=word.partition("=")[0])
    raises(WrongOption, with_words, plain, ["direct_io,kernel_cache"])


@pytest.mark.parametrize("name", ["uid", "gid", "timeout", "drain_timeout"])
def test_an_option_of_zero_takes_the_place_of_a_word(name: str) -> None:
    """A flag or an option that is not given does not."""
    given = {name: 0, "capacity": None, "read_only": False}
    made = options_from("memory:", "/mnt", (f"{name}=5,ro,capacity=1MiB",), (), given)
    assert (getattr(made, name), made.read_only, made.capacity) == (0, True, "1MiB")


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("uid=bob", "the number of a user, from 0 to 4294967294"),
        ("uid=-1", "the number of a user, from 0 to 4294967294"),
        ("gid=4294967295", "the number of a group, from 0 to 4294967294"),
        ("file_mode=999", "a mode: octal digits, from 0 to 7777"),
        ("timeout=soon", "a number of seconds, from 0 to 10**9"),
        ("attr_timeout=inf", "a number of seconds, from 0 to 10**9"),
        ("entry_timeout=-1", "a number of seconds, from 0 to 10**9"),
        ("capacity=huge", "a size: a size is an int of bytes"),
        ("policy=lru", "one of 'adaptive', 'sticky'"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_named_with_its_rule(word: str, rule: str) -> None:
    """The message is the command's own, not one of Python's conversions."""
    name, _, value = word.partition("=")
    caught = raises(ValueError, with_words, MountOptions(url="memory:", mountpoint="/mnt"), [word], match=name)
    text = str(caught)
    assert value in text
    assert f" is not {rule}" in text
    assert "literal" not in text
    assert "convert" not in text


@pytest.mark.smoke("mount")
def test_it_goes_into_the_background(tmp_path: Path, store: Path) -> None:
    """The command returns when it is mounted; relative names keep their meaning; an unmount ends the server."""
    mounted = Mounted(tmp_path, f"dir:{store}")
    command = [sys.executable, "-m", "pagecache", "mount", "dir:store", "mnt", "--stats", "stats"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run(command, cwd=tmp_path, timeout=60, check=True, capture_output=True, env=environment)
    try:
        pid = ask(str(mounted.stats), "/v1/stats")["pid"]
        (mounted.path / "a").write_bytes(b"by the server")
        assert (store / "a").read_bytes() == b"by the server"
        process = os.pidfd_open(pid)
        run("fusermount3", "-u", mounted.path)
        import select

        assert select.select([process], [], [], 30)[0]
        os.close(process)
    finally:
        mounted.stop()


@pytest.mark.parametrize("words", [["policy=sticky"], []])
def test_the_volume_gets_the_policy_of_the_mount(words: list[str]) -> None:
    """[2.23]"""
    options = with_words(MountOptions(url="memory:", mountpoint="/mnt"), words)
    assert reading(options, BackendLimits())["policy"] == ("sticky" if words else "adaptive")


def test_a_read_only_mount(tmp_path: Path, store: Path) -> None:
    (store / "a").write_bytes(b"a")
    with Mounted(tmp_path, f"dir:{store}", "--read-only") as mounted:
        assert (mounted.path / "a").read_bytes() == b"a"
        for call in (
            lambda: (mounted.path / "a").write_bytes(b"b"),
            lambda: (mounted.path / "new").touch(),
            lambda: (mounted.path / "a").unlink(),
            lambda: (mounted.path / "d").mkdir(),
        ):
            assert raises(OSError, call).errno == errno.EROFS


def test_owners_and_modes_that_are_asked_for(tmp_path: Path) -> None:
    words = "file_mode=640,directory_mode=750"
    with Mounted(tmp_path, "memory:", "--uid", "12", "--gid", "34", "-o", words) as mounted:
        (mounted.path / "d").mkdir()
        (mounted.path / "a").touch()
        found = (mounted.path / "a").stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o640)
        assert stat.S_IMODE((mounted.path / "d").stat().st_mode) == 0o750


@pytest.mark.parametrize("mode", KINDS)
def test_sigterm_saves_what_programs_have_open(tmp_path: Path, store: Path, mode: str) -> None:
    """The mount is out of sight at once, and everything is stored when the server ends."""
    with Mounted(tmp_path, f"dir:{store}", mode) as mounted:
        fd = os.open(mounted.path / "a", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"x" * 100_000)
        assert mounted.terminate() == 0
        assert list(mounted.path.iterdir()) == []
        assert (store / "a").read_bytes() == b"x" * 100_000
        for call in (lambda: os.write(fd, b"y"), lambda: os.close(fd)):
            assert raises(OSError, call).errno == errno.ENOTCONN


LIMITED = """
import os, signal, sys, threading
from pagecache.fuse import mount as mounts
from pagecache.fuse.options import MountOptions

def no_process(*_args, **_options):
    raise BlockingIOError(11, "fork")

def start(thread):
    if thread._target in (mount._report, mount._save_before_the_end):
        raise RuntimeError("can't start new thread")
    genuine(thread)

def program():
    fd = os.open(sys.argv[2] + "/a", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"x" * 4096)
    os.kill(os.getpid(), signal.SIGTERM)

mounts.subprocess.run = no_process
mount = mounts.Mount(MountOptions(url="dir:" + sys.argv[1], mountpoint=sys.argv[2]), print, print)
genuine, threading.Thread.start = threading.Thread.start, start
sys.exit(mount.run(threading.Thread(target=program, daemon=True).start))
"""


def test_sigterm_saves_and_unmounts_though_no_process_and_no_thread_can_be_started(store: Path, mnt: Path) -> None:
    """The mount stays in sight until everything is saved."""
    try:
        run(sys.executable, "-c", LIMITED, store, mnt)
        assert not os.path.ismount(mnt)
        assert (store / "a").read_bytes() == b"x" * 4096
    finally:
        subprocess.run(["fusermount3", "-u", "-z", mnt], capture_output=True, check=False)


@pytest.mark.parametrize(("device", "hidden"), [(None, True), ("0:43", True), ("0:42", False)])
def test_a_mount_that_somebody_else_has_detached_takes_no_other_one_away(
    monkeypatch: pytest.MonkeyPatch, store: Path, mnt: Path, device: str | None, hidden: bool
) -> None:
    """Nothing is at its path, or a later mount, when it cannot take itself out of sight."""
    mount = Mount(MountOptions(url=f"dir:{store}", mountpoint=str(mnt)), print, print)
    mount._where, mount._device = str(mnt), "0:42"
    monkeypatch.setattr(subprocess, "run", raising(BlockingIOError(errno.EAGAIN, "fork")))
    monkeypatch.setattr(mounts, "mounted_at", lambda path: None if device is None else ["", "", device])
    mount._hide()
    assert mount.hidden == hidden


@pytest.mark.parametrize("end", ["terminate", "unmount"])
def test_what_could_not_be_saved_is_listed(tmp_path: Path, switch: Switch, end: str) -> None:
    """It is listed with its ranges and the reason, each once, and the exit status says so."""
    mounted = Mounted(tmp_path, f"{BELOW}:switched", "--option", f"folder={tmp_path}", "--drain-timeout", "5")
    with mounted:
        switch.fail("write", errno.ENOSPC)
        with pytest.raises(OSError) as caught, (mounted.path / "a").open("wb", buffering=0) as file:
            file.write(b"x" * 2 * PAGE)
        assert caught.value.errno == errno.ENOSPC
        assert getattr(mounted, end)() == 1
        assert not mounted.stats.exists()
    said = mounted.said()
    assert [line for line in said.splitlines() if "NOT SAVED: " in line or "are not saved: " in line] == [
        line for line in said.splitlines() if line.startswith("pagecache mount: NOT SAVED: ")
    ]
    assert said.count("NOT SAVED: ") == said.count("not saved: 'a' [0, 8192)") == 1
    assert "No space left" in said


@pytest.mark.parametrize("end", ["terminate", "unmount"])
def test_a_store_that_hangs_at_the_end_is_not_waited_for_longer_than_was_said(
    tmp_path: Path, switch: Switch, end: str
) -> None:
    """Uncommitted bytes that were written back are listed; the mount is gone, and so is the server."""
    mounted = Mounted(tmp_path, f"{BELOW}:switched", "--option", f"folder={tmp_path}", "--drain-timeout", "1")
    with mounted:
        (mounted.path / "a").write_bytes(b"x" * 2 * PAGE)
        switch.hang()
        assert getattr(mounted, end)() == 1
        assert not os.path.ismount(mounted.path)
    assert "not saved: 'a'" in mounted.said()


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("end", ["terminate", "unmount"])
def test_signals_while_everything_is_saved_do_not_end_the_saving(
    tmp_path: Path, switch: Switch, store: Path, end: str, mode: str
) -> None:
    """A service may be stopped just after its unmount: the store answers late, and all is there."""
    mounted = Mounted(tmp_path, f"{BELOW}:switched", "--option", f"folder={tmp_path}", mode)
    with mounted:
        server = mounted.process
        assert server is not None
        (mounted.path / "a").write_bytes(b"x" * 2 * PAGE)
        switch.hang()
        if end == "unmount":
            run("fusermount3", "-u", mounted.path)
        else:
            server.terminate()
        eventually(lambda: "saving: " in mounted.said() or server.poll() is not None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            server.send_signal(number)
        switch.go_on()
        assert mounted.wait() == 0
    assert (store / "a").read_bytes() == b"x" * 2 * PAGE


@pytest.mark.parametrize("mode", KINDS)
def test_a_dead_backend_stops_no_reader_of_cached_bytes(tmp_path: Path, switch: Switch, mode: str) -> None:
    """The rest gets EIO when its time is over; umount -f works, and the end lists the unsaved bytes."""
    options = ("--option", f"folder={tmp_path}", "--timeout", "1", "--drain-timeout", "1", mode)
    mounted = Mounted(tmp_path, f"{BELOW}:switched", *options)
    (tmp_path / "store" / "uncached").write_bytes(b"u" * PAGE)
    with mounted:
        cached = os.open(mounted.path / "cached", os.O_RDWR | os.O_CREAT)
        uncached = os.open(mounted.path / "uncached", os.O_RDONLY)
        os.write(cached, b"c" * PAGE)
        os.fsync(cached)
        switch.hang()
        for call in (lambda: os.pread(uncached, PAGE, 0), lambda: os.open(mounted.path / "cached", os.O_RDONLY)):
            assert raises(OSError, call).errno == errno.EIO
            assert os.pread(cached, PAGE, 0) == b"c" * PAGE
        assert os.pwrite(cached, b"d", 0) == 1
        assert raises(OSError, os.fsync, cached).errno == errno.EIO
        run("umount", "-f", "-l", mounted.path, timeout=30)
        assert mounted.wait() == 1
        for fd in (cached, uncached):
            with contextlib.suppress(OSError):
                os.close(fd)
    assert "not saved: 'cached'" in mounted.said()
