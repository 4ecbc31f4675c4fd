"""The jobs table as people and pages use it: submit, fill, act, and every question that is asked of it.

    submit -> add_items     a click becomes a job and its items
    act                     pause, resume, cancel, retry (records.TRANSITIONS says when)
    job, items, changes     what the page, the API and the streams read

Each write is one short transaction that stamps what it touches with `seq`; whoever reads follows "the rows
whose seq is greater than mine". Every question takes who asks: an account, or the name of an owner, which
sees what is its own. What workers call is in ledger.py; no HTTP, no HTML, no engine.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rowcast.tables import keys, measures, needs, outbox, seals, search, sweeps, tries
from rowcast.tables.changes import changes_of, changes_of_each, is_far
from rowcast.tables.counts import close_if_done
from rowcast.tables.database import Connection, OnDatabase, current_seq, tick, transaction
from rowcast.tables.fills import add_chunk
from rowcast.tables.followers import followers_of
from rowcast.tables.halts import HALTED
from rowcast.tables.outlook import Known, add_outlook
from rowcast.tables.outlook import lasting as lasting
from rowcast.tables.pacing import BEFORE
from rowcast.tables.rows import ITEM, ITEM_COLUMNS, JOB, TO_CLAIM, all_of, items_of
from rowcast.tables.search import NOW, OVER
from rowcast.tables.shares import demand_moves, seen_by, sees
from rowcast.tables.starts import take_up, write_job
from rowcast.tables.sweeps import begin, fail_job, go_on
from rowcast.tasks import clock
from rowcast.tasks.accounts import Who
from rowcast.tasks.concurrency import bounds_of
from rowcast.tasks.filters import LARGEST, MOVES, Counted, Filter, order_of
from rowcast.tasks.needs import Needs
from rowcast.tasks.notify import Usual
from rowcast.tasks.records import (
    PAGE,
    RETRYING,
    Changes,
    ErrorGroup,
    Item,
    Job,
    JobNow,
    JobView,
    NotAllowed,
    NotFound,
    Options,
    Pictures,
    View,
    encode,
)
from rowcast.tasks.registry import Task
from rowcast.tasks.tries import ItemNow
from rowcast.tasks.work import Chunk, Due


class Restored(Exception):
    """All is as it was: what was begun was only to see whether it can be done."""


class Jobs(OnDatabase):
    """The jobs and items of one database file. `usual`: whom the settings tell of its jobs."""

    def __init__(self, path: str, usual: Usual = Usual()):
        super().__init__(path)
        self.usual = usual

    # ---- a job's way in ------------------------------------------------------------------------------------

    def submit(
        self, task: Task, args: dict[str, Any], owner: str, engine: str, options: Options = Options()
    ) -> tuple[Job, bool]:
        """Write a job of `task`, queued and without its items. Returns it, and whether it is new.

        With a unique_key that a job of this owner bears already, that job is returned and nothing is written.
        Raises NotAllowed where that is another task's, or has other arguments.
        """
        job, is_new = self.write(task, args, owner, engine, options)
        return self.job(job, owner), is_new

    def write(
        self, task: Task, args: dict[str, Any], owner: str, engine: str, options: Options = Options()
    ) -> tuple[int, bool]:
        """The same, for who needs no more than its number."""
        with transaction(self.conn) as conn:
            return write_job(conn, self.path, task, args, owner, engine, options, self.usual)

    def would_be(self, task: Task, args: dict[str, Any], owner: str, options: Options) -> int | None:
        """The job that has a start's unique key already, None where it would be a new one: that is written,
        and taken back. Raises as `submit` does."""
        found = None
        with contextlib.suppress(Restored), transaction(self.conn) as conn:
            job, is_new = write_job(conn, self.path, task, args, owner, "", options, self.usual)
            found = None if is_new else job
            raise Restored
        return found

    def write_all(
        self, calls: Sequence[tuple[Task, dict[str, Any], Options]], owner: str, engine: str
    ) -> list[Job]:
        """Write a job of each of these BackgroundTasks, with its arguments and options: all, or none.

        What holds a job of them, and when it ends, is not asked here.
        """
        with transaction(self.conn) as conn:
            written = [
                write_job(conn, self.path, task, args, owner, engine, options, self.usual)[0]
                for task, args, options in calls
            ]
            return [found for found in map(self.find, written) if found]

    def submit_item(
        self, task: Task, args: dict[str, Any], owner: str, engine: str, options: Options, item: Chunk
    ) -> Job:
        """Write a job of `task` with this one item, in one transaction: its source is asked for none."""
        with transaction(self.conn) as conn:
            job, is_new = write_job(conn, self.path, task, args, owner, engine, options, self.usual)
            if is_new:
                add_chunk(conn, job, item)
        return self.job(job, owner)

    def add_items(self, job: int, chunk: Chunk, at: int | None = None) -> bool:
        """Append items to a job that is being filled; the last chunk ends the filling.

        Returns False, writing nothing, where the job is not to be filled any more (it was cancelled), or has
        other than `at` items: another worker has gone on with it.
        """
        with transaction(self.conn) as conn:
            return add_chunk(conn, job, chunk, at)

    def start(self, job: int) -> Job | None:
        """An engine takes the job up: queued becomes running. Returns it, or None where there is none."""
        with transaction(self.conn) as conn:
            return take_up(conn, [job])[0]

    def opened(self, job: Job) -> dict[str, str]:
        """What the secrets of a job that is about to run are, by their seals. Raises NotOpened."""
        return seals.opened(self.path, job)

    def fail(self, job: int, reason: str) -> None:
        """The job could not run: it fails with a reason, and what has not ended is cancelled."""
        with transaction(self.conn) as conn:
            fail_job(conn, job, reason)

    def unswept(self) -> list[int]:
        """The jobs of which a cancel, a retry or a settle is not over: `sweep` goes on with each."""
        return sweeps.unswept(self.conn)

    def sweep(self, job: int) -> bool:
        """Do the next chunk of what is left to do to the job's items; False where there was nothing."""
        with transaction(self.conn) as conn:
            return go_on(conn, job)

    # ---- what a person may do ------------------------------------------------------------------------------

    def act(
        self, job: int, who: Who, action: str, item: int | None = None, fingerprint: str | None = None
    ) -> Job:
        """Pause, resume, cancel, retry or settle a job, where the table ACTIONS allows it.

        resume also lifts the pause that the API has asked for, of a job that runs too. retry takes the failed
        and unknown items back (of a cancelled job the cancelled ones too), or only `item`, or only those of
        the error group `fingerprint`; settle says of the unknown items, or of `item`, that they did arrive.
        Of many items the first chunk is moved here, and `sweep` goes on. Raises NotFound, Refused,
        NotAllowed; KeyError for an unknown action.
        """
        with transaction(self.conn) as conn:
            before = self.job_to_move(job, who)
            target = None if item is None else self.item(job, item)
            self._act(conn, before, action, target, fingerprint)
            return self.job(job, who)

    def _act(
        self, conn: Connection, before: Job, action: str, item: Item | None, fingerprint: str | None
    ) -> None:
        begin(conn, before, action, item, fingerprint)
        if action in ("cancel", "retry", "settle"):
            go_on(conn, before.id)
        close_if_done(conn, before.id)

    def act_as_one_of_many(self, job: int, who: Who, action: str) -> None:
        """The same, by whoever has asked whether it is theirs to change, and asks no more of it.

        Raises NotFound, NotAllowed, Refused.
        """
        with transaction(self.conn) as conn:
            before = self.find(job)
            if not before or not before.owner:
                raise NotFound(f"There is no job {job}.")
            demand_moves(who, job, before.owner)
            self._act(conn, before, action, None, None)

    def would(
        self, job: int, who: Who, action: str, item: int | None = None, fingerprint: str | None = None
    ) -> int:
        """How many of its items an act would move, 0 where it is for the job alone: the act is begun, and
        taken back. Raises as `act` does."""
        found = 0
        with contextlib.suppress(Restored), transaction(self.conn) as conn:
            before = self.job_to_move(job, who)
            target = None if item is None else self.item(job, item)
            begin(conn, before, action, target, fingerprint)
            found = sweeps.reached(conn, before, action, target, fingerprint)
            raise Restored
        return found

    def tune(
        self,
        job: int,
        who: Who,
        concurrency: int | str | None,
        pace: float | None,
        priority: int | None = None,
    ) -> Job:
        """Change how fast a job may go while it runs; None leaves a value as it is, a pace of 0 takes the
        limit away.

        Raises NotFound, Refused, NotAllowed.
        """
        with transaction(self.conn) as conn:
            before = self.job_to_move(job, who)
            if before.ended:
                raise NotAllowed(f"Job {job} has ended: its pace cannot be changed.")
            most, least = bounds_of(concurrency) if concurrency else (None, None)
            if least and before.shape == "body":
                raise NotAllowed(f"Job {job} is called once: its concurrency cannot be auto.")
            conn.execute(
                """update jobs set concurrency = coalesce(?1, concurrency), least = iif(?1, ?6, least),
                       found = iif(?1 and (?1 is not concurrency or ?6 is not least), null, found),
                       priority = coalesce(?7, priority),
                       pace = nullif(coalesce(?2, pace), 0), seq = ?3, tuned_at = ?5
                   where id = ?4""",
                (most, pace, tick(conn), job, clock.now(), least, priority),
            )
            return self.job(job, who)

    # ---- what is asked -------------------------------------------------------------------------------------

    def seq(self) -> int:
        """The counter: the seq of the newest change."""
        return current_seq(self.conn)

    def has_background(self) -> bool:
        """Whether there is a job of a BackgroundTask."""
        return bool(
            self.conn.execute(
                "select 1 from jobs indexed by jobs_of_background where background limit 1"
            ).fetchone()
        )

    def secret(self) -> str:
        """The key that this database's signed links are made with."""
        return str(self.conn.execute("select secret from rowcast").fetchone()[0])

    def pruned_seq(self) -> int:
        """The counter as jobs were last deleted, or seen by others than before: with an older cursor one may
        show what is no more."""
        return int(self.conn.execute("select pruned_seq from rowcast").fetchone()[0])

    def job(self, job: int, who: Who, known: Known | None = None) -> Job:
        """The job, if who asks sees it; `known`: what was read for others of that moment. Raises NotFound."""
        return self.whole(self.job_seen(job, who), known)

    def job_seen(self, job: int, who: Who) -> Job:
        found = self.find(job)
        if found is None or not sees(self.conn, who, job, found.owner):
            raise NotFound(f"There is no job {job}.")
        return found

    def whole(self, job: Job, known: Known | None = None) -> Job:
        """The job, with what holds it and when it ends; `known`: what was read for others of a list."""
        return add_outlook(self.conn, job, clock.now(), known)

    def job_to_move(self, job: int, who: Who) -> Job:
        """The job, if who asks may also change it, without what holds it and when it ends. Raises NotFound,
        Refused."""
        found = self.job_seen(job, who)
        demand_moves(who, job, found.owner)
        return found

    def find(self, job: int) -> Job | None:
        """The job, whosever it is; None where there is none."""
        row = self.conn.execute(f"{JOB} where jobs.id = ?", (job,)).fetchone()
        return Job(*row) if row else None

    def shape(self, job: int) -> str:
        """items or body; '' for no such job."""
        found = self.find(job)
        return found.shape if found else ""

    def entries(self) -> list[str]:
        """The tasks of all jobs and schedules, as 'module:function'."""
        rows = self.conn.execute(
            "select entry from jobs where owner <> '' union select entry from schedules order by entry"
        )
        return [entry for (entry,) in rows]

    def jobs(self, who: Who, wanted: Filter = Filter(), before: int = LARGEST, limit: int = 50) -> list[Job]:
        """The jobs that one sees, of those that a filter has, newest first, with a smaller id than
        `before`."""
        found = encode(search.page_of(self.conn, who, wanted, before, limit)).decode()
        where = "jobs.id in (select value from json_each(?))"
        rows = self.conn.execute(f"{JOB} where {where} order by jobs.id desc", (found,)).fetchall()
        known: Known = {}
        return [self.whole(Job(*row), known) for row in rows]

    def orders(self, who: Who, wanted: Filter, limit: int, before: int = LARGEST) -> list[int]:
        """A page of the list, as its jobs' orders (filters.order_of): what has not ended comes first."""
        return search.listed(self.conn, who, wanted, before, limit)

    def listed(self, orders: list[int], wanted: Filter = Filter()) -> list[Job]:
        """The jobs of such a page, of the list that a filter has."""
        ended = "indexed by jobs_over where jobs.finished_at is not null and jobs.news"
        found = []
        for by, numbers in (
            ("where jobs.id", [order - MOVES for order in orders if order > MOVES]),
            (ended if wanted.by_end else "where jobs.id", [order for order in orders if order <= MOVES]),
        ):
            these = encode(numbers).decode()
            found += self.conn.execute(f"{JOB} {by} in (select value from json_each(?))", (these,)).fetchall()
        known: Known = {}
        rows = (self.whole(Job(*row), known) for row in found)
        return sorted(rows, key=lambda job: order_of(job, wanted.by_end), reverse=True)

    def matching(self, who: Who, wanted: Filter, jobs: list[Job]) -> list[Job]:
        """Those of these jobs that a filter has."""
        if wanted.is_all:
            return jobs
        found = search.matching(self.conn, who, wanted, [job.id for job in jobs])
        return [job for job in jobs if job.id in found]

    def counted(self, who: Who, wanted: Filter) -> Counted:
        """How many jobs each status has, of those that the rest of the filter has."""
        return search.counted(self.conn, who, wanted)

    def needs(self, who: Who) -> Needs:
        """What waits for a person, of what one sees."""
        return needs.needs_of(self.conn, who)

    def messages_moved(self) -> int:
        """A number that rises when a message comes into the outbox, or has arrived or is given up."""
        return outbox.moves_of(self.conn)

    def lately(self, owner: str, tasks: Sequence[str]) -> dict[str, Job]:
        """The last job that an owner has started of each of these tasks, where there is one, by its task."""
        sql = f"{JOB} where owner = ? and task = ? order by jobs.id desc limit 1"
        found = {task: self.conn.execute(sql, (owner, task)).fetchone() for task in tasks}
        return {task: Job(*row) for task, row in found.items() if row}

    def runs(self, task: str, who: Who, limit: int) -> list[Job]:
        """The last of a task's jobs that have ended, among those that one sees, the oldest first."""
        ended = search.page_of(self.conn, who, Filter(task=task), LARGEST, limit, OVER)
        sql = f"{JOB} where jobs.id in (select value from json_each(?)) order by jobs.id"
        return [Job(*row) for row in self.conn.execute(sql, (encode(ended).decode(),))]

    def due(self, but: Collection[int] = ()) -> list[Due]:
        """The jobs an engine has to look after, in order: due, not halted, not ended; `but` these."""
        others = "jobs.id not in (select value from json_each(?))"
        where = f"finished_at is null and owner <> '' and run_at <= ? and not {HALTED} and {others}"
        values = (clock.now(), encode(list(but)).decode(), clock.now())
        sql = f"select {', '.join(Due._fields)} from jobs where {where} order by {BEFORE}"
        return [Due(*row) for row in self.conn.execute(sql, values)]

    def ended_since(self, seq: int, moment: float, limit: int = 500) -> list[Job]:
        """The jobs that have ended since a moment and have changed since the counter was `seq`, in order."""
        where = "jobs.seq > ? and finished_at >= ? and owner <> ''"
        rows = self.conn.execute(f"{JOB} where {where} order by jobs.seq limit ?", (seq, moment, limit))
        return [Job(*row) for row in rows]

    def items(
        self,
        job: int,
        status: str | None = None,
        after: int = -1,
        limit: int = 100,
        fingerprint: str | None = None,
    ) -> list[Item]:
        """A job's items by position, those behind position `after`; of one status or one error group."""
        where, values = all_of(items_of(job, status, fingerprint) | {"position > ?": after})
        table = TO_CLAIM if status == RETRYING else "items where"
        sql = f"select {ITEM_COLUMNS} from {table} {where} order by position limit ?"
        rows = self.conn.execute(sql, (*values, limit))
        return [Item(*row) for row in rows]

    def items_back(
        self, job: int, status: str | None, before: int, limit: int, fingerprint: str | None = None
    ) -> int:
        """The `after` of the page of `limit` items that ends right before position `before`."""
        where, values = all_of(items_of(job, status, fingerprint) | {"position < ?": before})
        table = TO_CLAIM if status == RETRYING else "items where"
        rows = self.conn.execute(
            f"select position from {table} {where} order by position desc limit ?", (*values, limit)
        ).fetchall()
        return rows[-1][0] - 1 if rows else -1

    def every_item(self, job: int, view: View | None = None) -> Iterator[Item]:
        """All items by position, or those of a view, read in pages: no transaction is held open while the
        reader is slow.
        """
        view = view or View("all")
        after = view.after
        text = view.find.lower()
        while page := self.items(job, view.status, after, 1000, view.fingerprint or None):
            yield from [item for item in page if text in item.key.lower()] if text else page
            after = page[-1].position

    def item(self, job: int, item: int) -> Item:
        """One item of a job. Raises NotFound."""
        row = self.conn.execute(f"{ITEM} where id = ? and job = ?", (item, job)).fetchone()
        if not row:
            raise NotFound(f"Job {job} has no item {item}.")
        return Item(*row)

    def item_now(self, job: int, who: Who, item: int) -> ItemNow:
        """All that an item's page shows. Raises NotFound."""
        return tries.item_now(self.conn, self.job(job, who), self.item(job, item))

    def moving(self, job: int, limit: int, after: int = -1) -> list[Item]:
        """What is moving: items that run, wait for another try or have ended, the newest change first.

        Only those whose seq is greater than `after`.
        """
        rows = self.conn.execute(
            f"{ITEM} where job = ? and attempt > 0 and seq > ? order by seq desc limit ?", (job, after, limit)
        )
        return [Item(*row) for row in rows]

    def changed_items(self, job: int, limit: int, after: int) -> list[Item]:
        """The items whose seq is greater than `after`, also those that wait for their first try: the newest
        changes of each kind, `limit` at most."""
        kinds = [
            f"select * from ({ITEM} where job = ?1 and {kind} and seq > ?2 order by seq desc limit ?3)"
            for kind in ("attempt > 0", "attempt = 0")
        ]
        rows = self.conn.execute(" union all ".join(kinds), (job, after, limit))
        return [Item(*row) for row in rows]

    def changed_jobs(self, who: Who, after: int, limit: int) -> list[Job]:
        """The jobs that one sees whose seq is greater than `after`, oldest change first."""
        where, values = seen_by(self.conn, who)
        rows = self.conn.execute(
            f"{JOB} indexed by jobs_by_seq where {where} and jobs.seq > ? order by jobs.seq limit ?",
            (*values, after, limit),
        )
        return [Job(*row) for row in rows]

    def news(self, owner: str, after: int, limit: int) -> list[Job]:
        """An owner's jobs that have ended, or wait for a person, since the counter was `after`, in order."""
        found = [
            Job(*row)
            for index, when in (("jobs_by_owner_over", OVER), ("jobs_active", NOW))
            for row in self.conn.execute(
                f"""{JOB} indexed by {index} where {when} and jobs.owner = ?1 and jobs.news > ?2
                    order by jobs.news limit ?3""",
                (owner, after, limit),
            )
        ]
        return sorted(found, key=lambda job: job.news)[:limit]

    def find_items(self, job: int, text: str, limit: int, after: int = -1) -> list[Item]:
        """Items whose key contains `text`, in any case, by position, those behind position `after`."""
        positions = keys.find(self.conn, job, text, limit, after)
        which = "instr(lower(key), ?) and position > ?"
        values: list[Any] = [text.lower(), after]
        if positions is not None:
            which = f"position in ({', '.join('?' * len(positions))})"
            values = [*positions]
        rows = self.conn.execute(
            f"{ITEM} where job = ? and {which} order by position limit ?", (job, *values, limit)
        )
        return [Item(*row) for row in rows]

    def changes(
        self,
        who: Who,
        after: int,
        job: int | None = None,
        limit: int = 500,
        upto: int | None = None,
        known: Known | None = None,
    ) -> Changes:
        """The rows that one sees, or one job's, whose seq is greater than `after`, and not than `upto`, at
        most about `limit`.

        Rows come in the order of seq. Where there are more, the cursor is the seq of the last row given.
        `known`: what was read for others of that moment.
        """
        return changes_of(self.conn, who, after, job, limit, upto, {} if known is None else known)

    def is_far(self, who: Who, after: int) -> bool:
        """Whether so much has changed since then that all is better read anew."""
        return is_far(self.conn, who, after)

    def changes_of_each(
        self, jobs: Collection[int], after: int, upto: int, known: Known
    ) -> dict[int, Changes]:
        """The same of each of these jobs, all of it, without those that are gone: for moments that are not
        far apart."""
        return changes_of_each(self.conn, jobs, after, upto, known)

    def error_groups(self, job: int, limit: int = 20) -> list[ErrorGroup]:
        """Why items of a job fail, the most frequent first."""
        return measures.groups_of(self.conn, job, limit)

    def now(self, job: int, who: Who, cursor: int, known: Known | None = None) -> JobNow:
        """All that the head of a job's page shows; `cursor` is the counter, read before. Raises NotFound."""
        found = self.job(job, who, known)
        told = outbox.of_job(self.conn, job)
        groups = self.error_groups(job)
        swept = sweeps.how_far(self.conn, job) if found.swept else None
        then = followers_of(self.conn, job)
        return JobNow(found, groups, cursor, deliveries=told, followers=then, swept=swept)

    def look(
        self, job: int, who: Who, view: View, now: JobNow | None = None, items: list[Item] | None = None
    ) -> JobView:
        """A job as its page shows it in a view, one page of items. Raises NotFound.

        A frame gives what it has read: the head that all views share, and the items where it sends only some.
        """
        whole = now is None
        now = now or self.now(job, who, self.seq())
        group = view.fingerprint or None
        if items is None and view.find:
            items = self.find_items(job, view.find, PAGE)
        elif items is None and view.name == "moving":
            items = self.moving(job, PAGE)
        elif items is None:
            items = self.items(job, view.status, view.after, PAGE, group)
        back = None if view.after < 0 else self.items_back(job, view.status, view.after + 1, PAGE, group)
        pictures = self.pictures(now.job) if whole else None
        shown = (now.job, now.groups, now.cursor)
        look = JobView(*shown, view, items, back, deliveries=now.deliveries, pictures=pictures)
        look.followers = now.followers
        look.swept = now.swept
        return look

    def pictures(self, job: Job) -> Pictures | None:
        """What the pictures on a job's page are drawn from; None before it has begun."""
        return measures.pictures_of(self.conn, job, clock.now())

    def hold(self, task: str) -> tuple[float, str]:
        """Until when the task is held back by a Retry-After, and why; (0, '') if it is not."""
        row = self.conn.execute("select hold_until, reason from paces where task = ?", (task,)).fetchone()
        return (row[0], row[1]) if row and row[0] > clock.now() else (0.0, "")
