"""Followers: what a job's end does to those that wait for it. Called inside the transactions that end jobs.

So nothing is lost between an end and a start: both are one write. One whose condition is not met is
cancelled, and so are those that wait for it; where the first is retried after its end, they wait again.
"""

from collections.abc import Sequence

from rowcast.tables.database import Connection, tick
from rowcast.tasks.followers import WAITING, is_met, not_so
from rowcast.tasks.records import NotAllowed, NotFound, Options, encode

OF_JOB = "from jobs indexed by jobs_by_first where after_job = ?"


def begins_at(conn: Connection, options: Options) -> float:
    """When a job that is written now may start. Raises NotFound, and NotAllowed where the one that it follows
    has ended otherwise."""
    if options.after_job is None:
        return options.run_at
    found = conn.execute(
        """select status, failed, unknown, finished_at is not null
                  and not exists (select 1 from sweeps where job = jobs.id)
           from jobs where id = ? and owner <> ''""",
        (options.after_job,),
    ).fetchone()
    if not found:
        raise NotFound(f"There is no job {options.after_job}.")
    *outcome, has_ended = found
    if not has_ended:
        return WAITING
    if not is_met(options.condition, *outcome):
        raise NotAllowed(not_so(options.after_job, options.condition))
    return 0.0


def waiting_for(conn: Connection, jobs: Sequence[int]) -> list[tuple[int, int, str]]:
    """Who waits for one of these jobs: (job, follower, condition) each."""
    return conn.execute(
        """select ended, jobs.id, condition from (select value as ended from json_each(?))
           cross join jobs indexed by jobs_by_first on after_job = ended
           where finished_at is null and run_at = ?""",
        (encode(list(jobs)).decode(), WAITING),
    ).fetchall()


def let_start(conn: Connection, follower: int) -> None:
    """It waits no longer."""
    conn.execute("update jobs set run_at = 0, seq = ? where id = ?", (tick(conn), follower))


def turned_away(conn: Connection, job: int) -> list[int]:
    """The followers of a job that were cancelled by its end; those that are being deleted stay so."""
    rows = conn.execute(
        f"select id {OF_JOB} and status = 'cancelled' and run_at = ? and reason <> '' and owner <> ''",
        (job, WAITING),
    )
    return [follower for (follower,) in rows]


def followers_of(conn: Connection, job: int) -> list[tuple[int, str]]:
    """The followers of a job that are its owner's, and their tasks: with whom it is shared may have others,
    which are not the owner's to see."""
    own = "owner <> '' and owner = (select first.owner from jobs as first where first.id = ?)"
    return conn.execute(f"select id, task {OF_JOB} and {own} order by id limit 20", (job, job)).fetchall()
