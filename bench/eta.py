"""When a job ends, as a range: twelve kinds of job on a clock of their own, and how often the range was right.

Each kind is played ten times: items are claimed from the real tables by the real ledger, take as long as the kind
says, and are reported at the moment when they end. At a quarter, half and three quarters of the items the job is
read as the page reads it, and its range is held against the end that came. Nothing waits: the clock is moved.
"""

import heapq
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from bench.table import Row
from rowcast.jobs import Jobs
from rowcast.tables.database import close_databases, connection
from rowcast.tables.ledger import Ledger
from rowcast.tables.schema import prepare
from rowcast.tasks import clock
from rowcast.tasks.accounts import LOCAL
from rowcast.tasks.records import Job, Options
from rowcast.tasks.registry import Task, task
from rowcast.tasks.work import LEASE, Chunk, Claimed, Hold, Report, Result

ASKED_AT = (0.25, 0.5, 0.75)  # parts of the items
RUNS = 10
TICK = 0.1  # seconds between two reports
Took = Callable[[random.Random, float, int], float]  # seconds of an item, by how much is done and its number


@dataclass
class Kind:
    """A kind of job, and how it is played."""

    name: str
    items: int
    took: Took
    concurrency: int = 10
    pace: float | None = None
    again: float = 0.0  # of the tries that have to be repeated
    bursts: float = 0.0  # seconds between two answers that ask for a pause of five
    tuned: tuple[float, int] | None = None  # from which part of the items on how many run at once
    beside: int = 0  # items of another job of the same task
    again_too: bool = False  # the task has run before: the first time nobody can know how it ends
    written: float = 0.0  # until which part of them its items are still being written
    asked_at: tuple[float, ...] = ASKED_AT


def steady(chance: random.Random, done: float, n: int) -> float:
    return chance.uniform(0.8, 1.2)


def heavy(chance: random.Random, done: float, n: int) -> float:
    return chance.lognormvariate(-1.0, 1.2)


KINDS = [
    Kind("steady", 3000, steady),
    Kind("slow items of 30 s, one at a time", 60, lambda c, done, n: c.uniform(25, 35), concurrency=1),
    Kind("heavy tail", 3000, heavy),
    Kind("warming up", 3000, lambda c, done, n: c.uniform(0.8, 1.2) * (4 - 30 * done if done < 0.1 else 1)),
    Kind("slowing down", 2000, lambda c, done, n: c.uniform(0.8, 1.2) * (1 + done)),
    Kind("rate-limited", 3000, steady, concurrency=50, pace=10.0),
    Kind("20 % retried", 2000, steady, again=0.2),
    Kind("bursts of 429", 3000, steady, bursts=30.0),
    Kind("changed concurrency", 3000, steady, tuned=(0.2, 20)),
    Kind(
        "one item of a minute at the end",
        3000,
        lambda c, done, n: 60.0 if n == 2999 else c.uniform(0.8, 1.2),
        again_too=True,
    ),
    Kind("two jobs that share", 2000, steady, beside=1000),
    Kind("still being written", 3000, steady, written=0.2),
]


@dataclass
class Play:
    """One run of a kind."""

    kind: Kind
    chance: random.Random
    path: str
    now: float = 1_900_000_000.0
    started: float = 0.0
    flying: list[tuple[float, int, int, Claimed]] = field(default_factory=list)  # ends at, order, job, item
    numbers: dict[int, int] = field(default_factory=dict)
    seen: list[tuple[float, Job]] = field(default_factory=list)  # when it was asked, and what was said
    burst_at: float = 0.0

    def __post_init__(self) -> None:
        prepare(self.path)
        self.jobs = Jobs(self.path)
        self.ledger = Ledger(self.path)
        self.order = 0

    def begin(self, made: Task, items: int, written: int) -> int:
        how = Options(concurrency=self.kind.concurrency, pace=self.kind.pace)
        job = self.jobs.submit(made, {}, LOCAL.name, "background", how)[0].id
        self.jobs.start(job)
        self.write(job, 0, written, last=written == items)
        return job

    def write(self, job: int, first: int, until: int, last: bool) -> None:
        for at in range(first, until, 2500):
            end = min(at + 2500, until)
            rows = [(f"{n}", None) for n in range(at, end)]
            self.jobs.add_items(job, Chunk.of(rows, last=last and end == until))

    def play(self, made: Task) -> float:
        """Run it to its end; returns when that was."""
        kind = self.kind
        self.started = self.now
        self.burst_at = self.now + kind.bursts
        self.beat()
        first = round(kind.items * max(kind.written, 1e-9) * 1.5) if kind.written else kind.items
        job = self.begin(made, kind.items, first)
        others = [self.begin(made, kind.beside, kind.beside)] if kind.beside else []
        asked = list(kind.asked_at)
        concurrency = kind.concurrency
        while not (row := self.row(job)).ended:
            done = row.done / kind.items
            if not row.filled and done >= kind.written:
                self.write(job, first, kind.items, last=True)
            if kind.tuned and done >= kind.tuned[0] and concurrency != kind.tuned[1]:
                concurrency = kind.tuned[1]
                self.jobs.tune(job, LOCAL, concurrency, None)
            while asked and done >= asked[0]:
                asked.pop(0)
                self.seen.append((self.now, self.jobs.job(job, LOCAL)))
            for one in (job, *others):
                self.turn(one, concurrency, kind)
            ahead = self.flying[0][0] - self.now if self.flying else TICK
            self.now += TICK if kind.pace else max(TICK, min(ahead, 1.0))
            self.beat()
        return float(row.finished_at or self.now)

    def row(self, job: int) -> Job:
        """Without what it costs to look ahead."""
        found = self.jobs.find(job)
        assert found
        return found

    def beat(self) -> None:
        if self.lease() < self.now + LEASE / 2:
            self.ledger.heartbeat("one", "here", 1, "background", "1")

    def lease(self) -> float:
        return self.ledger.lease_of("one")

    def turn(self, job: int, concurrency: int, kind: Kind) -> None:
        """Report what has ended of a job, and claim more."""
        results = []
        rest = []
        hold = None
        for one in sorted(self.flying):
            if one[2] != job or one[0] > self.now:
                rest.append(one)
                continue
            ends, _, _, item = one
            ms = 1000 * (ends - self.begun[item.id])
            if kind.bursts and self.now >= self.burst_at:
                hold = Hold(self.now + 5, "429, Retry-After")
                self.burst_at = self.now + kind.bursts
            if hold or self.chance.random() < kind.again:
                until = hold.until if hold else self.now + self.chance.uniform(0, 2)
                results.append(Result(item.id, item.attempt, "queued", 429, "no", None, ms, until))
            else:
                results.append(Result(item.id, item.attempt, "completed", 200, None, None, ms))
        self.flying = rest
        mine = sum(one[2] == job for one in rest)
        report = Report(results, hold=hold, limit=concurrency - mine, in_flight=mine)
        work = self.ledger.exchange(job, "one", report)
        row = self.row(job)
        for item in work.items:
            self.order += 1
            number = int(item.key)
            took = kind.took(self.chance, row.done / max(row.total, kind.items), number)
            self.begun[item.id] = self.now
            heapq.heappush(self.flying, (self.now + took, self.order, job, item))

    begun: dict[int, float] = field(default_factory=dict)


async def work(item: str) -> None: ...


def played(kind: Kind, seed: int) -> Iterator[tuple[float, Job, float]]:
    """(seconds that were left, what was said, seconds that it took) at each moment at which it was asked."""
    made = task(name="bench_eta", concurrency=kind.concurrency)(work)
    with tempfile.TemporaryDirectory() as folder:
        play = Play(kind, random.Random(seed), str(Path(folder) / "rowcast.db"))
        with mock.patch.object(clock, "now", lambda: play.now):
            connection(play.path).execute("pragma synchronous = off")
            if kind.again_too:
                play.play(made)
                play.seen.clear()
            end = play.play(made)
        close_databases()
    for at, job in play.seen:
        yield end - at, job, end - play.started


def eta(quick: bool) -> Iterator[Row]:
    """For each kind how many of its ranges had the end, and how far their middles were off."""
    for kind in KINDS:
        hits = 0
        near = 0
        asked = 0
        for seed in range(3 if quick else RUNS):
            for left, job, _ in played(kind, seed):
                asked += 1
                if job.eta_range is None:
                    continue
                low, high = job.eta_range
                hits += low <= left <= high
                near += abs((low + high) / 2 - left) <= 0.2 * left
        share = 100 * hits / asked
        yield Row(f"eta of {kind.name}: the end is in the range", share, None, "%", None, ">= 90")
        yield Row(
            f"eta of {kind.name}: the middle is off by a fifth at most",
            100 * near / asked,
            None,
            "%",
            None,
            ">= 90",
        )
