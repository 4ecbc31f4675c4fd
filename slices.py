"""A slice: what one message of a queue does. It works on one job for some seconds, reports, and says when to come again.

Every process of an engine's worker has one event loop on a thread of its own that outlives a slice, so connections are kept.
A message names the job, a slot and a token: the dashboard has as many slots for a job as there are workers, and a message
whose token is not the slot's present one is left over, and ends at once; so redelivered or doubled messages are harmless.
"""

import asyncio
import atexit
import importlib
import logging
import os
import platform
import secrets
import threading
import time
from typing import Any

from rowcast.alone import run_alone
from rowcast.clients import Clients
from rowcast.records import CLAIMABLE, LEASE, Claimed, Job, Result
from rowcast.registry import load
from rowcast.remote import Refused, RemoteLedger, open_ledger_client
from rowcast.runner import Context, run
from rowcast.settings import Settings

log = logging.getLogger("rowcast")
SLICE = 5.0  # seconds
PAUSE = 0.5  # seconds until a slice that found nothing to do comes again


class Process:
    """One process of an engine's worker: its name, its loop, its clients, its heartbeat."""

    def __init__(self, engine: str, settings: Settings):
        self.engine, self.settings, self.pid = engine, settings, os.getpid()
        self.name = f"{platform.node()}-{self.pid}-{secrets.token_hex(3)}"
        self.api_url = ""
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="rowcast", daemon=True).start()
        self.client = open_ledger_client(settings.dashboard_url, settings.worker_token)
        self.clients = Clients(lambda: self.api_url)
        self._wait(self._beat())
        self.beating = asyncio.run_coroutine_threadsafe(self._stay_alive(), self.loop)
        atexit.register(self.leave)

    def work(self, job: int, slot: int, token: str) -> float | None:
        """Work on a job for one slice; the seconds after which to come again, or None when there is no need."""
        return self._wait(self._slice(job, slot, token))

    async def _slice(self, number: int, slot: int, token: str) -> float | None:
        ledger = RemoteLedger(self.client, slot, token)
        given = await ledger.assignment(number, self.name)
        if given.job is None:
            return None
        self.api_url = given.api_url
        try:
            task = await asyncio.to_thread(load, given.job.entry)
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
            await ledger.cannot(number, self.name, f"The worker {self.name} cannot import {given.job.entry}: {why}")
            return None
        context = Context(self.name, ledger, self.clients.open, self._run_alone)
        context.until = time.monotonic() + SLICE
        await run(given.job, task, context)
        work = await ledger.claim(number, self.name, 0)
        more = work.status in CLAIMABLE and (work.queued > 0 or not work.filled)
        return min(work.wait, SLICE) or PAUSE * (time.monotonic() < context.until) if more else None

    async def _run_alone(self, job: Job, item: Claimed) -> Result:
        return await run_alone(job, item, self.api_url)

    async def _stay_alive(self) -> None:
        while True:
            await asyncio.sleep(LEASE / 4)
            await self._beat()

    async def _beat(self, alive: bool = True) -> None:
        try:
            await RemoteLedger(self.client).heartbeat(self.name, self.engine, self.pid, alive)
        except Refused as error:
            log.error("%s", error)
            raise

    def leave(self) -> None:
        """Say that this worker goes, so that nobody waits for its lease."""
        self.beating.cancel()
        try:
            asyncio.run_coroutine_threadsafe(asyncio.wait_for(self._beat(False), 2), self.loop).result(3)
        except (Refused, TimeoutError, asyncio.CancelledError):
            log.warning("The dashboard could not be told that this worker goes.")

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


_process: Process | None = None


def work(engine: str, settings: Settings, job: int, slot: int, token: str) -> float | None:
    """One slice in this process. The process's loop is made at its first slice, after any fork."""
    global _process
    if _process is None or _process.pid != os.getpid():
        for module in ["rowcast.tasks", *settings.modules]:
            importlib.import_module(module)
        _process = Process(engine, settings)
    return _process.work(job, slot, token)
