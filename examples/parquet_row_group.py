"""Change one row group of a parquet file in place with pandas, and compare the traffic with writing the file anew.

A row group of plain values with a fixed width keeps its length when values change. So it can be encoded by itself and
written over the old one, if the file system opens files for that. The footer stays as it is.

It needs fsspec, numpy, pandas and pyarrow: `pip install '.[fsspec]' numpy pandas pyarrow` in a checkout.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

try:
    import fsspec
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    advice = "run pip install '.[fsspec]' numpy pandas pyarrow in a checkout"
    raise SystemExit(f"this example needs fsspec, numpy, pandas and pyarrow ({error}): {advice}") from None

ROWS, GROUPS, CHANGED = 2_000_000, 20, 7
PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


def encoded(frame: pd.DataFrame, rows: int) -> bytes:
    """Return a parquet file with row groups of `rows` rows."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), out, row_group_size=rows, **PLAIN)
    return out.getvalue()


def extent(file: Any, group: int) -> tuple[int, int]:
    """Return offset and length of a row group."""
    row_group = pq.ParquetFile(file).metadata.row_group(group)
    columns = [row_group.column(number) for number in range(row_group.num_columns)]
    start = min(column.data_page_offset for column in columns)
    return start, max(column.data_page_offset + column.total_compressed_size for column in columns) - start


def change(url: str, group: int) -> None:
    """Raise all prices of a row group by a tenth."""
    with fsspec.open(url, "r+b") as file:
        offset, length = extent(file, group)
        frame = pq.ParquetFile(file).read_row_group(group).to_pandas()
        frame["price"] *= 1.1
        alone = encoded(frame, len(frame))
        begin, same = extent(io.BytesIO(alone), 0)
        assert same == length, "values of another width: the row group does not fit in its place"
        file.pwrite(alone[begin : begin + length], offset)


def main(folder: Path) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"article": np.arange(ROWS), "price": rng.random(ROWS)})
    path = folder / "articles.parquet"
    path.write_bytes(encoded(frame, ROWS // GROUPS))
    url = f"pagecache::file://{path}"

    fs = fsspec.filesystem("pagecache", target_protocol="file")
    change(url, CHANGED)
    stats = fs.volume.stats()
    size = path.stat().st_size
    print(
        f"one of {GROUPS} row groups changed in place: {stats.read_bytes:,} bytes read, {stats.write_bytes:,} written"
    )
    print(f"the file written anew: {size:,} bytes read, {size:,} written")

    changed = pd.read_parquet(path)
    rows = slice(CHANGED * ROWS // GROUPS, (CHANGED + 1) * ROWS // GROUPS)
    frame.loc[frame.index[rows], "price"] *= 1.1
    pd.testing.assert_frame_equal(changed, frame)
    fs.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
