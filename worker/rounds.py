"""Rounds over HTTP: what all slices of one process tell a dashboard and ask it for goes in one call, and each
has its own answer. worker_api.py is the other end, which answers all by one transaction.

A slice repeats what was lost in the round that comes next, together with what others ask for then.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
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
        steps = sum(len(one.result or "") + len(one.error or "") for one in report.steps)
        return steps + sum(map(letters_of, report.results)) + sum(len(one.lines) for one in report.log)

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
        self.going: asyncio.Task[None] | None = None

    @property
    def is_shared(self) -> bool:
        return len(self.slices) > 1

    async def join(self, ledger: RemoteLedger, name: str, call: LedgerCall, has: Has | None) -> Any:
        """Have it answered by the next round. Raises as a call of its own does."""
        asked = Asked(ledger, name, call, has, asyncio.get_running_loop().create_future())
        self.waiting.append(asked)
        if self.going is None:
            self.going = asyncio.create_task(self._go())
        return await asked.answer

    async def _go(self) -> None:
        """Round after round, as long as anything waits."""
        pause = NextTry()
        try:
            while self.waiting:
                await asyncio.sleep(GATHER)
                asking = self._take()
                if not await self._do(asking, pause):
                    self.waiting = [one for one in asking if not one.answer.done()] + self.waiting
                    await pause.over()
                else:
                    pause = NextTry()
        finally:
            self.going = None

    def _take(self) -> list[Asked]:
        """What goes in the next call: of what waits as much as is not too much for one, the first in any
        case.
        """
        self.waiting = [one for one in self.waiting if not one.answer.done()]
        rows = accumulate(one.size for one in self.waiting)
        letters = accumulate(one.letters for one in self.waiting)
        fitting = sum(r <= CHUNK and n <= PART for r, n in zip(rows, letters, strict=True))
        taken, self.waiting = self.waiting[: max(1, fitting)], self.waiting[max(1, fitting) :]
        return taken

    async def _do(self, asking: list[Asked], pause: NextTry) -> bool:
        """Ask; whether all have their answer, else those that have not are to ask again."""
        try:
            found = await self._answers(asking)
        except (httpx.TransportError, NotNow) as error:
            found = [error] * len(asking)
        except Exception as error:
            for one in asking:
                one.tell(error)
            return True
        for one, came in zip(asking, found, strict=True):
            if not isinstance(came, httpx.TransportError | NotNow):
                one.tell(came)
                continue
            pause.tell(came)
            note_lost(one.call, one.has)
            if not one.ledger.patient:
                one.tell(Away())
        return all(one.answer.done() for one in asking)

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
