"""Search: which jobs a filter has, and how many, answered by indexes alone.

The words of a job are in the FTS5 table `words` under its id, and how many jobs have ended how in `totals`.
Triggers keep both in the transaction that writes the job's row, whoever writes it; nothing is ever rebuilt,
and nobody counts the jobs that have ended. What is asked costs the same at a thousand jobs and at a million.
"""

import re
from collections.abc import Sequence
from heapq import merge
from itertools import islice
from math import ceil
from typing import Any, NamedTuple

from rowcast.tables.counts import CLOSED
from rowcast.tables.database import Connection
from rowcast.tables.shares import Seen, seen_parts
from rowcast.tasks.accounts import Who
from rowcast.tasks.filters import (
    ACTIVE_JOBS,
    FEW,
    LARGEST,
    MOVES,
    Counted,
    Filter,
    failures_between,
    moment_before,
)
from rowcast.tasks.records import ACTIVE, JOB_STATUSES, RETRYING, WITH_FAILURES, encode

MOST_WORDS = 20  # of a search
SLACK = 60.0  # seconds by which the times of jobs may differ from the order of their ids, if no clock was set
MOST_COUNTED = 1000  # jobs that are counted one by one, beside the filters; as many are few
KEPT_BEGINNINGS = 3  # letters: the longest of the beginnings that `words` keeps
LAST_LETTER = chr(0x10FFFF)
LETTER = re.compile(r"[^\W_]")  # or a digit: what has none, as "_", is no word of the index
LEAST = 10  # jobs that are looked at at once for those that have the words


def text_of(row: str) -> str:
    """SQL of the arguments of a row as text: of what JSON escapes, what parts words parts them still. A
    backslash comes first: what stands behind it is a letter of the next word."""
    text = f"substr({row}.args, 1, 4000)"
    for escaped in ("\\\\", "\\n", "\\r", "\\t"):
        text = f"replace({text}, '{escaped}', ' ')"
    return text


SEARCH = f"""-- a row is the words of a job, under its id; the words alone are kept, to find a job by
create virtual table words using fts5(task, args, tags, reason, owner, content = '', columnsize = 0,
    prefix = '2 3', tokenize = "unicode61 remove_diacritics 2");
create virtual table terms using fts5vocab(words, instance); -- a row is where one of these words stands
create trigger words_are_added after insert on jobs when new.owner <> '' begin
    insert into words (rowid, task, args, tags, reason, owner) values (new.id, new.task,
        {text_of("new")}, new.tags, new.reason, new.owner);
end;
create trigger words_are_changed after update of task, args, tags, reason, owner on jobs
    when old.owner <> '' and (new.tags <> old.tags or new.reason <> old.reason or new.owner <> old.owner
        or new.args <> old.args or new.task <> old.task)
begin
    insert into words (words, rowid, task, args, tags, reason, owner) values ('delete', old.id, old.task,
        {text_of("old")}, old.tags, old.reason, old.owner);
    insert into words (rowid, task, args, tags, reason, owner) select new.id, new.task,
        {text_of("new")}, new.tags, new.reason, new.owner where new.owner <> '';
end;
create trigger words_are_removed after delete on jobs when old.owner <> '' begin
    insert into words (words, rowid, task, args, tags, reason, owner) values ('delete', old.id, old.task,
        {text_of("old")}, old.tags, old.reason, old.owner);
end;

create table totals (                       -- a row is how many jobs of a task's have ended in a status
    owner text not null,                    -- whose they are
    task text not null,                     -- the task's name
    status text not null,                   -- completed failed cancelled
    jobs integer not null,                  -- how many
    failing integer not null,               -- of them, those with failed items
    completed integer not null,             -- of their items, those that are done
    failed integer not null,                -- of their items, those that have failed
    cancelled integer not null,             -- of their items, those that were not to be done
    unknown integer not null,               -- of their items, those that may or may not have arrived
    primary key (owner, task, status)
) without rowid;
create trigger totals_are_changed
    after update of finished_at, status, owner, completed, failed, cancelled, unknown on jobs
    when new.finished_at is not null or old.finished_at is not null begin
    insert into totals select old.owner, old.task, old.status, -1, -(old.failed > 0),
        -old.completed, -old.failed, -old.cancelled, -old.unknown
        where old.finished_at is not null and old.owner <> ''
        on conflict do update set jobs = jobs + excluded.jobs, failing = failing + excluded.failing,
            completed = completed + excluded.completed, failed = failed + excluded.failed,
            cancelled = cancelled + excluded.cancelled, unknown = unknown + excluded.unknown;
    insert into totals select new.owner, new.task, new.status, 1, (new.failed > 0),
        new.completed, new.failed, new.cancelled, new.unknown
        where new.finished_at is not null and new.owner <> ''
        on conflict do update set jobs = jobs + excluded.jobs, failing = failing + excluded.failing,
            completed = completed + excluded.completed, failed = failed + excluded.failed,
            cancelled = cancelled + excluded.cancelled, unknown = unknown + excluded.unknown;
end;
create trigger totals_are_added after insert on jobs when new.finished_at is not null begin
    insert into totals select new.owner, new.task, new.status, 1, (new.failed > 0),
        new.completed, new.failed, new.cancelled, new.unknown
        where new.owner <> ''
        on conflict do update set jobs = jobs + excluded.jobs, failing = failing + excluded.failing,
            completed = completed + excluded.completed, failed = failed + excluded.failed,
            cancelled = cancelled + excluded.cancelled, unknown = unknown + excluded.unknown;
end;
create trigger totals_are_removed after delete on jobs when old.finished_at is not null begin
    insert into totals select old.owner, old.task, old.status, -1, -(old.failed > 0),
        -old.completed, -old.failed, -old.cancelled, -old.unknown
        where old.owner <> ''
        on conflict do update set jobs = jobs + excluded.jobs, failing = failing + excluded.failing,
            completed = completed + excluded.completed, failed = failed + excluded.failed,
            cancelled = cancelled + excluded.cancelled, unknown = unknown + excluded.unknown;
end;
"""
OWN = "jobs.owner = ?"  # the term for one owner's jobs
NOW = "jobs.finished_at is null"
OVER = "jobs.finished_at is not null"
IS_RETRYING = f"""{NOW} and exists (select 1 from items
    where job = jobs.id and status = 'queued' and run_at > 0 and attempt > 0)"""
OF_STATUS = {
    ACTIVE_JOBS: NOW,
    RETRYING: IS_RETRYING,
    WITH_FAILURES: "jobs.failed > 0",
    **{status: f"jobs.status = '{status}' and {CLOSED}" for status in JOB_STATUSES},
    **{status: f"{NOW} and jobs.status = '{status}'" for status in ACTIVE},
}


class Found(NamedTuple):
    """What a filter has as SQL: what comes behind `from`, its condition and values, and what has its ids.

    `match`: what its words must match besides, where it is looked for by something else first; it is the last
    of the values.
    """

    source: str
    where: str
    values: list[Any]
    ident: str
    match: str = ""

    def select(self, columns: str, more: str = "", whole: bool = True) -> str:
        """Not `whole`: without the match, and its value."""
        matches = " and +jobs.id in (select rowid from words where words match ?)"
        words = matches if self.match and whole else ""
        return f"select {columns} from {self.source} where {self.where}{words}{more}"


def phrase(text: str) -> str:
    """A text as FTS5 takes it for what stands there as it is."""
    return '"' + text.replace('"', '""').replace("\0", " ") + '"'


def match_of(conn: Connection, wanted: Filter, owner: str) -> str:
    """What FTS5 is asked: each word as the beginning of one, and what narrows it: tag, task and owner."""
    words = (word for word in wanted.q.split()[:MOST_WORDS] if LETTER.search(word))
    parts = [f"{phrase(word)}{' *' * _begins_others(conn, word)}" for word in words]
    if wanted.tag:
        parts.append(f"tags : {phrase(wanted.tag)}")
    if parts and LETTER.search(wanted.task):
        parts.append(f"task : {phrase(wanted.task)}")
    if parts and LETTER.search(owner):
        parts.append(f"owner : {phrase(owner)}")
    return " AND ".join(parts)


def _begins_others(conn: Connection, word: str) -> bool:
    """Whether a longer word may begin with this one. FTS5 makes a list of all that begin so before it gives
    the first, unless it keeps such beginnings; of a word alone it gives the first at once."""
    if not word.isascii() or not word.isalnum() or len(word) <= KEPT_BEGINNINGS:
        return True
    first = word.lower()
    sql = "select 1 from terms where term >= ? and term < ? limit 1"  # those of the word itself are many
    return conn.execute(sql, (first + "0", first + LAST_LETTER)).fetchone() is not None


def span_of(conn: Connection, wanted: Filter, ident: str) -> Seen:
    """The ids between which jobs of a time are: both rise together, but for the slack. Where a job is beyond
    the time by more than that, all that are beyond it by their ids are too."""
    terms = []
    values: list[Any] = []
    for name, sign, beyond, order, by in (("since", ">", "<", " desc", -1), ("until", "<", ">", "", 1)):
        bound = moment_before(name, getattr(wanted, name))
        if bound is None:
            continue
        (changed,) = conn.execute("select clock_changed from rowcast").fetchone()
        sql = f"select id from jobs where created_at {beyond} ? order by created_at{order} limit 1"
        last = conn.execute(sql, (bound + by * (SLACK + changed),)).fetchone()
        terms.append(f"{ident} {sign} ? and +jobs.created_at {sign}= ?")
        values += [last[0] if last else by * LARGEST, bound]
    return " and ".join(terms), values


def index_for(wanted: Filter, is_own: bool) -> str:
    """The index that has what a filter asks for with the ids in order: SQLite, which knows nothing of how
    many there are of each, is told."""
    if wanted.status in (ACTIVE_JOBS, RETRYING, *ACTIVE):
        return "jobs_active"
    if wanted.status == WITH_FAILURES or wanted.failures:
        if wanted.task:
            return "jobs_by_owner_and_task_failing" if is_own else "jobs_by_task_failing"
        return "jobs_by_owner_failing" if is_own else "jobs_failing"
    if wanted.status and wanted.task:
        return "jobs_by_owner_task_and_status" if is_own else "jobs_by_task_and_status"
    if wanted.status:
        return "jobs_by_owner_and_status" if is_own else "jobs_by_status"
    if wanted.task:
        return "jobs_by_owner_and_task" if is_own else "jobs_by_task"
    return "jobs_by_owner" if is_own else ""


def found_by(
    conn: Connection, wanted: Filter, seen: Seen, half: str = "", by_words: bool | None = None
) -> Found:
    """The jobs that a filter has, of a part of those that one sees; of a `half` those that have not ended
    (NOW), or that have (OVER). `by_words`: whether they are looked for by their words first; None for what is
    less to look through."""
    part = seen[0]
    values = [*seen[1]]
    is_own = part == OWN
    owner = str(values[0]) if is_own else ""
    match = match_of(conn, wanted, owner)
    if match and by_words is None:
        by_words = _is_by_words(conn, wanted, part, owner, match, half)
    ident = "words.rowid" if match and by_words else "jobs.id"
    terms = [part, half]
    if wanted.task:
        terms.append("jobs.task = ?")
        values.append(wanted.task)
    if wanted.status:
        terms.append(OF_STATUS[wanted.status])
    if wanted.tag:
        terms.append("exists (select 1 from json_each(jobs.tags) where value = ?)")
        values.append(wanted.tag)
    between = failures_between(wanted.failures)
    if between:
        terms.append(f"{BETWEEN} and jobs.failed > 0")
        values += between
    span, bounds = span_of(conn, wanted, ident)
    terms.append(span)
    values += bounds
    if match:
        values.append(match)
    elif wanted.q.strip():  # without a letter
        terms.append("false")
    if match and by_words:
        terms.append("words match ?")
        source = "words cross join jobs not indexed on jobs.id = words.rowid"
        return Found(source, " and ".join(filter(None, terms)), values, ident)
    index = "jobs_active" if half == NOW else index_for(wanted, is_own)
    if (
        between
        and half != NOW
        and _are_few(conn, "jobs indexed by jobs_by_failures", f"{BETWEEN} and jobs.failed > 0", between)
    ):
        index = "jobs_by_failures"
    source = f"jobs indexed by {index}" if index and "json_each" not in part else "jobs not indexed"
    return Found(source, " and ".join(filter(None, terms)), values, ident, match)


BETWEEN = (
    "jobs.failed >= ? and jobs.failed <= ?"  # before what the index demands, which is no bound of its own
)


def _are_few(conn: Connection, source: str, where: str, values: Sequence[Any]) -> bool:
    """Whether so few are there that all of them may be looked at."""
    sql = f"select count(*) from (select 1 from {source} where {where} limit {MOST_COUNTED + 1})"
    return bool(conn.execute(sql, values).fetchone()[0] <= MOST_COUNTED)


def _is_by_words(conn: Connection, wanted: Filter, part: str, owner: str, match: str, half: str) -> bool:
    """Whether words are what a filter is looked for by first: where few jobs have them, or nothing else of it
    is rare."""
    if owner and _are_few(conn, "jobs indexed by jobs_by_owner", "owner = ?", [owner]):
        return False
    moves = half == NOW or wanted.status in (ACTIVE_JOBS, RETRYING, *ACTIVE)
    if moves and _are_few(conn, "jobs indexed by jobs_active", NOW, []):
        return False
    if _are_few(conn, "words", "words match ?", [match]):
        return True
    is_rare = moves or wanted.failures or wanted.status not in ("", "completed")
    return not (is_rare or "json_each" in part)


def each_found(conn: Connection, who: Who, wanted: Filter, half: str = "") -> list[Found]:
    return [found_by(conn, wanted, seen, half) for seen in seen_parts(conn, who)]


def matching(conn: Connection, who: Who, wanted: Filter, ids: list[int]) -> set[int]:
    """Which of these jobs a filter has."""
    these = f" and jobs.id in ({', '.join('?' * len(ids))})"
    has_words = " and exists (select 1 from words where words match ? and words.rowid = jobs.id)"
    found: set[int] = set()
    for seen in seen_parts(conn, who):
        asked = found_by(conn, wanted, seen, by_words=False)._replace(source="jobs not indexed")
        values = asked.values
        match = [values.pop()] if asked.match else []
        sql = asked.select("jobs.id", these + has_words * len(match), whole=False)
        found.update(job for (job,) in conn.execute(sql, (*values, *ids, *match)))
    return found


def newest_of(conn: Connection, found: Found, before: int, limit: int) -> list[int]:
    """The newest jobs that are found, of those with a smaller id than `before`. Words are asked for those
    between the ids that are looked at, as many as are likely to do, until there are enough."""
    newest = f" and {found.ident} < ? order by {found.ident} desc limit ?"
    if not found.match:
        rows = conn.execute(found.select("jobs.id", newest), (*found.values, before, limit))
        return [job for (job,) in rows]
    *values, match = found.values
    ids: list[int] = []
    looked = 0
    window = limit
    while len(ids) < limit:
        sql = found.select("jobs.id", newest, whole=False)
        there = [job for (job,) in conn.execute(sql, (*values, before, window))]
        if there:
            rows = conn.execute(
                "select rowid from words where words match ? and rowid between ? and ?",
                (match, there[-1], there[0]),
            )
            ids += sorted({job for (job,) in rows}.intersection(there), reverse=True)
        if len(there) < window:
            break
        before = there[-1]
        looked += window
        window = ceil((limit - len(ids)) * looked / len(ids)) + LEAST if ids else 4 * window
    return ids[:limit]


def page_of(conn: Connection, who: Who, wanted: Filter, before: int, limit: int, half: str = "") -> list[int]:
    """The newest jobs that a filter has, of those with a smaller id than `before`."""
    pages = [newest_of(conn, found, before, limit) for found in each_found(conn, who, wanted, half)]
    return list(islice(merge(*pages, reverse=True), limit))


def ended_of(conn: Connection, who: Who, wanted: Filter, before: int, limit: int, half: str) -> list[int]:
    """The last to end of all jobs that one sees, or of a task's, as the counter at their ends."""
    pages = []
    for part, values in seen_parts(conn, who):
        index = f"jobs_by_{'owner_and_' * (part == OWN)}task_over" if wanted.task else "jobs_over"
        if part == OWN and not wanted.task:
            index = "jobs_by_owner_over"
        source = "jobs not indexed" if "json_each" in part else f"jobs indexed by {index}"
        of_task = " and jobs.task = ?" if wanted.task else ""
        sql = f"""select jobs.news from {source} where {part} and {half} and jobs.news < ?{of_task}
            order by jobs.news desc limit ?"""
        given = (*values, before, *[wanted.task][: bool(wanted.task)], limit)
        pages.append([news for (news,) in conn.execute(sql, given)])
    return list(islice(merge(*pages, reverse=True), limit))


def listed(conn: Connection, who: Who, wanted: Filter, before: int, limit: int) -> list[int]:
    """A page of the list, as the jobs' orders in it: what has not ended comes before what has, the newest
    first, behind the order `before`."""
    page: list[int] = []
    if before > MOVES:
        page = [MOVES + job for job in page_of(conn, who, wanted, before - MOVES, limit, NOW)]
        before = LARGEST
    if len(page) < limit and wanted.status not in (ACTIVE_JOBS, RETRYING, *ACTIVE):
        ended = ended_of if wanted.by_end else page_of
        page += ended(conn, who, wanted, before, limit - len(page), OVER)
    return page


def counted(conn: Connection, who: Who, wanted: Filter) -> Counted:
    """How many jobs each status has, of those that the rest of the filter has.

    Of all, or of a task, from the totals; of what words, tags, times and shares find, up to MOST_COUNTED one
    by one, beyond which only that there are more.
    """
    rest = wanted.but(status="")
    parts = seen_parts(conn, who)
    if rest != Filter(task=rest.task) or len(parts) > 1:
        return _counted_here(conn, who, rest)
    term, values = parts[0]
    which = term.replace("jobs.", "")
    if rest.task:
        which += " and task = ?"
        values = [*values, rest.task]
    rows = conn.execute(
        f"""select status, sum(jobs), sum(failing), 0 from totals where {which} group by status
            union all select status, count(*), sum(failed > 0), count(*) from jobs indexed by jobs_now
            where finished_at is null and {which} group by status""",
        (*values, *values),
    ).fetchall()
    return _told(rows, _retrying(conn, who, rest))


def _counted_here(conn: Connection, who: Who, wanted: Filter) -> Counted:
    rows: list[tuple[str, int, int, int]] = []
    for found in each_found(conn, who, wanted):
        values = found.values
        columns = f"jobs.status, jobs.failed > 0 as failing, {NOW} as active"
        inner = found.select(columns, f" limit {MOST_COUNTED + 1}")
        if found.match:
            values = [encode(newest_of(conn, found, LARGEST, MOST_COUNTED + 1)).decode()]
            inner = f"select {columns} from json_each(?) cross join jobs on jobs.id = value"
        sql = f"select status, count(*), sum(failing), sum(active) from ({inner}) group by status"
        rows += conn.execute(sql, values).fetchall()
    if sum(jobs for _, jobs, *_ in rows) > MOST_COUNTED:
        return Counted({}, MOST_COUNTED)
    return _told(rows, _retrying(conn, who, wanted))


def _told(rows: list[tuple[str, int, int, int]], retrying: int) -> Counted:
    jobs = dict.fromkeys(("", ACTIVE_JOBS, *JOB_STATUSES, WITH_FAILURES), 0)
    for status, number, failing, active in rows:
        jobs[status] += number
        jobs[""] += number
        jobs[WITH_FAILURES] += failing
        jobs[ACTIVE_JOBS] += active  # also one that is cancelled, and has items left that are not yet
    jobs[RETRYING] = retrying
    return Counted(jobs)


def _retrying(conn: Connection, who: Who, wanted: Filter) -> int:
    """Among the active jobs, of which there are few; of very many the first are looked at."""
    return len(page_of(conn, who, wanted.but(status=RETRYING), LARGEST, FEW))
