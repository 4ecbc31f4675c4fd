"""Bulk: one act on every job that a filter has and that who asks may change, chunk by chunk.

What is asked first (a dry run) and what is then done go by the same condition, so the number that is shown is
the number that is meant. A job that has changed in between is left as it is. An act on many jobs is a row:
the engine goes on with it, a little at a time, so that nobody's jobs wait for it, and after a crash too.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from rowcast.tables.database import Connection, OnDatabase, tick, together, transaction
from rowcast.tables.maintenance import give_up
from rowcast.tables.search import OWN, Found, found_by, matching
from rowcast.tables.shares import Seen, seen_parts
from rowcast.tasks import clock
from rowcast.tasks.accounts import Account, Refused, Who, account
from rowcast.tasks.filters import LARGEST, BulkRow, Filter, as_of_now
from rowcast.tasks.records import ACTIONS, BadArguments, NotAllowed, NotFound, encode

SOON = 500  # jobs: more of them are left to the engine
TURN = 0.1  # seconds of work, of each second, that an engine spends on acts on many jobs
BULK_COLUMNS = ", ".join(BulkRow.__struct_fields__)
BULK_FOUND = 2_000  # jobs that are found at once,
BULK_CHUNK = 50  # and of them those that are changed in one transaction
DELETE = "delete"  # of what has ended
BULK = ("pause", "resume", "cancel", "retry", DELETE)
REST = "jobs.failed + jobs.unknown > 0 or jobs.status in ('cancelled', 'failed')"
# Which jobs an act changes, besides its status: see sweeps.retry, maintenance.give_up.
ALSO = {
    "retry": f"(jobs.shape = 'items' or jobs.finished_at is not null) and ({REST})",
    DELETE: "jobs.finished_at is not null and not exists (select 1 from sweeps where job = jobs.id)",
}


def changed_by(action: str) -> str:
    """SQL of the jobs that an act changes."""
    terms = []
    if action in ACTIONS:
        leaves = ", ".join(f"'{status}'" for status in ACTIONS[action].leaves)
        terms.append(f"+jobs.status in ({leaves})")
    return " and ".join([*terms, *filter(None, [ALSO.get(action)])])


class Bulk(OnDatabase):
    """Acts on many jobs of one database file."""

    def __init__(self, path: str):
        super().__init__(path)
        # an act that goes on here, whose it is, and its next jobs
        self.ahead: tuple[int, Account | None, list[int]] = (0, None, [])

    def count(self, who: Who, wanted: Filter, action: str) -> tuple[int, int]:
        """How many jobs a filter has, and how many of them the act would change."""
        conn = self.conn
        matched = changed = 0
        for seen in seen_parts(conn, who):
            found = found_by(conn, wanted, seen)
            (number,) = conn.execute(found.select("count(*)"), found.values).fetchone()
            matched += number
            if is_movable(seen):
                sql = found.select("count(*)", f" and {changed_by(action)}")
                changed += conn.execute(sql, found.values).fetchone()[0]
        return matched, changed

    def chunk(self, who: Who, wanted: Filter, action: str, before: int = LARGEST) -> list[int]:
        """The next jobs that the act would change, the newest first, with a smaller id than `before`."""
        for seen in seen_parts(self.conn, who):
            if is_movable(seen):
                return _chunk(self.conn, found_by(self.conn, wanted, seen), action, before)
        return []

    def delete(self, jobs: list[int]) -> int:
        """Take jobs that have ended from their owners, which a prune then deletes; returns how many."""
        with transaction(self.conn) as conn:
            return give_up(conn, jobs)

    # ---- of many jobs, a row ---------------------------------------------------------------------------

    def begin(self, who: Who, wanted: Filter, action: str, found: int, total: int) -> int:
        """Write down an act on those of the `found` jobs that it changes, `total`; returns its number."""
        asks = account(who)
        values = as_of_now(wanted).values
        now = clock.now()
        with transaction(self.conn) as conn:
            (newest,) = conn.execute("select coalesce(max(id), 0) from jobs").fetchone()
            conn.execute(
                """insert into bulks (account, role, action, filter, found, total, done, last, created_at)
                   values (?, ?, ?, ?, ?, ?, 0, ?, ?)""",
                (asks.name, asks.role, action, encode(values).decode(), found, total, newest + 1, now),
            )
            tick(conn)
            return int(conn.last_insert_rowid())

    def bulk(self, number: int, who: Who) -> BulkRow:
        """An act of one's own, or of all for who sees all. Raises NotFound."""
        asks = account(who)
        row = self.conn.execute(f"select {BULK_COLUMNS} from bulks where id = ?", (number,)).fetchone()
        if not row or not (asks.sees_all or row[1] == asks.name):
            raise NotFound(f"There is no act {number}.")
        return BulkRow(*row)

    def go_on(self, act: Callable[[int, Who, str], Any], seconds: float = TURN) -> bool:
        """Go on for so long (of this thread's own time) with the acts that are not over, the oldest first.

        `act` is that of Jobs for one of many. It does not count how long it takes to find the jobs: what is
        hard to find is not done more slowly for that. An act ends where its account may act no more.

        Returns whether one has deleted jobs, which a prune then takes away. An act whose filter cannot be
        read holds up no other; then raises BadArguments.
        """
        deleted = False
        unread: BadArguments | None = None
        passed = 0
        while seconds > 0:
            sql = f"select {BULK_COLUMNS} from bulks where finished_at is null and id > ? order by id limit 1"
            row = self.conn.execute(sql, (passed,)).fetchone()
            if not row:
                break
            bulk = BulkRow(*row)
            who = asker_of(self.conn, bulk)
            try:
                jobs = self._next_jobs(bulk, who) if who.may("act", "POST") else []
            except BadArguments as error:
                unread = unread or error
                passed = bulk.id
                continue
            began = time.thread_time()
            self._turn(bulk, who, jobs, act, began + seconds)
            seconds -= time.thread_time() - began
            deleted = deleted or (not jobs and bulk.action == DELETE)
        if unread and not deleted:
            raise unread
        return deleted

    def _next_jobs(self, bulk: BulkRow, who: Account) -> list[int]:
        """The next jobs of an act, a chunk of those that were found at once."""
        is_same = self.ahead[:2] == (bulk.id, who)
        ahead = [job for job in self.ahead[2] if job < bulk.last] if is_same else []
        if not ahead:
            ahead = self.chunk(who, meant_by(bulk), bulk.action, bulk.last)
        self.ahead = (bulk.id, who, ahead)
        return ahead[:BULK_CHUNK]

    def _turn(
        self, bulk: BulkRow, who: Account, jobs: list[int], act: Callable[[int, Who, str], Any], end: float
    ) -> None:
        """Act on these jobs, the next few, in one transaction with the act's row; without any it is over.

        What has changed since they were found is left alone. Their words have not, and are not asked for
        again.
        """
        with together(self.conn):
            still = matching(self.conn, who, meant_by(bulk).but(q=""), jobs) if jobs else set()
            done = 0
            last = bulk.last
            if bulk.action == DELETE and jobs:
                done = self.delete([job for job in jobs if job in still])
                last = jobs[-1]
            elif jobs:
                for last in jobs:
                    if last in still:
                        with contextlib.suppress(NotAllowed, NotFound, Refused):
                            act(last, who, bulk.action)
                            done += 1
                    if time.thread_time() > end:
                        break
            with transaction(self.conn) as conn:
                conn.execute(
                    "update bulks set done = done + ?, last = ?, finished_at = ? where id = ?",
                    (done, last, None if jobs else clock.now(), bulk.id),
                )
                tick(conn)


def asker_of(conn: Connection, bulk: BulkRow) -> Account:
    """Whose act it is, with the role that the account has now: none where it is disabled. Who has no account,
    as the app around us or this machine says who asks, has the role of then."""
    found = conn.execute(
        """select iif(disabled, '', role) from accounts
           where name = ?1 and (disabled or name = ?1 collate binary)""",
        (bulk.account,),
    ).fetchone()
    (role,) = found or (bulk.role,)
    return Account(bulk.account, role)


def meant_by(bulk: BulkRow) -> Filter:
    """Which jobs it is on."""
    return Filter(**msgspec.json.decode(bulk.filter))


def is_movable(seen: Seen) -> bool:
    """Whether who sees these may change them: what is shared is for looking at."""
    return seen[0] == OWN or not seen[1]


def _chunk(conn: Connection, found: Found, action: str, before: int) -> list[int]:
    more = f" and {changed_by(action)} and {found.ident} < ? order by {found.ident} desc limit ?"
    rows = conn.execute(found.select("jobs.id", more), (*found.values, before, BULK_FOUND))
    return [job for (job,) in rows]
