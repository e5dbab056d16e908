"""A trio server that answers hits on its own thread, and uses another thread only for misses.

It needs trio: `pip install trio`.
"""

import struct
import tempfile
from pathlib import Path

try:
    import trio
except ImportError:
    raise SystemExit("this example needs trio: run pip install trio") from None

import pagecache

REQUEST = struct.Struct("<QI")  # offset, length
SIZE, CLIENTS, REQUESTS = 4 << 20, 8, 50


class Server:
    """Serve reads of one file to any number of connections."""

    def __init__(self, file: pagecache.CachedFile) -> None:
        self.file = file
        self.at_once = self.in_threads = 0

    async def read(self, length: int, offset: int) -> bytes:
        data = self.file.try_pread(length, offset)  # None: pread would wait, or call the backend
        if data is not None:
            self.at_once += 1
            return data
        self.in_threads += 1
        return await trio.to_thread.run_sync(self.file.pread, length, offset)

    async def serve(self, stream: trio.SocketStream) -> None:
        while request := await receive(stream, REQUEST.size):
            offset, length = REQUEST.unpack(request)
            await stream.send_all(await self.read(length, offset))


async def receive(stream: trio.SocketStream, size: int) -> bytes:
    """Return `size` bytes, or none at the end of the connection."""
    data = b""
    while len(data) < size and (part := await stream.receive_some(size - len(data))):
        data += part
    return data


async def ask(port: int, content: bytes, client: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        for number in range(REQUESTS):
            offset = (client * 7919 + number * 104_729) % (SIZE - 4096)
            await stream.send_all(REQUEST.pack(offset, 4096))
            assert await receive(stream, 4096) == content[offset : offset + 4096]


async def run(server: Server, content: bytes) -> None:
    async with trio.open_nursery() as background:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        background.start_soon(trio.serve_listeners, server.serve, [listener])
        for _ in range(2):  # the second time everything is cached
            async with trio.open_nursery() as clients:
                for client in range(CLIENTS):
                    clients.start_soon(ask, port, content, client)
        background.cancel_scope.cancel()


def main() -> None:
    content = bytes(n * 7 % 251 for n in range(SIZE))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(content)
        with pagecache.PageCache("16MiB") as cache, cache.attach(f"dir:{folder}").open("data") as file:
            server = Server(file)
            trio.run(run, server, content)
    total = 2 * CLIENTS * REQUESTS
    assert server.at_once + server.in_threads == total
    assert server.at_once >= total // 2
    print(f"{total} requests answered, more than half of them without a thread")


if __name__ == "__main__":
    main()
