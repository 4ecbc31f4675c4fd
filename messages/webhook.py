"""Webhooks: messages as Standard Webhooks has them (https://www.standardwebhooks.com), signed by its library.

The client is one of its own, without cookies, proxies or redirects. What an address that was typed on a page
resolves to is looked at where the connection is made, so what a name says to others, or said before, does
not matter.
"""

import asyncio
import contextlib
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

import httpx
from standardwebhooks import Webhook

from rowcast.messages.channels import Later, Means, Never
from rowcast.messages.guarded import Refused, Transport
from rowcast.tables.webhooks import Webhooks
from rowcast.tasks.notify import masked
from rowcast.tasks.reach import Reach
from rowcast.tasks.records import OWNER, Delivery
from rowcast.worker.clients import USER_AGENT, retry_after
from rowcast.worker.hiding import Hider

CONNECT = 5.0  # seconds for a connection
READ = 15.0  # seconds for each piece of an answer; the sender limits the whole
SHOWN = 2000  # bytes of an answer that are read
SAYS = 2.0  # seconds in which they come
WORDS = 160  # letters of it that are told
GONE = 410  # the receiver wants no more (Standard Webhooks)


async def send(delivery: Delivery, means: Means) -> int:
    """Post a message. Raises Later, Never."""
    client = await means.keep(open_trusted if delivery.trusted else open_guarded)
    try:
        async with client.stream(
            "POST", delivery.to, content=delivery.body, headers=headers_of(delivery, means)
        ) as response:
            return await came_of(response)
    except Refused as error:
        raise Never(str(error)) from error
    except httpx.TimeoutException as error:
        raise Later("no answer in time") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Never(f"no address of a webhook: {error}") from error
    except httpx.HTTPError as error:
        raise Later(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error


def headers_of(delivery: Delivery, means: Means) -> dict[str, str]:
    now = datetime.now(UTC)  # the library takes what it gets for UTC
    signed = [Webhook(secret).sign(delivery.id, now, delivery.body) for secret in secrets_of(delivery, means)]
    return {
        "Content-Type": "application/json",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": USER_AGENT,
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signed),
    }


def secrets_of(delivery: Delivery, means: Means) -> list[str]:
    """What a message is signed with: while a secret is exchanged, with both. An address that settings or code
    name has one secret, whose job it may be.
    """
    if delivery.trusted and delivery.to == means.settings.webhook_url:
        return means.settings.webhook_secret.split()
    return Webhooks(means.path).secrets(OWNER if delivery.trusted else delivery.owner, delivery.to)


async def came_of(response: httpx.Response) -> int:
    """The code of an answer that says yes. Raises Later, Never, which say nothing of an address but its host:
    they are shown to who may not know more of it.
    """
    code = response.status_code
    if response.is_success:
        return code
    if response.has_redirect_location:
        where = place_of(response)
        raise Later(f"{code}: it sends on to {where[:WORDS]}, which is not followed", code)
    why = f"{code} {phrase(code)}".strip()
    if said := await words_of(response):
        why = f"{why}: {said}"
    if code == GONE:
        raise Never(why, code)
    asked = retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
    raise Later(why, code, asked)


def place_of(response: httpx.Response) -> str:
    """Where an answer sends on to, as far as its host."""
    with contextlib.suppress(ValueError):
        where = urljoin(str(response.request.url), response.headers["Location"])
        if urlsplit(where).hostname:
            return masked("webhook", where)
    return "…"


def phrase(code: int) -> str:
    """What a code means."""
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return ""


async def words_of(response: httpx.Response) -> str:
    """The beginning of what an answer says, as one line; many repeat the path."""
    body = b""
    with contextlib.suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(SAYS):
            async for piece in response.aiter_raw():
                body += piece
                if len(body) >= SHOWN:
                    break
    url = response.request.url
    hider = Hider((url.raw_path.decode(), url.path, url.query.decode()))
    return hider(" ".join(body[:SHOWN].decode(errors="replace").split()))[:WORDS]


def open_trusted(_: Means) -> httpx.AsyncClient:
    """For addresses that settings or code name: they may be anywhere."""
    return client_with(None)


def open_guarded(means: Means) -> httpx.AsyncClient:
    """For addresses that somebody has typed."""
    return client_with(Reach(means.settings.notify_hosts))


def client_with(reach: Reach | None) -> httpx.AsyncClient:
    timeout = httpx.Timeout(READ, connect=CONNECT)
    return httpx.AsyncClient(transport=Transport(reach), timeout=timeout, trust_env=False)
