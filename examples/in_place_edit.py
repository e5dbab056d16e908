"""Ten thousand small edits in place, in a cache that is smaller than the file, become few and large writes."""

import random
import struct
import tempfile
from pathlib import Path

import pagecache

RECORD = struct.Struct("<QQ")  # 16 bytes: a number, and how often it was edited
RECORDS, EDITS = 500_000, 10_000


def main() -> None:
    choose = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.bin"
        path.write_bytes(b"".join(RECORD.pack(number, 0) for number in range(RECORDS)))
        expected = [0] * RECORDS

        with pagecache.PageCache("4MiB") as cache:
            volume = cache.attach(f"dir:{folder}", read_ahead=0)  # access is random
            with volume.open("table.bin", "r+") as table:
                for _ in range(EDITS):
                    # Most edits go to a small part of the table, as in real programs.
                    number = choose.randrange(5_000) if choose.random() < 0.9 else choose.randrange(RECORDS)
                    found, edits = RECORD.unpack(table.pread(RECORD.size, number * RECORD.size))
                    assert found == number
                    table.pwrite(RECORD.pack(number, edits + 1), number * RECORD.size)
                    expected[number] += 1
                table.fsync()
                stats = table.stats()
        print(f"table of {path.stat().st_size >> 20} MiB, cache of {cache.capacity >> 20} MiB")
        print(f"{EDITS} reads and {EDITS} writes of {RECORD.size} bytes by the program")
        print(f"{stats.read_requests} reads and {stats.write_requests} writes of the file")

        # Read without the cache: every edit is there.
        assert [edits for _, edits in RECORD.iter_unpack(path.read_bytes())] == expected


if __name__ == "__main__":
    main()
