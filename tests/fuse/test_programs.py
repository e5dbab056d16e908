"""Real programs on real mounts, with and without pages of the kernel: their data is checked by them and by the test."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ..file.rig import raises
from .mounts import KINDS, Mounted, maps_shared, names, needs_mounts, run

pytestmark = [needs_mounts, pytest.mark.xdist_group("mounts")]

BELOW = "tests.fuse.below"
JOURNALS = ("delete", "truncate", "persist", "memory", "wal", "off")
QUICK = ("delete", "wal")


def same(one: Path, other: Path) -> None:
    """Check that both trees have equal names, kinds and bytes."""
    for path in one.rglob("*"):
        twin = other / path.relative_to(one)
        assert twin.is_symlink() == path.is_symlink(), twin
        if path.is_symlink():
            assert os.readlink(path) == os.readlink(twin)
        elif path.is_dir():
            assert names(path) == names(twin)
        else:
            assert filecmp.cmp(path, twin, shallow=False), twin


slow = pytest.mark.slow


@pytest.mark.parametrize("journal", [pytest.param(name, marks=() if name in QUICK else slow) for name in JOURNALS])
def test_sqlite(place: Path, stored: Path, mounted: Mounted, journal: str) -> None:
    """Transactions, some rolled back. Without shared mappings a write-ahead log is private to one process."""
    path = place / "db"
    alone = journal == "wal" and not maps_shared(mounted.options)

    def connect(where: Path) -> sqlite3.Connection:
        base = sqlite3.connect(where, isolation_level=None, timeout=30)
        if alone:
            base.execute("pragma locking_mode=exclusive")
        return base

    base = connect(path)
    assert base.execute(f"pragma journal_mode={journal}").fetchone()[0] == journal
    base.execute("create table t (n integer primary key, b blob)")
    for round_ in range(6):
        base.execute("begin")
        base.executemany(
            "insert or replace into t values (?, ?)", [(n, os.urandom(500)) for n in range(round_ * 20, 200)]
        )
        base.execute("commit" if journal == "off" or round_ % 3 < 2 else "rollback")
    base.execute("delete from t where n % 3 = 0")
    base.execute("vacuum")
    expected = base.execute("select count(*), sum(length(b)) from t").fetchone()
    base.close()
    for where in (path, stored / "db"):
        again = connect(where)
        assert again.execute("pragma integrity_check").fetchone()[0] == "ok"
        assert again.execute("select count(*), sum(length(b)) from t").fetchone() == expected
        again.close()


def test_a_shared_write_ahead_log_says_that_it_has_no_shared_mapping(place: Path, mounted: Mounted) -> None:
    """docs/how-to/mount.md describes sqlite on mounts without shared mappings."""
    base = sqlite3.connect(place / "db", isolation_level=None)
    base.execute("pragma journal_mode=wal")
    if not maps_shared(mounted.options):
        raises(sqlite3.OperationalError, base.execute, "create table t (n integer primary key)", match="disk I/O error")
    else:
        base.execute("create table t (n integer primary key)")
    base.close()


def test_programs_that_keep_no_times_and_modes_work_on_stores_that_have_none(tmp_path: Path) -> None:
    """The commands of docs/how-to/mount.md succeed. Those with times fail, but have stored the bytes."""
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for path in (source, source / "d"):
        path.chmod(0o755)  # those of the mount, whatever the umask
    (source / "a").write_bytes(b"a" * 5000)
    (source / "d" / "b").write_bytes(b"b")
    for path in (source / "a", source / "d" / "b"):
        path.chmod(0o600)
        os.utime(path, (10**9, 10**9))
    run("tar", "-C", source, "-cf", tmp_path / "tar", ".")
    with Mounted(tmp_path, "memory:") as mounted:
        works: dict[str, list[str | Path]] = {
            "cp": ["cp", "-r", f"{source}/.", "."],
            "tar": ["tar", "-mxf", tmp_path / "tar"],
            "rsync": ["rsync", "-a", "--no-times", "--inplace", "--chmod=F644,D755", f"{source}/", "."],
        }
        fails: dict[str, list[str | Path]] = {
            "cp": ["cp", "-rp", f"{source}/.", "."],
            "tar": ["tar", "-xf", tmp_path / "tar"],
        }
        for name, command in works.items():
            if shutil.which(name) is not None:
                (mounted.path / name).mkdir()
                run(*command, cwd=mounted.path / name)
                same(source, mounted.path / name)
                run("sh", "-c", 'umask 077; "$@"', "sh", *command, cwd=mounted.path / name)
                same(source, mounted.path / name)
        for number, (name, command) in enumerate(fails.items()):
            where = mounted.path / f"{name}, with times"
            where.mkdir()
            assert "Operation not supported" in run(*command, cwd=where, status=1 + number)
            same(source, where)
        source.chmod(0o700)  # of an existing directory; new ones are made with the modes of the mount
        run("tar", "-C", source, "-cf", tmp_path / "tar", ".")
        where = mounted.path / "tar, with another mode"
        where.mkdir()
        assert "Cannot change mode" in run(*works["tar"], cwd=where, status=2)
        same(source, where)


@pytest.mark.parametrize("mode", KINDS)
def test_memory_stays_within_its_limit(tmp_path: Path, store: Path, mode: str) -> None:
    """Files ten times as large as the cache are written, read, and changed at random places."""
    size, rng = 40 << 20, random.Random(2)
    with Mounted(tmp_path, f"dir:{store}", mode, "--capacity", "8MiB") as mounted:
        assert mounted.process is not None

        def resident() -> int:
            text = Path(f"/proc/{mounted.process.pid}/status").read_text() if mounted.process else ""
            return int(text.partition("VmRSS:")[2].split()[0]) << 10

        path = mounted.path / "a"
        path.write_bytes(b"")
        before = resident()
        expected = bytearray(rng.randbytes(size))
        path.write_bytes(expected)
        with path.open("r+b", buffering=0) as file:
            for _ in range(500):
                at = rng.randrange(size - 5000)
                expected[at : at + 5000] = rng.randbytes(5000)
                os.pwrite(file.fileno(), expected[at : at + 5000], at)
        assert path.read_bytes() == expected
        assert mounted.number("used") <= 8 << 20
        assert resident() - before < 40 << 20  # 8 MiB of cache, 1 MiB requests in flight, threads
    assert (store / "a").read_bytes() == expected


WAYS = "buffered,direct,through,views,append,truncate,names,hints"


def stress(path: Path, *options: str, timeout: float = 100) -> None:
    command = [sys.executable, "-m", "pagecache", "stress", f"path:{path}", "--patience=90s", f"--mix={WAYS}"]
    done = subprocess.run(
        [*command, *options], cwd=path.parent, timeout=timeout, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("profile", ["fsx", *(pytest.param(name, marks=slow) for name in ("database", "generic-095"))])
def test_the_stress_tester_finds_nothing(place: Path, profile: str) -> None:
    """Buffered, direct and mapped, with cuts and holes, by many threads."""
    stress(place, "--profile", profile, "--duration", "2s", "--seed", "7")


SOAK = 3 * float(os.environ.get("PAGECACHE_SOAK_SECONDS", "600"))
HOUR = pytest.param("faulty", SOAK, [], marks=[pytest.mark.soak, pytest.mark.timeout(7200)])
SHORT = [pytest.param(below, 4.0, ["--seed", "9"], marks=slow) for below in ("slow", "faulty")]


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize(("below", "seconds", "seed"), [*SHORT, HOUR])
def test_the_stress_tester_finds_nothing_above_bad_stores(
    tmp_path: Path, store: Path, mode: str, below: str, seconds: float, seed: list[str]
) -> None:
    """A store whose calls take time, and one whose calls fail now and then, and are repeated."""
    options = ["--option", f"root={store}", "--capacity", "2MiB", mode]
    options += ["--option", "profile=mild"] if below == "faulty" else []
    with Mounted(tmp_path, f"{BELOW}:{below}", *options, longest=seconds + 1200) as mounted:
        stress(mounted.path, "--duration", f"{seconds:g}s", "--patience", "120s", *seed, timeout=seconds + 900)
        assert mounted.number("write_requests") > 0
        assert mounted.unmount() == 0, mounted.said()
