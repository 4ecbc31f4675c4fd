"""HTTP clients that a task may ask for by annotation, opened once per worker and shared by all its items.

`httpx.AsyncClient` is httpx over aiohttp's transport: its own pool's cost grows with the square of what is in
flight (bench/). Each request carries `Idempotency-Key: <job>-<item>`, the same on every attempt, and a
User-Agent with the version; the code of the last answer and its Retry-After are noted on the item.
`pyreqwest` is an extra.
"""

import email.utils
import importlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from importlib.metadata import version
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
from aiohttp import ClientConnectionError, ClientConnectorError, ClientSession
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict, istr
from yarl import URL

from rowcast.tasks.steps import DryRun, current_call

IDEMPOTENCY_KEY = istr("Idempotency-Key")
USER_AGENT = f"rowcast/{version('rowcast')}"
EXTRAS = {"pyreqwest": "rowcast.extras.client_pyreqwest"}


@lru_cache
def header_name(raw: bytes) -> istr:
    """A header's name as aiohttp's tables have it. The same few come with each request."""
    return istr(raw.decode("latin-1"))


class Transport(AiohttpTransport):
    """aiohttp's connections for httpx, with an item's `Idempotency-Key` unless the task has set one.

    URLs go out as httpx wrote them: yarl alone would decode `%40` again.
    """

    def get_client(self) -> ClientSession:
        session = super().get_client()
        request = session.request

        def as_written(method: str, url: str | URL, **options: Any) -> Any:
            headers: httpx.Headers = options.pop("headers")
            encoding = headers.encoding
            sent = CIMultiDict([(header_name(name), value.decode(encoding)) for name, value in headers.raw])
            if call := current_call.get():
                sent.setdefault(IDEMPOTENCY_KEY, call.key)
            return request(method, URL(str(url), encoded=True), headers=sent, **options)

        # aiohttp has no hook before a URL is parsed, and warns who makes a subclass of its session
        session.request = as_written  # type: ignore[method-assign]
        return session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await super().handle_async_request(request)
            response.stream = Body(response)
            return response
        except httpx.ConnectTimeout as error:
            # httpx-aiohttp calls every lost connection a timeout
            if isinstance(error.__cause__, ClientConnectorError):
                raise httpx.ConnectError(_reason(error.__cause__)) from error
            if isinstance(error.__cause__, ClientConnectionError) and not isinstance(
                error.__cause__, TimeoutError
            ):
                raise httpx.ReadError(str(error)) from error
            raise


class Body(httpx.AsyncByteStream):
    """A response's body, which lets go of the response at its end.

    httpx ties a response and its body into a circle, so that the memory of each request is reused only once
    Python has looked for garbage: a tenth of a request's time (bench/).
    """

    def __init__(self, response: httpx.Response):
        self.response = response
        self.stream = cast(httpx.AsyncByteStream, response.stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.stream)

    async def aclose(self) -> None:
        await self.stream.aclose()
        self.response.stream = self.stream


def _reason(error: ClientConnectorError) -> str:
    code = error.os_error.errno
    return f"{error.host}:{error.port}: {os.strerror(code) if code and code > 0 else error.os_error.strerror}"


async def note_response(response: httpx.Response) -> None:
    if call := current_call.get():
        call.code = response.status_code
        call.retry_after = None
        if response.is_error:
            call.retry_after = retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
            await response.aread()


def open_httpx(base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """An httpx client for the API at `base_url`. No limit of its own: the job's concurrency is the limit."""
    limits = httpx.Limits(max_connections=0, max_keepalive_connections=None, keepalive_expiry=30)
    return httpx.AsyncClient(
        base_url=base_url,
        transport=transport or Transport(limits=limits, verify=urlsplit(base_url).scheme == "https"),
        headers={"User-Agent": USER_AGENT},
        timeout=httpx.Timeout(60),
        event_hooks={"response": [note_response]},
    )


class DryTransport(httpx.AsyncBaseTransport):
    """Sends nothing: shows what would be sent."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        headers = {
            k: v for k, v in request.headers.items() if k not in ("accept", "accept-encoding", "connection")
        }
        if call := current_call.get():
            headers.setdefault(IDEMPOTENCY_KEY.lower(), call.key)
        would = {"method": request.method, "url": str(request.url), "headers": headers}
        raise DryRun(would | ({"body": body.decode(errors="replace")[:2000]} if body else {}))


class Clients:
    """The clients of one worker, each opened at the first task that asks for it."""

    def __init__(self, base_url: Callable[[], str]):
        self.base_url = base_url
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
    except (TypeError, ValueError):
        return None


def moment_of(text: str) -> float:
    """An HTTP date as unix seconds. Raises TypeError, ValueError."""
    return email.utils.parsedate_to_datetime(text).timestamp()
