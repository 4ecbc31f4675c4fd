"""The peer of the streams: sse-starlette sending ready bytes. `python -m bench.peer BYTES` prints its port.

An event of so many bytes ten times a second, made once and given to each viewer as it is. It ends when its
standard input does.
"""

import asyncio
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator

import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rowcast.tasks.records import iso

PAUSE = 0.1  # seconds between two events


class Ticker:
    """The newest event, and who waits for it."""

    def __init__(self, size: int):
        self.size = size
        self.event = b""
        self.number = 0
        self.moved = asyncio.Event()

    async def run(self) -> None:
        due = time.monotonic()
        while True:
            self.number += 1
            head = f"data: {iso(time.time())} {self.number} "
            self.event = f"{head}{'x' * (self.size - len(head))}\r\nid: {self.number}\r\n\r\n".encode()
            moved = self.moved
            self.moved = asyncio.Event()
            moved.set()
            due += PAUSE
            await asyncio.sleep(max(0, due - time.monotonic()))


async def main(size: int) -> None:
    ticker = Ticker(size)

    async def frames() -> AsyncIterator[bytes]:
        while True:
            await ticker.moved.wait()
            yield ticker.event

    async def events(req: Request) -> Response:
        return EventSourceResponse(frames(), send_timeout=30)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(
            Starlette(routes=[Route("/events", events)]), log_level="error", access_log=False, lifespan="off"
        )
        threading.Thread(target=end_with_input, daemon=True).start()
        ticking = asyncio.create_task(ticker.run())
        await uvicorn.Server(config).serve(sockets=[listener])
        ticking.cancel()


def end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)  # at once: a thousand streams that are cancelled would each be told of


if __name__ == "__main__":
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(int(sys.argv[1])))
