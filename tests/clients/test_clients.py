"""The libraries through which people use fsspec, each opening, reading and writing through the cache.

Every test ends with a check of the store, without the cache and by other code: every file that a client has closed is
there, whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import pytest
import xarray as xr
import zarr

from pagecache.fsspec import PageCacheFileSystem

ROWS = 20_000


@dataclass
class Store:
    """A directory of a target, through the cache and without it. `target`: the URL of the target, up to a path."""

    target: str
    fs: PageCacheFileSystem
    below: Any
    root: str
    options: dict[str, Any]  # `storage_options` of URLs

    def url(self, name: str) -> str:
        """The URL through the cache."""
        return f"pagecache::{self.plain_url(name)}"

    def plain_url(self, name: str) -> str:
        """The URL without it."""
        return f"{self.target}{self.root}/{name}"

    def path(self, name: str) -> str:
        """The path for `fs` and `below`."""
        return f"{self.root}/{name}"

    def stored(self, name: str) -> bytes:
        """The content without the cache."""
        self.below.invalidate_cache()
        return bytes(self.below.cat_file(self.path(name)))


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with files that are changed in place, and one with whole objects."""
    protocol: str = request.param
    below = fsspec.filesystem(protocol)
    root = str(tmp_path) if protocol == "file" else f"/{tmp_path.name}"
    below.makedirs(root, exist_ok=True)
    options = {"auto_mkdir": True} if protocol == "file" else {}  # zarr has no directories
    fs = fsspec.filesystem("pagecache", target_protocol=protocol, target_options=options)
    yield Store(
        "file://" if protocol == "file" else "memory:/", fs, below, root, {protocol: options} if options else {}
    )
    fs.cache.check()
    fs.close(timeout=60.0)
    below.rm(root, recursive=True)


def table(rows: int = ROWS, seed: int = 1) -> pd.DataFrame:
    """Numbers, text and times."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "n": np.arange(rows),
            "x": rng.random(rows),
            "word": rng.choice(["one", "two", "three"], rows),
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(rows), unit="s"),
        }
    )


# -- pandas


def test_pandas_appends_rows_to_csv(store: Store) -> None:
    """Mode "a", which no cache of fsspec has: the old bytes are not sent again."""
    frame = table()
    frame.to_csv(store.url("table.csv"), index=False)
    frame.to_csv(store.url("table.csv"), mode="a", header=False, index=False)
    assert len(pd.read_csv(store.url("table.csv"))) == 2 * ROWS
    assert store.stored("table.csv") == (frame.to_csv(index=False) + frame.to_csv(index=False, header=False)).encode()


def test_pandas_writes_and_reads_parquet(store: Store) -> None:
    frame = table()
    frame.to_parquet(store.url("table.parquet"), row_group_size=ROWS // 8)
    pd.testing.assert_frame_equal(pd.read_parquet(store.url("table.parquet")), frame)
    some = pd.read_parquet(store.url("table.parquet"), columns=["x"], filters=[("n", "<", 100)])
    assert some.x.tolist() == frame.x[:100].tolist()
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(store.stored("table.parquet"))), frame)


# -- polars


def test_polars_writes_reads_and_scans_parquet(store: Store) -> None:
    frame = pl.from_pandas(table())
    with store.fs.open(store.path("polars.parquet"), "wb") as file:
        frame.write_parquet(file, row_group_size=ROWS // 8)
    assert pl.read_parquet(store.fs.open(store.path("polars.parquet"))).equals(frame)
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store.fs))
    found = pyarrow.dataset.dataset(store.path("polars.parquet"), filesystem=filesystem, format="parquet")
    some = pl.scan_pyarrow_dataset(found).filter(pl.col("n") < 100).select("x").collect()
    assert some["x"].to_list() == frame["x"][:100].to_list()
    assert pl.read_parquet(io.BytesIO(store.stored("polars.parquet"))).equals(frame)


# -- DuckDB


@pytest.mark.parametrize("prefix", ["pagecache::", "pagecache://"], ids=["by its URL", "by its path"])
def test_duckdb_reads_globs_and_writes_parquet(store: Store, prefix: str) -> None:
    """It lists the files of a pattern by their URLs, and opens those."""

    def url(name: str) -> str:
        return store.url(name) if prefix == "pagecache::" else f"pagecache://{store.path(name)}"

    frame = table()
    for part in range(2):
        frame[part::2].to_parquet(store.url(f"part{part}.parquet"))
    with duckdb.connect() as database:
        database.register_filesystem(store.fs)
        (total,) = database.sql(f"SELECT sum(n) FROM '{url('part0.parquet')}'").fetchall()[0]
        assert total == frame.n[::2].sum()
        (total,) = database.sql(f"SELECT sum(n) FROM read_parquet('{url('part*.parquet')}')").fetchall()[0]
        assert total == frame.n.sum()
        database.sql(f"COPY (SELECT 7 AS n) TO '{url('duck.parquet')}'")
    assert pd.read_parquet(io.BytesIO(store.stored("duck.parquet"))).n.tolist() == [7]


# -- pyarrow


def test_pyarrow_writes_and_reads_a_dataset(store: Store) -> None:
    """It has many files in folders; pyarrow wraps the file system of fsspec."""
    frame = pa.Table.from_pandas(table())
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store.fs))
    root = store.path("dataset")
    pyarrow.dataset.write_dataset(
        frame, root, filesystem=filesystem, format="parquet", partitioning=["word"], partitioning_flavor="hive"
    )
    found = pyarrow.dataset.dataset(root, filesystem=filesystem, format="parquet", partitioning="hive")
    assert sorted(Path(file).parent.name for file in found.files) == ["word=one", "word=three", "word=two"]
    again = found.to_table().sort_by("n")
    assert again.select(["n", "x", "at"]).equals(frame.select(["n", "x", "at"]))
    assert found.count_rows(filter=pyarrow.dataset.field("word") == "two") == frame["word"].to_pylist().count("two")
    pyarrow.dataset.write_dataset(
        frame.slice(0, 10),
        root,
        filesystem=filesystem,
        format="parquet",
        existing_data_behavior="delete_matching",
        partitioning=["word"],
        partitioning_flavor="hive",
    )
    again = pyarrow.dataset.dataset(root, filesystem=filesystem, format="parquet", partitioning="hive").to_table()
    assert again.num_rows == 10


# -- zarr


def test_zarr_writes_and_reads_chunks(store: Store) -> None:
    """A part of some chunks is rewritten, and an array grows."""
    data = np.arange(200 * 300, dtype="i4").reshape(200, 300)
    array = zarr.create_array(
        store.url("a.zarr"), storage_options=store.options, shape=data.shape, chunks=(50, 50), dtype="i4"
    )
    array[:] = data
    again = zarr.open_array(store.url("a.zarr"), storage_options=store.options, mode="r+")
    again[10:60, 20:30] = -1
    again.append(data)
    data = np.concatenate([data, data])
    data[10:60, 20:30] = -1
    np.testing.assert_array_equal(zarr.open_array(store.plain_url("a.zarr"), mode="r")[:], data)


# -- HDF5


def test_h5py_changes_a_dataset_in_place(store: Store) -> None:
    """The file is opened r+b: HDF5 reads, writes, seeks and truncates freely."""
    data = np.random.default_rng(1).random((1000, 100))
    with store.fs.open(store.path("d.h5"), "w+b") as file, h5py.File(file, "w") as h5:
        h5.create_dataset("plain", data=data)
        h5.create_dataset("packed", data=data, chunks=(100, 100), compression="gzip", maxshape=(None, 100))
    with store.fs.open(store.path("d.h5"), "r+b") as file, h5py.File(file, "r+") as h5:
        h5["plain"][500:510] = 0
        h5["packed"].resize(1500, axis=0)
        h5["packed"][1200:] = 7
        h5.attrs["changed"] = "yes"
    with h5py.File(io.BytesIO(store.stored("d.h5")), "r") as h5:
        data[500:510] = 0
        np.testing.assert_array_equal(h5["plain"][:], data)
        assert h5["packed"][1200:].min() == 7
        assert h5.attrs["changed"] == "yes"


# -- xarray


def weather() -> xr.Dataset:
    rng = np.random.default_rng(1)
    return xr.Dataset(
        {"t": (("time", "y", "x"), rng.random((24, 40, 50))), "rain": (("time",), rng.random(24))},
        coords={"time": pd.date_range("2026-01-01", periods=24, freq="h"), "y": np.arange(40), "x": np.arange(50)},
        attrs={"title": "weather"},
    )


def test_xarray_writes_and_reads_netcdf4(store: Store) -> None:
    with store.fs.open(store.path("w.nc"), "w+b") as file:
        weather().to_netcdf(file, engine="h5netcdf")
    with store.fs.open(store.path("w.nc"), "rb") as file, xr.open_dataset(file, engine="h5netcdf") as again:
        xr.testing.assert_identical(again.isel(time=3).load(), weather().isel(time=3))
    with xr.open_dataset(io.BytesIO(store.stored("w.nc")), engine="h5netcdf") as again:
        xr.testing.assert_identical(again.load(), weather())


# -- numpy


def test_numpy_saves_loads_and_changes_a_slice(store: Store) -> None:
    data = np.arange(100_000, dtype="f8")
    with fsspec.open(store.url("a.npy"), "wb") as file:
        np.save(file, data)
    with fsspec.open(store.url("a.npy"), "r+b") as file:
        version = np.lib.format.read_magic(file)
        shape, _fortran, dtype = np.lib.format.read_array_header_1_0(file)
        assert (version, shape) == ((1, 0), (100_000,))
        start = file.tell()
        file.seek(start + 500 * dtype.itemsize)
        file.write(np.full(1000, -1.0))
        file.seek(start)
        room = np.empty(2000, dtype)
        assert file.readinto(room) == room.nbytes
    data[500:1500] = -1
    np.testing.assert_array_equal(room, data[:2000])
    np.testing.assert_array_equal(np.load(io.BytesIO(store.stored("a.npy"))), data)
