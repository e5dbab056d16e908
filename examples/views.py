"""A view is cache memory without a copy: a checksum and an array over a file, and the lifetime of the memory."""

import tempfile
import zlib
from pathlib import Path

import pagecache

SIZE = 3 << 20


def main() -> None:
    content = bytes(range(256)) * (SIZE // 256)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(content)
        with pagecache.PageCache("16MiB") as cache:
            volume = cache.attach(f"dir:{folder}")
            with volume.open("data", "r+") as file:
                file.prefetch(wait=True)  # in large calls; a view of missing bytes would use small ones
                with file.view(0, SIZE) as view:
                    checksum = 0
                    for segment in view.segments:  # ascending; together exactly the range
                        checksum = zlib.crc32(segment, checksum)
                    assert checksum == zlib.crc32(content)
                    print(f"checksum of {len(view)} bytes in {len(view.segments)} pieces, none of them copied")

                with file.view(4096, 8) as view:
                    words = view.segments[0].cast("H")
                    print(f"as 16-bit numbers: {words.tolist()}")
                    file.pwrite(b"\xff\xff", 4096)  # a view sees later writes, as a mapping would
                    assert words[0] == 0xFFFF
                    words.release()

                view = file.view(SIZE - 4, 4)
                file.truncate(100)  # the memory leaves the file; the view keeps it
                assert view.detached
                view.release()
                print(f"pinned after release: {cache.stats().pinned} bytes")


if __name__ == "__main__":
    main()
