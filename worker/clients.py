"""HTTP clients that a task may ask for by annotation, opened once per worker and shared by all its items.

`httpx.AsyncClient` is httpx over aiohttp's transport: its own pool's cost grows with the square of what is in
flight (bench/). Each request carries `Idempotency-Key: <job>-<item>`, the same on every attempt, and a
User-Agent with the version; the code of the last answer and its Retry-After are noted on the item.
`pyreqwest` is an extra.
"""

import base64
import email.utils
import importlib
import ipaddress
import os
import re
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import lru_cache
from importlib.metadata import version
from typing import Any, cast

import httpx
from aiohttp import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientSession,
    DummyCookieJar,
    TCPConnector,
)
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict, istr
from yarl import URL

from rowcast.tasks.addresses import BadMail
from rowcast.tasks.mail import Keep, Mailer, Posted
from rowcast.tasks.steps import DryRun, current_call, key_here
from rowcast.worker import tracing

IDEMPOTENCY_KEY = istr("Idempotency-Key")
USER_AGENT = f"rowcast/{version('rowcast')}"
EXTRAS = {"pyreqwest": "rowcast.extras.client_pyreqwest"}
ERROR_BODY = 64_000  # bytes, unpacked, that are read of an answer that says no: more of it is shown nowhere
KEEP_ALIVE = 30.0  # seconds for which a connection waits for the next request
PATH = re.compile(r"/(?!/)[^#]*\Z")  # what is added to the API's address as it is,
BASE = re.compile(r"[^:/?#]+://[^?#]+\Z")  # and to what of an address,
LONG = 60_000  # so many letters in all: httpx takes 65,536 of each part
PIECE = 2_000  # bytes of it that are unpacked at once: packed well, they are a thousand times as many
SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")  # methods of requests that change nothing (RFC 9110, 9.2.1)


@lru_cache
def header_name(raw: bytes) -> istr:
    """A header's name as aiohttp's tables have it. The same few come with each request."""
    return istr(raw.decode("latin-1"))


def header_value(raw: bytes) -> str:
    """A header's value as the text that httpx had for it, in the first of the encodings that it can be in."""
    for encoding in ("ascii", "utf-8"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            pass
    return raw.decode("latin-1")


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine, which no proxy is asked for."""
    name = (host or "").strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


@lru_cache(maxsize=1000)
def proxy_for(scheme: str, host: str) -> tuple[URL | None, dict[str, str]]:
    """The proxy that the environment names for a host (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY), and
    what it is told.
    """
    known = urllib.request.getproxies()
    named = known.get(scheme) or known.get("all")
    if not named or is_loopback(host) or urllib.request.proxy_bypass(host):
        return None, {}
    proxy = URL(named if "://" in named else f"http://{named}")
    if not proxy.user:
        return proxy, {}
    login = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return proxy.with_user(None), {"Proxy-Authorization": f"Basic {login}"}


class Transport(AiohttpTransport):
    """aiohttp's connections for httpx, with an item's `Idempotency-Key` unless the task has set one.

    Certificates are checked and the environment's proxies are used, whatever the address. URLs go out as
    httpx wrote them: yarl alone would decode `%40` again.
    """

    def __init__(self, note: Callable[[str, httpx.Response], None] | None = None) -> None:
        super().__init__()
        self.note = note  # what is told of each answer, with the request's method

    def get_client(self) -> ClientSession:
        # no limit; cookies are httpx's, which has them too
        connector = TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, ssl=self.ssl_context)
        session = ClientSession(connector=connector, cookie_jar=DummyCookieJar())
        request = session.request

        def as_written(method: str, url: str | URL, **options: Any) -> Any:
            headers: httpx.Headers = options.pop("headers")
            sent = CIMultiDict([(header_name(name), header_value(value)) for name, value in headers.raw])
            if key := key_here():
                sent.setdefault(IDEMPOTENCY_KEY, key)
            to = URL(str(url), encoded=True)
            if to.raw_user is not None or to.raw_password is not None:  # httpx has made a header of it
                to = to.with_user(None)
            options["proxy"], options["proxy_headers"] = proxy_for(to.scheme, to.host or "")
            return request(method, to, headers=sent, **options)

        # aiohttp has no hook before a URL is parsed, and warns who makes a subclass of its session
        session.request = as_written  # type: ignore[method-assign]
        return session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if tracing.on:
            return await tracing.on.of_request(request, self._send)
        return await self._send(request)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        began = time.perf_counter()
        try:
            response = await super().handle_async_request(request)
            response.stream = Body(response)
            if response.is_error:
                response = await with_some_body(response, began)
        except httpx.ConnectTimeout as error:
            # httpx-aiohttp calls every lost connection a timeout
            if isinstance(error.__cause__, ClientConnectorError):
                raise httpx.ConnectError(_reason(error.__cause__)) from error
            if isinstance(error.__cause__, ClientConnectionError) and not isinstance(
                error.__cause__, TimeoutError
            ):
                raise httpx.ReadError(str(error)) from error
            raise
        if self.note:
            self.note(request.method, response)
        return response


class Body(httpx.AsyncByteStream):
    """A response's body, which lets go of the response at its end.

    httpx ties a response and its body into a circle, so that the memory of each request is reused only once
    Python has looked for garbage: a tenth of a request's time (bench/).
    """

    def __init__(self, response: httpx.Response):
        self.response = response
        self.stream = cast(httpx.AsyncByteStream, response.stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._in_pieces() if self.response.is_error else aiter(self.stream)

    async def _in_pieces(self) -> AsyncIterator[bytes]:
        async for part in self.stream:
            for at in range(0, len(part), PIECE):
                yield part[at : at + PIECE]

    async def aclose(self) -> None:
        await self.stream.aclose()
        self.response.stream = self.stream


async def with_some_body(response: httpx.Response, began: float) -> httpx.Response:
    """An answer that says no, with what there is of its body in ERROR_BODY bytes: nobody is to fill the
    memory with it. `began`: when it was asked for, by time.perf_counter.
    """
    some = b""
    try:
        async for piece in response.aiter_bytes():
            some += piece
            if len(some) >= ERROR_BODY:
                break
    except httpx.DecodingError:
        pass  # what it says cannot be read, and its code can
    finally:
        await response.aclose()
    about = [(name, value) for name, value in response.headers.raw if name.lower() not in OF_THE_BODY]
    body = some[:ERROR_BODY]
    made = httpx.Response(response.status_code, headers=about, content=body, extensions=response.extensions)
    made.elapsed = timedelta(seconds=time.perf_counter() - began)
    made.is_stream_consumed = made.is_closed = False  # it has been read here, and a task may stream it
    return made


# headers that are not true of a part
OF_THE_BODY = (b"content-encoding", b"content-length", b"transfer-encoding")


def _reason(error: ClientConnectorError) -> str:
    code = error.os_error.errno
    if isinstance(error, ClientConnectorCertificateError):
        return f"{error.host}:{error.port}: {error.certificate_error}"
    if isinstance(error.os_error, ssl.SSLError):
        return f"{error.host}:{error.port}: {error.os_error.reason}"
    return f"{error.host}:{error.port}: {os.strerror(code) if code and code > 0 else error.os_error.strerror}"


def note_response(method: str, response: httpx.Response) -> None:
    """Note with the try that this is how the API has answered."""
    if call := current_call.get():
        call.code = response.status_code
        call.retry_after = None
        call.answer = None
        if response.is_error:
            call.answer = response
            call.retry_after = retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
        elif method not in SAFE:
            call.has_arrived = True


class Client(httpx.AsyncClient):
    """httpx's client without what it does twice, or in vain, for each request: a fifth of its time."""

    def __init__(self, **how: Any):
        super().__init__(**how)
        self._cookies = Cookies(self._cookies)

    def _merge_url(self, url: httpx.URL | str) -> httpx.URL:
        # httpx takes the path apart, and then what comes of it and the API's address
        base = str(self.base_url)
        if isinstance(url, str) and PATH.match(url) and url.isprintable() and BASE.match(base):
            whole = base.removesuffix("/") + url
            if len(whole) < LONG:
                return httpx.URL(whole)
        return super()._merge_url(url)


class Cookies(httpx.Cookies):
    """Those that the API sets: where it sets none, there is nothing to look for."""

    def extract_cookies(self, response: httpx.Response) -> None:
        if "set-cookie" in response.headers:
            super().extract_cookies(response)


def open_httpx(base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """An httpx client for the API at `base_url`. No limit of its own: the job's concurrency is the limit.

    What another transport is answered is not noted with the try.
    """
    return Client(
        base_url=base_url,
        transport=transport or Transport(note_response),
        headers={"User-Agent": USER_AGENT},
        timeout=httpx.Timeout(60),
    )


class DryTransport(httpx.AsyncBaseTransport):
    """Sends nothing: shows what would be sent."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        headers = {
            k: v for k, v in request.headers.items() if k not in ("accept", "accept-encoding", "connection")
        }
        if key := key_here():
            headers.setdefault(IDEMPOTENCY_KEY.lower(), key)
        would = {"method": request.method, "url": str(request.url), "headers": headers}
        raise DryRun(would | ({"body": body.decode(errors="replace")[:2000]} if body else {}))


async def no_mailbox(posted: Posted) -> None:
    """In place of a mailbox, where there is none. Raises BadMail."""
    raise BadMail("There is neither a mail server (--smtp-url) nor a mailbox here.")


class Clients:
    """The clients of one worker, each opened at the first task that asks for it."""

    def __init__(self, base_url: Callable[[], str], keep: Keep = no_mailbox):
        self.base_url = base_url
        self.keep = keep  # how a mail gets into the built-in mailbox
        self.opened: dict[Any, Any] = {}

    async def open(self, hint: Any, dry: bool = False) -> Any:
        """The client for an annotation.

        Raises TypeError for one that nobody can open, ImportError without its extra.
        """
        key = (hint, self.base_url(), dry)
        if key not in self.opened:
            self.opened[key] = await self._open(hint, dry)
        return self.opened[key]

    async def _open(self, hint: Any, dry: bool) -> Any:
        if hint is httpx.AsyncClient:
            return open_httpx(self.base_url(), DryTransport() if dry else None)
        if hint is Mailer:
            from rowcast.worker.mail import open_mailer  # most workers send none

            return open_mailer(self.keep, dry)
        if dry:
            raise TypeError(f"A dry run needs httpx.AsyncClient, not {hint.__module__}.{hint.__qualname__}.")
        library = hint.__module__.partition(".")[0]
        if library in EXTRAS:
            made = importlib.import_module(EXTRAS[library]).open_client(hint, self.base_url(), USER_AGENT)
            return await made if isinstance(made, Awaitable) else made
        raise TypeError(
            f"No client for the annotation {hint.__module__}.{hint.__qualname__}: use httpx.AsyncClient."
        )

    async def close(self) -> None:
        for client in self.opened.values():
            close = getattr(client, "aclose", None) or getattr(client, "close", None)
            if close:
                await close()
        self.opened.clear()


LONGEST_HOLD = 86_400.0  # seconds after which an API is asked again that has asked for a longer pause


def retry_after(header: str | None, date: str | None = None) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or an HTTP date); None if
    unusable.

    A date is held against the answer's own `Date`, where it has one: our clock may be off.
    """
    if not header:
        return None
    if header.strip().isascii() and header.strip().isdecimal():
        return min(float(header), LONGEST_HOLD)
    try:
        now = moment_of(date) if date else time.time()
        return min(max(0.0, moment_of(header) - now), LONGEST_HOLD)
    except (TypeError, ValueError, OverflowError):
        return None


def moment_of(text: str) -> float:
    """An HTTP date as unix seconds. Raises TypeError, ValueError, OverflowError."""
    return email.utils.parsedate_to_datetime(text).timestamp()
