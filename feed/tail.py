"""`rowcast tail JOB`: one job followed in a terminal over its stream, with a bar."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import httpx_sse
import msgspec
from httpx_sse import ServerSentEvent

MOST_TRIES = 5  # in a row, to reach a dashboard that was there before
LONGEST_PAUSE = 5.0  # seconds between two of them
CUT = (httpx.TransportError, httpx.InvalidURL, httpx_sse.SSEError)


class Lost(Exception):
    """The job cannot be followed; the message is one sentence."""


def tail(url: str, job: int) -> int:
    """Follow a job to its end; returns the exit code."""
    try:
        return asyncio.run(follow(url.rstrip("/"), job))
    except Lost as error:
        print(f"rowcast: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


async def follow(url: str, job: int) -> int:
    from tqdm import tqdm

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    latest: dict[str, Any] = {}
    bar = None
    try:
        async for event in events(url, job):
            if event.event == "job":
                latest = msgspec.json.decode(event.data)
                bar = bar or tqdm(total=latest["total"], unit="item", desc=f"{latest['task']} #{job}")
                bar.total = latest["total"]
                bar.update(ended(latest) - bar.n)
                bar.set_postfix_str(f"{latest['status']}, {latest['failed']:,} failed")
            elif event.event == "item" and not sys.stderr.isatty():
                tell(msgspec.json.decode(event.data))
    finally:
        if bar:
            bar.close()
    return exit_code(latest)


async def events(url: str, job: int) -> AsyncIterator[ServerSentEvent]:
    """The events of a job's stream until `done`; where it is cut, it goes on from the last id.

    Raises Lost.
    """
    last = ""
    begun = False
    tries = 0
    async with httpx.AsyncClient(timeout=httpx.Timeout(10, read=60)) as client:
        while True:
            try:
                async for event in connection(client, f"{url}/api/jobs/{job}/events", last):
                    last = event.id or last
                    begun = True
                    tries = 0
                    yield event
                    if event.event == "done":
                        return
            except CUT as error:
                tries += 1
                if tries > MOST_TRIES or not begun:
                    why = error or type(error).__name__
                    raise Lost(f"{url} cannot be reached ({why}): give --port or --url.") from None
            await asyncio.sleep(min(0.2 * 2**tries, LONGEST_PAUSE))


async def connection(client: httpx.AsyncClient, url: str, last: str) -> AsyncIterator[ServerSentEvent]:
    """The events behind the id `last`, as far as one connection goes.

    Raises Lost where the server refuses.
    """
    headers = {"Last-Event-ID": last} if last else {}
    async with httpx_sse.aconnect_sse(client, "GET", url, headers=headers) as source:
        if source.response.status_code == 204:  # it has ended, and all has been seen
            yield ServerSentEvent("done")
        elif source.response.is_error:
            raise Lost(error_of(await source.response.aread(), source.response.status_code))
        else:
            async for event in source.aiter_sse():
                yield event


def tell(item: dict[str, Any]) -> None:
    """One line for an item that has ended, where nobody looks at a bar."""
    if item["status"] not in ("queued", "running"):
        told = f"{item['code'] or ''} {item['error'] or ''}".strip()
        print(f"{item['status']:<10} {item['key']}  {told}".rstrip(), flush=True)


def ended(job: dict[str, Any]) -> int:
    return int(job["completed"] + job["failed"] + job["cancelled"] + job["unknown"])


def exit_code(job: dict[str, Any]) -> int:
    clean = job.get("status") == "completed" and not job["failed"] and not job["unknown"]
    return 0 if clean else 1


def error_of(body: bytes, status: int) -> str:
    try:
        return str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the server answered {status}."
