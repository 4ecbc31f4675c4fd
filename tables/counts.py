"""Counts: what keeps a job's row true to its items. Called inside the transactions of Jobs and Ledger.

Whoever changes the status of items moves the counts by as many, files failures in their group and takes them
out again, and asks at the end whether the job is done. `move_items` does all of that; a claim, results and
steps, which say of each item by itself what becomes of it, have statements of their own (claims.py,
results.py, bodies.py). Nobody counts a large table.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rowcast.tables import tries
from rowcast.tables.database import Connection, current_seq, tick
from rowcast.tables.followers import let_start, waiting_for
from rowcast.tables.measures import filed, grow_all
from rowcast.tables.outbox import LEAST_PAUSE, note_all
from rowcast.tasks import clock
from rowcast.tasks.followers import is_met, not_so
from rowcast.tasks.groups import MOST_GROUPS, OTHERS, fingerprint, message_of
from rowcast.tasks.held import PAUSED_BY
from rowcast.tasks.records import ITEM_STATUSES, TRANSITIONS, encode
from rowcast.tasks.sentences import worded

CLOSED = "status in ('completed', 'failed', 'cancelled')"  # SQL: a job is not to go on,
# and here something of it is left to be put away
ENDING = f"({CLOSED} and finished_at is null)"
# What is written on items that are moved, besides their status.
STOPPED = "error = coalesce(:error, error)"
TAKEN_BACK = "error = :error, crashes = crashes + :crash"
RETRIED = "error = null, spent = attempt, code = null, ms = null, crashes = 0"
NOTHING_DONE = worded("None of its items completed.")
SETTLED = "error = 'settled by hand'"
WAITS = ("stop", "canary", "block")  # what pauses a job that a person has not paused: that is told


def count(conn: Connection, job: int, seq: int, changes: Mapping[str, int], added: int = 0) -> None:
    """Move the counts on the job's row by `changes`, and stamp it."""
    moved = {status: n for status, n in changes.items() if n}
    sets = "".join(f", {status} = {status} + {n}" for status, n in moved.items())
    conn.execute(f"update jobs set total = total + ?, seq = ?{sets} where id = ?", (added, seq, job))


def count_all(conn: Connection, changed: Sequence[tuple[int, int, Mapping[str, int]]]) -> None:
    """The same for many jobs, (job, seq, changes) each, in one statement; `total` is a count as well."""
    sums: dict[int, Counter[str]] = {}
    for job, _, changes in changed:  # a job may be there twice, and is updated once
        sums.setdefault(job, Counter()).update(changes)
    seqs = {job: seq for job, seq, _ in changed}
    moved = [one for one in ("total", *ITEM_STATUSES) if any(changes[one] for changes in sums.values())]
    sets = "".join(f", {one} = {one} + (value ->> {n})" for n, one in enumerate(moved, 2))
    conn.execute(
        f"update jobs set seq = value ->> 1{sets} from json_each(?) where jobs.id = value ->> 0",
        (
            encode(
                [(job, seqs[job], *(changes[one] for one in moved)) for job, changes in sums.items()]
            ).decode(),
        ),
    )


def items_in(status: str, of_group: bool = False) -> str:
    """SQL of the items of :job that have a status, or of those in the error group :group."""
    if of_group:  # its own index is the better one
        return f"job = :job and fingerprint = :group and +status = '{status}'"
    return f"job = :job and status = '{status}'"


def move_items(
    conn: Connection, job: int, leaves: str, enters: str, which: str, sets: str, **values: Any
) -> int:
    """Move the job's items for which the SQL `which` holds from the status `leaves` to `enters`.

    Returns how many. One statement moves them, each with a seq of its own, and with it go the counts, the
    error groups, the tries that it breaks off, and the failures that a stop rule is not to count. `sets` is
    SQL of what else is written; `values` are what that and `which` name.
    """
    now = clock.now()
    error = values.setdefault("error", None)
    groups = "group" in values
    values |= {
        "job": job,
        "now": now,
        "seq": current_seq(conn) + 1,
        "fingerprint": file_under(conn, job, error) if enters == "failed" else None,
    }
    where = f"from items where {items_in(leaves, groups)} and {which}"
    if leaves == "failed":
        ungroup(conn, where, values)
    if leaves == "running" and enters != "completed":
        tries.leave(conn, where, enters, error or values.get("said"), values)
    conn.execute(
        f"""update items set status = '{enters}', worker = null, run_at = 0, fingerprint = :fingerprint,
                updated_at = :now, seq = :seq + pick.n, {sets}
            from (select id as picked, row_number() over (order by position) - 1 as n {where}) as pick
            where items.id = pick.picked""",
        values,
    )
    if moved := int(conn.changes()):
        seq = tick(conn, moved + 1)
        count(conn, job, seq + moved, {} if leaves == enters else {leaves: -moved, enters: moved})
        if leaves == "failed":
            conn.execute("update jobs set stop_base = stop_base - ? where id = ?", (moved, job))
        if enters == "failed":
            group(conn, job, values["fingerprint"], None, error, now, moved)
    return moved


def change_job(conn: Connection, job: int, action: str, reason: str = "", cause: str = "") -> bool:
    """Move a job from one status to another; False, writing nothing, where its status does not allow it."""
    return bool(change_jobs(conn, [job], action, reason, cause))


def change_jobs(
    conn: Connection, jobs: Collection[int], action: str, reason: str = "", cause: str = ""
) -> list[int]:
    """Move jobs from one status to another by the table TRANSITIONS: no other statement writes jobs.status.
    Returns those whose status allowed it.

    `cause`: by what they are paused, where the action alone does not say it (PAUSED_BY). What people let run
    before its time waits for it.
    """
    rule = TRANSITIONS[action]
    now = clock.now()
    found = conn.execute(
        """select jobs.id, status, reason, started_at, run_at
           from json_each(?) cross join jobs on jobs.id = value""",
        (listed(jobs),),
    ).fetchall()
    rows = []
    for job, status, before, started_at, run_at in found:
        if status in rule.leaves:
            enters = rule.enters or status
            if rule.past and enters == "running" and started_at is None and run_at > now:
                enters = "queued"
            waits = enters == "paused" and not rule.past  # for a person
            rows.append((job, enters, reason if rule.enters else before, waits))
    if not rows:
        return []
    conn.execute(
        """update jobs set status = value ->> 1, reason = value ->> 2, seq = ?1 + key,
               cause = iif(?2, ?3, cause), news = iif(value ->> 3, ?1 + key, news),
               paused_at = iif(value ->> 1 = 'paused', ?4, paused_at),
               resumed_at = iif(status = 'paused' and value ->> 1 <> 'paused', ?4, resumed_at),
               started_at = iif(value ->> 1 = 'running', coalesce(started_at, ?4), started_at),
               worker = iif(value ->> 1 in ('completed', 'cancelled', 'failed'), null, worker)
           from json_each(?5) where jobs.id = value ->> 0""",
        (
            tick(conn, len(rows)),
            bool(rule.enters),
            cause or PAUSED_BY.get(action, ""),
            now,
            encode(rows).decode(),
        ),
    )
    changed = [job for job, *_ in rows]
    if rule.enters in ("cancelled", "failed"):  # what is not queued again by now, is not; what is settled, is
        conn.execute(
            "delete from sweeps where enters = 'queued' and job in (select value from json_each(?))",
            (listed(changed),),
        )
    if action == "start":
        _share_anew(conn, changed)
    if action in WAITS:
        note_all(conn, changed, LEAST_PAUSE if action == "block" else 0)
    return changed


def listed(jobs: Iterable[int]) -> str:
    """Jobs as SQL takes them: json_each."""
    return encode(list(jobs)).decode()


SHARED_ANEW = 0.1  # seconds in which many jobs that begin or end are one change to those beside them


def _share_anew(conn: Connection, jobs: Sequence[int]) -> None:
    """These jobs have begun or ended: the others of their tasks get less or more of what they share, so how
    fast they were says little of how fast they will be (tasks/eta.py)."""
    conn.execute(
        """update jobs indexed by jobs_now_of_task set tuned_at = ?2
           where task in (select task from json_each(?1) cross join jobs on jobs.id = value
                          where shape = 'items')
               and jobs.id not in (select value from json_each(?1)) and finished_at is null
               and status = 'running' and shape = 'items' and coalesce(tuned_at, 0) < ?2 - ?3""",
        (encode(jobs).decode(), clock.now(), SHARED_ANEW),
    )


def close_if_done(conn: Connection, job: int) -> None:
    """A job whose items have all ended gets its finished_at: completed, or what it was ended as; it has
    failed where nothing completed and something failed.

    One that is swept has items that will be queued, or that are not what they will be.
    """
    close_all(conn, [job])


def close_all(conn: Connection, jobs: Iterable[int]) -> None:
    """Close those of the jobs that are done."""
    found = conn.execute(
        f"""select jobs.id, status, total, completed, failed
            from json_each(?) cross join jobs on jobs.id = value
            where finished_at is null and queued = 0 and running = 0
                and ({ENDING} or (status = 'running' and filled and shape = 'items'))
                and not exists (select 1 from sweeps where job = jobs.id)""",
        (encode(list(jobs)).decode(),),
    ).fetchall()
    running = [one for one in found if one[1] == "running"]
    in_vain = {job: total for job, _, total, completed, failed in running if failed and not completed}
    change_jobs(conn, [job for job, *_ in running if job not in in_vain], "complete")
    change_jobs(conn, [job for job, total in in_vain.items() if total > 1], "fail", NOTHING_DONE)
    change_jobs(conn, [job for job, total in in_vain.items() if total == 1], "fail")
    ended = [job for job, *_ in found]
    if ended:
        _end_all(conn, ended)
        _share_anew(conn, ended)
    _begin_all(conn, ended)


def begin_if_settled(conn: Connection, job: int) -> None:
    """What was to follow a job that had ended, and was settled then, waits for the end of that."""
    row = conn.execute(
        """select 1 from jobs where id = ? and finished_at is not null
               and not exists (select 1 from sweeps where job = jobs.id)""",
        (job,),
    ).fetchone()
    _begin_all(conn, [job] if row else [])


def _begin_all(conn: Connection, ended: Sequence[int]) -> None:
    """The followers of jobs that have ended, and theirs where they have ended by that."""
    while ended:
        ended = _begin_followers(conn, ended)


def _end_all(conn: Connection, jobs: Sequence[int]) -> None:
    conn.execute(
        """update jobs set finished_at = ?1, worker = null, seq = ?2 + key, news = ?2 + key
           from json_each(?3) where jobs.id = value""",
        (clock.now(), tick(conn, len(jobs)), listed(jobs)),
    )
    note_all(conn, jobs)


def _begin_followers(conn: Connection, jobs: Sequence[int]) -> list[int]:
    """These jobs have ended: those that wait for them may start, or are cancelled; returns which of them have
    ended so."""
    ended = []
    sql = "select status, failed, unknown from jobs where id = ?"
    for job, follower, condition in waiting_for(conn, jobs):
        outcome = conn.execute(sql, (job,)).fetchone()
        if is_met(condition, *outcome):
            let_start(conn, follower)
        elif change_job(conn, follower, "cancel", not_so(job, condition)):
            left = conn.execute("select queued from jobs where id = ?", (follower,)).fetchone()
            if not left[0]:  # else a sweep ends it
                ended.append(follower)
    if ended:
        _end_all(conn, ended)
    return ended


def group(
    conn: Connection,
    job: int,
    fingerprint: str,
    code: int | None,
    error: str | None,
    now: float,
    items: int = 1,
) -> None:
    """Add failures to their error group, as it was `filed`."""
    if fingerprint == OTHERS:
        code = None
        error = None
    conn.execute(
        """insert into error_groups (job, fingerprint, code, message, items, first_at, last_at, sample)
               values (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7)
           on conflict (job, fingerprint) do update set items = items + ?5, last_at = max(last_at, ?6)""",
        (job, fingerprint, code, said_of(fingerprint, error), items, now, error or ""),
    )
    grow_all(conn, now, [(job, items, fingerprint)])


def said_of(fingerprint: str, error: str | None) -> str:
    """The message of a group."""
    return f"Others, beyond the first {MOST_GROUPS} kinds" if fingerprint == OTHERS else message_of(error)


def file_under(conn: Connection, job: int, error: str | None) -> str:
    """The group of failures without a code that have this error."""
    own = fingerprint(None, error)
    return filed(conn, job, [own])[own]


def ungroup(conn: Connection, where: str, values: dict[str, Any]) -> None:
    """Take the failures among these items of :job out of their error groups; `where` is SQL from its from."""
    conn.execute(
        f"""update error_groups set items = items - gone.number
            from (select fingerprint as of, count(*) as number {where} and fingerprint is not null
                  group by fingerprint) as gone
            where job = :job and fingerprint = gone.of""",
        values,
    )
    conn.execute("delete from error_groups where job = :job and items <= 0", values)
