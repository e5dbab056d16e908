"""A thousand tasks and a thread share one file: a hit costs a task no wait, and misses wait side by side."""

import asyncio

import pagecache
from pagecache import aio
from pagecache.backends import MemoryBackend
from pagecache.testing import LatencyBackend

RECORD = 4096
RECORDS = 1000


async def check(file: aio.AsyncCachedFile, number: int) -> bool:
    record: bytes = await file.pread(RECORD, number * RECORD)
    return record == number.to_bytes(4, "little") * (RECORD // 4)


async def main(volume: pagecache.Volume) -> None:
    async with aio.open(volume, "records", read_ahead=0) as file:
        for turn in ("read from the backend", "cached"):
            answers = await asyncio.gather(*(check(file, number) for number in range(RECORDS)))
            assert all(answers)
            print(f"{len(answers)} records, {turn}; {volume.stats().read_requests} backend calls so far")

        # A cancelled read leaves nothing locked.
        volume.drop_clean("records")
        try:
            await asyncio.wait_for(check(file, 7), timeout=0.001)
        except TimeoutError:
            print("a read was cancelled after its timeout")
        assert await check(file, 7)


if __name__ == "__main__":
    store = MemoryBackend()
    with pagecache.PageCache("16MiB") as cache:
        with cache.attach(store, name="plain").open("records", "w+") as writer:
            for number in range(RECORDS):
                writer.write(number.to_bytes(4, "little") * (RECORD // 4))
        slow = LatencyBackend(store, read=0.02)
        asyncio.run(main(cache.attach(slow, name="slow")))
