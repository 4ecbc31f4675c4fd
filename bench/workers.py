"""Four serving processes: a change made through any of them, and when the viewers of all of them have it."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from statistics import median

import httpx
import httpx_sse

from bench.processes import Dashboard, api, dashboard, until
from bench.table import Row, p99

WORKERS = 4
STREAMS = 16  # over all processes, as the system gives them out


def workers(quick: bool) -> Iterator[Row]:
    """Pause and resume, each over a connection of its own; every stream hears of it."""
    with api(20) as url, dashboard(url, 10_000, "--workers", str(WORKERS)) as ours:
        job = ours.begin("update_users", 1, "1/s")
        until(lambda: ours.job(job)["total"] == 10_000)
        delays = asyncio.run(heard(ours, job, 10 if quick else 40))
    name = f"{WORKERS} processes, from a request to one to the viewers of all"
    yield Row(f"{name}, p50", median(delays), None, "ms", None, "")
    yield Row(f"{name}, p99", p99(delays), None, "ms", None, "< 200")


async def heard(ours: Dashboard, job: int, times: int) -> list[float]:
    """The milliseconds from each request to each stream's event."""
    asked: dict[str, float] = {}
    delays: list[float] = []
    after = ours.job(job)["seq"]

    async def listen() -> None:
        async with httpx.AsyncClient(base_url=ours.url, timeout=60) as client:
            async with httpx_sse.aconnect_sse(
                client, "GET", f"/api/jobs/{job}/events?after={after}"
            ) as source:
                status = "running"
                async for event in source.aiter_sse():
                    if event.event == "job" and event.json()["status"] != status:
                        status = event.json()["status"]
                        delays.append((time.monotonic() - asked[status]) * 1000)

    listeners = [asyncio.create_task(listen()) for _ in range(STREAMS)]
    await asyncio.sleep(2)
    for action, _ in zip(itertools.cycle(("pause", "resume")), range(times), strict=False):
        asked["paused" if action == "pause" else "running"] = time.monotonic()
        async with httpx.AsyncClient(base_url=ours.url, timeout=60) as client:
            (await client.post(f"/api/jobs/{job}/{action}")).raise_for_status()
        await asyncio.sleep(0.53)  # not in step with the processes' looks
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    return delays
