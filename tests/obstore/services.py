"""Services for the tests: Azurite, which is Microsoft's emulator, and an imitation of Google's XML interface: no
emulator from PyPI or npm has the one that obstore speaks.

Each test has credentials of its own. Without them obstore would ask the machine that it runs on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.s3.rgw import free_port

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that every Azurite has, from its manual."""
AZURITE = shutil.which("azurite-blob") or str(Path("build/azurite/node_modules/.bin/azurite-blob").resolve())
HAS_AZURITE = os.access(AZURITE, os.X_OK)


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """A running Azurite; its endpoint."""
    port = free_port()
    words = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"]
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    with open(folder / "azurite.log", "wb") as log:
        process = subprocess.Popen([AZURITE, *words, *where], stdout=log, stderr=log, cwd=folder)
    try:
        end = time.monotonic() + 30.0
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        process.terminate()
        process.wait(20.0)


def new_container(endpoint: str, name: str) -> None:
    date, version = formatdate(usegmt=True), "2021-08-06"
    text = "\n".join(
        ["PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{version}", f"/{ACCOUNT}/{ACCOUNT}/{name}"]
    )
    text += "\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    headers = {"x-ms-date": date, "x-ms-version": version, "Content-Length": "0",
               "Authorization": f"SharedKey {ACCOUNT}:{signature}"}  # fmt: skip
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()


class Google:
    """Objects of an imitated service: name -> (bytes, generation, headers).

    Attributes:
        lose_answers: so many next PUTs are carried out, and the connection is closed.
        ignores: it does not check conditions.
        missing: the bucket is not there.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, int, dict[str, str]]] = {}
        self.uploads: dict[str, tuple[dict[int, bytes], dict[str, str]]] = {}
        self.generation = 1000
        self.lose_answers = 0
        self.statuses: list[int] = []
        self.ignores = self.missing = False
        self.asked: list[str] = []

    def store(self, name: str, data: bytes, headers: dict[str, str]) -> int:
        self.generation += 1
        self.objects[name] = (data, self.generation, headers)
        return self.generation


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    google: Google

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for word, value in headers.items():
            self.send_header(word.replace("_", "-"), value)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, f"<Error><Code>{code}</Code><Message>planted</Message></Error>".encode())

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        query = {word: values[0] for word, values in parse_qs(parts.query, keep_blank_values=True).items()}
        name = unquote(parts.path).lstrip("/").partition("/")[2]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        google = self.google
        google.asked.append(f"{self.command} {name}")
        if google.missing:
            return self.refuse(404, "NoSuchBucket")
        if google.statuses and name:
            return self.refuse(google.statuses.pop(), "Planted")
        with google.lock:
            if self.command == "GET" and not name:
                return self.listing(query)
            if self.command in ("PUT", "POST"):
                return self.put(name, query, body)
            if self.command == "DELETE":
                found = google.objects.pop(name, None)
                return self.reply(204) if found else self.refuse(404, "NoSuchKey")
            return self.get(name, query)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def get(self, name: str, query: dict[str, str]) -> None:
        if name not in self.google.objects:
            return self.refuse(404, "NoSuchKey")
        data, generation, headers = self.google.objects[name]
        if not self.google.ignores and query.get("generation", str(generation)) != str(generation):
            return self.refuse(404, "NoSuchKey")
        status, extra = 200, {}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) + 1 if last else len(data), len(data))
            if begin >= len(data):
                return self.refuse(416, "InvalidRange")
            extra = {"Content_Range": f"bytes {begin}-{end - 1}/{len(data)}"}
            status, data = 206, data[begin:end]
        shown = {"ETag": f'"{hashlib.md5(self.google.objects[name][0]).hexdigest()}"',
                 "Last_Modified": formatdate(usegmt=True), "x_goog_generation": str(generation), **extra}  # fmt: skip
        self.reply(status, data, **shown, **headers)
        return None

    def put(self, name: str, query: dict[str, str], body: bytes) -> None:
        google, there = self.google, self.google.objects.get(name)
        kept = ("x-goog-meta-", "content-type", "cache-control")
        headers = {word: value for word, value in self.headers.items() if word.lower().startswith(kept)}
        if "uploads" in query:
            id = str(len(google.uploads))
            google.uploads[id] = ({}, headers)
            text = f"<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            return self.reply(200, text.encode())
        if "partNumber" in query:
            google.uploads[query["uploadId"]][0][int(query["partNumber"])] = body
            return self.reply(200, ETag=f'"{query["partNumber"]}"')
        if "uploadId" in query:
            pieces, properties = google.uploads.pop(query["uploadId"])
            generation = google.store(name, b"".join(pieces[n] for n in sorted(pieces)), properties)
            text = '<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'
            return self.reply(200, text.encode(), x_goog_generation=str(generation))
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and not google.ignores and int(wanted) != (0 if there is None else there[1]):
            return self.refuse(412, "PreconditionFailed")
        if source := self.headers.get("x-goog-copy-source"):
            found = google.objects.get(unquote(source).lstrip("/").partition("/")[2])
            if found is None:
                return self.refuse(404, "NoSuchKey")
            body, headers = found[0], found[2]
        generation = google.store(name, body, headers)
        if google.lose_answers:
            google.lose_answers -= 1
            self.close_connection = True
            return None
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        self.reply(200, ETag=etag, x_goog_generation=str(generation))
        return None

    def listing(self, query: dict[str, str]) -> None:
        most, after = int(query.get("max-keys", "1000")), query.get("continuation-token", query.get("start-after", ""))
        names = sorted(n for n in self.google.objects if n.startswith(query.get("prefix", "")) and n > after)
        rows = "".join(
            f"<Contents><Key>{escape(n)}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&quot;x&quot;"
            f"</ETag><Size>{len(self.google.objects[n][0])}</Size></Contents>"
            for n in names[:most]
        )
        more = f"<NextContinuationToken>{escape(names[most - 1])}</NextContinuationToken>" if names[most:] else ""
        self.reply(200, f"<ListBucketResult>{rows}{more}</ListBucketResult>".encode(), Content_Type="application/xml")


@contextmanager
def google(folder: Path) -> Iterator[tuple[Google, str]]:
    """An imitated service, and the query of its URLs."""
    service = Google()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"google": service}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    account = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": "", "private_key": "",
               "private_key_id": ""}  # fmt: skip
    (folder / "account.json").write_text(json.dumps(account))
    try:
        yield service, f"endpoint={endpoint}&service_account={folder / 'account.json'}"
    finally:
        server.shutdown()
        server.server_close()
