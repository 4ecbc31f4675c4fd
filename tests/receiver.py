"""A receiver of webhooks: a real HTTP server in a thread of the test's own, which answers as its paths say.

/ok 200, /later 503 at the first try of each message, /asks 429 with Retry-After: 2 at the first, /gone 410,
/no 500 with a text, /moves 302 to /ok, /hang nothing until `let_go`, /held 200 once `let_go`.
"""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Got:
    """One post that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def ident(self) -> str:
        return self.headers.get("webhook-id", "")

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Receiver(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 200

    def __init__(self, host: str, port: int) -> None:
        super().__init__((host, port), Handler)
        self.got: list[Got] = []
        self.free = threading.Event()
        self.under_way = 0
        self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def at(self, path: str) -> list[Got]:
        with self.lock:
            return [got for got in self.got if got.path == path]

    def let_go(self) -> None:
        self.free.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has gone, or was killed."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """The tests read `got`."""

    def do_GET(self) -> None:
        self.note()
        self.answer(200)

    def do_POST(self) -> None:
        got = self.note()
        name = self.path.split("/")[1].partition("?")[0]
        first = sum(1 for one in self.server.at(self.path) if one.ident == got.ident) == 1
        with self.server.lock:
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        try:
            if name in ("hang", "held"):
                self.server.free.wait()
            if name == "later" and first:
                self.answer(503)
            elif name == "asks" and first:
                self.answer(429, {"Retry-After": "2"})
            elif name == "gone":
                self.answer(410)
            elif name == "no":
                self.answer(500, body=b"out of order\n\x1b[2Jplease call")
            elif name == "moves":
                self.answer(302, {"Location": f"{self.server.url}/ok"})
            elif name != "hang":
                self.answer(200)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def note(self) -> Got:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # who sent it was killed meanwhile: nothing has come
            self.close_connection = True
            return
        got = Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        with self.server.lock:
            self.server.got.append(got)
        return got

    def answer(self, code: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def receiving(host: str = "127.0.0.1", port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(host, port)
    thread = threading.Thread(target=receiver.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.let_go()
        receiver.shutdown()
        receiver.server_close()
        thread.join()
