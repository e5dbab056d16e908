"""A ticket reports when everything written so far is safe, while the program goes on writing."""

import pagecache
from pagecache.backends import MemoryBackend
from pagecache.testing import LatencyBackend


def main() -> None:
    store = MemoryBackend()
    backend = LatencyBackend(store, write=0.01, commit=0.02)  # a slow store
    with pagecache.PageCache("16MiB") as cache:
        volume = cache.attach(backend)
        with volume.open("journal", "w+") as journal:
            tickets = []
            for batch in range(5):
                journal.write(bytes([batch]) * 200_000)
                tickets.append(volume.begin_sync())  # does not wait

            journal.write(b"after the last ticket")  # no ticket covers it, and it delays none of them

            for batch, ticket in enumerate(tickets):
                ticket.wait(timeout=10.0)
                assert ticket.done()
                print(f"batch {batch} is safe; {ticket.remaining} of {ticket.total} bytes of its ticket remain")
                start = batch * 200_000
                assert store.snapshot("journal")[start : start + 200_000] == bytes([batch]) * 200_000
    print(f"{len(store.snapshot('journal'))} bytes stored when the cache was closed")


if __name__ == "__main__":
    main()
