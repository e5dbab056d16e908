"""Several processes, each with its own cache: a worker that opens after another has closed sees the bytes that it
wrote.

    worker A   open ── write ── close ─┐
    worker B                           └─ open ── read        close-to-open: B has A's bytes

Two that write one object without that order are in conflict: one of them gets an error, and the other's bytes stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import dask.dataframe
import fsspec
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from ..fsspec import targets

pytestmark = pytest.mark.timeout(300)

SIZE = 200_000


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.run(import_module, targets.__name__)  # this registers its protocol there
        yield client


@pytest.fixture(params=["file", "store"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A target whose files are changed in place, and one with whole objects."""
    return f"pagecache::{request.param}://{tmp_path}/object"


@pytest.fixture
def workers(client: Client) -> list[str]:
    return sorted(client.scheduler_info()["workers"])


def write(url: str, mode: str, offset: int, data: bytes) -> None:
    with fsspec.open(url, mode) as file:
        file.seek(offset)
        file.write(data)


def read(url: str) -> bytes:
    with fsspec.open(url, "rb") as file:
        return bytes(file.read())


class Writer:
    """A handle that stays open in a worker."""

    def __init__(self, url: str) -> None:
        self.file = fsspec.open(url, "r+b").open()

    def write(self, offset: int, data: bytes) -> None:
        self.file.seek(offset)
        self.file.write(data)

    def close(self) -> str:
        try:
            self.file.close()
        except OSError as error:
            return type(error).__name__
        return "closed"


def test_an_open_after_another_worker_closed_sees_the_new_bytes(client: Client, workers: list[str], url: str) -> None:
    one, other = workers
    data = bytearray(b"\1" * SIZE)
    client.submit(write, url, "wb", 0, bytes(data), workers=one, pure=False).result(60)
    for turn in range(6):
        reader, writer = (one, other) if turn % 2 else (other, one)
        found = client.submit(read, url, workers=reader, pure=False).result(60)
        assert found == data  # the reader has all of it cached now
        patch = bytes([turn + 2]) * 1000
        data[turn * 20_000 : turn * 20_000 + 1000] = patch
        client.submit(write, url, "r+b", turn * 20_000, patch, workers=writer, pure=False).result(60)
        assert client.submit(read, url, workers=reader, pure=False).result(60) == data
    assert Path(url.partition("://")[2]).read_bytes() == data


@pytest.mark.parametrize(
    ("below", "message", "stored"),
    [
        ("store", "ConflictError", bytes(SIZE - 6) + b"theirs"),
        ("file", "closed", b"mine" + bytes(SIZE - 10) + b"theirs"),
    ],
)
def test_a_close_over_a_whole_object_of_another_worker_is_a_conflict_and_changes_in_place_are_both_there(
    client: Client, workers: list[str], tmp_path: Path, below: str, message: str, stored: bytes
) -> None:
    """The other one's bytes stay. [2.19]"""
    one, other = workers
    url = f"pagecache::{below}://{tmp_path}/object"
    client.submit(write, url, "wb", 0, bytes(SIZE), workers=one, pure=False).result(60)
    mine = client.submit(Writer, url, actor=True, workers=one).result(60)
    mine.write(0, b"mine").result(60)
    client.submit(write, url, "r+b", SIZE - 6, b"theirs", workers=other, pure=False).result(60)
    assert mine.close().result(60) == message
    assert (tmp_path / "object").read_bytes() == stored


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of dask, to pandas
def test_dask_dataframes_are_written_and_read_by_all_workers(client: Client, url: str) -> None:
    url += ".parquet"
    frame = pd.DataFrame({"n": np.arange(100_000), "x": np.random.default_rng(1).random(100_000)})
    many = dask.dataframe.from_pandas(frame, npartitions=6)
    many.to_parquet(url)
    again = dask.dataframe.read_parquet(url)
    assert again.npartitions == 6
    pd.testing.assert_frame_equal(again.compute().sort_values("n").reset_index(drop=True), frame)
    total = again.x.sum().compute()
    assert abs(total - frame.x.sum()) < 1e-6
