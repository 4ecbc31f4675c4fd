"""What the benches run besides update_users, given to the dashboard by `--tasks bench.tasks`."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pyreqwest.client import Client

from rowcast import task


@task(concurrency=50, timeout=10, stamp="account_updated", doing="Sending")
async def update_users_fast(user: dict[str, Any], api: Client) -> None:
    """The task update_users with the faster client."""
    (await api.post(f"/update-user/{quote(user['email'], safe='')}").build().send()).error_for_status()


@task(concurrency=50, timeout=10, max_attempts=20, backoff=0.001, backoff_max=0.01)
async def update_users_again(user: dict[str, Any], api: httpx.AsyncClient) -> None:
    """The task update_users, which tries again at once."""
    (await api.post(f"/update-user/{quote(user['email'], safe='')}")).raise_for_status()


def numbers(count: int = 1000) -> Iterator[str]:
    """Items that are only counted."""
    yield from map(str, range(count))


@task(items=numbers, concurrency=10)
async def moment(number: str, milliseconds: int = 50) -> float:
    """When this item ended, by the clock of this machine."""
    await asyncio.sleep(milliseconds / 1000)
    return time.time()


@task(items=numbers, concurrency=50)
async def instant(number: str) -> None:
    """Nothing."""


@task(concurrency=1000)
async def rest(seconds: float = 600.0) -> None:
    """A call that waits."""
    await asyncio.sleep(seconds)


@task(items=numbers, concurrency=4, doing="Computing")
def compute(number: str, milliseconds: int = 5) -> None:
    """Keep a processor busy."""
    end = time.perf_counter() + milliseconds / 1000
    while time.perf_counter() < end:
        pass


def note_frames() -> None:
    """Write down when the making of each frame of a job's page begins, beside the database, for the bench of viewers."""
    from rowcast.feed import streams

    following = streams.JobViewer.next
    seen = set[int]()

    def noted(viewer: streams.JobViewer) -> Sequence[Any]:
        if (seq := viewer.feed.seq) not in seen:
            seen.add(seq)
            with Path(f"{os.environ['ROWCAST_DATABASE']}.frames").open("a") as out:
                out.write(f"{seq} {time.time():.6f}\n")
        return following(viewer)

    streams.JobViewer.next = noted


if os.environ.get("BENCH_FRAMES"):
    note_frames()
