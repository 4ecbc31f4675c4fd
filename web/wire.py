"""The wire: uvicorn's protocols over httptools, and over websockets, with an end to what they wait for.

httptools keeps what comes until a head is whole, however much and however slowly; here a head has a size and
a time, and so has the rest of a body that nobody reads any more. How long a body may take, says the guard,
who can answer.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from rowcast.web.guard import HEAD

HEAD_SECONDS = 20.0  # from a connection, or the first byte of a request, until its head is whole
LINGER_SECONDS = 5.0  # for the rest of a body whose request has been answered
FAREWELL_SECONDS = 1.0  # for the last word on a WebSocket when the server stops
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Wire(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.unread = 0  # bytes since the last that belong to a head that is whole, or to a body
        self.in_body = False
        self.end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._end_in(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_in(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.in_body and self.end is None:
            self._end_in(HEAD_SECONDS)
        self.unread += len(data)
        super().data_received(data)
        if self.unread > HEAD and not self.transport.is_closing():
            if not self.in_body and (self.cycle is None or self.cycle.response_complete):
                self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._end_in(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        self.unread = 0
        self.in_body = True
        self._end_in(None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.unread = 0
        self.in_body = False
        self._end_in(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.in_body and not self.pipeline:
            self._end_in(LINGER_SECONDS)

    def _end_in(self, seconds: float | None) -> None:
        """Hang up after so many seconds; None: not any more."""
        if self.end:
            self.end.cancel()
        self.end = None if seconds is None else self.loop.call_later(seconds, self._hang_up)

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Socket(WebSocketsSansIOProtocol):
    """One WebSocket: when the server stops, whoever serves it has a last word; what is not taken after the
    last one is not waited for.
    """

    def shutdown(self) -> None:
        self.stop_keepalive()
        self.loop.call_later(FAREWELL_SECONDS, self._shut)

    def _shut(self) -> None:
        if not self.disconnected:
            super().shutdown()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)
