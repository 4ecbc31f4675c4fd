"""The other side of a pair: the same requests with nothing around them, `python -m bench.bare KIND URL RUNNERS REQUESTS`.

It prints the requests per second, after as many requests as there are runners to open the connections. KIND:
    httpx      the client that a task gets for httpx.AsyncClient, without the hooks that know about items
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

from rowcast.extras.client_pyreqwest import Client, open_client
from rowcast.worker.clients import USER_AGENT, open_httpx

Post = Callable[[str], Awaitable[None]]


def paths(number: int) -> Iterator[str]:
    """As many paths as are asked for, each of another user."""
    return (f"/update-user/{quote(f'user{n}@example.com', safe='')}" for n in range(number))


async def with_httpx(url: str, runners: int, requests: int) -> float:
    async with open_httpx(url) as client:
        client.event_hooks = {}

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
    return uvloop.run({"httpx": with_httpx, "pyreqwest": with_pyreqwest}[kind](url, runners, requests))


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
