"""What all runs of one worker share: its name, its ledger, how clients are opened, and the word to stop."""

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rowcast.tasks.records import Job
from rowcast.tasks.work import Claimed, Report, Result, Standing, Step, Work
from rowcast.worker.places import Places

IDLE = 0.25  # seconds between two looks at a job of which nothing is to be recorded
LET_GO = 2.0  # seconds that a call gets to end once it is broken off
RunAlone = Callable[[Job, Claimed, dict[str, str]], Awaitable[Result]]  # in a process of its own
Has = Callable[[], list[tuple[int, int]]]  # what a run has: (item, attempt) of each


class Ledger(Protocol):
    """The three calls that a run needs: of the tables on this machine, or of the same over HTTP."""

    async def exchange(self, job: int, worker: str, report: Report, has: Has | None = None) -> Work:
        """Record what the worker tells, and give it items.

        `has` is asked where an answer was lost, with what it gave.
        """

    async def look(self, job: int, worker: str) -> Standing:
        """How the job stands, and which of its items the worker has."""

    async def take_body(self, job: int, worker: str) -> list[Step] | None:
        """The steps of a body job that are completed; None where it is not for this worker to run."""


class Context:
    """What every run of one worker shares: its name, its ledger, how clients are opened, and the word to
    stop.
    """

    def __init__(
        self,
        worker: str,
        ledger: Ledger,
        open_client: Callable[[Any, bool], Awaitable[Any]],
        run_alone: RunAlone | None = None,
        grace: float = 2.0,
    ):
        self.worker = worker
        self.ledger = ledger
        self.open_client = open_client
        self.run_alone = run_alone
        self.grace = grace  # seconds that calls in flight get to end when the worker stops
        self.stopping = asyncio.Event()
        self.until = math.inf  # after this moment (time.monotonic) a run of items claims no more, and returns
        self.hold_until: dict[
            str, float
        ] = {}  # by task, the end (time.monotonic) of the pause that the API has asked for
        self.places: defaultdict[str, Places] = defaultdict(Places)  # by task
        self.runs: dict[int, Callable[[], None]] = {}  # by job, what tells its run that there may be items
        self.holds_untold: Counter[str] = (
            Counter()
        )  # by task, runs that have been asked for a pause the ledger does not know
