"""The ledger over HTTP: the same calls for a worker that has the dashboard's address and token, and no
database.

Calls are small JSON objects, compressed where it pays. While the dashboard is away a worker waits and asks
again: what it has to report is kept, and reported late. A dashboard that will not have this worker (another
token, another version) says so in a sentence, which is raised as Refused. Each call says what time it is
here, so that only the dashboard's clock counts.
"""

import asyncio
import gzip
import itertools
import logging
import time
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec.structs import replace

from rowcast.tasks import clock
from rowcast.tasks.addresses import BadMail
from rowcast.tasks.mail import Posted
from rowcast.tasks.records import encode
from rowcast.tasks.work import (
    CHUNK,
    CLOCK_HEADER,
    LEASE,
    VERSION,
    VERSION_HEADER,
    WATCH_SECONDS,
    Beat,
    Given,
    LedgerCall,
    MailCall,
    Report,
    ReportCall,
    Result,
    Standing,
    Step,
    WatchCall,
    Work,
    ended_in,
)
from rowcast.worker.clients import Client, Transport, is_loopback
from rowcast.worker.context import Has

log = logging.getLogger("rowcast")
COMPRESSED = 2_000  # bytes from which a body is compressed
LONGEST_PAUSE = 2.0  # seconds between two tries to reach the dashboard
QUIET = 0.2  # seconds at least between two claims of which the first got nothing
TIMEOUT = 20.0
PART = 4_000_000  # letters of results, steps and errors in one call, more or less
JOINED: dict[str, Any] = {"exchange": Work, "look": Standing}  # calls that go in rounds, and their answers
NUMBERS = itertools.count(1)  # of reports
T = TypeVar("T", Result, Step)
UNWANTED = (401, 403, 404, 409)  # codes by which a dashboard says that it will not have this worker


class Refused(Exception):
    """The dashboard will not have this worker; the message is its sentence."""


class Away(Exception):
    """The dashboard cannot be reached, and nobody waits for it any longer."""


class Round(Protocol):
    """The rounds of a process (rounds.py), as a slice of it knows them."""

    @property
    def is_shared(self) -> bool:
        """Whether there is anybody to ask with."""

    async def join(self, ledger: "RemoteLedger", name: str, call: LedgerCall, has: Has | None) -> Any:
        """Ask with others, until there is an answer. Raises Refused, Away."""


class RemoteLedger:
    """context.Ledger for one slice. The slices of a process share the client, and their rounds."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        job: int = 0,
        slot: int = 0,
        token: str = "",
        rounds: "Round | None" = None,
    ):
        self.client = client
        self.rounds = rounds
        self.job = job
        self.slot = slot
        self.token = token
        self.patient = True  # to wait for a dashboard that is away
        self.done = 0  # items that have ended by what was reported
        self.wait = 0.0  # what the last claim said, where it got nothing
        self.version = ""  # how the job stands, as the dashboard's last news called it
        self.heard = 0  # how often there was news
        self.standing: Standing | None = None  # as it was told last; None where there is news
        self.asked_at = 0.0  # when that was asked for
        self.quiet_until = 0.0  # until then the dashboard says by itself what is new
        self.mine: set[int] = set()  # the items that were given out here, and have not been reported

    async def begin(self, worker: str) -> Given:
        """Take the slice that a message names. From now on its message is used up."""
        given: Given = await self._call("begin", Given, self._about(worker))
        self.token = given.token
        return given

    async def exchange(self, job: int, worker: str, report: Report, has: Has | None = None) -> Work:
        *first, report.results = in_parts(report.results)
        *steps, report.steps = in_parts(report.steps)
        for part in [*map(Report, first), *(Report(steps=part) for part in steps)]:
            await self._report(worker, part, has)
        work = await self._report(worker, report, has)
        if report.limit > 0:
            self.wait = 0.0 if work.items else max(work.wait, QUIET)
            work.wait = max(work.wait, self.wait)
        return work

    async def _report(self, worker: str, report: Report, has: Has | None) -> Work:
        call = ReportCall(
            worker=worker,
            job=self.job,
            slot=self.slot,
            token=self.token,
            number=next(NUMBERS),
            report=report,
        )
        asked_at = time.monotonic()
        heard = self.heard
        work: Work = await self._call("exchange", Work, call, has)
        self.done += ended_in(report)
        self.mine.difference_update(result.id for result in report.results)
        self.mine.update(item.id for item in work.items)
        self._note(replace(work, items=[]), asked_at, heard)
        return work

    async def look(self, job: int, worker: str) -> Standing:
        """How the job stands: as it was told last, as long as the dashboard would say what is new."""
        now = time.monotonic()
        heard = self.heard
        standing = self.standing
        if standing is None or now > min(self.quiet_until, self.asked_at + LEASE):
            standing = await self._call("look", Standing, self._about(worker))
            self.mine = set(standing.mine)
            self._note(standing, now, heard)
        return replace(standing, mine=list(self.mine))

    def _note(self, standing: Standing, asked_at: float, heard: int) -> None:
        """Keep how the job stood, unless there has been news since it was asked for."""
        self.asked_at = asked_at
        self.standing = standing if heard == self.heard else None

    def hear(self, version: str) -> None:
        """The dashboard's word on how the job stands: if it is another one, the next look asks."""
        if version != self.version:
            self.heard += 1
            self.version = version
            self.standing = None

    async def take_body(self, job: int, worker: str) -> list[Step] | None:
        return await self._call("body", list[Step] | None, self._about(worker))

    async def end(self, worker: str) -> bool:
        """The slice is over.

        Whether it is to send itself again; where not, the dashboard sends it when there is reason.
        """
        return await self._call("end", bool, self._about(worker, wait=self.wait))

    async def cannot(self, worker: str, reason: str) -> None:
        """This worker cannot run the job: it is paused with the reason."""
        await self._call("cannot", Any, self._about(worker, reason=reason))

    async def mail(self, worker: str, posted: Posted) -> None:
        """A mail for the mailbox, which is the dashboard's. Raises BadMail."""
        try:
            await self._call("mail", Any, MailCall(worker=worker, posted=posted))
        except ValueError as error:
            raise BadMail(str(error)) from None

    def _about(self, worker: str, **values: Any) -> LedgerCall:
        return LedgerCall(worker=worker, job=self.job, slot=self.slot, token=self.token, **values)

    async def _call(self, name: str, kind: Any, call: LedgerCall, has: Has | None = None) -> Any:
        """Ask until there is an answer. Raises Refused, Away."""
        if self.rounds and name in JOINED and self.rounds.is_shared:
            return await self.rounds.join(self, name, call, has)
        pause = NextTry()
        while True:
            try:
                return await post(self.client, name, call, kind)
            except (httpx.TransportError, NotNow) as error:
                pause.tell(error)
                note_lost(call, has)
            if not self.patient:
                raise Away
            await pause.over()


class NextTry:
    """When the dashboard is asked again: later each time. It is said once that this has to be."""

    def __init__(self) -> None:
        self.seconds = 0.1
        self.told = False

    def tell(self, error: Exception) -> None:
        if not self.told:
            why = str(error) or type(error).__name__
            log.warning("The dashboard cannot be reached (%s); asking again.", why)
        self.told = True

    def next(self) -> float:
        """Seconds until then."""
        now = self.seconds
        self.seconds = min(self.seconds * 2, LONGEST_PAUSE)
        return now

    async def over(self) -> None:
        await asyncio.sleep(self.next())


def note_lost(call: LedgerCall, has: Has | None) -> None:
    """The answer was lost: what it may have given out is known by what is here. The call itself may still be
    on its way: it is old, whenever it comes.
    """
    if isinstance(call, ReportCall):
        call.number = next(NUMBERS)
        if has and call.report.limit:
            call.has = has()


async def post(client: httpx.AsyncClient, name: str, call: Any, kind: Any) -> Any:
    """One call. Raises as `answer_of` does, and httpx.TransportError."""
    body, headers = packed(encode(call))
    now = {CLOCK_HEADER: repr(clock.steady())}
    return answer_of(await client.post(f"/api/ledger/{name}", content=body, headers=headers | now), kind)


class NotNow(Exception):
    """The dashboard is there and cannot answer now."""


def answer_of(reply: httpx.Response, kind: Any) -> Any:
    """What an answer says, as a record.

    Raises Refused, NotNow; ValueError where it is this one call that is at fault.
    """
    if reply.status_code < 300:
        try:
            return msgspec.json.decode(reply.content, type=kind)
        except msgspec.DecodeError as error:  # somebody between us answers in its place
            raise NotNow(f"its answer cannot be read: {error}") from None
    raise refusal(reply.status_code, sentence_of(reply))


def refusal(code: int, sentence: str) -> Exception:
    """What an answer that says no comes to, here."""
    if code in UNWANTED:
        return Refused(sentence)
    if code < 500 and code not in (408, 425, 429):
        return ValueError(f"the dashboard does not take what is reported: {sentence}")
    return NotNow(f"it answered {code}")


def sentence_of(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{reply.url} answers {reply.status_code}: it is no dashboard of Rowcast."


def in_parts(told: list[T]) -> list[list[T]]:
    """Results or steps in as many lists as there are calls to be made for them, at least one; what waited for
    long may be much.
    """
    parts: list[list[T]] = [[]]
    size = 0
    for one in told:
        if size > PART or len(parts[-1]) >= CHUNK:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += letters_of(one)
    return parts


def letters_of(told: Result | Step) -> int:
    by = told.excerpt if isinstance(told, Result) else told.key
    return sum(len(text or "") for text in (told.result, told.error, by))


def packed(body: bytes) -> tuple[bytes, dict[str, str]]:
    """A body and its headers, compressed where that pays."""
    if len(body) > COMPRESSED:
        return gzip.compress(body, 1), {"Content-Encoding": "gzip"}
    return body, {}


def headers_of(token: str) -> dict[str, str]:
    """What every call bears."""
    return {"Authorization": f"Bearer {token}", VERSION_HEADER: VERSION}


def open_client(url: str, token: str) -> httpx.Client:
    """A client for a thread. Like the other it heeds the proxies of the environment, but for this machine."""
    near = is_loopback(urlsplit(url).hostname)
    return httpx.Client(
        base_url=url, headers=headers_of(token), timeout=httpx.Timeout(TIMEOUT), trust_env=not near
    )


def open_ledger_client(url: str, token: str) -> httpx.AsyncClient:
    """The client that all slices of one process share."""
    return Client(
        base_url=url, transport=Transport(), headers=headers_of(token), timeout=httpx.Timeout(TIMEOUT)
    )


def watch(client: httpx.Client, worker: str, ledgers: list[RemoteLedger], seconds: float) -> None:
    """Wait for news of these slices, so many seconds at most. Raises as `say` does."""
    for ledger in ledgers:
        if ledger.version:  # else it is not known yet what would be new
            ledger.quiet_until = time.monotonic() + 1.5 * WATCH_SECONDS
    call = WatchCall(
        worker=worker,
        slices=[(ledger.job, ledger.slot, ledger.token) for ledger in ledgers],
        seen=[ledger.version for ledger in ledgers],
        wait=seconds,
    )
    try:
        versions = answer_of(client.post("/api/ledger/watch", content=encode(call)), list[str])
        for ledger, version in zip(ledgers, versions, strict=True):
            ledger.hear(version)
    except BaseException:  # a cancellation too: nothing is known of what is new
        for ledger in ledgers:
            ledger.quiet_until = 0.0
        raise


def say(client: httpx.Client, beat: Beat) -> None:
    """One heartbeat. Raises Refused, NotNow, httpx.TransportError."""
    answer_of(client.post("/api/ledger/heartbeat", content=encode(beat)), Any)
