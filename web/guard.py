"""The guard: what every request passes before a route sees it, and what every answer bears.

Pure ASGI, so streams keep their disconnects. It refuses other machines where nothing says who asks from
there, other hosts and other origins (by `Sec-Fetch-Site` and `Origin`, as browsers send them; no tokens),
heads and bodies over the limit and bodies that trickle; it sets the Content-Security-Policy and its
companions. Who may do what is in access.py.
"""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio
import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rowcast.tasks.checks import is_address, is_loopback
from rowcast.tasks.records import encode
from rowcast.tasks.sentences import worded

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types rowcast rowcast-progress default",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
HSTS = "max-age=31536000"  # a year in which a browser asks by https alone
HEAD = 65_536  # bytes of the address and the headers, and of what stands between two parts of a body
LIMIT = 1_000_000  # bytes of a body
CSV_LIMIT = 100_000_000  # of a form with a file, which is kept on the disk while it comes
LEDGER_LIMIT = 50_000_000
BODY_SECONDS = 30.0  # that any body may take,
SLOWEST = 10_000  # and so many bytes a second that of a long one
SHORT = 65_536  # bytes of a body that is taken to its end, for at most so many seconds, before the answer
SHORT_SECONDS = 1.0
LEDGER_PATH = "/api/ledger/"  # for workers elsewhere, who show a token
PROGRAMS = ("/api/", "/events", "/healthz", "/metrics", "/demo/")


class TooLarge(HTTPException):
    """The body is larger than the path allows."""

    def __init__(self, limit: int):
        most = limit // 1_000_000
        super().__init__(413, worded(f"The request is larger than the {most} MB that are allowed here."))


class Guard:
    """ASGI middleware around the dashboard. `public`: its address for people, '' for none; `workers`: the
    name by which workers elsewhere reach their part of it, and that alone; `lets_in`: why a request is not
    let in from where it comes, '' where it is; `any_host`: an app around us sees to that."""

    def __init__(
        self,
        app: ASGIApp,
        public: str,
        refuse: Callable[[Scope, int, str], Response],
        workers: str = "",
        lets_in: Callable[[Scope], str] = lambda scope: "",
        any_host: bool = False,
    ):
        self.app = app
        self.public = urlsplit(public)
        self.refuse = refuse
        self.workers = workers
        self.lets_in = lets_in
        self.any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answered = False
        taken = 0
        is_whole = scope["type"] != "http"  # the messages of a WebSocket are limited by its protocol
        began = time.monotonic()

        async def send_guarded(message: Message) -> None:
            nonlocal answered
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                if not is_whole and has_short_body(headers):
                    await drop_the_rest()
                answered = True
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
                if self.public.scheme == "https" or (
                    scope["scheme"] == "https" and not scope.get("root_path")
                ):
                    out.setdefault("Strict-Transport-Security", HSTS)
            await send(message)

        async def drop_the_rest() -> None:
            """A proxy in Go (Caddy) cuts an answer that comes while it still sends the request's body."""
            nonlocal taken, is_whole
            with anyio.move_on_after(SHORT_SECONDS):
                while not is_whole and taken <= SHORT:
                    message = await receive()
                    taken += len(message.get("body", b""))
                    is_whole = not message.get("more_body", False)

        path = path_in(scope)
        refused = self._refusal(scope, headers, path.startswith(LEDGER_PATH))
        limit = limit_of(path, headers)
        if not refused and is_longer(headers.get("content-length", ""), limit):
            refused = (413, TooLarge(limit).detail)

        async def receive_limited() -> Message:
            nonlocal taken, is_whole
            if is_whole:  # what comes is that the asker has gone
                return await receive()
            why: HTTPException | None = HTTPException(408, worded("The request's body did not come in time."))
            with anyio.move_on_after(began + BODY_SECONDS + taken / SLOWEST - time.monotonic()):
                message = await receive()
                taken += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                why = TooLarge(limit) if taken > limit else None
            if why is None:
                return message
            if answered:  # a stream, say, which only listens for the end
                is_whole = True
                return {"type": "http.disconnect"}
            raise why

        if refused:
            await self.refuse(scope, *refused)(scope, receive, send_guarded)
            return
        await self.app(scope, receive_limited, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers, for_workers: bool) -> tuple[int, str] | None:
        host = headers.get("host", "")
        name = _name(f"//{host}")
        if size_of_head(scope) > HEAD:
            return 431, worded(f"The address and the headers have more than {HEAD:,} bytes.")
        if not self._answers_for(name, scope, for_workers):
            return 403, worded(
                f"This server does not answer for the host {host[:100]!r}: --public-url says for which."
            )
        if not for_workers and (why := self.lets_in(scope)):
            return 403, why
        origin = headers.get("origin")
        if origin is not None and not self._is_own(origin, host) and not is_script(scope):
            return 403, worded("This request comes from another origin.")
        site = headers.get("sec-fetch-site", "none")
        mode = headers.get("sec-fetch-mode", "")
        opened_by_link = mode == "navigate" and scope.get("method") in ("GET", "HEAD")
        if site not in ("same-origin", "none") and not opened_by_link:
            return 403, worded("This request comes from another site.")
        return None

    def _answers_for(self, name: str, scope: Scope, for_workers: bool) -> bool:
        """Whether this is a name or an address of this server, so that no stranger's name leads here."""
        if not name or self.any_host or is_loopback(name):
            return bool(name)
        at = (scope.get("server") or ("",))[0]  # the address at which the connection came
        known = {self.public.hostname, at if is_address(at) else None, self.workers if for_workers else None}
        return name in known

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether a page of this server's asks: at the public address also by its scheme."""
        scheme, _, place = origin.partition("://")
        is_public = place != "" and (scheme, place) == (self.public.scheme, self.public.netloc)
        return is_public or (place == host != self.public.netloc)


def is_script(scope: Scope) -> bool:
    """Whether it is what a page is made of, which is for anybody: with a module a browser says the page's
    origin, and a proxy may have changed the host."""
    return scope.get("method") in ("GET", "HEAD") and path_in(scope).startswith("/static/")


def limit_of(path: str, headers: Headers) -> int:
    """How many bytes a body may have that is sent to this path."""
    if path == "/users" and headers.get("content-type", "").startswith("multipart/form-data"):
        return CSV_LIMIT
    return LEDGER_LIMIT if path.startswith(LEDGER_PATH) else LIMIT


def is_longer(said: str, limit: int) -> bool:
    """Whether a body says that it is longer; one that says no number is counted as it comes."""
    return said.isascii() and said.isdecimal() and int(said[:18]) > limit


def has_short_body(headers: Headers) -> bool:
    """Whether a body comes that is short, as far as it says, and does not wait to be asked for."""
    if "expect" in headers:
        return False
    said = headers.get("content-length", "0")
    return "transfer-encoding" in headers or (is_longer(said, 0) and not is_longer(said, SHORT))


def size_of_head(scope: Scope) -> int:
    address = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    return address + sum(len(name) + len(value) for name, value in scope["headers"])


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class Error(msgspec.Struct, forbid_unknown_fields=True):
    """What is wrong."""

    error: Annotated[str, msgspec.Meta(description="one sentence")]
    detail: Any


def path_in(scope: Scope) -> str:
    """The path that is asked for, below the one where we are mounted."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def for_program(scope: Scope) -> bool:
    """Whether the answer is for a program, and not for a person: JSON."""
    return path_in(scope).startswith(PROGRAMS)


def json_error(
    status: int, sentence: str, detail: object = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The API's error."""
    return Response(encode(Error(sentence, detail)), status, headers, "application/json")
