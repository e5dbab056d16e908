"""ministack with its objects in memory, each request of which is delayed and counted.

    GET /-/?delay=0.02&take=1

sets the delay, and begins new counts; the answer has the old ones. A request is counted and delayed in the process of
the server: a proxy would take as much of a processor as the server does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import types
from typing import Any
from urllib.parse import parse_qs

import ministack.app as served  # type: ignore[import-untyped]
from ministack.services import s3  # type: ignore[import-untyped]

LARGE = 1 << 20


class Front:
    """The application in front of ministack's."""

    def __init__(self) -> None:
        self.inner, self.delay = served.app, 0.0
        self.counts = dict.fromkeys(("requests", "bytes", "most", "puts", "running"), 0)
        self.known: dict[int, tuple[bytes, Any]] = {}  # large bodies and their MD5, by identity

    def md5(self, data: Any = b"", **options: Any) -> Any:
        """Return the MD5 of a body, which was made beside the event loop."""
        return self.known[id(data)][1].copy() if id(data) in self.known else hashlib.md5(data, **options)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
        elif scope["path"] == "/-/":
            words, answer = parse_qs(scope["query_string"].decode()), json.dumps(self.counts).encode()
            self.delay = float(words.get("delay", [self.delay])[0])
            if "take" in words:
                self.counts.update(requests=0, bytes=0, most=0, puts=0)
                self.known.clear()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": answer})
        else:
            self.counts["requests"] += 1
            self.counts["running"] += 1
            self.counts["most"] = max(self.counts["most"], self.counts["running"])
            try:
                await self.serve(scope, receive, send)
            finally:
                self.counts["running"] -= 1

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(self.delay)
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        if len(body) > LARGE:
            self.known[id(body)] = body, await asyncio.get_running_loop().run_in_executor(None, hashlib.md5, body)
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def given() -> Any:
            return waiting.pop() if waiting else await receive()

        async def counted(message: Any) -> None:
            self.counts["bytes"] += len(message.get("body", b""))
            await send(message)

        self.counts["bytes"] += len(body)
        await self.inner(scope, given, counted)
        self.counts["puts"] += scope["method"] == "PUT" and bool(body)


if __name__ == "__main__":
    front = Front()
    s3.hashlib = types.SimpleNamespace(**{**vars(hashlib), "md5": front.md5})
    served.app = front
    served.main()
