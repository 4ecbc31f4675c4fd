"""Metrics: what operators follow over time, read from counters and from what has not ended; no table
is scanned for it. It is the same whichever process is asked.
"""

from typing import Any

import msgspec

from rowcast.tables.database import OnDatabase, current_seq
from rowcast.tasks import clock
from rowcast.tasks.records import ITEM_STATUSES, JOB_STATUSES

MOST_TASKS = 100  # that have a label of their own: a time series each is kept for
OTHER = "other"  # the label of all beyond them


class TaskMetrics(msgspec.Struct):
    """What there is of one task's jobs and items, by status."""

    jobs: dict[str, int]
    items: dict[str, int]
    failing: int = 0  # jobs that have failed items
    waits: float = 0.0  # seconds that the oldest job that is due has waited to begin
    hold: float = 0.0  # seconds that an API has asked for and that are left
    latency: dict[int, int] = {}  # tries by bucket, since the database was made
    ms: float = 0.0  # that these took together


class Metered(msgspec.Struct):
    """All of them, by task, and what belongs to none."""

    tasks: dict[str, TaskMetrics]
    workers: dict[str, int]  # those that live, by engine
    deliveries: dict[str, int]  # those that have not arrived, by status
    late: float  # seconds since the oldest delivery was due
    seq: int


class Metrics(OnDatabase):
    """The metrics of one database file."""

    def read(self) -> Metered:
        conn = self.conn
        now = clock.now()
        tasks: dict[str, TaskMetrics] = {}

        def of(task: str) -> TaskMetrics:
            name = task if task in tasks or len(tasks) < MOST_TASKS else OTHER
            if name not in tasks:
                tasks[name] = TaskMetrics(dict.fromkeys(JOB_STATUSES, 0), dict.fromkeys(ITEM_STATUSES, 0))
            return tasks[name]

        ended = ("completed", "failed", "cancelled", "unknown")
        sums = ", ".join(f"sum({status})" for status in ended)
        for task, status, jobs, failing, *items in conn.execute(
            f"select task, status, sum(jobs), sum(failing), {sums} from totals group by task, status"
        ).fetchall():
            add(of(task), status, jobs, failing, dict(zip(ended, items, strict=True)))
        sums = ", ".join(f"sum({status})" for status in ITEM_STATUSES)
        for task, status, jobs, failing, due, *items in conn.execute(
            f"""select task, status, count(*), sum(failed > 0),
                    min(iif(status = 'queued' and run_at <= ?, max(created_at, run_at), null)), {sums}
                from jobs indexed by jobs_active where finished_at is null and owner <> ''
                group by task, status""",
            (now,),
        ).fetchall():
            found = of(task)
            add(found, status, jobs, failing, dict(zip(ITEM_STATUSES, items, strict=True)))
            found.waits = max(found.waits, now - due) if due else found.waits
        for task, bucket, tries, ms in conn.execute(
            "select task, bucket, tries, ms from latencies"
        ).fetchall():
            found = of(task)
            found.latency = found.latency | {bucket: found.latency.get(bucket, 0) + tries}
            found.ms += ms
        for task, until in conn.execute("select task, hold_until from paces where hold_until > ?", (now,)):
            of(task).hold = until - now
        late, queued = conn.execute(
            "select coalesce(min(due_at), ?1), count(*) from deliveries where status = 'queued'", (now,)
        ).fetchone()
        (sending,) = conn.execute("select count(*) from deliveries where status = 'sending'").fetchone()
        (failed,) = conn.execute("select count(*) from deliveries where status = 'failed'").fetchone()
        workers: list[Any] = conn.execute(
            "select engine, count(*) from workers where lease > ? group by engine", (now,)
        ).fetchall()
        return Metered(
            tasks,
            dict(workers),
            {"queued": queued, "sending": sending, "failed": failed},
            max(0.0, now - late),
            current_seq(conn),
        )


def add(found: TaskMetrics, status: str, jobs: int, failing: int, items: dict[str, int]) -> None:
    found.jobs[status] += jobs
    found.failing += failing
    for name, number in items.items():
        found.items[name] += number
