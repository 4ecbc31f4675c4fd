"""Bulk: one act on every job that a filter has and that who asks may change, chunk by chunk.

What is asked first (a dry run) and what is then done go by the same condition, so the number that is shown is
the number that is meant. A job that has changed in between is left as it is.
"""

from rowcast.tables.database import Connection, OnDatabase, transaction
from rowcast.tables.maintenance import give_up
from rowcast.tables.search import OWN, Found, found_by
from rowcast.tables.shares import Seen, seen_parts
from rowcast.tasks.accounts import Who
from rowcast.tasks.filters import LARGEST, Filter
from rowcast.tasks.records import ACTIONS

BULK_CHUNK = 50  # jobs that are read at once
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


def is_movable(seen: Seen) -> bool:
    """Whether who sees these may change them: what is shared is for looking at."""
    return seen[0] == OWN or not seen[1]


def _chunk(conn: Connection, found: Found, action: str, before: int) -> list[int]:
    more = f" and {changed_by(action)} and {found.ident} < ? order by {found.ident} desc limit ?"
    rows = conn.execute(found.select("jobs.id", more), (*found.values, before, BULK_CHUNK))
    return [job for (job,) in rows]
