"""Clients that come, read, are cut and come back, for as long as one likes: what of them is left in the server?"""

import asyncio
import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.processes import Dashboard, GaveUp, api, dashboard, descriptors, resident, until
from bench.table import Row

CLIENTS = 200
USERS = 400_000
IDENT = re.compile(rb"^id: (\d+)\r$", re.MULTILINE)


@dataclass
class Soaked:
    """What the clients did together."""

    connections: int = 0
    bytes: int = 0
    disordered: int = 0  # ids that went back


def soak(quick: bool) -> Iterator[Row]:
    """200 clients for a minute; the memory, the descriptors and the event loop's tasks of the server, before and after."""
    seconds = 15.0 if quick else 60.0
    with api(20) as url, dashboard(url, USERS) as ours:
        job = ours.begin("update_users", 20)
        until(lambda: ours.job(job)["total"] == USERS)
        pid = ours.process.pid
        after = ours.job(job)["seq"]
        asyncio.run(clients(ours.port, job, after, 5.0))  # what is opened and imported once
        until(lambda: streams(ours) == 0)
        before = resident(pid), descriptors(pid), health(ours)["loop_tasks"]
        done = asyncio.run(clients(ours.port, job, ours.job(job)["seq"], seconds))
        until(lambda: streams(ours) == 0)
        time.sleep(1)
        left = (resident(pid), descriptors(pid), health(ours)["loop_tasks"])
        still = streams(ours)
        if ours.job(job)["status"] != "running":
            raise GaveUp("the job ended too early")
    name = f"{CLIENTS} clients that are cut and come back for {seconds:g} s"
    yield Row(f"{name}: connections", done.connections, None, "", None, "")
    yield Row(f"{name}: ids that went back", done.disordered, None, "", None, "< 1")
    yield Row(f"{name}: growth of memory", left[0] - before[0], None, "MB", None, "< 20")
    yield Row(f"{name}: descriptors left open", left[1] - before[1], None, "", None, "< 5")
    yield Row(f"{name}: tasks of the event loop left", left[2] - before[2], None, "", None, "< 5")
    yield Row(f"{name}: streams left open", still, None, "", None, "< 1")


def health(ours: Dashboard) -> dict[str, Any]:
    return ours.client.get("/healthz").json()


def streams(ours: Dashboard) -> int:
    return int(health(ours)["streams"])


async def clients(
    port: int,
    job: int,
    after: int,
    seconds: float,
    number: int = CLIENTS,
    enough: Callable[[Soaked], bool] = lambda found: True,
) -> Soaked:
    """So many clients at once, half of them pages and half programs, each cut at any byte and back by its last id;
    for so many seconds, and until what they did together is enough."""
    found = Soaked()
    end = time.monotonic() + seconds
    await asyncio.gather(
        *[
            client(port, job, after, lambda: time.monotonic() < end or not enough(found), n, found)
            for n in range(number)
        ]
    )
    return found


async def client(
    port: int, job: int, after: int, goes_on: Callable[[], bool], number: int, found: Soaked
) -> None:
    chance = random.Random(number)
    last = after
    path = f"/events?job={job}" if number % 2 else f"/api/jobs/{job}/events"
    packed = (
        "Accept-Encoding: deflate\r\n" if number % 4 > 1 else ""
    )  # those only read: their ids are not looked at
    while goes_on():
        ask = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nLast-Event-ID: {last}\r\n{packed}\r\n"
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        found.connections += 1
        writer.write(ask.encode())
        said = b""
        try:
            async with asyncio.timeout(chance.uniform(0.1, 2)):
                while part := await reader.read(chance.randint(100, 60_000)):
                    said += part
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
        found.bytes += len(said)
        idents = [] if packed else [int(n) for n in IDENT.findall(said[: said.rfind(b"\r\n\r\n") + 1])]
        rising = [last, *idents]
        found.disordered += sum(b < a for a, b in itertools.pairwise(rising))
        last = idents[-1] if idents else last
