"""How a stream gets on the wire: sse-starlette's answer, and the bytes that it is given, ready to be sent.

Frames are compressed once for all who take `deflate`: what is sent to one viewer is a sequence of blocks, of
which those of a frame are the same for everybody, and the few bytes of one's own stand between them as they
are. sse-starlette notices who has left, drops a reader who takes nothing for a while, and sees the server go
down, of which each reader has a last word.
"""

import asyncio
import logging
import struct
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

import anyio
from sse_starlette import EventSourceResponse
from starlette.types import Message, Scope, Send

from rowcast.feed.watch import OPENING, Feed, Frame, Piece, Reader
from rowcast.jobs import NotFound

log = logging.getLogger("rowcast")
COMMENT = b": ping\r\n\r\n"
FAREWELL_SECONDS = 2.0  # for the last word of all streams, less than open answers get at a stop
VARY = {"Vary": "Accept-Encoding"}
MODULUS = 65521  # of the checksum Adler-32
LARGEST_BLOCK = 0xFFFF  # bytes that stand as they are in one of deflate's blocks
# Whether a stream goes on: None, or the event with which it ends; b"" for none.
Verdict = Callable[[], bytes | None]
Packed = TypeVar("Packed")


def stream(
    feed: Feed,
    viewer: str,
    reader: Reader,
    scope: Scope,
    ping: float,
    limit: float,
    stays: Verdict = lambda: None,
) -> EventSourceResponse:
    """One stream, as an answer. `ping`: seconds between two comments; `limit`: after which a reader is
    dropped; `stays` is asked as often as there are comments, and says with which event it ends."""
    packer = Packer() if takes_deflate(scope) and scope["method"] != "HEAD" else None
    pack = packer.pack if packer else plain
    return Stream(
        pour(feed, viewer, reader, pack, ping, stays, packer.end if packer else None),
        headers=VARY | ({"Content-Encoding": "deflate"} if packer else {}),
        ping=0,  # ours stand in the compressed stream
        send_timeout=limit,
        shutdown_event=Closing(feed),
        shutdown_grace_period=FAREWELL_SECONDS,
    )


class Stream(EventSourceResponse):
    """sse-starlette's answer, which has no clock for a message that is gone at once, as nearly all are."""

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        begun = Begun(send(message))
        if not begun.is_over:
            await super()._send_with_timeout(lambda _: begun, message)


class Begun(Awaitable[None]):
    """A coroutine that has begun. Where it has to wait, whoever awaits this waits for it."""

    def __init__(self, awaited: Awaitable[None]):
        self.steps: Generator[Any, Any, None] = awaited.__await__()
        self.is_over = False
        self.waits_for: Any = None
        self._go(self.steps.__next__)

    def _go(self, step: Callable[..., Any], *given: Any) -> None:
        try:
            self.waits_for = step(*given)
        except StopIteration:
            self.is_over = True

    def __await__(self) -> Generator[Any, Any, None]:
        while not self.is_over:
            try:
                came = yield self.waits_for
            except BaseException as error:  # for the steps, which may await no other way
                self._go(self.steps.throw, error)
            else:
                self._go(self.steps.send, came)


class Closing(anyio.Event):
    """What sse-starlette sets when it sees the server stop: the feed closes."""

    def __new__(cls, feed: Feed) -> "Closing":
        return object.__new__(cls)

    def __init__(self, feed: Feed):
        self.feed = feed

    def set(self) -> None:
        self.feed.close()


async def pour(
    feed: Feed,
    viewer: str,
    reader: Reader,
    pack: Callable[[Sequence[Piece]], Packed],
    ping: float,
    stays: Verdict,
    end: Callable[[], Packed] | None = None,
) -> AsyncGenerator[Packed, None]:
    """What is new, as `pack` makes it of pieces, until the reader ends, `stays` says so or the server goes
    down; then what `end` makes. The stream counts as the viewer's while it lasts."""
    feed.streams[viewer] += 1
    try:
        yield pack((OPENING,))
        ping_at = time.monotonic() + ping
        last: bytes | None = None
        while not feed.closing:
            now = time.monotonic()
            try:
                if now >= ping_at and (last := stays()) is not None:
                    break
                pieces = reader.next()
            except NotFound:  # deleted meanwhile: whoever comes back is told so
                break
            except Exception as error:  # the machine's, as a rule; whoever comes back may find it well
                log.warning("A stream ends: %s: %s", type(error).__name__, error)
                break
            if pieces:
                yield pack(pieces)
            if reader.ended:
                break
            if (now := time.monotonic()) >= ping_at:
                ping_at = now + ping
                yield pack((COMMENT,))
            patience = reader.patience()
            until = ping_at if patience is None else min(ping_at, now + patience)
            if not await feed.changed(reader.cursor, until):
                await asyncio.sleep(0)  # a reader that has more to say does not keep the others waiting
        if last:
            yield pack(reader.farewell(last))
        elif feed.closing and not reader.ended:
            yield pack(reader.farewell())
        if end:
            yield end()
    finally:
        feed.streams[viewer] -= 1
        if not feed.streams[viewer]:
            del feed.streams[viewer]


def takes_deflate(scope: Scope) -> bool:
    """Whether a client has named it among what it takes, and not with q=0, by which it refuses it."""
    named = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    if b"deflate" not in (named := named.lower().translate(None, b" \t")):
        return False
    offers = [offer.partition(b";") for offer in named.split(b",")]
    return any(name == b"deflate" and how.rstrip(b".0") != b"q=" for name, _, how in offers)


def plain(pieces: Iterable[Piece]) -> bytes:
    return b"".join([piece.plain if isinstance(piece, Frame) else piece for piece in pieces])


class Packer:
    """Pieces as one zlib stream. It keeps no more of what was sent than its checksum."""

    def __init__(self) -> None:
        self.begun = False
        self.adler = 1

    def pack(self, pieces: Iterable[Piece]) -> bytes:
        blocks = [] if self.begun else [b"\x78\x01"]
        self.begun = True
        for piece in pieces:
            if isinstance(piece, Frame):
                blocks.append(piece.packed)
                self.adler = joined(self.adler, piece.adler, len(piece.plain))
            elif piece:
                blocks += [
                    stored(piece[at : at + LARGEST_BLOCK]) for at in range(0, len(piece), LARGEST_BLOCK)
                ]
                self.adler = zlib.adler32(piece, self.adler)
        return b"".join(blocks)

    def end(self) -> bytes:
        """What ends the stream: an empty last block, and the checksum of all that was sent."""
        return b"\x03\x00" + struct.pack(">I", self.adler)


def stored(some: bytes) -> bytes:
    """Bytes as they are, as one of deflate's blocks."""
    return struct.pack("<BHH", 0, len(some), len(some) ^ LARGEST_BLOCK) + some


def joined(first: int, second: int, length: int) -> int:
    """The Adler-32 of two texts one behind the other, by those of each, and the second's length."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + length % MODULUS * ((first & 0xFFFF) - 1)
    return high % MODULUS << 16 | low % MODULUS
