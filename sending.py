"""How a stream gets on the wire: one task for each, which sends what its source has that is new, and waits.

A bare ASGI answer, for a thousand viewers are a thousand times what one costs. Frames are compressed once for all who take
`deflate`: what is sent to one viewer is a sequence of blocks, of which those of a frame are the same for everybody, and the
few bytes of one's own stand between them as they are. A quiet stream is kept open with comments, a reader who takes nothing
for a while is dropped, and when the server goes down each source says so.
"""

import asyncio
import contextlib
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rowcast.feed import OPENING, Feed, Frame, Piece, Source
from rowcast.jobs import NotFound

PING = b": ping\r\n\r\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept-Encoding"}
NEVER = float("inf")
MODULUS = 65521  # of the checksum Adler-32


class Stream(Response):
    """One stream, as an answer. `ping`: seconds between two comments; `limit`: after which a reader is dropped."""

    status_code, background, media_type = 200, None, "text/event-stream"

    def __init__(self, feed: Feed, viewer: str, source: Source, ping: float, limit: float):
        self.init_headers(HEADERS)
        self.feed, self.viewer, self.source, self.ping, self.limit = feed, viewer, source, ping, limit
        self.since = NEVER  # when the frame that is being sent was begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        packer = Packer() if takes_deflate(scope) and scope["method"] != "HEAD" else None
        headers = [*self.raw_headers, (b"content-encoding", b"deflate")] if packer else self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        self.feed.streams[self.viewer] += 1
        pouring = asyncio.create_task(self._pour(send, packer))
        leaving = asyncio.create_task(left(receive))
        try:
            # looked at now and then, for a timer with each frame would cost as much as sending it
            while time.monotonic() < self.since + self.limit:
                if (await asyncio.wait((pouring, leaving), timeout=self.limit / 4, return_when=asyncio.FIRST_COMPLETED))[0]:
                    break
        finally:
            self.feed.streams[self.viewer] -= 1
            if not self.feed.streams[self.viewer]:
                del self.feed.streams[self.viewer]
            leaving.cancel()
            pouring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pouring

    async def _pour(self, send: Send, packer: "Packer | None") -> None:
        """Send what is new until the source ends or the server goes down."""
        feed, source, pack = self.feed, self.source, packer.pack if packer else plain

        async def put(pieces: Iterable[Piece], more: bool = True) -> None:
            body = pack(pieces)
            if packer and not more:
                body += packer.end()
            self.since = time.monotonic()
            await send({"type": "http.response.body", "body": body, "more_body": more})
            self.since = NEVER

        await put((OPENING,))
        ping = time.monotonic() + self.ping
        while not feed.closing:
            try:
                pieces = source.next()
            except NotFound:  # deleted meanwhile: whoever comes back is told so
                break
            if pieces:
                await put(pieces)
            if source.ended:
                break
            if (now := time.monotonic()) >= ping:
                ping = now + self.ping
                await put((PING,))
            patience = source.patience()
            await feed.changed(source.cursor, ping if patience is None else min(ping, now + patience))
            await asyncio.sleep(0)  # a source that has more to say does not keep the others waiting
        await put(source.farewell() if feed.closing and not source.ended else (), more=False)


async def left(receive: Receive) -> None:
    """Return once the reader has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def takes_deflate(scope: Scope) -> bool:
    return any(name == b"accept-encoding" and b"deflate" in value for name, value in scope["headers"])


def plain(pieces: Iterable[Piece]) -> bytes:
    return b"".join([piece.plain if isinstance(piece, Frame) else piece for piece in pieces])


class Packer:
    """Pieces as one zlib stream. It keeps no more of what was sent than its checksum."""

    def __init__(self) -> None:
        self.begun, self.adler = False, 1

    def pack(self, pieces: Iterable[Piece]) -> bytes:
        blocks = [] if self.begun else [b"\x78\x01"]
        self.begun = True
        for piece in pieces:
            if isinstance(piece, Frame):
                blocks.append(piece.packed)
                self.adler = joined(self.adler, piece.adler, len(piece.plain))
            elif piece:
                blocks.append(struct.pack("<BHH", 0, len(piece), len(piece) ^ 0xFFFF) + piece)
                self.adler = zlib.adler32(piece, self.adler)
        return b"".join(blocks)

    def end(self) -> bytes:
        """What ends the stream: an empty last block, and the checksum of all that was sent."""
        return b"\x03\x00" + struct.pack(">I", self.adler)


def joined(first: int, second: int, length: int) -> int:
    """The Adler-32 of two texts one behind the other, by those of each, and the second's length."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + length % MODULUS * ((first & 0xFFFF) - 1)
    return high % MODULUS << 16 | low % MODULUS


def asked_to_stop() -> Callable[[], bool]:
    """Whether the server around us has been asked to stop: uvicorn waits for open streams before it tells the app.

    uvicorn's signal handler is a method of its server; that of other servers is not known, and theirs end us their way.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return lambda: bool(getattr(server, "should_exit", False))
