"""Where a request comes from, and to which of our addresses, when proxies stand between.

A proxy is believed where it is listed (--proxies), and only then is it heard who asks it, and whether by
https (uvicorn's own middleware does the reading). Whoever lists none is told nothing wrong by headers: what
comes by way of a proxy is not taken for this machine's own.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from rowcast.tasks.checks import is_loopback, split
from rowcast.tasks.settings import Settings

PEER = "rowcast.peer"  # in a scope: who is at the other end of the connection, a proxy perhaps
FORWARDED = ("x-forwarded-for", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip")
FOR = re.compile(r'for\s*=\s*("[^"]*"|[^\s;,]*)', re.IGNORECASE)  # in the header Forwarded (RFC 7239)


class Proxies:
    """ASGI middleware outside of all others."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app = app
        self.base = settings.base
        below: Any = self._below  # uvicorn has types of its own for the same
        self.believed: Any = ProxyHeadersMiddleware(below, split(settings.proxies))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = dict(scope)
            scope[PEER] = (scope.get("client") or ("127.0.0.1",))[0]
        await self.believed(scope, receive, send)

    async def _below(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Below the path of --public-url, whether the proxy has left it in the address or taken it off."""
        if self.base and scope["type"] in ("http", "websocket"):
            root = scope.get("root_path", "")
            path = scope["path"]
            rest = path.removeprefix(root)
            if not (rest == self.base or rest.startswith(f"{self.base}/")):
                rest = f"{self.base}{rest}"
            scope["root_path"] = f"{root}{self.base}"
            scope["path"] = f"{root}{rest}"
        await self.app(scope, receive, send)


def address_of(scope: Scope) -> str:
    """The address that asks, as far as it is known; '' for none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def is_here(scope: Scope) -> bool:
    """Whether a request is this machine's own: by its address, by the name that it was sent to, and by all
    that proxies say of it."""
    host = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
    return is_loopback(host) and is_loopback(address_of(scope) or "127.0.0.1") and not came_by_proxy(scope)


def is_own_machine(scope: Scope) -> bool:
    """Whether this machine asks, be it at the address at which others reach it."""
    at = (scope.get("server") or ("",))[0]
    address = address_of(scope) or "127.0.0.1"
    return (is_loopback(address) or address == at) and not came_by_proxy(scope)


def came_by_proxy(scope: Scope) -> bool:
    """Whether somebody says that another machine asks, be they believed or not."""
    said = Headers(scope=scope)
    forwarded = [one.strip() for name in FORWARDED for line in said.getlist(name) for one in line.split(",")]
    for line in said.getlist("forwarded"):
        forwarded += [host_in(one.strip('"')) for one in FOR.findall(line)] or [line]
    return not all(is_loopback(one) for one in forwarded)


def host_in(node: str) -> str:
    """The address of `192.0.2.7:4711` or `[2001:db8::7]:4711`; of what is none, '_hidden' say, nothing."""
    try:
        return urlsplit(f"//{node}").hostname or ""
    except ValueError:
        return ""
