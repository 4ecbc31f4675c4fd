"""The API of the benches, a process of its own: `python -m bench.api [MILLISECONDS [FAULTS]]` prints the port it listens on.

A bare asyncio protocol, so that it answers many more requests than any client here can send: each POST over a connection
that stays open gets the same 200, after the latency given; so many in a hundred get a 503. It ends when its standard input does.
"""

import asyncio
import sys
from typing import Any

import uvloop

BODY = b'{"updated":true}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
BUSY = b'{"error":"service unavailable"}'
FAULT = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (
        len(BUSY),
        BUSY,
    )
)


class Api(asyncio.Protocol):
    """One connection. Requests are told apart by their empty line and their Content-Length, and not read further."""

    latency = 0.0
    faults = 0
    requests = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.later = asyncio.get_running_loop().call_later
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (head := self.data.find(b"\r\n\r\n")) >= 0:
            end = head + 4 + body_length(self.data[:head])
            if len(self.data) < end:
                return
            self.data = self.data[end:]
            self.answer()

    def answer(self) -> None:
        Api.requests += 1
        # 37 and 100 have no common divisor: the faults are spread, and no item meets them in step
        answer = FAULT if self.requests * 37 % 100 < self.faults else ANSWER
        if self.latency:
            self.later(self.latency, self.transport.write, answer)
        else:
            self.transport.write(answer)


def body_length(head: bytes) -> int:
    """The Content-Length of a request's head; 0 where there is none."""
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0] or 0)


async def serve(latency: float = 0.0, faults: float = 0.0) -> None:
    Api.latency = latency / 1000
    Api.faults = int(faults)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Api, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(*map(float, sys.argv[1:])))
