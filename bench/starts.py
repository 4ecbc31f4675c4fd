"""What a request costs that starts one function which does nothing: ours, Starlette's own, Huey on SQLite, Dramatiq on
Redis, each as real processes beside the same client, in turns.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import apsw
import httpx
import valkey

from bench.processes import ROOT, free_port, seconds_of_processor, until
from bench.queues import BIN, broker
from bench.table import Row

STARTS = 1_000
AT_ONCE = 20
MANY = 3_000  # starts while the threads are counted
SITES = ("rowcast", "starlette", "huey", "dramatiq")
CONSUMERS = {
    "huey": [str(BIN / "huey_consumer"), "bench.site.queue", "-w", "10", "-q"],
    "dramatiq": [str(BIN / "dramatiq"), "bench.site", "--processes", "1", "--threads", "8"],
}


@dataclass
class Measured:
    """One run: how many were answered and had ended in a second, and what one took of a processor."""

    answered: float
    ended: float
    milliseconds: float  # of a processor, of all processes but the client
    threads: int  # at most, of the process that runs the functions


@dataclass
class Site:
    """A running app, and how many of its functions have not ended."""

    url: str
    processes: list[subprocess.Popen[bytes]]
    left: Callable[[int], int]  # of so many that were started

    def family(self) -> list[int]:
        """Its processes, with those that they have started."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                pid, _, rest = stat.read_text().rpartition(")")
                parents.setdefault(int(rest.split()[1]), []).append(int(pid.split()[0]))
        found = [process.pid for process in self.processes]
        for pid in found:
            found += parents.get(pid, [])
        return found

    def seconds(self) -> float:
        """What its processes have taken of a processor."""
        return seconds_of_processor(*self.family())

    def threads(self) -> int:
        """The threads of the process that has most."""
        return max(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.family())


@contextlib.contextmanager
def site(kind: str, folder: Path, redis: str) -> Iterator[Site]:
    """The app that starts functions this way, with whoever runs them."""
    path = folder / f"{kind}.db"
    port = free_port()
    env = os.environ | {
        "BENCH_SITE": kind,
        "BENCH_QUEUE": str(path) if kind == "huey" else redis,
        "ROWCAST_DATABASE": str(path),
    }
    commands = [[sys.executable, "-m", "uvicorn", "bench.site:app", "--port", str(port), "--no-access-log"]]
    commands += [CONSUMERS[kind]] if kind in CONSUMERS else []
    with (folder / f"{kind}.log").open("wb") as log:
        processes = [
            subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            for command in commands
        ]
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url) as client, contextlib.ExitStack() as stack:

        def up() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return client.get("/ended").is_success
            return False

        def left(started: int) -> int:
            if kind == "starlette":
                return started - int(client.get("/ended").text)
            if kind == "dramatiq":
                return stack.enter_context(valkey.Valkey.from_url(redis)).hlen("dramatiq:default.msgs")
            table = "jobs where finished_at is null" if kind == "rowcast" else "task"
            conn = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                return conn.execute(f"select count(*) from {table}").get
            finally:
                conn.close()

        try:
            until(up)
            yield Site(url, processes, left)
        finally:
            for process in processes[::-1]:
                process.terminate()
            for process in processes:
                process.wait(20)


async def ask(url: str, number: int) -> None:
    """So many requests, so many at once."""
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        left = iter(range(number))

        async def one_after_the_other() -> None:
            for _ in left:
                (await client.post("/start")).raise_for_status()

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


def measure(made: Site, before: int, number: int = STARTS) -> Measured:
    """Start so many, where so many were started before."""
    used = made.seconds()
    began = time.monotonic()
    asyncio.run(ask(made.url, number))
    answered = time.monotonic() - began
    until(lambda: made.left(before + number) <= 0, 0.01)
    ended = time.monotonic() - began
    return Measured(
        number / answered, number / ended, (made.seconds() - used) / number * 1000, made.threads()
    )


def starts(quick: bool) -> Iterator[Row]:
    """Each kind in turns, in processes that were warmed by as many starts."""
    found: dict[str, list[Measured]] = {kind: [] for kind in SITES}
    with tempfile.TemporaryDirectory(prefix="rowcast-bench-", ignore_cleanup_errors=True) as folder:
        with broker() as redis, contextlib.ExitStack() as stack:
            for run in range(1 if quick else 3):
                for kind in SITES:
                    place = Path(folder) / str(run)
                    place.mkdir(exist_ok=True)
                    with site(kind, place, redis) as made:
                        measure(made, 0, STARTS // 5)
                        found[kind].append(measure(made, STARTS // 5))
            many = Path(folder) / "many"
            many.mkdir()
            made = stack.enter_context(site("rowcast", many, redis))
            threads = measure(made, 0, MANY).threads
    ours = found["rowcast"]
    for kind, target in (("starlette", ">= 0.75"), ("huey", ">= 1"), ("dramatiq", ">= 1")):
        for what in ("answered", "ended"):
            pairs = [(getattr(o, what), getattr(t, what)) for o, t in zip(ours, found[kind], strict=True)]
            yield Row(
                f"one empty function a request, {what}, against {kind}",
                median(o for o, _ in pairs),
                median(t for _, t in pairs),
                "starts/s",
                median(o / t for o, t in pairs),
                target,
            )
    for kind in SITES:
        took = median(one.milliseconds for one in found[kind])
        yield Row(f"one empty function a request, processor, {kind}", took, None, "ms", None, "")
    yield Row(f"threads after {MANY:,} of them", threads, None, "threads", None, "< 40")
