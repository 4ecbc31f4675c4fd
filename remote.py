"""The ledger over HTTP: the same three calls for a worker that has the dashboard's address and no database.

Calls are small JSON objects, compressed where it pays, with a bearer token. While the dashboard is away a worker waits and
asks again: what it has to report is kept, and reported late. A dashboard of another version refuses it with a sentence.
"""

import asyncio
import gzip
import logging
import platform
from importlib.metadata import version
from typing import Any

import httpx
import msgspec

from rowcast.records import Ended, Hold, Job, Result, Step, Work, encode

log = logging.getLogger("rowcast")
COMPRESSED = 2_000  # bytes from which a body is compressed
LONGEST_PAUSE = 5.0  # seconds between two tries to reach the dashboard
VERSION_HEADER = "Rowcast-Version"


class Refused(Exception):
    """The dashboard will not have this worker (token, version); the message is its sentence."""


class Call(msgspec.Struct, kw_only=True):
    """The body of any call: who asks, about which job, and for which slice of it."""

    worker: str
    job: int = 0
    slot: int = 0
    token: str = ""
    limit: int = 0
    held: int = 0
    results: list[Result] = []
    steps: list[Step] = []
    ended: Ended | None = None
    hold: Hold | None = None
    reason: str = ""
    host: str = ""
    pid: int = 0
    engine: str = ""
    version: str = ""
    alive: bool = True


class Assignment(msgspec.Struct):
    """A job as a worker gets it, and where its API is."""

    job: Job | None
    api_url: str


class RemoteLedger:
    """runner.Ledger for a worker elsewhere, on one event loop. One for each slice; they share the client."""

    def __init__(self, client: httpx.AsyncClient, slot: int = 0, token: str = ""):
        self.client, self.slot, self.token = client, slot, token

    async def assignment(self, job: int, worker: str) -> Assignment:
        return await self._call("job", Assignment, Call(worker=worker, job=job, slot=self.slot, token=self.token))

    async def claim(self, job: int, worker: str, limit: int, held: int = 0) -> Work:
        call = Call(worker=worker, job=job, slot=self.slot, token=self.token, limit=limit, held=held)
        return await self._call("claim", Work, call)

    async def finish(
        self,
        job: int,
        worker: str,
        results: list[Result],
        steps: list[Step],
        ended: Ended | None = None,
        hold: Hold | None = None,
    ) -> Work:
        call = Call(worker=worker, job=job, results=results, steps=steps, ended=ended, hold=hold)
        return await self._call("finish", Work, call)

    async def take_body(self, job: int, worker: str) -> list[Step] | None:
        return await self._call("body", list[Step] | None, Call(worker=worker, job=job))

    async def cannot(self, job: int, worker: str, reason: str) -> None:
        """This worker cannot run the job: it is paused with the reason."""
        await self._call("cannot", Any, Call(worker=worker, job=job, reason=reason))

    async def heartbeat(self, worker: str, engine: str, pid: int, alive: bool = True) -> None:
        call = Call(worker=worker, host=platform.node(), pid=pid, engine=engine, version=version("rowcast"), alive=alive)
        await self._call("heartbeat", Any, call)

    async def _call(self, name: str, answer: Any, call: Call) -> Any:
        """Ask until there is an answer. Raises Refused."""
        body, headers = encode(call), {}
        if len(body) > COMPRESSED:
            body, headers = gzip.compress(body, 1), {"Content-Encoding": "gzip"}
        pause = 0.1
        while True:
            try:
                reply = await self.client.post(f"/api/ledger/{name}", content=body, headers=headers)
                if reply.status_code < 400:
                    return msgspec.json.decode(reply.content, type=answer)
                if reply.status_code < 500 and reply.status_code != 429:
                    raise Refused(sentence(reply))
                why = f"it answered {reply.status_code}"
            except httpx.TransportError as error:
                why = str(error) or type(error).__name__
            log.warning("The dashboard cannot be reached (%s); asking again.", why)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def open_ledger_client(url: str, token: str) -> httpx.AsyncClient:
    """The client that all ledgers of one worker process share."""
    return httpx.AsyncClient(
        base_url=url.rstrip("/"),
        headers={"Authorization": f"Bearer {token}", VERSION_HEADER: version("rowcast")},
        timeout=httpx.Timeout(20),
        limits=httpx.Limits(max_connections=20, max_keepalive_connections=10),
    )


def sentence(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"The dashboard answered {reply.status_code}."


def body_of(raw: bytes, encoding: str, most: int) -> bytes:
    """A call's body as it was before it was compressed. Raises ValueError for what is no gzip, or grows beyond `most`."""
    if encoding != "gzip":
        return raw
    import zlib

    inflater = zlib.decompressobj(31)
    try:
        body = inflater.decompress(raw, most)
    except zlib.error as error:
        raise ValueError(f"The body is not gzip: {error}.") from None
    if inflater.unconsumed_tail:
        raise ValueError("The body is too large.")
    return body
