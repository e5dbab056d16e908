"""Mounts that several tests share, each test in a separate folder; and parts of the mounts that a test makes itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecache import PageCache, Volume
from pagecache.backends import DirectoryBackend
from tests.s3.servers import ENVIRONMENT, Server, missing

from .mounts import KINDS, Mounted

_numbers = itertools.count(1)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(scope="session", params=KINDS)
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mounted, Path]]:
    """A mount of a directory, and that directory."""
    root = tmp_path_factory.mktemp("tree")
    store = root / "store"
    store.mkdir()
    with Mounted(root, f"dir:{store}", request.param, "--capacity", "16MiB", longest=1800) as mounted:
        yield mounted, store


@pytest.fixture(scope="session", params=KINDS)
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A mount of a store that has nothing but objects."""
    root = tmp_path_factory.mktemp("objects")
    with Mounted(root, "memory:", request.param, "--capacity", "16MiB", longest=900) as mounted:
        yield mounted


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A directory for a mount of the test's own."""
    return _made(tmp_path / "store")


@pytest.fixture
def mnt(tmp_path: Path) -> Path:
    """A mountpoint."""
    return _made(tmp_path / "mnt")


@pytest.fixture
def volume(store: Path) -> Iterator[Volume]:
    """A volume over `store`, not mounted."""
    with PageCache("4MiB") as cache:
        yield cache.attach(DirectoryBackend(store))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A directory outside of any mount, for comparison."""
    return _made(tmp_path / "plain")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server."""
    if missing("ministack"):
        pytest.skip("ministack is not installed (`make` does it)")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        server = Server("ministack_memory", tmp_path_factory.mktemp("ministack"))
        yield server
        server.close()


@pytest.fixture
def mounted(tree: tuple[Mounted, Path]) -> Mounted:
    return tree[0]


@pytest.fixture
def place(tree: tuple[Mounted, Path]) -> Path:
    """A folder of the mounted directory."""
    return _made(tree[0].path / f"test{next(_numbers)}")


@pytest.fixture
def stored(tree: tuple[Mounted, Path], place: Path) -> Path:
    """The folder of `place`, past the mount."""
    return tree[1] / place.name


@pytest.fixture
def flat(objects: Mounted) -> Path:
    """A folder of the mounted objects."""
    return _made(objects.path / f"test{next(_numbers)}")
