"""Whatever happens to jobs, in any order, the tables say what a small model says: a property-based test."""

import collections
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rowcast.jobs import Jobs
from rowcast.tables import sweeps
from rowcast.tables.database import close_databases, connection
from rowcast.tables.ledger import Ledger
from rowcast.tables.schema import prepare
from rowcast.tasks.clock import moment, steady
from rowcast.tasks.groups import fingerprint
from rowcast.tasks.records import ACTIVE, ITEM_STATUSES, NotAllowed, Options
from rowcast.tasks.registry import function_task, task
from rowcast.tasks.work import HOPELESS, Chunk, Report, Result

OWNER = "local"
WORKERS = ("one", "two")
ERRORS = (
    (404, "Not Found: no account 17"),
    (404, "Not Found: no account 18"),
    (None, "ValueError: x"),
    (500, "broken"),
)
FAR = 4e9  # a moment that no test lives to see


def work(item: str) -> None:
    """What it does is for the test to say."""


REPEATABLE = task(function_task(work).function, name="repeatable", concurrency=6)
ONCE = task(work, name="once", concurrency=6, idempotent=False)


@dataclass
class Item:
    """What the model knows of an item."""

    position: int
    status: str = "queued"
    attempt: int = 0
    spent: int = 0
    crashes: int = 0
    run_at: float = 0.0
    worker: str | None = None
    group: str | None = None
    changes: int = field(default=0, compare=False)

    def becomes(
        self, status: str, worker: str | None = None, run_at: float = 0.0, group: str | None = None
    ) -> None:
        self.status = status
        self.worker = worker
        self.run_at = run_at
        self.group = group
        self.changes += 1


@dataclass
class Sweep:
    """What was asked of the items in a status: how often each had changed by then, by its position."""

    leaves: str
    enters: str
    group: str | None
    asked: dict[int, int]
    position: int = -1


@dataclass
class Job:
    """What the model knows of a job."""

    id: int
    idempotent: bool
    rule: str | None
    canary: int | None
    status: str = "queued"
    items: list[Item] = field(default_factory=list)
    filled: bool = False
    finished: bool = False
    filler: str | None = None
    crashes: int = 0
    base: int = 0
    streak: int = 0
    sweeps: list[Sweep] = field(default_factory=list)

    def of(self, *statuses: str) -> list[Item]:
        return [item for item in self.items if item.status in statuses]

    @property
    def ending(self) -> bool:
        return self.status in ("cancelled", "failed") and not self.finished

    def break_off(self, status: str) -> None:
        """It is cancelled or has failed: what was to be queued again is not."""
        self.status = status
        self.filler = None
        self.sweeps = [sweep for sweep in self.sweeps if sweep.enters != "queued"]

    def ask(self, leaves: list[str], enters: str, group: str | None = None) -> None:
        """Write down what is asked of the items in these statuses."""
        for status in leaves:
            asked = {i.position: i.changes for i in self.of(status) if group in (None, i.group)}
            newest = next((sweep for sweep in reversed(self.sweeps) if sweep.leaves == status), None)
            same = newest and (newest.enters, newest.group, newest.position) == (enters, group, -1)
            if newest and same:
                newest.asked = asked
            elif asked:
                self.sweeps.append(Sweep(status, enters, group, asked))

    def go_on(self) -> bool:
        """Do a chunk of what is left to do; False where nothing was."""
        did = self.cancel_some() if self.ending else False
        if not did and self.sweeps:
            did = True
            self.sweep()
        self.close()
        return did

    def cancel_some(self) -> bool:
        running = self.of("running")[: sweeps.CHUNK]
        queued = self.of("queued")[: sweeps.CHUNK]
        for item in (*running, *queued):
            item.becomes("cancelled" if self.idempotent or item in queued else "unknown")
        return bool(running or queued)

    def sweep(self) -> None:
        """Look at so many items, those of one sweep after the other."""
        room = sweeps.CHUNK
        while room and self.sweeps:
            sweep = self.sweeps[0]
            there = [
                i
                for i in self.of(sweep.leaves)
                if sweep.group in (None, i.group) and i.position > sweep.position
            ]
            for item in there[:room]:
                if sweep.asked.get(item.position) == item.changes:
                    self.move(item, sweep.enters)
                sweep.position = item.position
            if len(there) < room:
                self.sweeps.remove(sweep)
            room -= len(there[:room])

    def move(self, item: Item, enters: str) -> None:
        """Retry or settle an item."""
        if item.status == "failed":
            self.base -= 1
        item.becomes(enters)
        if enters == "queued":
            item.spent = item.attempt
            item.crashes = 0

    def close(self) -> None:
        if not self.finished and not self.of("queued", "running") and not self.sweeps:
            if self.status in ("cancelled", "failed"):
                self.finished = True
                self.filler = None
            elif self.status == "running" and self.filled:
                lost = self.of("failed") and not self.of("completed")
                self.status = "failed" if lost else "completed"
                self.finished = True
                self.filler = None

    def check_rules(self, outcomes: tuple[str, ...] = ()) -> None:
        longest = self.streak
        if self.rule:
            for outcome in outcomes:
                if outcome == "failed":
                    self.streak += 1
                elif outcome == "completed":
                    self.streak = 0
                longest = max(longest, self.streak)
        if self.status != "running" or not self.of("queued"):
            return
        failed = len(self.of("failed"))
        if self.rule and self.rule.endswith("%"):
            total = len(self.items) if self.filled else max(len(self.items), 5000)
            if failed - self.base > 0 and (failed - self.base) * 100 >= float(self.rule[:-1]) * total:
                self.status = "paused"
        elif self.rule and longest >= int(self.rule):
            self.status = "paused"
        first = self.items[: self.canary or 0]
        if len(self.items) > len(first) > 0 and not [i for i in first if i.status in ("queued", "running")]:
            self.status = "paused"


RULES = st.sampled_from((None, None, "40%", "2"))
CANARIES = st.sampled_from((None, None, 2))


class Machine(RuleBasedStateMachine):
    """People, two workers and their deaths, at random."""

    empty: Path  # a database with no job, of which each example has a copy

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="rowcast-model-")
        self.path = str(Path(self.directory) / "rowcast.db")
        shutil.copyfile(self.empty, self.path)
        self.conn = connection(self.path)
        self.conn.execute("pragma synchronous = off")
        self.jobs = Jobs(self.path)
        self.ledger = Ledger(self.path)
        self.model: dict[int, Job] = {}
        # results whose attempt was given up: nobody may take them
        self.lost: list[tuple[int, str, Result]] = []
        self.before: dict[tuple[str, int], tuple] = {}
        self.cursors = [0]
        for worker in WORKERS:
            self.live(worker)

    def teardown(self) -> None:
        close_databases()
        shutil.rmtree(self.directory)

    def live(self, worker: str) -> None:
        self.ledger.heartbeat(worker, "elsewhere", 1, "background", "1")

    def pick(self, data: st.DataObject, *statuses: str) -> Job:
        return data.draw(
            st.sampled_from([job for job in self.model.values() if not statuses or job.status in statuses])
        )

    def item_id(self, job: Job, item: Item) -> int:
        return self.conn.execute(
            "select id from items where job = ? and position = ?", (job.id, item.position)
        ).fetchone()[0]

    # ---- a job's way in ----

    @initialize(
        idempotent=st.booleans(), stop_after=RULES, canary=CANARIES, chunk=st.sampled_from((1, 1, 2, 3))
    )
    def begin_with_two_jobs(
        self, idempotent: bool, stop_after: str | None, canary: int | None, chunk: int
    ) -> None:
        sweeps.CHUNK = chunk  # what is asked of more items is left to `sweep`
        self.submit(True, None, None, 4, True, True)
        self.submit(idempotent, stop_after, canary, 5, True, True)

    @precondition(lambda self: len(self.model) < 4)
    @rule(
        idempotent=st.booleans(),
        stop_after=RULES,
        canary=CANARIES,
        number=st.integers(0, 6),
        last=st.booleans(),
        start=st.booleans(),
    )
    def submit_another(
        self,
        idempotent: bool,
        stop_after: str | None,
        canary: int | None,
        number: int,
        last: bool,
        start: bool,
    ) -> None:
        self.submit(idempotent, stop_after, canary, number, last, start)

    def submit(
        self,
        idempotent: bool,
        stop_after: str | None,
        canary: int | None,
        number: int,
        last: bool,
        start: bool,
    ) -> None:
        made = REPEATABLE if idempotent else ONCE
        options = Options(stop_after=stop_after, canary=canary)
        job, is_new = self.jobs.submit(made, {}, OWNER, "background", options)
        # a name of its own: two jobs of one task share its concurrency, which is another test's matter
        self.conn.execute("update jobs set task = task || id where id = ?", (job.id,))
        assert is_new and job.status == "queued"
        self.model[job.id] = Job(job.id, idempotent, stop_after, canary)
        if start:
            self.start(self.model[job.id])
        if number:
            self.add_items(self.model[job.id], number, last, len(self.model[job.id].items))

    @precondition(lambda self: any(not job.filled for job in self.model.values()))
    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def take_fill(self, data: st.DataObject, worker: str) -> None:
        job = self.pick(data)
        free = not job.filled and not job.finished and job.status in ACTIVE and job.filler in (None, worker)
        assert self.ledger.take_fill(job.id, worker) == (len(job.items) if free else None)
        if free:
            job.filler = worker

    @precondition(lambda self: any(not job.filled for job in self.model.values()))
    @rule(data=st.data(), number=st.integers(0, 5), last=st.booleans(), behind=st.sampled_from((0, 0, 0, 1)))
    def fill(self, data: st.DataObject, number: int, last: bool, behind: int) -> None:
        job = data.draw(st.sampled_from([job for job in self.model.values() if not job.filled or behind]))
        self.add_items(job, number, last, len(job.items) - behind)

    def add_items(self, job: Job, number: int, last: bool, at: int) -> None:
        written = self.jobs.add_items(
            job.id, Chunk.of([(f"item {n}", None) for n in range(number)], last), at
        )
        assert written == (
            at == len(job.items) and not job.filled and not job.finished and job.status in ACTIVE
        )
        if written:
            job.items += [Item(len(job.items) + n) for n in range(number)]
            job.filled = last
            job.filler = None if last else job.filler
            job.check_rules()
            if last:
                job.close()

    @precondition(lambda self: any(job.status == "queued" for job in self.model.values()))
    @rule(data=st.data())
    def take_up(self, data: st.DataObject) -> None:
        self.start(self.pick(data, "queued"))

    def start(self, job: Job) -> None:
        self.jobs.start(job.id)
        job.status = "running"
        job.close()

    # ---- workers ----

    @precondition(lambda self: self.claimable())
    @rule(data=st.data(), worker=st.sampled_from(WORKERS), limit=st.integers(1, 4))
    def claim_what_there_is(self, data: st.DataObject, worker: str, limit: int) -> None:
        self.claim(data.draw(st.sampled_from(self.claimable())), worker, limit)

    @precondition(lambda self: self.claimable())
    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def claim_more(self, data: st.DataObject, worker: str) -> None:
        self.claim(data.draw(st.sampled_from(self.claimable())), worker, 2)

    @precondition(lambda self: not all(job in self.claimable() for job in self.model.values()))
    @rule(data=st.data(), worker=st.sampled_from(WORKERS), limit=st.integers(0, 2))
    def claim_in_vain(self, data: st.DataObject, worker: str, limit: int) -> None:
        self.claim(self.pick(data), worker, limit)

    def claimable(self) -> list[Job]:
        return [
            job for job in self.model.values() if job.of("queued") and job.status in ("queued", "running")
        ]

    def claim(self, job: Job, worker: str, limit: int) -> None:
        mine = [i for i in job.of("running") if i.worker == worker]
        running = job.of("running")
        work = self.ledger.exchange(job.id, worker, Report(limit=limit, in_flight=len(mine)))
        assert (work.status, work.filled, work.queued) == (job.status, job.filled, len(job.of("queued")))
        if limit == 0:
            assert sorted(self.ledger.look(job.id, worker).mine) == sorted(
                self.item_id(job, item) for item in mine
            )
        may = [item for item in job.of("queued") if not job.canary or item.position < job.canary]
        room = min(limit, len(may), 6 - len(running) if len(running) > len(mine) else limit)
        due = sorted((item for item in may if 0 < item.run_at < FAR), key=lambda item: item.run_at)
        fresh = [item for item in may if not item.run_at]
        expected = [*due, *fresh][: max(room, 0)] if job.status in ("queued", "running") else []
        assert {item.id for item in work.items} == {self.item_id(job, item) for item in expected}
        for item in expected:
            item.becomes("running", worker)
            item.attempt += 1
        assert {(i.attempt, i.crashes) for i in work.items} == {(i.attempt, i.crashes) for i in expected}

    @precondition(lambda self: self.claimable())
    @rule(data=st.data(), worker=st.sampled_from(WORKERS), error=st.sampled_from(ERRORS))
    def run_to_failures(self, data: st.DataObject, worker: str, error: tuple[int, str]) -> None:
        swept = [job for job in self.claimable() if job.sweeps]
        job = data.draw(st.sampled_from(swept or self.claimable()))
        self.claim(job, worker, 6)
        if items := [item for item in job.of("running") if item.worker == worker]:
            self.record(job, worker, items, "failed", *error)

    @precondition(lambda self: any(not job.idempotent for job in self.claimable()))
    @rule(data=st.data(), worker=st.sampled_from(WORKERS), how=st.sampled_from(("killed", "crashed")))
    def run_to_a_death(self, data: st.DataObject, worker: str, how: str) -> None:
        self.claim(
            data.draw(st.sampled_from([job for job in self.claimable() if not job.idempotent])), worker, 6
        )
        self.lose(worker, how)

    @precondition(lambda self: self.running())
    @rule(
        data=st.data(),
        became=st.sampled_from(("completed", "failed")),
        error=st.sampled_from(ERRORS),
        many=st.booleans(),
    )
    def finish_for_good(
        self, data: st.DataObject, became: str, error: tuple[int | None, str], many: bool
    ) -> None:
        self.finish(data, became, error, "holder", many)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), became=st.sampled_from(("completed", "failed")), error=st.sampled_from(ERRORS))
    def finish_all_that_a_worker_holds(
        self, data: st.DataObject, became: str, error: tuple[int | None, str]
    ) -> None:
        self.finish(data, became, error, "holder", True)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), became=st.sampled_from(("again", "much later", "back")), many=st.booleans())
    def finish_for_now(self, data: st.DataObject, became: str, many: bool) -> None:
        self.finish(data, became, ERRORS[0], "holder", many)

    @precondition(lambda self: self.running())
    @rule(
        data=st.data(),
        became=st.sampled_from(("completed", "failed", "again")),
        whose=st.sampled_from(("other worker", "other attempt", "other job")),
    )
    def finish_what_is_not_held(self, data: st.DataObject, became: str, whose: str) -> None:
        self.finish(data, became, ERRORS[0], whose, True)

    def running(self) -> list[Job]:
        return [job for job in self.model.values() if job.of("running")]

    def finish(
        self, data: st.DataObject, became: str, error: tuple[int | None, str], whose: str, many: bool
    ) -> None:
        job = data.draw(st.sampled_from(self.running()))
        first = data.draw(st.sampled_from(job.of("running")))
        items = [item for item in job.of("running") if item.worker == first.worker] if many else [first]
        assert first.worker
        worker = first.worker if whose != "other worker" else next(w for w in WORKERS if w != first.worker)
        run_at = {"again": steady() - 5 + first.position / 100, "much later": FAR}.get(became, 0.0)
        status = became if became in ("completed", "failed") else "queued"
        code, message = (200, None) if status == "completed" else error
        others = [j for j in self.model if j != job.id]
        of = data.draw(st.sampled_from(others)) if whose == "other job" and others else job.id
        if whose == "holder" or (whose == "other job" and not others):
            self.record(job, worker, items, status, code, message, run_at)
        else:
            off = int(whose == "other attempt")
            results = [Result(self.item_id(job, i), i.attempt - off, status, code, message) for i in items]
            self.ledger.exchange(of, worker, Report(results))
            self.model[of].close()

    def record(
        self,
        job: Job,
        worker: str,
        items: list[Item],
        status: str,
        code: int | None,
        error: str | None,
        run_at: float = 0.0,
    ) -> None:
        """The holder's results; each twice: the second finds the item ended."""
        results = [
            Result(self.item_id(job, item), item.attempt, status, code, error, None, 1.0, run_at)
            for item in items
        ]
        self.ledger.exchange(job.id, worker, Report([*results, *results]))
        for item in items:
            item.becomes(
                status, run_at=moment(run_at), group=fingerprint(code, error) if status == "failed" else None
            )
            item.spent += status == "queued" and not run_at
        job.check_rules((status,) * len(items))
        job.close()

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def finish_what_was_given_up(self, data: st.DataObject) -> None:
        job, worker, result = data.draw(st.sampled_from(self.lost))
        self.ledger.exchange(job, worker, Report([result]))

    @precondition(lambda self: self.running() or any(job.filler for job in self.model.values()))
    @rule(worker=st.sampled_from(WORKERS), how=st.sampled_from(("silent", "killed", "crashed", "leaves")))
    def lose_a_worker(self, worker: str, how: str) -> None:
        self.lose(worker, how)

    def lose(self, worker: str, how: str) -> None:
        held = [
            (job, item) for job in self.model.values() for item in job.of("running") if item.worker == worker
        ]
        fills = [job for job in self.model.values() if job.filler == worker and not job.finished]
        for job, item in held:
            self.lost.append(
                (job.id, worker, Result(self.item_id(job, item), item.attempt, "completed", 200))
            )
        cause = "The process running this died: SIGSEGV" if how == "crashed" else None
        if how == "leaves":
            self.ledger.leave(worker)
        elif how == "silent":
            self.conn.execute("update workers set lease = 0 where id = ?", (worker,))
            for other in {*WORKERS} - {worker}:  # which is heard, however long all of this takes
                self.live(other)
            assert self.ledger.rescue() == len(held)
        else:
            assert self.ledger.rescue(worker, cause) == len(held)
        crash = {"leaves": 0, "crashed": 3}.get(how, 1)
        # what was just cancelled may have run on, and be what has ended the worker
        just_cancelled = any(job.status == "cancelled" for job in self.model.values())
        guilty = cause is not None and len(held) + len(fills) == 1 and not just_cancelled
        outcomes: dict[int, list[str]] = {}
        for job, item in held:
            taken_back = "queued" if job.idempotent else "unknown"
            failed = guilty and job.idempotent
            item.becomes(
                "failed" if failed else taken_back, group=fingerprint(None, cause) if failed else None
            )
            item.crashes += crash
            outcomes.setdefault(job.id, []).append(item.status)
        for job in fills:
            job.filler = None
            job.crashes = job.crashes + crash
            if guilty or (crash and job.crashes >= HOPELESS):
                job.break_off("failed")
                job.go_on()
        for number, became in outcomes.items():
            self.model[number].check_rules(tuple(became))
            self.model[number].close()
        self.live(worker)

    # ---- what a person may do ----

    @rule(
        data=st.data(),
        what=st.sampled_from("resume retry settle cancel sweep fail pause".split()),
    )
    def person(self, data: st.DataObject, what: str) -> None:
        getattr(self, what)(data, self.pick(data))

    @precondition(lambda self: self.broken())
    @rule(data=st.data(), what=st.sampled_from(("retry", "settle")))
    def ask_for_what_there_is(self, data: st.DataObject, what: str) -> None:
        getattr(self, what)(data, data.draw(st.sampled_from(self.broken())))

    @precondition(lambda self: self.swept())
    @rule(data=st.data(), what=st.sampled_from("retry settle cancel fail".split()))
    def ask_while_it_is_swept(self, data: st.DataObject, what: str) -> None:
        getattr(self, what)(data, data.draw(st.sampled_from(self.swept())))

    def broken(self) -> list[Job]:
        many = [job for job in self.model.values() if len(job.of("failed", "unknown")) > 1]
        return [job for job in many if job.of("failed") and job.of("unknown")] or many

    def swept(self) -> list[Job]:
        return [job for job in self.model.values() if job.sweeps]

    def act(self, job: Job, action: str, allowed: bool, **how: Any) -> bool:
        try:
            self.jobs.act(job.id, OWNER, action, **how)
        except NotAllowed:
            assert not allowed, f"{action} was refused for {job}"
            return False
        assert allowed, f"{action} was allowed for {job}"
        return True

    def pause(self, data: st.DataObject, job: Job) -> None:
        if self.act(job, "pause", job.status in ("queued", "running")):
            job.status = "paused"

    def resume(self, data: st.DataObject, job: Job) -> None:
        if self.act(job, "resume", job.status == "paused"):
            job.status = "running"
            job.canary = None
            job.base = len(job.of("failed"))
            job.streak = 0
            job.close()

    def cancel(self, data: st.DataObject, job: Job) -> None:
        running = [
            (job.id, str(i.worker), Result(self.item_id(job, i), i.attempt, "completed"))
            for i in job.of("running")
        ]
        if self.act(job, "cancel", job.status in ACTIVE):
            self.lost += running[: sweeps.CHUNK]
            job.break_off("cancelled")
            job.go_on()

    def sweep(self, data: st.DataObject, job: Job) -> None:
        assert self.jobs.sweep(job.id) == job.go_on()

    @precondition(lambda self: any(job.sweeps or job.ending for job in self.model.values()))
    @rule(data=st.data())
    def sweep_what_is_left(self, data: st.DataObject) -> None:
        self.sweep(data, data.draw(st.sampled_from([j for j in self.model.values() if j.sweeps or j.ending])))

    def retry(self, data: st.DataObject, job: Job) -> None:
        which = data.draw(st.sampled_from(("all", "all", "item", "group") if job.items else ("all",)))
        broken_off = job.status in ("cancelled", "failed")
        how = {}
        leaves = ["failed", "unknown", "cancelled"] if broken_off else ["failed", "unknown"]
        taken = job.of(*leaves)
        if which == "item":
            item = data.draw(st.sampled_from(job.items))
            how = {"item": self.item_id(job, item)}
            taken = [item] if item.status in ("failed", "unknown", "cancelled") else []
        elif which == "group":
            groups = sorted({item.group for item in job.of("failed") if item.group} | {"none such"})
            how = {"fingerprint": data.draw(st.sampled_from(groups))}
            taken = [item for item in job.of("failed") if item.group == how["fingerprint"]]
            leaves = ["failed"]
        allowed = job.status != "queued" and (bool(taken) or (broken_off and which == "all"))
        if self.act(job, "retry", allowed, **how):
            was_running = job.status == "running"
            failed = len(job.of("failed"))
            job.status = "running"
            job.finished = False
            job.crashes = 0
            back = sum(item.status == "failed" for item in taken)
            job.base = min(job.base + back, failed) if was_running else failed
            job.streak = job.streak if was_running else 0
            if which == "item":
                job.move(taken[0], "queued")
            else:
                job.ask(leaves, "queued", how.get("fingerprint"))
            job.go_on()

    def settle(self, data: st.DataObject, job: Job) -> None:
        items = job.of("unknown")
        how = {}
        if job.items and data.draw(st.booleans()):
            item = data.draw(st.sampled_from(job.items))
            items = [item] if item.status == "unknown" else []
            how = {"item": self.item_id(job, item)}
        if self.act(job, "settle", bool(items) and job.status != "queued", **how):
            if how:
                job.move(items[0], "completed")
            else:
                job.ask(["unknown"], "completed")
            job.go_on()

    def fail(self, data: st.DataObject, job: Job) -> None:
        self.jobs.fail(job.id, "it could not run")
        if job.status in ACTIVE:
            job.break_off("failed")
        job.go_on()

    # ---- what must be true, always ----

    @invariant()
    def the_tables_are_as_the_model_says(self) -> None:
        for job in self.model.values():
            row = self.jobs.job_to_move(job.id, OWNER)  # as `job` reads it, and no outlook
            assert (row.status, bool(row.filled), row.finished_at is not None, row.worker, row.swept) == (
                job.status, job.filled, job.finished, job.filler, bool(job.sweeps)
            ), job  # fmt: skip
            kept = self.conn.execute("select stop_base, streak, crashes from jobs where id = ?", (job.id,))
            assert kept.fetchone() == (job.base, job.streak, job.crashes)
            found = self.conn.execute(
                """select position, status, attempt, spent, crashes, run_at,
                       iif(status = 'completed', null, worker), fingerprint
                   from items where job = ? order by position""",
                (job.id,),
            ).fetchall()
            assert [Item(*values) for values in found] == job.items

    @invariant()
    def counts_are_those_of_the_items_and_add_up(self) -> None:
        for job in self.model.values():
            row = self.jobs.job_to_move(job.id, OWNER)
            assert {s: getattr(row, s) for s in ITEM_STATUSES} == {s: len(job.of(s)) for s in ITEM_STATUSES}
            assert row.total == sum(getattr(row, s) for s in ITEM_STATUSES)

    @invariant()
    def a_running_item_has_one_worker_and_no_other_item_has_any(self) -> None:
        for job in self.model.values():
            for status, worker in self.conn.execute(
                "select status, worker from items where job = ?", (job.id,)
            ):
                held = status == "running"
                assert (worker in WORKERS) if held else (worker is None or status == "completed")

    @invariant()
    def error_groups_count_the_failed_items(self) -> None:
        for job in self.model.values():
            groups = {g.fingerprint: g.items for g in self.jobs.error_groups(job.id)}
            assert groups == collections.Counter(item.group for item in job.of("failed"))

    @invariant()
    def a_job_has_its_end_exactly_when_nothing_of_it_is_left(self) -> None:
        for job in self.model.values():
            row = self.jobs.job_to_move(job.id, OWNER)
            left = row.queued or row.running or job.sweeps
            assert row.ended == (row.status not in ACTIVE and not left)

    @invariant()
    def the_engine_finds_what_is_left_to_sweep(self) -> None:
        assert self.jobs.unswept() == [job.id for job in self.model.values() if job.sweeps or job.ending]

    @invariant()
    def each_change_has_a_seq_of_its_own_and_a_later_one(self) -> None:
        now = self.rows()
        seqs = [row[0] for row in now.values()]
        assert len(seqs) == len(set(seqs)) and max(seqs, default=0) <= self.jobs.seq()
        for name, row in now.items():
            if self.before.get(name, row)[1:] != row[1:] or name not in self.before:
                assert row[0] > self.cursors[-1], f"{name} changed without a new seq"
        for job in self.model:
            newest = max(
                (row[0] for (kind, of, *_), row in now.items() if kind == "item" and of == job), default=0
            )
            assert now["job", job][0] >= newest, "a job is never behind its items"
        self.before = now
        self.cursors.append(self.jobs.seq())

    @invariant()
    def whoever_asks_for_changes_gets_exactly_those(self) -> None:
        if not self.model:
            return
        now = self.rows()
        middle = self.cursors[len(self.cursors) // 2]
        last = self.cursors[-2]
        one = list(self.model)[len(self.cursors) % len(self.model)]
        ways = (0, None, 9), (middle, None, 3), (last, None, 2), (middle, one, 4)
        cursor, only, limit = ways[len(self.cursors) % len(ways)]  # another one at each step
        expected = sorted(
            row[0] for (kind, of, *_), row in now.items() if row[0] > cursor and only in (None, of)
        )
        found = []
        after = cursor
        more = True
        while more:
            changes = self.jobs.changes(OWNER, after, only, limit)
            assert len(changes.items) <= limit and len(changes.jobs) <= limit
            page = sorted([row.seq for row in changes.jobs] + [row.seq for row in changes.items])
            assert all(after < seq <= changes.cursor for seq in page)
            found = found + page
            after = changes.cursor
            more = changes.more
        assert found == expected
        upto = (cursor + last) // 2 if cursor < last else self.cursors[-1]
        of_each = self.jobs.changes_of_each([0, *self.model], cursor, upto, {})
        assert of_each.keys() == self.model.keys()
        for job, changes in of_each.items():
            alone = self.jobs.changes(OWNER, cursor, job, upto=upto)
            assert (changes.items, [row.seq for row in changes.jobs]) == (
                alone.items,
                [row.seq for row in alone.jobs],
            )
            assert not alone.more and changes.cursor == upto

    def rows(self) -> dict[tuple, tuple]:
        """Every row as (seq, what it says), by its kind, its job and its position."""
        swept = "exists (select 1 from sweeps where job = jobs.id)"
        sql = f"select id, seq, status, reason, total, filled, {swept}, {', '.join(ITEM_STATUSES)} from jobs"
        found = {("job", number): tuple(row) for number, *row in self.conn.execute(sql)}
        sql = "select job, position, seq, status, attempt, code, error, run_at, worker from items"
        return found | {("item", job, n): tuple(row) for job, n, *row in self.conn.execute(sql)}


class SweptMachine(Machine):
    """Many failures, and what people ask of them while they are swept: the same with fewer rules."""

    submit_another = take_fill = fill = take_up = None
    claim_what_there_is = claim_more = claim_in_vain = lose_a_worker = None
    finish_for_good = finish_for_now = finish_what_is_not_held = finish_what_was_given_up = person = None

    @precondition(lambda self: not self.claimable())
    @rule(data=st.data(), what=st.sampled_from(("resume", "retry")))
    def wake(self, data: st.DataObject, what: str) -> None:
        getattr(self, what)(data, self.pick(data))


@pytest.mark.parametrize("machine", [Machine, SweptMachine])
def test_whatever_happens_the_tables_say_what_the_model_says(
    machine: type[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Machine, "empty", tmp_path / "rowcast.db", raising=False)
    prepare(str(Machine.empty))
    close_databases()
    monkeypatch.setattr(sweeps, "CHUNK", sweeps.CHUNK)  # put back, for the machine has its own
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=75,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
