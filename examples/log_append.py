"""Several threads append records to one log; no record is torn, and fsync makes all of them durable at once."""

import tempfile
import threading
from pathlib import Path

import pagecache

WRITERS, RECORDS = 4, 250


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with pagecache.PageCache("8MiB") as cache:
            volume = cache.attach(f"dir:{folder}")
            with volume.open("events.log", "a+") as log:

                def writer(me: int) -> None:
                    for number in range(RECORDS):
                        log.append(f"writer {me} record {number:04d}\n".encode())

                threads = [threading.Thread(target=writer, args=(me,)) for me in range(WRITERS)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                log.fsync()

                stats = log.stats()
                print(f"{WRITERS * RECORDS} records appended, {stats.write_requests} writes to the directory")

        # The cache is closed; read the file without it.
        lines = (Path(folder) / "events.log").read_text().splitlines()
        assert len(set(lines)) == WRITERS * RECORDS
        for me in range(WRITERS):
            mine = [line for line in lines if line.startswith(f"writer {me} ")]
            assert mine == sorted(mine), "the records of one thread keep their order"
        print(f"{len(lines)} whole lines in the file")


if __name__ == "__main__":
    main()
