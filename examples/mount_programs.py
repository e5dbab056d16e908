"""Programs on a mounted bucket: `python examples/mount_programs.py [URL]`; URL: another store to mount.

The bucket is on an S3 server of this machine. cp, tar, sort, gzip, sqlite and git work on the mount like on any disk.
After the unmount boto3 reads every object without the cache and compares it with the file that the programs saw.

It needs a loop for mounts and `fusermount3` (Debian: libfuse3-dev and pkg-config before the installation, fuse3).
Without a URL it also needs boto3 and the server, ministack: `pip install '.[dev]'` in a checkout has both.
"""

import contextlib
import filecmp
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pagecache


@contextlib.contextmanager
def mounted(url: str, directory: Path) -> Iterator[None]:
    done = subprocess.run([sys.executable, "-m", "pagecache", "mount", url, directory], check=False)
    if done.returncode:
        raise SystemExit(f"this example needs a mount of {url}, which failed with the error above")
    try:
        yield
    finally:
        subprocess.run(["fusermount3", "-u", directory], check=True)


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


def work(top: Path) -> None:
    """Do the usual work of programs."""
    tree = top / "tree"
    run("cp", "-r", Path(json.__file__).parent, tree)
    run("diff", "-r", Path(json.__file__).parent, tree)
    run("tar", "-C", top, "-cf", top / "tree.tar", "tree")
    run("tar", "-C", top, "-df", top / "tree.tar")
    (top / "numbers").write_text("".join(f"{n * 7919 % 10_007}\n" for n in range(20_000)))
    run("sort", "-n", "-o", top / "sorted", top / "numbers")
    run("gzip", "-k", top / "sorted")
    base = sqlite3.connect(top / "base")
    with base:
        base.execute("create table t (n integer primary key, text)")
        base.executemany("insert into t values (?, ?)", [(n, "x" * n) for n in range(500)])
    base.close()
    if shutil.which("git"):
        git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*", "-C", tree)
        run(*git, "init", "-q", "--template=")
        run(*git, "add", ".")
        run(*git, "commit", "-q", "-m", "one")
        run(*git, "fsck", "--strict", "--no-progress")
    (tree / "decoder.py").rename(top / "moved.py")


def demonstrate(url: str, read: Callable[[str], bytes], folder: Path) -> None:
    """Let programs work on a mount of the URL; `read` returns the stored bytes of a key."""
    directory, copy = folder / "mnt", folder / "copy"
    directory.mkdir()
    with mounted(url, directory):
        (directory / "demo").mkdir()
        work(directory / "demo")
        run("cp", "-r", directory / "demo", copy)
    paths = [path for path in copy.rglob("*") if path.is_file()]
    for path in paths:
        assert read(f"demo/{path.relative_to(copy)}") == path.read_bytes(), path
    with mounted(url, directory):
        assert filecmp.cmp(directory / "demo" / "sorted", copy / "sorted", shallow=False)
        base = sqlite3.connect(directory / "demo" / "base")
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)
        base.close()
        run("rm", "-r", directory / "demo")
    print(f"{len(paths)} files, written by programs on a mount, are stored with the bytes that the programs saw")


def on_a_bucket(folder: Path) -> None:
    from object_client import server, store  # the example beside this one

    (folder / "objects").mkdir()
    with server(folder / "objects") as endpoint:
        client = store(endpoint)
        client.create_bucket(Bucket="demo")

        def read(key: str) -> bytes:
            content: bytes = client.get_object(Bucket="demo", Key=key)["Body"].read()
            return content

        demonstrate(f"s3://demo?{urlencode({'endpoint': endpoint})}", read, folder)
        print(
            "verified by boto3; left in the bucket:", client.list_objects_v2(Bucket="demo").get("Contents", "nothing")
        )
        client.close()


def on_the_store(url: str, folder: Path) -> None:
    with pagecache.PageCache("64MiB") as cache:
        volume = cache.attach(url, read_only=True)

        def read(key: str) -> bytes:
            with volume.open(key) as file:
                return file.readall()

        demonstrate(url, read, folder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        if len(sys.argv) > 1:
            on_the_store(sys.argv[1], Path(temporary))
        else:
            on_a_bucket(Path(temporary))
