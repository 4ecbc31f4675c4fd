"""Rounds over HTTP: what all slices of one process tell a dashboard and ask it for goes in one call, and each
has its own answer. worker_api.py is the other end, which answers all by one transaction.

A slice repeats what was lost in the round that comes next, together with what others ask for then. What is
not answered while others are is asked again by itself, later each time, and keeps nobody waiting.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import httpx

from rowcast.tasks.work import CHUNK, Answer, LedgerCall, ReportCall, RoundCall
from rowcast.worker.context import Has
from rowcast.worker.remote import (
    JOINED,
    PART,
    Away,
    NextTry,
    NotNow,
    Refused,
    RemoteLedger,
    letters_of,
    note_lost,
    post,
    refusal,
)

GATHER = 0.002  # seconds that the first of a round waits for others


@dataclass(eq=False)
class Asked:
    """What a slice tells and asks for, and waits for."""

    ledger: RemoteLedger
    name: str
    call: LedgerCall
    has: Has | None
    answer: "asyncio.Future[Any]"
    pause: NextTry = field(default_factory=NextTry)
    due: float = 0.0  # time.monotonic; before then it is not asked again

    @property
    def size(self) -> int:
        """The rows that it may write, more or less."""
        return self.call.report.rows if isinstance(self.call, ReportCall) else 0

    @property
    def letters(self) -> int:
        """Those of its results and lines, more or less."""
        if not isinstance(self.call, ReportCall):
            return 0
        report = self.call.report
        told = sum(map(letters_of, report.results)) + sum(map(letters_of, report.steps))
        return told + sum(len(one.lines) for one in report.log)

    def tell(self, found: Any) -> None:
        """Give it its answer, unless who asked has gone."""
        if self.answer.done():
            return
        if isinstance(found, BaseException):
            self.answer.set_exception(found)
        else:
            self.answer.set_result(found)


class Rounds:
    """What all slices of a process tell and ask for: what waits goes in one call, and while its answer is
    awaited the next gathers. Where there is one slice, it asks for itself.
    """

    def __init__(self, client: httpx.AsyncClient, slices: Collection[Any]):
        self.client = client
        self.slices = slices  # those that are under way
        self.waiting: list[Asked] = []
        self.more = asyncio.Event()  # something waits that did not
        self.going: asyncio.Task[None] | None = None

    @property
    def is_shared(self) -> bool:
        return len(self.slices) > 1

    async def join(self, ledger: RemoteLedger, name: str, call: LedgerCall, has: Has | None) -> Any:
        """Have it answered by the next round. Raises as a call of its own does."""
        asked = Asked(ledger, name, call, has, asyncio.get_running_loop().create_future())
        self.waiting.append(asked)
        self.more.set()
        if self.going is None:
            self.going = asyncio.create_task(self._go())
        return await asked.answer

    async def _go(self) -> None:
        """Round after round, as long as anything waits."""
        away = NextTry()
        try:
            while self.waiting:
                await asyncio.sleep(GATHER)
                self.more.clear()
                asking = self._take()
                if not asking:
                    await self._rest()
                elif error := await self._do(asking):
                    away.tell(error)
                    await away.over()
                else:
                    away = NextTry()
        finally:
            self.going = None

    async def _rest(self) -> None:
        """Until the first of those that wait is due, or another asks."""
        if self.waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(one.due for one in self.waiting) - time.monotonic()):
                    await self.more.wait()

    def _take(self) -> list[Asked]:
        """What goes in the next call: of what waits and is due as much as is not too much for one, the first
        in any case.
        """
        now = time.monotonic()
        self.waiting = [one for one in self.waiting if not one.answer.done()]
        due = [one for one in self.waiting if one.due <= now]
        rows = accumulate(one.size for one in due)
        letters = accumulate(one.letters for one in due)
        fitting = sum(r <= CHUNK and n <= PART for r, n in zip(rows, letters, strict=True))
        taken = dict.fromkeys(due[: max(1, fitting)])
        self.waiting = [one for one in self.waiting if one not in taken]
        return [*taken]

    async def _do(self, asking: list[Asked]) -> Exception | None:
        """Ask. Who has no answer is to ask again; where nobody can have one now, why that is so."""
        try:
            found = await self._answers(asking)
        except (httpx.TransportError, NotNow) as error:
            for one in asking:
                self._again(one)
            return error
        except Exception as error:
            for one in asking:
                one.tell(error)
            return None
        for one, came in zip(asking, found, strict=True):
            if isinstance(came, httpx.TransportError | NotNow):
                one.pause.tell(came)
                one.due = time.monotonic() + one.pause.next()
                self._again(one)
            else:
                one.tell(came)
        return None

    def _again(self, one: Asked) -> None:
        """It waits for an answer still, unless its slice is not to."""
        note_lost(one.call, one.has)
        if one.ledger.patient:
            self.waiting.append(one)
        else:
            one.tell(Away())

    async def _answers(self, asking: list[Asked]) -> list[Any]:
        """The answer to each, or its error. Raises what all are refused with."""
        if not asking:
            return []
        if len(asking) == 1:
            return [await alone(self.client, asking[0])]
        reports = [one for one in asking if isinstance(one.call, ReportCall)]
        looks = [one for one in asking if not isinstance(one.call, ReportCall)]
        call = RoundCall(
            reports=[one.call for one in reports if isinstance(one.call, ReportCall)],
            looks=[one.call for one in looks],
        )
        try:
            answers = await post(self.client, "round", call, list[Answer])
        except ValueError:  # of one of them
            for one in asking:
                note_lost(one.call, one.has)
            return [await alone(self.client, one) for one in asking]
        found = {one: taken(it) for one, it in zip([*reports, *looks], answers, strict=True)}
        return [found[one] for one in asking]


async def alone(client: httpx.AsyncClient, asked: Asked) -> Any:
    """What one of them is answered by a call of its own, or its error."""
    try:
        return await post(client, asked.name, asked.call, JOINED[asked.name])
    except (httpx.TransportError, NotNow, Refused, ValueError) as error:
        return error


def taken(answer: Answer) -> Any:
    """What the answer to one of many says, or the error that it is."""
    if answer.code < 300:
        return answer.work or answer.standing
    return refusal(answer.code, answer.error)
