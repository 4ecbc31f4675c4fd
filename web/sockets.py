"""The WebSocket for programs: the frames of /api/events, each event a JSON message `{"id", "event", "data"}`.

The client speaks first, and once: `{"after": SEQ}`, with 0 for all there is. Why a socket is closed, its code
says: 4000 and the status that HTTP would have, for a page's script is told no status. The guard has looked at
host and origin before; pings are the protocol's own.
"""

import contextlib
from collections.abc import Iterable

import anyio
import apsw
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from rowcast.feed.sse import pour
from rowcast.feed.streams import Rows
from rowcast.feed.watch import Frame, Piece, messages_in
from rowcast.jobs import NotFound
from rowcast.tables.database import DatabaseRefused
from rowcast.tasks.records import BadArguments
from rowcast.web import requests
from rowcast.web.access import SIGNED_OUT, demand, staying
from rowcast.web.guard import json_error
from rowcast.web.requests import NOT_JSON, at, demand_room, number, owner_of, viewer_in

REFUSED = 4000  # and the status: of the codes that are free for programs
DONE = 1000  # all was said
FAULT = 1011  # an error here, which the log has
RESTARTS = 1012  # the server goes down: come back
REASON = 100  # letters of the reason that goes with a code: there is room for 123 bytes
GONE = (TimeoutError, WebSocketDisconnect, RuntimeError)  # it takes nothing, has left, or is about to


class Cursor(msgspec.Struct, forbid_unknown_fields=True):
    """A client's first message: what it has seen."""

    after: int


def upgrade_needed(req: Request) -> Response:
    """What HTTP is answered at the address of the WebSocket."""
    return json_error(426, "This address speaks WebSocket.", None, {"Upgrade": "websocket"})


async def all_events(socket: WebSocket) -> None:
    """All that the caller may see, or one job with `?job=`."""
    await socket.accept()
    with contextlib.suppress(*GONE):
        code, reason = await told(socket)
        await socket.close(code, reason[:REASON])


async def told(socket: WebSocket) -> tuple[int, str]:
    """Tell the client what it asks for; gives the code and the reason with which that ends.

    Raises one of GONE where the client is.
    """
    try:
        await demand(socket, "look")
        viewer = demand_room(socket, viewer_in(socket))
        reader = await begun(socket)
        over = await follow(socket, viewer, reader)
    except HTTPException as error:
        return REFUSED + error.status_code, error.detail
    except NotFound as error:
        return REFUSED + 404, str(error)
    except BadArguments as error:
        return REFUSED + 422, str(error)
    except (apsw.Error, DatabaseRefused):
        return REFUSED + 503, "The database cannot be read now; try again in a moment."
    if over is not None:  # who is signed out, or a new request has to say who asks
        return (REFUSED + 401, SIGNED_OUT) if over else (RESTARTS, "")
    if reader.ended:
        return DONE, ""
    return (RESTARTS, "") if at(socket).feed.closing else (FAULT, "")


async def begun(socket: WebSocket) -> Rows:
    """The reader that the client asks for. Raises HTTPException, NotFound, BadArguments."""
    feed = at(socket).feed
    owner = owner_of(socket)
    job = None
    if asked := socket.query_params.get("job"):
        job = feed.jobs.job(number(asked, "job", 0), owner).id
    with anyio.move_on_after(requests.FIRST_WORD):
        said = await socket.receive()
        if said["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        try:
            seen = msgspec.json.decode(said.get("text") or said.get("bytes") or "", type=Cursor)
        except NOT_JSON:
            raise BadArguments('The first message is {"after": SEQ}, with 0 for all there is.') from None
        return Rows(feed, owner, number(seen.after, "after", 0), job)
    raise HTTPException(408, 'There was no first message: {"after": SEQ}, with 0 for all there is.')


async def follow(socket: WebSocket, viewer: str, reader: Rows) -> bytes | None:
    """Send what is new until the reader ends, its client may not see it any more, or the server goes down.

    Gives the verdict on the client. Raises one of GONE.
    """
    gone: list[Exception] = []
    verdict: bytes | None = None
    look = staying(socket)

    def stays() -> bytes | None:
        nonlocal verdict
        verdict = look()
        return verdict

    async with anyio.create_task_group() as group:
        group.start_soon(listen, socket, group.cancel_scope, gone)
        poured = pour(at(socket).feed, viewer, reader, messages, requests.PING, stays)
        async with contextlib.aclosing(poured):
            try:
                async for packed in poured:
                    for message in packed:
                        with anyio.fail_after(requests.SEND_TIMEOUT):
                            await socket.send_text(message)
            except GONE as error:
                gone.append(error)
        group.cancel_scope.cancel()
    if gone:
        raise gone[0]
    return verdict


async def listen(socket: WebSocket, scope: anyio.CancelScope, gone: list[Exception]) -> None:
    """Whatever else a client says is not heeded; when it has left, nothing more is sent."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    gone.append(WebSocketDisconnect())
    scope.cancel()


def messages(pieces: Iterable[Piece]) -> list[str]:
    """What a reader gives, as messages."""
    return [
        message
        for piece in pieces
        for message in (piece.messages if isinstance(piece, Frame) else messages_in(piece))
    ]
