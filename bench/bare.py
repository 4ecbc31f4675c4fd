"""The other side of a pair: the same requests with nothing around them, `python -m bench.bare KIND URL RUNNERS REQUESTS`.

It prints the requests per second, after as many requests as there are runners to open the connections. KIND:
    httpx      httpx over httpx-aiohttp's transport, as their packages have them
    client     the client that a task gets for httpx.AsyncClient, which is faster (worker/clients.py)
    pyreqwest  the client that a task gets for pyreqwest.client.Client
    example    FastHTML's example of a background task: httpx.post, one user after the other
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import quote

import httpx
import uvloop
from httpx_aiohttp import AiohttpTransport

from rowcast.extras.client_pyreqwest import Client, open_client
from rowcast.worker.clients import USER_AGENT, open_httpx

Post = Callable[[str], Awaitable[None]]


def paths(number: int) -> Iterator[str]:
    """As many paths as are asked for, each of another user."""
    return (f"/update-user/{quote(f'user{n}@example.com', safe='')}" for n in range(number))


def packaged(url: str) -> httpx.AsyncClient:
    """httpx over aiohttp, with no limit of its own, as ours has none."""
    transport = AiohttpTransport(limits=httpx.Limits(max_connections=0, keepalive_expiry=30))
    return httpx.AsyncClient(base_url=url, transport=transport, timeout=60)


async def with_httpx(client: httpx.AsyncClient, runners: int, requests: int) -> float:
    async with client:

        async def post(path: str) -> None:
            (await client.post(path)).raise_for_status()

        return await run(post, runners, requests)


async def with_pyreqwest(url: str, runners: int, requests: int) -> float:
    async with open_client(Client, url, USER_AGENT) as client:

        async def post(path: str) -> None:
            (await client.post(path).build().send()).error_for_status()

        return await run(post, runners, requests)


async def run(post: Post, runners: int, requests: int) -> float:
    """Requests per second of a fixed number of runners that take the next path."""
    await _run(post, runners, paths(runners))
    started = time.perf_counter()
    await _run(post, runners, paths(requests))
    return requests / (time.perf_counter() - started)


async def _run(post: Post, runners: int, todo: Iterator[str]) -> None:
    async def runner() -> None:
        for path in todo:
            await post(path)

    await asyncio.gather(*[runner() for _ in range(runners)])


def example(url: str, requests: int) -> float:
    started = time.perf_counter()
    for path in paths(requests):
        httpx.post(url + path)
    return requests / (time.perf_counter() - started)


def main(kind: str, url: str, runners: int, requests: int) -> float:
    if kind == "example":
        return example(url, requests)
    if kind == "pyreqwest":
        return uvloop.run(with_pyreqwest(url, runners, requests))
    return uvloop.run(with_httpx({"httpx": packaged, "client": open_httpx}[kind](url), runners, requests))


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
