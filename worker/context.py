"""What all runs of one worker share: its name, its ledger, how clients are opened, and the word to stop."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rowcast.tasks.records import Job
from rowcast.tasks.work import Claimed, Ended, Hold, Result, Step, Work


class Ledger(Protocol):
    """The three calls a run needs, of ledger.Ledger or of the same over HTTP."""

    async def claim(self, job: int, worker: str, limit: int, held: int = 0) -> Work: ...

    async def finish(
        self,
        job: int,
        worker: str,
        results: list[Result],
        steps: list[Step],
        ended: Ended | None = None,
        hold: Hold | None = None,
        limit: int = 0,
        held: int = 0,
    ) -> Work: ...

    async def take_body(self, job: int, worker: str) -> list[Step] | None: ...


class Context:
    """What every run of one worker shares: its name, its ledger, how clients are opened, and the word to
    stop.
    """

    def __init__(
        self,
        worker: str,
        ledger: Ledger,
        open_client: Callable[[Any, bool], Awaitable[Any]],
        run_alone: Callable[[Job, Claimed], Awaitable[Result]] | None = None,
    ):
        self.worker, self.ledger, self.open_client, self.run_alone = worker, ledger, open_client, run_alone
        self.stopping = asyncio.Event()
        self.until = math.inf  # after this moment (time.monotonic) a run of items claims no more, and returns
        self.held: dict[str, float] = {}  # until when the API has asked for a pause, by task


FLUSH = 0.05  # seconds at most between a result and its transaction
IDLE = 0.25  # seconds between two looks at a job of which nothing is to be recorded
GRACE = 2.0  # seconds that calls in flight get to end when the worker stops
