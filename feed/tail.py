"""`rowcast tail JOB`: one job followed in a terminal over its stream, with a bar."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from typing import Any
from urllib.parse import urlsplit

import httpx
import httpx_sse
import msgspec
from httpx_sse import ServerSentEvent

from rowcast.tasks.checks import is_loopback
from rowcast.tasks.text import printable, printable_json, say

TOKEN = "ROWCAST_TOKEN"  # in the environment: for whom it is that follows
MOST_TRIES = 5  # in a row, to reach a dashboard that was there before
LONGEST_PAUSE = 5.0  # seconds between two of them
ERROR_BODY = 65_536  # bytes that are read of an answer that refuses
CUT = (httpx.TransportError, httpx.InvalidURL, httpx_sse.SSEError)


class Lost(Exception):
    """The job cannot be followed; the message is one sentence."""


def tail(followed: Coroutine[Any, Any, int]) -> int:
    """Follow a job, or an item, to its end; returns the exit code."""
    try:
        return asyncio.run(followed)
    except Lost as error:
        say(f"rowcast: {error}", sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


async def follow_job(url: str, job: int, as_json: bool = False) -> int:
    """Follow a job to its end; returns the exit code. `as_json`: each event as a line of JSON, and no bar.

    Raises Lost.
    """
    from tqdm import tqdm

    if this := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    latest: dict[str, Any] = {}
    bar = None
    only_bar = sys.stdout.isatty() and sys.stderr.isatty()
    try:
        async with contextlib.aclosing(events(url, job)) as followed:
            async for event in followed:
                if as_json:
                    tell_event(event)
                if event.event == "job":
                    latest = msgspec.json.decode(event.data)
                    if as_json:
                        continue
                    name = printable(f"{latest['task']} #{job}")
                    bar = bar or tqdm(total=latest["total"], unit="item", desc=name)
                    bar.total = latest["total"]
                    bar.update(ended(latest) - bar.n)
                    bar.set_postfix_str(f"{latest['status']}, {latest['failed']:,} failed")
                elif event.event == "item" and not only_bar and not as_json:
                    tell(msgspec.json.decode(event.data))
    finally:
        if bar:
            bar.close()
    return exit_code(latest)


async def events(url: str, job: int) -> AsyncGenerator[ServerSentEvent, None]:
    """The events of a job's stream until `done`; where it is cut, it goes on from the last id.

    Raises Lost.
    """
    last = ""
    begun = False
    tries = 0
    limits = httpx.Timeout(10, read=60)
    async with httpx.AsyncClient(timeout=limits, trust_env=not is_near(url), headers=credentials()) as client:
        while True:
            try:
                connected = connection(client, f"{url}/api/jobs/{job}/events", last)
                async with contextlib.aclosing(connected) as told:
                    async for event in told:
                        last = event.id or last
                        begun = True
                        tries = 0
                        yield event
                        if event.event == "done":
                            return
            except CUT as error:
                tries += 1
                if tries > MOST_TRIES or not begun:
                    raise unreachable(url, error) from None
            await asyncio.sleep(min(0.2 * 2**tries, LONGEST_PAUSE))


def unreachable(url: str, error: Exception) -> Lost:
    """What is said where nobody answers, or nobody any more."""
    return Lost(f"{url} cannot be reached ({str(error) or type(error).__name__}): give --port or --url.")


async def connection(client: httpx.AsyncClient, url: str, last: str) -> AsyncGenerator[ServerSentEvent, None]:
    """The events behind the id `last`, as far as one connection goes.

    Raises Lost where the server refuses.
    """
    headers = {"Last-Event-ID": last} if last else {}
    async with httpx_sse.aconnect_sse(client, "GET", url, headers=headers) as source:
        if source.response.status_code == 204:  # it has ended, and all has been seen
            yield ServerSentEvent("done")
        elif source.response.is_error:
            raise Lost(await error_of(source.response))
        else:
            async for event in source.aiter_sse():
                if event.data:  # what only says when to ask again is none
                    yield event


def credentials() -> dict[str, str]:
    """The token of an account, as the environment has it: a header, or none."""
    token = os.environ.get(TOKEN, "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def is_near(url: str) -> bool:
    """Whether an address is of this machine, where no proxy is to be asked."""
    with contextlib.suppress(ValueError):
        return is_loopback(urlsplit(url).hostname or "")
    return False


def tell_event(event: ServerSentEvent) -> None:
    """What happened as one line of JSON, as the WebSocket has it."""
    number = int(event.id) if event.id and event.event in ("job", "item") else None
    data = msgspec.Raw(event.data.encode()) if event.data else {}
    line = msgspec.json.encode({"id": number, "event": event.event, "data": data})
    print(printable_json(line.decode()), flush=True)


def tell(item: dict[str, Any]) -> None:
    """One line for an item that has ended, where stdout or stderr is no terminal."""
    if item["status"] not in ("queued", "running"):
        told = f"{item['code'] or ''} {item['error'] or ''}".strip()
        say(f"{item['status']:<10} {item['key']}  {told}".rstrip())


def ended(job: dict[str, Any]) -> int:
    return int(job["completed"] + job["failed"] + job["cancelled"] + job["unknown"])


def exit_code(job: dict[str, Any]) -> int:
    clean = job.get("status") == "completed" and not job["failed"] and not job["unknown"]
    return 0 if clean else 1


async def error_of(response: httpx.Response) -> str:
    """What an answer that refuses says, as far as it is one of ours: of its first part."""
    body = await anext(response.aiter_bytes(ERROR_BODY), b"")
    try:
        return str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the server answered {response.status_code}."
