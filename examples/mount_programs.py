"""Programs on a mounted store: `python mount_programs.py [URL]`. By itself it mounts a directory that it makes.

They copy a tree, sort, compress and query a database there; after the unmount every byte is compared past the mount.
"""

import contextlib
import filecmp
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pagecache


@contextlib.contextmanager
def mounted(url: str, directory: Path) -> Iterator[None]:
    subprocess.run([sys.executable, "-m", "pagecache", "mount", url, directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["fusermount3", "-u", directory], check=True)


def work(top: Path) -> None:
    """What people do, by programs that know nothing of the cache."""
    subprocess.run(["cp", "-r", Path(json.__file__).parent, top / "tree"], check=True)
    (top / "numbers").write_text("".join(f"{n * 7919 % 10_007}\n" for n in range(20_000)))
    subprocess.run(["sort", "-n", "-o", top / "sorted", top / "numbers"], check=True)
    subprocess.run(["gzip", "-k", top / "sorted"], check=True)
    base = sqlite3.connect(top / "base")
    with base:
        base.execute("create table t (n integer primary key, text)")
        base.executemany("insert into t values (?, ?)", [(n, "x" * n) for n in range(500)])
    base.close()
    (top / "tree" / "decoder.py").rename(top / "moved.py")


def compare(url: str, copy: Path) -> int:
    """Every file below `copy` with what the store has, read through a new cache; how many."""
    paths = [path for path in copy.rglob("*") if path.is_file()]
    with pagecache.PageCache("64MiB") as cache:
        volume = cache.attach(url)
        for path in paths:
            with volume.open(f"demo/{path.relative_to(copy)}") as file:
                assert file.readall() == path.read_bytes(), path
    return len(paths)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, directory, copy = (Path(folder) / name for name in ("store", "mnt", "copy"))
        store.mkdir()
        directory.mkdir()
        url = sys.argv[1] if len(sys.argv) > 1 else f"dir:{store}"
        with mounted(url, directory):
            (directory / "demo").mkdir()
            work(directory / "demo")
            subprocess.run(["cp", "-r", directory / "demo", copy], check=True)
        with mounted(url, directory):
            assert filecmp.cmp(directory / "demo" / "sorted", copy / "sorted", shallow=False)
            base = sqlite3.connect(directory / "demo" / "base")
            assert base.execute("pragma integrity_check").fetchone() == ("ok",)
            base.close()
        count = compare(url, copy)
        if len(sys.argv) > 1:
            with mounted(url, directory):
                subprocess.run(["rm", "-r", directory / "demo"], check=True)
    print(f"{count} files, written by programs on a mount, are in the store as they were seen")


if __name__ == "__main__":
    main()
