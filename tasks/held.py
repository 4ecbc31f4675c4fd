"""What holds a job: why it goes no faster, or not at all, in one sentence, and what would help.

A plain function of the job and its Outlook, all that is known of what it may wait for (tables/outlook.py
reads it). The cause that stops more comes first: a pause before a pace, a pace before a concurrency.
"""

from collections.abc import Sequence

import msgspec

from rowcast.tasks.concurrency import MOST_AT_ONCE
from rowcast.tasks.followers import WAITING, waits_for
from rowcast.tasks.languages import mark, tr, trn, written
from rowcast.tasks.records import ACTIVE, RATE_WINDOW, Held, Job
from rowcast.tasks.registry import REGISTRY

# By the action that has paused a job: its cause.
PAUSED_BY = {"pause": "paused", "stop": "stop_rule", "canary": "canary", "block": "disk"}
CAUSES = (
    "rate",
    "concurrency",
    "api",
    "retry_after",
    "fair_share",
    "no_worker",
    "disk",
    "canary",
    "stop_rule",
    "paused",
    "halted",
    "retries",
    "last_items",
    "starting",
)
AT_PACE = 0.85  # of a pace that is kept at the least where the pace is what holds
BUSY = 0.75  # of its places that are taken on average where their number is what holds
EVEN = 1.1  # times an even part of its task's places that it has at most where it is held by others
SLOW_MS = 1_000.0  # an API that takes longer is slow by itself
SLOWER = 3.0  # times as long as half of all tries took: it has more to do by now than it can
MORE = 5  # times as many at once are spoken of
RATES = (  # each with its seconds
    (mark("{value}/s"), 1),
    (mark("{value} a minute"), 60),
    (mark("{value} an hour"), 3600),
    (mark("{value} a day"), 86_400),
)


class Rival(msgspec.Struct):
    """Another job of the same task that has something to run."""

    job: int
    left: int  # its items that have not ended
    rate: float  # items per second, of late
    tries: int = 0  # of late


class Outlook(msgspec.Struct):
    """What a job may wait for, as far as anybody knows."""

    halt: str = ""  # that nothing new of its task starts, in a sentence; '': it does
    hold_until: float = 0.0  # the API has asked for a pause until then; 0: it has not
    hold_reason: str = ""
    workers: int = 1  # of the job's engine, alive
    ready: bool = True  # an item is queued that may start
    soonest: float = 0.0  # when the next try is due of those that wait for one
    latest: float = 0.0  # and the last of them
    longest: float = 0.0  # seconds that the item has run which began first
    calls: int = 0  # of a function that is called once: how many of its jobs run
    rivals: list[Rival] = []
    room: int = 0  # how many more items the fair share lets it start
    goes_since: float = 0.0  # when its run began, its last pause was over, or the last hold of its task's
    wait: float = 0.0  # seconds until its pace lets the next item start
    pace: float = 0.0  # starts per second of all jobs of its task together, where each has a pace
    own_tries: float = 0.0  # tries per second, of late
    all_tries: float = 0.0  # of all jobs of its task
    ms: float = 0.0  # how long a try took, of late; 0: nobody knows
    usual_ms: float = 0.0  # how long half of all tries took at most; 0: nobody knows
    slow_ms: float = 0.0  # how long all but a fiftieth took at most
    rest_ms: tuple[float, float] = (0.0, 0.0)  # the last of what runs at the end: half of all cases, 19 of 20
    varies: float = 0.0  # how much tries differ, as a part of how long one takes
    growth: list[
        tuple[float, int]
    ] = []  # (until when, items that have ended since the one before), its last run
    tries: float = 1.0  # an item takes, on average
    tail: float = 0.0  # seconds that the last items of its task's last run took longer than the others


def held_by(job: Job, outlook: Outlook, now: float) -> Held | None:
    """What holds the job; None where nothing does: it has ended, or goes as fast as its worker can."""
    if job.ended or job.finished_at is not None or job.status not in ACTIVE:
        return None
    if job.status == "paused":
        return _paused(job)
    if job.run_at == WAITING and job.after_job and job.status == "queued":
        return Held("starting", waits_for(job.after_job, job.condition))
    if job.run_at > now and job.status == "queued":
        return Held("starting", tr("It starts later."), job.run_at)
    if outlook.halt:
        return Held("halted", outlook.halt)
    if not outlook.workers:
        return Held("no_worker", _no_worker(job.engine))
    if outlook.hold_until > now:
        return Held(
            "retry_after",
            tr("The API asked for a pause ({hold_reason}).", hold_reason=outlook.hold_reason),
            outlook.hold_until,
        )
    if job.shape == "body":
        return _of_body(job, outlook)
    if job.dry_run:
        return None
    return _begins(job, outlook) or _ends(job, outlook) or _runs(job, outlook)


def _paused(job: Job) -> Held:
    said = job.reason or tr("Paused: what was in flight ends, and nothing new starts until you resume it.")
    return Held(job.cause or "paused", said)


def _no_worker(engine: str) -> str:
    if engine == "background":
        return tr("No worker is alive: the dashboard starts one by itself.")
    return tr("No worker of {engine} is alive: start one, and the job goes on.", engine=engine.capitalize())


def _of_body(job: Job, outlook: Outlook) -> Held | None:
    if job.status != "queued":
        return None
    if outlook.calls >= (job.concurrency or 1):
        said = trn(
            "{number:,} job of it runs, as many as may at once.",
            "{number:,} jobs of it run, as many as may at once.",
            outlook.calls,
        )
        return Held("concurrency", said)
    return Held("starting", tr("It starts as soon as the engine takes it up."))


def _begins(job: Job, outlook: Outlook) -> Held | None:
    """Its items come, or only its first may run."""
    if not job.filled and not outlook.ready and (not job.running or job.running < _places(job)):
        so_far = tr(": {total:,} so far", total=job.total) if job.total else ""
        return Held("starting", tr("Its items are being written{so_far}.", so_far=so_far))
    if job.status == "queued":
        return Held("starting", tr("It starts as soon as the engine takes it up."))
    if job.canary:
        said = trn(
            "The canary: only its first item runs, then it waits for you.",
            "The canary: only its first {number:,} items run, then it waits for you.",
            job.canary,
        )
        return Held("canary", said)
    return None


def _ends(job: Job, outlook: Outlook) -> Held | None:
    """Nothing of it may start now."""
    if outlook.ready or not job.filled or not (job.queued or job.running):
        return None
    waiting = trn("{number:,} waits for another try", "{number:,} wait for another try", job.queued)
    if not job.running:
        return Held("retries", tr("Only retries are left: {waiting}.", waiting=waiting), outlook.soonest)
    items = trn("last item runs", "last {number:,} items run", job.running)
    longest = (
        tr(", the longest for {longest}", longest=length(outlook.longest * 1000))
        if outlook.longest >= 1
        else ""
    )
    more = f"; {waiting}" if job.queued else ""
    return Held("last_items", tr("The {items}{longest}{more}.", items=items, longest=longest, more=more))


def _runs(job: Job, outlook: Outlook) -> Held | None:
    """Items wait that may start: what keeps more of them from it."""
    places = _places(job)
    if _is_at_pace(job, outlook, places):
        return _pace(job, outlook, places)
    busy = outlook.own_tries * outlook.ms / 1000  # Little's law
    even = places / (1 + len(outlook.rivals))
    if outlook.rivals and outlook.room < 1 and (job.running < places or 0 < busy <= EVEN * even):
        return _fair_share(job, outlook.rivals, busy)
    if job.least is not None:
        return _as_found(job, outlook)
    if job.running < places and busy < BUSY * places:
        return None
    if outlook.ms and outlook.ms < RATE_WINDOW * 500 and busy < BUSY / 2 * places:
        return None  # its worker has other things to do
    return _places_taken(job, outlook, places)


def _is_at_pace(job: Job, outlook: Outlook, places: int) -> bool:
    if not job.pace:
        return False
    if job.pace <= 1:  # a start at a time: it can be seen to be waited for
        return outlook.wait > 0 and job.running < places
    together = bool(outlook.pace) and outlook.all_tries >= AT_PACE * outlook.pace
    return outlook.own_tries >= AT_PACE * job.pace or together


def _pace(job: Job, outlook: Outlook, places: int) -> Held:
    assert job.pace
    said = [tr("Its pace holds it: at most {pace}.", pace=rate(job.pace))]
    free = places - round(outlook.own_tries * outlook.ms / 1000)
    if outlook.ms and 0 < free < places:
        said.append(
            tr(
                "About {free:,} of its {places:,} places are free, and {answers}.",
                free=free,
                places=places,
                answers=_answers(job, outlook.ms),
            )
        )
    elif outlook.ms:
        answers = _answers(job, outlook.ms)
        said.append(f"{answers[:1].upper()}{answers[1:]}.")
    return Held("rate", " ".join(said))


def _fair_share(job: Job, rivals: Sequence[Rival], busy: float) -> Held:
    names = ", ".join(f"#{rival.job}" for rival in rivals[:3])
    others = (
        tr("job {names}", names=names)
        if len(rivals) == 1
        else tr(
            "{number:,} other jobs ({names})", number=len(rivals), names=names + ", …" * (len(rivals) > 3)
        )
    )
    # as many may be out as there are places, of which it has a part by turns
    number = job.running if job.running < _places(job) else max(1, round(busy))
    has = trn("{number:,} place", "{number:,} places", number)
    return Held(
        "fair_share",
        tr("It shares its task's places with {others}, and has {has} of them.", others=others, has=has),
    )


def _places_taken(job: Job, outlook: Outlook, places: int) -> Held:
    at_once = tr("{places:,} at once", places=places)
    if not outlook.ms:
        return Held(
            "concurrency",
            tr("Its concurrency holds it: {at_once}, and none of them has ended yet.", at_once=at_once),
        )
    overloaded = outlook.usual_ms > 0 and outlook.ms >= SLOWER * outlook.usual_ms
    does = 1000 / outlook.ms
    if outlook.ms >= SLOW_MS or overloaded:
        whose = tr("The API's own speed") if _posts(job) else tr("The length of its items")
        before = (
            tr(", and did in {usual_ms}: more at once would not help", usual_ms=length(outlook.usual_ms))
            if overloaded
            else ""
        )
        return Held(
            "api",
            tr(
                "{whose} holds it: {answers}{before}.",
                whose=whose,
                answers=_answers(job, outlook.ms),
                before=before,
            ),
        )
    more = max(places, min(places * MORE, MOST_AT_ONCE))
    said = tr("Its concurrency holds it: {at_once} do {rate}.", at_once=at_once, rate=rate(places * does))
    helps = tr(
        "{more:,} at once would do {rate}; {answers}.",
        more=more,
        rate=rate(more * does),
        answers=_answers(job, outlook.ms),
    )
    return Held("concurrency", f"{said} {helps}")


def _as_found(job: Job, outlook: Outlook) -> Held:
    """Of a job whose runs find how many its API bears: what they have found."""
    found = job.found_read
    at_once = tr("{places:,} at once", places=job.places)
    api = tr("the API") if _posts(job) else tr("it")
    if found and found.pace:
        word = tr("found") if found.settled else tr("so far")
        return Held(
            "api",
            tr(
                "{at_once}, {word}; {api} refuses more than {pace}.",
                at_once=at_once,
                word=word,
                api=api,
                pace=rate(found.pace),
            ),
        )
    if not found or not found.settled:
        return Held(
            "concurrency",
            tr("{at_once} so far: it is being found how many {api} bears.", at_once=at_once, api=api),
        )
    if found.slows:
        return Held(
            "api",
            tr(
                "{at_once}, found; {api} slows from {slows:,} on.",
                at_once=at_once,
                api=api,
                slows=found.slows,
            ),
        )
    more = tr("the most that it may") if job.places >= (job.concurrency or 1) else tr("and more is tried")
    return Held(
        "concurrency",
        tr(
            "{at_once}, found, {more}; {answers}.",
            at_once=at_once,
            more=more,
            answers=_answers(job, outlook.ms),
        ),
    )


def _places(job: Job) -> int:
    return job.places


def _posts(job: Job) -> bool:
    """Whether the job's task is known to ask something that answers."""
    return job.task in REGISTRY and bool(REGISTRY[job.task].clients)


def _answers(job: Job, ms: float) -> str:
    if _posts(job):
        return tr("the API answers in {ms}", ms=length(ms))
    return tr("an item takes {ms}", ms=length(ms))


def length(ms: float) -> str:
    """Milliseconds in the unit that reads well, in two figures: 84 ms, 1.4 s, 12 min, 3 h."""
    if ms < 995:
        return f"{ms:.0f} ms" if ms >= 0.95 else written(f"{max(ms, 0.01):.1g} ms")
    for unit, size, next_size in (("s", 1e3, 1e5), ("min", 6e4, 6e6)):
        if ms < next_size:
            value = ms / size
            return written(f"{value:.1f} {unit}") if value < 9.95 and unit == "s" else f"{value:.0f} {unit}"
    return f"{ms / 3.6e6:.0f} h"


def rate(per_second: float) -> str:
    """Items per second in the unit that reads well: 310/s, 4.2/s, 8 a minute, 3 an hour."""
    found = [(form, per_second * size) for form, size in RATES]
    form, value = next((one for one in found if one[1] >= 0.95), found[-1])
    text = f"{value:,.0f}" if value >= 9.95 or abs(value - round(value)) < 0.05 else f"{value:.1f}"
    return tr(form, value=written(text))


def stall_sentence(task: str, seconds: float, where: str) -> str:
    """What is said of a task that held up its worker's event loop, and so all jobs that run beside it."""
    place = tr(" It was in {where}.", where=where) if where else ""
    held_up = tr("`{task}` held up all jobs for {seconds:.1f} s", task=task, seconds=seconds)
    return tr(
        "{held_up}: it blocks in an `async def`; make it a plain `def`.{place}", held_up=held_up, place=place
    )
