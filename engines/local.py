"""The ledger of this machine, as the runs of the embedded engine call it: what waits of all jobs is done in
one transaction, a round, and each is answered once that is on the disk.

While one round is written the next gathers, so that a worker with a thousand jobs writes no more often than
one with a single job.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, chain, takewhile
from typing import Any, NamedTuple, TypeVar

from rowcast.tables import ledger
from rowcast.tables.ledger import AWAY, FULL, Exchange
from rowcast.tables.writer import Writer
from rowcast.tasks.records import Job
from rowcast.tasks.sentences import worded
from rowcast.tasks.trouble import Trouble
from rowcast.tasks.work import CHUNK, Report, Standing, Step, Work, ended_in
from rowcast.worker.context import Has

PAUSE = 1.0  # seconds until what the machine refused is tried again
APART = 0.02  # seconds between the beginnings of two rounds for several jobs,
SOON = 0.01  # or this where a function is to be called, or has ended
FULL_REASON = worded("The disk is full: the job goes on by itself when there is room.")
T = TypeVar("T")


Question = Callable[[str, Sequence[int]], Sequence[Any]]  # of a worker about jobs


class Ask(NamedTuple):
    """A worker asks something of a job that is answered for many at once."""

    question: Question
    worker: str
    job: int


Asked = Exchange | Ask
Waiting = tuple[Asked, "asyncio.Future[Any]"]


def rows_in(asked: Asked) -> int:
    """How many rows a transaction may have to write for it."""
    return asked.report.rows if isinstance(asked, Exchange) else 0


def fitting(rows: Iterable[int]) -> int:
    """How many of these are written in one transaction, of CHUNK rows at most; the first in any case. No
    more of them are looked at.
    """
    return max(1, sum(1 for _ in takewhile(lambda total: total <= CHUNK, accumulate(rows))))


def each(question: Question, worker: str, jobs: Sequence[int]) -> list[Any]:
    """What it answers of each of these jobs; where it cannot, that: it is no trouble of the others, nor of
    those who were given something in the same round.
    """
    try:
        return [*question(worker, jobs)]
    except Exception as error:
        if len(jobs) > 1 and not isinstance(error, (*AWAY, *FULL)):
            return [*chain.from_iterable(each(question, worker, [job]) for job in jobs)]
        return [error] * len(jobs)


async def heard(event: asyncio.Event, until: float) -> None:
    """Wait for it, and no longer than until then (time.monotonic)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            await event.wait()


class LocalLedger:
    """context.Ledger over the database of this machine, its transactions on one thread of their own."""

    def __init__(self, path: str):
        self.ledger = ledger.Ledger(path)
        self.writer = Writer(path)
        self.waiting: list[Waiting] = []  # for the next round
        self.rounds: asyncio.Task[None] | None = None
        self.is_shared = False  # there were several in the last
        self.one_asks = False  # alone, which takes fewer turns of a loop that is busy
        self.hurry = asyncio.Event()  # the next round is not to wait for more than SOON,
        self.full = asyncio.Event()  # nor for that: nothing more can come before it
        self.blocked: set[int] = set()  # jobs that wait for room on the disk
        self.waits: dict[int, Trouble] = {}
        self.done = 0  # items that have ended

    async def do(self, function: Callable[..., Any], *args: Any, rows: int = 1) -> Any:
        """Do it in one of the next transactions. It writes so many rows, more or less, in `transaction`s
        alone, so that it may be done again.
        """
        return await self.writer.do(function, *args, rows=rows)

    async def exchange(self, job: int, worker: str, report: Report, has: Has | None = None) -> Work:
        self.done += ended_in(report)
        work: Work = await self._insist(job, partial(self._ask_for, Exchange(job, worker, report)))
        return work

    async def look(self, job: int, worker: str) -> Standing:
        standing: Standing = await self._ask(self.ledger.look_all, worker, job)
        return standing

    async def take_body(self, job: int, worker: str) -> list[Step] | None:
        steps: list[Step] | None = await self._ask(self.ledger.take_bodies, worker, job)
        return steps

    async def take_fill(self, job: int, worker: str) -> int | None:
        """How many items there are, where the worker is to write the others."""
        there: int | None = await self._ask(self.ledger.take_fills, worker, job)
        return there

    async def start(self, job: int, worker: str) -> Job | None:
        """The job, which runs from now on; None where there is none."""
        found: Job | None = await self._ask(self.ledger.start_all, worker, job)
        return found

    async def _ask(self, question: Question, worker: str, job: int) -> Any:
        return await self._insist(job, partial(self._ask_for, Ask(question, worker, job)))

    async def insist(self, job: int, function: Callable[..., Any], *args: Any) -> Any:
        """Do it; while the disk is full the job shows as paused, what is to be written waits, and it is tried
        again.

        So it is, without a word, while the database is held by somebody else for long, or is away.
        """
        return await self._insist(job, partial(self.do, function, *args))

    async def read(self, job: int, function: Callable[..., T], *args: Any) -> T:
        """Read it, without a turn among those who write."""

        async def now() -> T:
            return function(*args)

        found: T = await self._insist(job, now)
        return found

    async def _insist(self, job: int, ask: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                done = await ask()
                break
            except AWAY as error:
                self.waits.setdefault(job, Trouble(f"Job {job}")).meet(error)
                await asyncio.sleep(PAUSE)
            except FULL as error:
                self.waits.setdefault(job, Trouble(f"Job {job}")).meet(error)
                await self._block(job)
                await asyncio.sleep(PAUSE)
        self.blocked.discard(job)
        if wait := self.waits.pop(job, None):
            wait.over()
        return done

    async def _ask_for(self, asked: Asked) -> Any:
        """Have it answered: with others, or, of items where nobody else asked with the last, at once."""
        of_items = isinstance(asked, Exchange) and not (asked.report.steps or asked.report.ended)
        if not of_items or self.rounds or self.is_shared or self.one_asks:
            return await self._join(asked)
        self.one_asks = True
        try:
            (came,) = await self.writer.do(self._answer, [asked], rows=rows_in(asked))
        finally:
            self.one_asks = False
        if isinstance(came, Exception):
            raise came
        return came

    def _join(self, asked: Asked) -> "asyncio.Future[Any]":
        """Have it answered by the next round."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((asked, answer))
        begins = not isinstance(asked, Exchange) and asked.question != self.ledger.look_all
        if begins or (isinstance(asked, Exchange) and asked.report.ended):
            self.hurry.set()  # a job is to begin, or a call has room only then
        if self.rounds is None:
            self.rounds = asyncio.create_task(self._do_rounds())
        return answer

    async def _do_rounds(self) -> None:
        """Round after round, as long as anything waits."""
        try:
            while self.waiting:
                began = time.monotonic()
                size = fitting(rows_in(asked) for asked, _ in self.waiting)
                asking = self.waiting[:size]
                self.waiting = self.waiting[size:]
                left = bool(self.waiting)
                self.is_shared = left or len(asking) > 1
                self.hurry.clear()
                self.full.clear()
                await self._do_round(asking)
                if not left and (len(asking) > 1 or len(self.waiting) > 1):  # else nobody is to wait
                    await heard(self.hurry, began + APART)
                    await heard(self.full, began + SOON)
        finally:
            self.rounds = None

    async def _do_round(self, asking: Sequence[Waiting]) -> None:
        try:
            rows = sum(rows_in(asked) for asked, _ in asking)
            found = await self.writer.do(self._answer, [asked for asked, _ in asking], rows=rows)
        except FULL as error:
            if len(asking) > 1:  # one may be too large for the room that others have enough of
                await asyncio.gather(*[self._do_round([one]) for one in asking])
                return
            found = [error]
        except Exception as error:
            found = [error] * len(asking)
        for (_, answer), came in zip(asking, found, strict=True):
            if answer.done():  # who asked has gone
                continue
            if isinstance(came, Exception):
                answer.set_exception(came)
            else:
                answer.set_result(came)

    def _answer(self, asked: Sequence[Asked]) -> list[Any]:
        """Do what is asked, in one transaction; each gets its answer or its error."""
        exchanges = [one for one in asked if isinstance(one, Exchange)]
        works = iter(self.ledger.exchange_all(exchanges) if exchanges else [])
        jobs: dict[tuple[Question, str], list[int]] = {}
        for one in asked:
            if isinstance(one, Ask):
                jobs.setdefault((one.question, one.worker), []).append(one.job)
        answers = {key: iter(each(*key, these)) for key, these in jobs.items()}
        return [
            next(works) if isinstance(one, Exchange) else next(answers[one.question, one.worker])
            for one in asked
        ]

    async def _block(self, job: int) -> None:
        with contextlib.suppress(*AWAY, *FULL):  # it is committed with others, outside of `block`
            await self.do(self.block, job)

    def block(self, job: int) -> None:
        """Show that the job waits for room, if there is as much as this takes."""
        self.blocked.add(job)
        with contextlib.suppress(*AWAY, *FULL):
            self.ledger.block(job, FULL_REASON)

    async def unblock(self) -> None:
        """Let the jobs go on that waited for room, also those whose worker died meanwhile."""
        await self.do(self.ledger.unblock, FULL_REASON, self.blocked)
