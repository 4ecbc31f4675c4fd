"""An HTTP client whose connections go where they may: a name is looked up once, and what it says is looked at
before the first packet.

httpcore has the seam for that, a network backend, which opens each connection; TLS and `Host` go by the name
as ever. (httpx-secure does the same behind httpx, but finds the address by opening a connection, to a private
one too, and only then looks: who types names could try ports of this network by what is said of them.)
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpcore
import httpx

from rowcast.tasks.reach import Reach

KEPT = 20  # connections that are kept open for the next message
KEPT_FOR = 10.0  # seconds


class Refused(httpx.RequestError):
    """Nothing was sent: the host is at an address that may not be reached; the message is one sentence."""


class Checked(httpcore.AsyncNetworkBackend):
    """Opens connections to addresses that may be reached; to any other goes nothing."""

    def __init__(self, reach: Reach):
        self.reach = reach
        self.plain = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *how: Any, **named: Any) -> httpcore.AsyncNetworkStream:
        failed: Exception | None = None
        for address in await self.addresses(host, port):
            try:
                return await self.plain.connect_tcp(address, port, *how, **named)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore.ConnectError(f"{host} has no address")

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where a host is, of that what may be reached. Raises Refused where that is nothing."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} is not known: {error}") from error
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        may = [one for one in addresses if self.reach.allows(host, ipaddress.ip_address(one))]
        if addresses and not may:
            raise Refused(
                f"{host} is at {addresses[0]}, which is not public; nothing was sent. --notify-hosts says"
                " which hosts may be told all the same."
            )
        return may

    async def sleep(self, seconds: float) -> None:
        await self.plain.sleep(seconds)


class Transport(httpx.AsyncBaseTransport):
    """httpx over httpcore's connections, those that `reach` allows, or with None all."""

    def __init__(self, reach: Reach | None):
        self.pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=None,
            max_keepalive_connections=KEPT,
            keepalive_expiry=KEPT_FOR,
            network_backend=Checked(reach) if reach else None,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with in_words_of_httpx():
            answer = await self.pool.handle_async_request(
                httpcore.Request(
                    request.method,
                    url,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(answer.status, headers=answer.headers, stream=Body(answer.stream))

    async def aclose(self) -> None:
        await self.pool.aclose()


class Body(httpx.AsyncByteStream):
    """An answer's body."""

    def __init__(self, stream: Any):
        self.stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with in_words_of_httpx():
            async for piece in self.stream:
                yield piece

    async def aclose(self) -> None:
        await self.stream.aclose()


@contextlib.contextmanager
def in_words_of_httpx() -> Iterator[None]:
    """What httpcore raises, as httpx would."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise httpx.TimeoutException(str(error)) from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise httpx.TransportError(str(error) or type(error).__name__) from error
