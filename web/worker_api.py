"""HTTP in for workers elsewhere: the ledger's calls, with a token. remote.py is the other end.

The token is read before anything else, then the body as it comes. All calls of one process go to its writer,
which takes what waits and commits once: SQLite has one writer, and a queue is fairer than a lock. Only the
dashboard's clock counts: what a worker says about moments is moved by how far its clock is off.
"""

import hmac
import logging
import math
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from rowcast.tables.ledger import AWAY, FULL, Exchange
from rowcast.tables.places import TaskPlaces
from rowcast.tables.seals import NotOpened
from rowcast.tasks import clock
from rowcast.tasks.addresses import BadMail
from rowcast.tasks.records import ACTIVE, CLAIMABLE, encode
from rowcast.tasks.work import (
    CLOCK_HEADER,
    ERROR_LENGTH,
    TROUBLE_LENGTH,
    VERSION,
    VERSION_HEADER,
    WATCH_SECONDS,
    Answer,
    Beat,
    Given,
    LedgerCall,
    MailCall,
    Report,
    ReportCall,
    Result,
    RoundCall,
    Standing,
    Step,
    WatchCall,
    Work,
)
from rowcast.web.guard import LEDGER_LIMIT, LEDGER_PATH, path_in
from rowcast.web.requests import at
from rowcast.web.state import State

log = logging.getLogger("rowcast")
S = TypeVar("S", bound=Standing)
TOO_LARGE = "The call has a number that is larger than SQLite's."


async def answer(req: Request) -> Response:
    """One call of a worker, by the name at the end of its path; refused without the token, or from another
    version.

    Nothing of the body is read before that.
    """
    state = at(req)
    refuse_strangers(req, state.settings.worker_token)
    name = path_in(req.scope).removeprefix(LEDGER_PATH)
    if name not in CALLS:
        raise HTTPException(404, f"There is no call {name[:40]!r}.")
    kind, function = CALLS[name]
    try:
        body = unpacked(await req.body(), req.headers.get("Content-Encoding", ""))
        call = msgspec.json.decode(body, type=kind)
        behind = seconds_behind(req.headers.get(CLOCK_HEADER, ""))
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise HTTPException(400, f"The call cannot be read: {error}.") from None
    for told in reports_in(call) if behind else ():
        translate(told.report, behind)
    try:
        if isinstance(call, WatchCall):
            found = await news(state, call)
        else:
            assert function
            rows = max(1, sum(told.report.rows for told in reports_in(call)))
            many = exchange_all if isinstance(call, ReportCall) else None
            found = await state.writer.do(function, LedgerCalls(state, behind), call, rows=rows, many=many)
    except (HTTPException, *AWAY, *FULL):
        raise
    except Exception as error:
        raise refusal_of(error) from None
    state.calls[name] += 1
    return Response(encode(found), media_type="application/json")


async def news(state: State, call: WatchCall) -> list[str]:
    """The version of each slice, once one of them is not what the worker has seen, or after some seconds; ''
    where the slice is another's by now."""
    until = time.monotonic() + min(max(call.wait, 0.0), WATCH_SECONDS)
    feed = state.feed
    seen = [*call.seen, *[""] * len(call.slices)][: len(call.slices)]
    while True:
        seq = feed.seq
        versions = state.slots.versions(call.slices)
        if versions != seen or feed.closing or time.monotonic() >= until:
            return versions
        await feed.changed(seq, until)


def is_call(scope: Scope) -> bool:
    """Whether a worker calls: it is answered before anything of the app is asked."""
    return scope["type"] == "http" and scope["method"] == "POST" and path_in(scope).startswith(LEDGER_PATH)


def reports_in(call: Any) -> list[ReportCall]:
    """The reports that a call bears."""
    if isinstance(call, RoundCall):
        return call.reports
    return [call] if isinstance(call, ReportCall) else []


def translate(report: Report, behind: float) -> None:
    """The moments that a worker tells of, in the dashboard's time."""
    told: list[Result | Step] = [*report.results, *report.steps]
    for one in told:
        one.run_at += behind if one.run_at else 0.0
    for result in report.results:
        result.started_at += behind if result.started_at else 0.0
    for lines in report.log:
        lines.at += behind
    if report.hold:
        report.hold.until += behind


def seconds_behind(said: str) -> float:
    """By how much the worker's clock is behind ours, as it says; 0 where it says nothing.

    Raises ValueError.
    """
    if not said:
        return 0.0
    behind = clock.steady() - float(said)
    if not math.isfinite(behind):
        raise ValueError(f"{said[:40]!r} is no time")
    return behind


def refuse_strangers(req: Request, token: str) -> None:
    """Raises HTTPException for who does not know the token, or is of another version."""
    if not token:
        raise HTTPException(401, "This dashboard takes no workers: start it with --worker-token.")
    given = req.headers.get("Authorization", "").encode("latin-1")
    if not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise HTTPException(
            401, "The worker's token is not the dashboard's: give both the same --worker-token."
        )
    theirs = req.headers.get(VERSION_HEADER, "of an unknown version")[:40]
    ours = VERSION
    if theirs != ours:
        raise HTTPException(
            409, f"This worker is Rowcast {theirs}, the dashboard is {ours}: install the same version."
        )


def unpacked(raw: bytes, encoding: str) -> bytes:
    """A body as it was before it was compressed.

    Raises ValueError for what is no gzip, is cut off, or grows too large.
    """
    if encoding != "gzip":
        return raw
    inflater = zlib.decompressobj(31)
    try:
        body = inflater.decompress(raw, LEDGER_LIMIT)
    except zlib.error as error:
        raise ValueError(f"the body is not gzip ({error})") from None
    if not inflater.eof:
        raise ValueError("the body is too large or cut off")
    return body


class Part(NamedTuple):
    """What is exchanged for a slice, and whether its slot is still its own."""

    exchange: Exchange
    mine: bool


def answer_to(kind: Callable[[Any], Answer], found: Standing | Exception) -> Answer:
    """What one of many is answered: an answer of that kind, or why there is none."""
    if isinstance(found, Standing):
        return kind(found)
    refusal = refusal_of(found)
    return Answer(code=refusal.status_code, error=refusal.detail)


def refusal_of(error: Exception) -> HTTPException:
    """With what a call is refused that has met with this. What may be over in a while is asked for again;
    what this one call meets with each time is not, as whoever waits with it would wait for ever."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, OverflowError):
        return HTTPException(400, TOO_LARGE)
    if isinstance(error, (*AWAY, *FULL)):
        return HTTPException(503, str(error))
    log.error("A call of a worker", exc_info=error)
    return HTTPException(422, f"{type(error).__name__}: {error}"[:ERROR_LENGTH])


class LedgerCalls:
    """What answers one call: the tables, and by how many seconds the worker's clock is behind ours."""

    def __init__(self, state: State, behind: float = 0.0):
        self.ledger = state.ledger
        self.slots = state.slots
        self.jobs = state.jobs
        self.mailbox = state.mailbox
        self.settings = state.settings
        self.behind = behind

    def begin(self, call: LedgerCall) -> Given:
        """The job of a slice, or None for a message that is left over, or that has nothing to do any more."""
        token = self.slots.begin(call.job, call.slot, call.token)
        job = self.jobs.start(call.job) if token else None
        if not (token and job and job.status in ACTIVE):
            return Given()
        try:
            opened = self.jobs.opened(job)
        except NotOpened as error:
            self.jobs.fail(job.id, str(error))
            return Given()
        if job.shape == "items":
            job.concurrency = max(1, self.slots.part(job.id, call.slot, job.concurrency or 1))
            if job.least:
                job.least = max(1, self.slots.part(job.id, call.slot, job.least))
                job.found = self.slots.known(job, call.slot)
        return Given(job, token, self.settings.api_url, opened)

    def exchange(self, call: ReportCall) -> Work:
        (work,) = exchange_all([(self, call)])
        if isinstance(work, Exception):
            raise work
        return work

    def round(self, call: RoundCall) -> list[Answer]:
        """What several slices of a worker tell and ask for, in one transaction; each has its own answer, the
        reports' first."""
        told = exchange_all([(self, report) for report in call.reports])
        works = [answer_to(Answer.of_work, one) for one in told]
        standings = [done_for(self.look, one) for one in call.looks]
        return works + [answer_to(Answer.of_standing, one) for one in standings]

    def part_of(self, call: ReportCall, tasks: dict[str, TaskPlaces]) -> "Part":
        """What a call comes to, its slice's part of the job heeded."""
        report = call.report
        self._live(call, report.limit > 0)
        mine = self.slots.hear(call.job, call.slot, call.token)
        if mine and call.number and self.slots.is_old(call.job, call.slot, call.token, call.number):
            return Part(Exchange(call.job, call.worker, Report(), counted=True), mine)
        if call.has is not None:  # what never reached it is given back
            self.ledger.give_back(call.job, call.worker, but=call.has)
        limit = report.limit
        found = report.found
        if limit:
            limit = self.slots.room(call.job, call.slot, limit, report.in_flight, tasks) if mine else 0
        if found:
            found = self.slots.found(call.job, call.slot, found) if mine else None
        report = msgspec.structs.replace(report, limit=limit, found=found)  # it may have to be done again
        return Part(Exchange(call.job, call.worker, report, counted=True), mine)

    def look(self, call: LedgerCall) -> Standing:
        self._live(call, False)
        mine = self.slots.hear(call.job, call.slot, call.token)
        return self.translated(call, self.ledger.look(call.job, call.worker), mine)

    def _live(self, call: LedgerCall, takes: bool) -> None:
        """Who asks lives.

        Raises HTTPException for who `takes` and is not known: it would be taken back from it.
        """
        if not self.slots.live(call.worker) and takes:
            raise HTTPException(503, "This worker has to say that it lives before it takes anything.")

    def translated(self, call: LedgerCall, standing: S, mine: bool) -> S:
        """How the job stands as this worker is to take it: its share of the job, in its own time."""
        standing.waiting = self.slots.waiting(call.job)
        if standing.hold_until:
            standing.hold_until -= self.behind
        if standing.concurrency:
            standing.concurrency = self.slots.part(call.job, call.slot, standing.concurrency)
        if standing.least:
            standing.least = max(1, self.slots.part(call.job, call.slot, standing.least))
        if not mine and standing.status in CLAIMABLE and self.jobs.shape(call.job) == "items":
            standing.queued = 0  # the slot is another's by now: what was claimed here may end, and no more
            standing.filled = True
        return standing

    def take_body(self, call: LedgerCall) -> list[Step] | None:
        if not self.slots.hear(call.job, call.slot, call.token):
            return None
        self._live(call, True)
        return self.ledger.take_body(call.job, call.worker)

    def end(self, call: LedgerCall) -> bool:
        return self.slots.end(call.job, call.slot, call.token, call.wait)

    def cannot(self, call: LedgerCall) -> None:
        if self.slots.hear(call.job, call.slot, call.token):
            self.ledger.block(call.job, call.reason[:500], "no_worker")
            self.ledger.give_back(call.job, call.worker, begun=True)
            self.slots.let_go(call.job, call.worker)
            self.slots.end(call.job, call.slot, call.token, 0.0)

    def heartbeat(self, beat: Beat) -> None:
        if not beat.alive:
            self.ledger.leave(beat.worker)
            return
        self.ledger.heartbeat(
            beat.worker,
            beat.host,
            beat.pid,
            beat.engine,
            beat.version,
            done=beat.done,
            trouble=beat.trouble[:TROUBLE_LENGTH],
        )
        for stall in beat.stalls:
            self.ledger.note_stall(*stall)
        for job, slot, token in beat.slices:
            self.slots.hear(job, slot, token)

    def mail(self, call: MailCall) -> None:
        """Into the mailbox with it, unless there is a mail server that it was meant for."""
        if self.settings.smtp_url:
            raise HTTPException(
                422,
                "Mails are sent by a server, and the worker does not know it: give it ROWCAST_SMTP_URL and"
                " ROWCAST_MAIL_FROM too.",
            )
        try:
            self.mailbox.put(call.posted)
        except BadMail as error:
            raise HTTPException(422, str(error)) from None

    def hello(self, call: LedgerCall) -> None:
        """For who only wants to know whether it would be let in."""


def exchange_all(asked: Sequence[tuple[LedgerCalls, ReportCall]]) -> list[Work | Exception]:
    """What slices report and ask for in the same moment, of one worker or of many: the work of each, or what
    it is refused with. Raises what keeps the database from being written.

    Where a worker asks twice of a job, its first call was broken off on its way: what that is given here is
    given back by the second, so they are done one after the other.
    """
    if not asked:
        return []
    if len({(call.job, call.worker) for _, call in asked}) < len(asked):
        return [done_for(_exchange_one, one) for one in asked]
    return _exchange_apart(asked)


def _exchange_one(asked: tuple[LedgerCalls, ReportCall]) -> Work | Exception:
    (work,) = _exchange_apart([asked])
    return work


def _exchange_apart(asked: Sequence[tuple[LedgerCalls, ReportCall]]) -> list[Work | Exception]:
    """The same of calls of which none is another's repetition."""
    tasks: dict[str, TaskPlaces] = {}
    found: list[Any] = [done_for(calls.part_of, call, tasks) for calls, call in asked]
    fit = [n for n, one in enumerate(found) if isinstance(one, Part)]
    works = asked[0][0].ledger.exchange_all([found[n].exchange for n in fit])
    for n, work in zip(fit, works, strict=True):
        calls, call = asked[n]
        mine = found[n].mine
        found[n] = done_for(calls.translated, call, work, mine) if isinstance(work, Work) else work
    return found


def done_for(function: Callable[..., Any], *of_call: Any) -> Any:
    """What it gives for the call, or why there is nothing: no other suffers for that."""
    try:
        return function(*of_call)
    except Exception as error:
        return error


CALLS: dict[str, tuple[Any, Callable[[LedgerCalls, Any], Any] | None]] = {
    "hello": (LedgerCall, LedgerCalls.hello),
    "begin": (LedgerCall, LedgerCalls.begin),
    "exchange": (ReportCall, LedgerCalls.exchange),
    "round": (RoundCall, LedgerCalls.round),
    "look": (LedgerCall, LedgerCalls.look),
    "body": (LedgerCall, LedgerCalls.take_body),
    "end": (LedgerCall, LedgerCalls.end),
    "cannot": (LedgerCall, LedgerCalls.cannot),
    "mail": (MailCall, LedgerCalls.mail),
    "heartbeat": (Beat, LedgerCalls.heartbeat),
    "watch": (WatchCall, None),  # waits, and writes nothing
}
