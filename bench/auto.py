"""What `concurrency="auto"` does of what the best number does, against four APIs, each a process of its own.

`python -m bench.auto KIND` is such an API: it prints its port, tells at GET how many it has taken and refused, and
ends when its standard input does.
"""

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import uvloop

from bench.api import ANSWER, Api
from bench.processes import Dashboard, dashboard, listening, until
from bench.table import Row

TAKES = 0.1  # seconds
KINDS = {
    "constant": "takes 100 ms however many there are",
    "saturates": "does 300 a second",
    "refuses": "answers 429 above 100 a second",
    "halves": "does 300 a second, and from a moment on 150",
}
FIXED = {
    "constant": (50, 100),
    "saturates": (20, 40, 80),
    "refuses": (8, 10, 12),
    "halves": (20, 40, 80),
}
MOST = 100
USERS = 40_000
HALVES = 22.0  # seconds after its first request
SETTLES = 15.0  # seconds that it has to find it
FOR = 5.0  # seconds that are counted
REFUSED = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n"
    b'{"error": "too many"} '
)


class Bounded(Api):
    """One connection to an API of some kind."""

    kind = "constant"
    free = 0.0
    first = 0.0
    counts = {"taken": 0, "refused": 0}
    recent: deque[float] = deque()

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            body = json.dumps(self.counts).encode()
            self.transport.write(told(body))
        else:
            super().data_received(data)

    def answer(self) -> None:
        now = time.monotonic()
        Bounded.first = self.first or now
        wait = TAKES
        if self.kind == "refuses":
            while self.recent and self.recent[0] <= now - 1:
                self.recent.popleft()
            if len(self.recent) >= 100:
                self.later(TAKES / 4, self.say, REFUSED, "refused")
                return
            self.recent.append(now)
        elif self.kind != "constant":
            rate = 150 if self.kind == "halves" and now > self.first + HALVES else 300
            Bounded.free = max(now, self.free) + 1 / rate
            wait += self.free - now
        self.later(wait, self.say, ANSWER, "taken")

    def say(self, answer: bytes, what: str) -> None:
        if not self.transport.is_closing():  # else a job was cancelled meanwhile
            self.counts[what] += 1
            self.transport.write(answer)


def told(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


async def serve(kind: str) -> None:
    Bounded.kind = kind
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bounded, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def counted(api: str, seconds: float) -> tuple[float, float]:
    """How many a second it takes and refuses, over so long."""

    def counts() -> dict[str, int]:
        return httpx.get(api).json()

    before = counts()
    began = time.monotonic()
    time.sleep(seconds)
    after = counts()
    took = time.monotonic() - began
    return (after["taken"] - before["taken"]) / took, (after["refused"] - before["refused"]) / took


def running(ours: Dashboard, concurrency: Any, look: Callable[[int], Any]) -> Any:
    """What `look` sees of a job with that concurrency, which is cancelled then."""
    job = ours.begin("update_users_again", concurrency, limit=USERS)
    until(lambda: ours.job(job)["completed"])
    try:
        return look(job)
    finally:
        ours.act(job, "cancel")
        until(lambda: ours.job(job)["finished_at"])


def auto(quick: bool) -> Iterator[Row]:
    """Auto against the best of some numbers: after it had its time, and once more when the bound has changed."""
    for kind, about in KINDS.items():
        with listening("bench.auto", kind) as port, dashboard(f"http://127.0.0.1:{port}", USERS) as ours:
            yield from _kind(kind, about, f"http://127.0.0.1:{port}", ours, quick)


def _kind(kind: str, about: str, api: str, ours: Dashboard, quick: bool) -> Iterator[Row]:
    def found(job: int) -> list[tuple[float, float]]:
        time.sleep(SETTLES)
        seen = [counted(api, FOR)]
        if kind == "halves":
            time.sleep(SETTLES)
            seen.append(counted(api, FOR))
        print(f"{about}: {ours.job(job)['held_by']['sentence']}", file=sys.stderr, flush=True)
        return seen

    def fixed(job: int) -> float:
        time.sleep(2)
        return counted(api, FOR)[0]

    seen = running(ours, f"auto 1-{MOST}", found)
    numbers = FIXED[kind][:1] if quick else FIXED[kind]
    best = max(running(ours, number, fixed) for number in numbers)
    # of the one that halves, the numbers see what is left of it
    for (taken, refused), peer in zip(seen, (2 * best, best) if kind == "halves" else (best,), strict=True):
        yield Row(f"auto, an API that {about}", taken, peer, "items/s", taken / peer, ">= 0.9")
        if kind == "refuses":
            yield Row("auto, refusals of it", refused, None, "a second", None, "< 2")


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
