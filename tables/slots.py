"""Slots: which slices of which jobs are under way on a queue's workers: the dashboard's side of `--engine
celery`.

A job has as many slots as workers live. A message of the queue names a job, a slot and a token, and is good
once: `begin` puts another token in its place, so doubled and redelivered messages end at once. A slice that
goes on sends itself again with the new token; one that has nothing to do rests, and `supply` sends it when
there is reason. A slot that was not heard of for some seconds is sent again: a broker that was emptied, or a
worker that died, costs just that.

    sent --begin--> under way --end--> sent again, or at rest (no token) --supply--> sent
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from rowcast.tables.database import Connection, OnDatabase, tick, transaction
from rowcast.tables.halts import HALTED
from rowcast.tables.pacing import BEFORE, COULD_START, even_part
from rowcast.tables.places import TaskPlaces
from rowcast.tables.rescue import FORGOTTEN
from rowcast.tasks import clock
from rowcast.tasks.concurrency import Found, share_of, together
from rowcast.tasks.records import CLAIMABLE, Job, WorkerRow, encode
from rowcast.tasks.work import LEASE, SLICE_SECONDS

# seconds after which a slot that was not heard of is sent again, doubled at each time in vain
PATIENCE = SLICE_SECONDS + 2.0
DOUBLINGS = 6  # at most
NOTED = 1.0  # seconds between two notes that a slot was heard of
LONGEST_REST = 1.0  # seconds

Message = tuple[int, int, str]
ON_HOLD = "exists (select 1 from paces where paces.task = jobs.task and hold_until > ?2)"
# the jobs of which a message waits for a worker to take it, and whether a row of `jobs` is to yield to one
WAITING = """waiting as materialized (
        select distinct other.id, other.owner, other.priority
        from slots cross join jobs as other on other.id = slots.job
        where token <> '' and tries > 0 and due_at > ?1)"""
YIELDS = """exists (select 1 from waiting where waiting.id <> jobs.id
    and (waiting.owner <> jobs.owner or waiting.priority >= jobs.priority))"""


class Slot(NamedTuple):
    """The place of a slice among those that it shares its job with."""

    others: int  # slices
    before: int  # of them, those of smaller slots
    bound: int  # its own
    others_bound: int  # theirs, together

    def part(self, whole: int) -> int:
        """This slice's part of what all share."""
        return even_part(whole, self.others + 1, self.before)


class Slots(OnDatabase):
    """The slots of one database file."""

    # ---- what the dashboard does ---------------------------------------------------------------------------

    def adopt(self, engine: str) -> None:
        """What has not ended belongs to this engine from now on, whichever it was begun on.

        Whoever works on it under the old one gets nothing more of it, and may report what it has in flight.
        """
        sql = "select id from jobs where finished_at is null and engine <> ?"
        if self.conn.execute(sql, (engine,)).fetchone():
            with transaction(self.conn) as conn:
                for (job,) in conn.execute(sql, (engine,)).fetchall():
                    conn.execute(
                        "update jobs set engine = ?, seq = ? where id = ?", (engine, tick(conn), job)
                    )
                    conn.execute("delete from slots where job = ?", (job,))

    def believe(self) -> None:
        """Workers elsewhere that hold something get a new lease: while the dashboard was away they could
        not say a word.
        """
        with transaction(self.conn) as conn:
            conn.execute(
                """update workers set lease = max(lease, ?) where engine <> 'background' and id in (
                       select worker from items where status = 'running'
                       union select worker from jobs where finished_at is null and worker is not null)""",
                (clock.now() + LEASE,),
            )

    def supply(self, engine: str) -> list[Message]:
        """The messages that are to be sent now; they count as sent."""
        if not self._due(self.conn, engine, clock.now()):
            return []
        with transaction(self.conn) as conn:
            now = clock.now()
            messages = []
            for job, slot, tries in self._due(conn, engine, now):
                token = secrets.token_hex(8)
                due_at = now + PATIENCE * 2 ** min(tries, DOUBLINGS)
                conn.execute(
                    """insert into slots (job, slot, token, due_at, tries) values (?1, ?2, ?3, ?4, 1)
                       on conflict (job, slot) do update set token = ?3, due_at = ?4, tries = tries + 1""",
                    (job, slot, token, due_at),
                )
                messages.append((job, slot, token))
            conn.execute("delete from slots where job not in (select id from jobs where finished_at is null)")
            return messages

    def _due(self, conn: Connection, engine: str, now: float) -> list[tuple[int, int, int]]:
        """(job, slot, times sent in vain) of the slots that want a message: of jobs that a worker could do
        something for.
        """
        (living,) = conn.execute(
            "select count(*) from workers where engine = ? and lease > ?", (engine, now)
        ).fetchone()
        jobs = conn.execute(
            f"""select id, iif(shape = 'body', 1, min(max(queued, 1), coalesce(concurrency, 1))) from jobs
               where not {HALTED} and finished_at is null and engine = ?1 and run_at <= ?2
                 and status in ('queued', 'running')
                 and iif(shape = 'body',
                         worker is null and not exists (select 1 from sweeps where job = jobs.id),
                         filled and status = 'queued'
                         or queued > 0 and {COULD_START.format(now="?2")} and not {ON_HOLD})
               order by {BEFORE}""",
            (engine, now, now),
        ).fetchall()
        (busy,) = conn.execute(
            "select count(*) from slots where token <> '' and tries = 0 and due_at > ?", (now,)
        ).fetchone()
        # All jobs wait in one line, a slice each: with many of them a message may lie in the queue for
        # longer, as long as every worker has something to do. Where one has not, what is not begun is lost.
        patience = SLICE_SECONDS * (len(jobs) - 1) * (busy >= living)
        due = []
        for job, most in jobs:
            rows = conn.execute("select slot, due_at, tries from slots where job = ?", (job,))
            known = {slot: (due_at + patience * bool(tries), tries) for slot, due_at, tries in rows}
            for slot in range(min(max(living, 1), most)):
                due_at, tries = known.get(slot, (0.0, 0))
                if due_at <= now:
                    due.append((job, slot, tries))
        return due

    def unsent(self, job: int, slot: int, token: str) -> None:
        """The broker has not taken the message: try again soon."""
        with transaction(self.conn) as conn:
            conn.execute(
                "update slots set due_at = ?, tries = 0 where job = ? and slot = ? and token = ?",
                (clock.now() + LONGEST_REST, job, slot, token),
            )

    # ---- what a slice asks ---------------------------------------------------------------------------------

    def begin(self, job: int, slot: int, token: str) -> str | None:
        """A message has arrived: the token by which its slice works, or None for a message that is left
        over.
        """
        fresh = secrets.token_hex(8)
        with transaction(self.conn) as conn:
            begun = conn.execute(
                """update slots set token = ?1, due_at = ?2, tries = 0, bound = 0, number = 0
                   where job = ?3 and slot = ?4 and token = ?5
                   returning 1""",
                (fresh, clock.now() + PATIENCE, job, slot, token),
            ).fetchall()
            return fresh if begun else None

    def live(self, worker: str) -> bool:
        """A worker that asks for work lives, whatever its lease says: it may have slept, or we may have been
        away.

        False for one that was away for so long that it is forgotten.
        """
        late = (worker, clock.now() + LEASE / 2)
        if self.conn.execute("select 1 from workers where id = ? and lease < ?", late).fetchone():
            with transaction(self.conn) as conn:
                now = clock.now()  # in the transaction: the clock may be set while one waits for it
                conn.execute(
                    "update workers set lease = ?2 where id = ?1 and lease < ?2 - ?3",
                    (worker, now + LEASE, LEASE / 2),
                )
        return bool(self.conn.execute("select 1 from workers where id = ?", (worker,)).fetchone())

    def hear(self, job: int, slot: int, token: str) -> bool:
        """Whether this slice is the one that the slot is for; it is noted that it was heard of."""
        now = clock.now()
        found = self.conn.execute(
            "select token, due_at from slots where job = ? and slot = ?", (job, slot)
        ).fetchone()
        if not token or not found or found[0] != token:
            return False
        if not now + PATIENCE - NOTED < found[1] < now + PATIENCE + NOTED:
            with transaction(self.conn) as conn:
                conn.execute(
                    "update slots set due_at = ? where job = ? and slot = ? and token = ?",
                    (clock.now() + PATIENCE, job, slot, token),
                )
        return True

    def is_old(self, job: int, slot: int, token: str, number: int) -> bool:
        """Whether a later report of this slice is known: one that was broken off on its way is told again by
        the next, and may come after it.
        """
        with transaction(self.conn) as conn:
            sql = "update slots set number = ?4 where job = ?1 and slot = ?2 and token = ?3 and number < ?4"
            conn.execute(sql, (job, slot, token, number))
            return not conn.changes()

    def end(self, job: int, slot: int, token: str, wait: float) -> bool:
        """A slice is over: True where it is to send itself again; else the slot rests for `wait` seconds or
        until there is something to do."""
        with transaction(self.conn) as conn:
            now = clock.now()
            more = conn.execute(
                f"""select 1 from jobs
                    where id = ? and status in {CLAIMABLE} and shape = 'items' and queued > 0""",
                (job,),
            ).fetchone()
            if more and not wait:
                sent = conn.execute(
                    """update slots set due_at = ?, tries = 0 where job = ? and slot = ? and token = ?
                       returning 1""",
                    (now + PATIENCE, job, slot, token),
                ).fetchall()
                return bool(sent)
            conn.execute(
                "update slots set token = '', due_at = ?, tries = 0 where job = ? and slot = ? and token = ?",
                (now + min(wait, LONGEST_REST), job, slot, token),
            )
            return False

    def waiting(self, job: int) -> bool:
        """Whether messages of other jobs wait for a worker to take them: a job yields to no lower one of its
        owner's, whose turn comes when its slice ends."""
        sql = f"with {WAITING} select {YIELDS} from jobs where id = ?2"
        (found,) = self.conn.execute(sql, (clock.now(), job)).fetchone() or (0,)
        return bool(found)

    def versions(self, slices: Sequence[Message]) -> list[str]:
        """How the job of each of these slices, (job, slot, token), stands, as a word that changes when its
        worker is to hear of it; '' where the slot is another's by now."""
        found = self.conn.execute(
            f"""with {WAITING}
                select key, status, jobs.worker, concurrency, least, filled, finished_at is null,
                    coalesce(hold_until, 0), {HALTED}, {YIELDS}
                from json_each(?2)
                    cross join slots on slots.job = value ->> 0 and slot = value ->> 1 and token = value ->> 2
                    cross join jobs on jobs.id = slots.job left join paces on paces.task = jobs.task
                where token <> ''""",
            (clock.now(), encode(slices).decode()),
        )
        standing = {which: str(its) for which, *its in found}
        return [standing.get(n, "") for n in range(len(slices))]

    def let_go(self, job: int, worker: str) -> None:
        """A body job is held by this worker no longer."""
        with transaction(self.conn) as conn:
            conn.execute(
                "update jobs set worker = null where id = ? and worker = ? and shape = 'body'", (job, worker)
            )

    def part(self, job: int, slot: int, concurrency: int) -> int:
        """What a slice may have in flight: its part of the job's concurrency.

        The parts of all make the whole.
        """
        return self._under_way(job, slot).part(concurrency)

    def found(self, job: int, slot: int, found: Found | None = None) -> Found | None:
        """What all slices of a job that are under way have found its API to bear, and this one now."""
        if found:
            with transaction(self.conn) as conn:
                conn.execute(
                    "update slots set found = ? where job = ? and slot = ?",
                    (encode(found).decode(), job, slot),
                )
        rows = self.conn.execute(
            """select found from slots where job = ? and found is not null and token <> '' and tries = 0
                 and due_at > ?""",
            (job, clock.now()),
        )
        parts = [msgspec.json.decode(text, type=Found) for (text,) in rows]
        return together(parts) if parts else None

    def known(self, job: Job, slot: int) -> str | None:
        """What a slice begins with, of what was found: its own of before, or its part of what all have."""
        ((own,),) = self.conn.execute(
            "select max(found) from slots where job = ? and slot = ?", (job.id, slot)
        ).fetchall()
        whole = job.found_read
        if own or not whole:
            return own
        return encode(share_of(whole, self._under_way(job.id, slot).others + 1)).decode()

    def room(
        self, job: int, slot: int, limit: int, in_flight: int, tasks: dict[str, TaskPlaces] | None = None
    ) -> int:
        """How many items a slice may claim that has so many in flight and asks for `limit`.

        It starts no more at once than its part, so what it claims beyond that waits where it is. But when its
        part becomes smaller, what is in flight goes on: `bound` is the most that can be. Until all are down
        to their parts nobody gets more than the others leave. Beside other jobs of the task a slice's part of
        what its job may have is all. `tasks`: what is known of them, where many ask in the same moment.
        """
        task, concurrency, running = self.conn.execute(
            "select task, coalesce(concurrency, 1), running from jobs where id = ?", (job,)
        ).fetchone()
        tasks = {} if tasks is None else tasks
        if task not in tasks:
            tasks[task] = TaskPlaces.of(self.conn, task, clock.now())
        place = self._under_way(job, slot)
        mine = place.part(concurrency)
        bound = max(mine, min(in_flight, place.bound))
        if bound != place.bound:
            with transaction(self.conn) as conn:
                conn.execute("update slots set bound = ? where job = ? and slot = ?", (bound, job, slot))
        left = concurrency - place.others_bound
        shared = tasks[task].beside(job)
        if shared:
            mine = place.part(max(1, running + tasks[task].share(job)))
        if shared or bound > mine or left < mine:
            return max(0, min(limit, min(mine, left) - in_flight))
        return limit

    def _under_way(self, job: int, slot: int) -> Slot:
        """With how many slices that work on it this one shares a job."""
        others, before, bound, others_bound = self.conn.execute(
            """select coalesce(sum(slot <> ?2), 0), coalesce(sum(slot < ?2), 0),
                   coalesce(sum(bound * (slot = ?2)), 0), coalesce(sum(bound * (slot <> ?2)), 0)
               from slots where job = ?1 and token <> '' and tries = 0 and due_at > ?3""",
            (job, slot, clock.now()),
        ).fetchone()
        return Slot(others, before, bound, others_bound)

    # ---- what the page asks --------------------------------------------------------------------------------

    def workers(self, engine: str) -> list[WorkerRow]:
        """The workers of this engine, and those of another that still hold something; the dead last."""
        now = clock.now()
        rows = self.conn.execute(
            """select id, host, engine, version, (select count(*) from items where worker = workers.id
                       and status = 'running') as in_flight, done, started_at, lease, trouble from workers
               where (engine = ? or in_flight > 0) and lease > ? order by lease < ?, started_at, id""",
            (engine, now - FORGOTTEN, now),
        )
        return [
            WorkerRow(
                name, host, of, version, in_flight, done, started_at, lease - LEASE, lease > now, trouble
            )
            for name, host, of, version, in_flight, done, started_at, lease, trouble in rows
        ]
