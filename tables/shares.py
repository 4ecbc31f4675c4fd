"""Whose jobs one sees: one's own, those that are shared with one, or all.

The term that every question of a list has is made here, and nowhere else.
"""

from typing import Any

from rowcast.tables.database import Connection, OnDatabase, read_again, transaction
from rowcast.tasks.accounts import Refused, ShareRow, Who, account, checked_role
from rowcast.tasks.records import BadArguments, NotFound, encode

Seen = tuple[str, list[Any]]  # an SQL term about `jobs`, and its values


def seen_by(conn: Connection, who: Who) -> Seen:
    """The jobs that one sees."""
    parts = seen_parts(conn, who)
    terms = " or ".join(term for term, _ in parts)
    return f"({terms})" if len(parts) > 1 else terms, [value for _, values in parts for value in values]


def seen_parts(conn: Connection, who: Who) -> list[Seen]:
    """The jobs that one sees, as one or two parts: those of an owner, or of all, and those that are shared.
    Which are shared is read first, as there are few: so a list goes by the index of owners."""
    asks = account(who)
    if asks.sees_all:
        return [("jobs.owner <> ''", [])]
    rows = conn.execute(
        "select job from shares where kind = 'account' and name = ?1 or kind = 'role' and name = ?2",
        (asks.name, asks.role),
    )
    shared = [job for (job,) in rows]
    own: Seen = ("jobs.owner = ?", [asks.name])
    if not shared:
        return [own]
    each = "jobs.id in (select value from json_each(?)) and jobs.owner not in ('', ?)"
    return [own, (each, [encode(shared).decode(), asks.name])]


def owned_by(who: Who) -> Seen:
    """What else bears an owner and cannot be shared: of one's own, or of all."""
    asks = account(who)
    return ("owner <> ''", []) if asks.sees_all else ("owner = ?", [asks.name])


def sees(conn: Connection, who: Who, job: int, owner: str) -> bool:
    """Whether one sees this job of that owner's; one of nobody is being deleted."""
    asks = account(who)
    if not owner or asks.sees_all or owner == asks.name:
        return bool(owner)
    found = conn.execute(
        """select 1 from shares where job = ?1
               and (kind = 'account' and name = ?2 or kind = 'role' and name = ?3)""",
        (job, asks.name, asks.role),
    )
    return found.fetchone() is not None


def demand_moves(who: Who, job: int, owner: str) -> None:
    """Raises Refused for who sees the job, and may not change it."""
    if not account(who).moves(owner):
        raise Refused(f"Job {job} is shared with you to look at: {owner} may change it.")


class Shares(OnDatabase):
    """With whom the jobs of one database file are shared."""

    def of(self, job: int, who: Who) -> list[ShareRow]:
        """With whom a job is shared. Raises NotFound."""
        return _shares(self.conn, job, who)

    def add(self, job: int, who: Who, kind: str, name: str) -> list[ShareRow]:
        """Let an account, or all of a role (`kind`), look at a job.

        Raises NotFound, Refused, BadArguments.
        """
        with transaction(self.conn) as conn:
            _shares(conn, job, who, moves=True)
            if kind == "role":
                checked_role(name)
            else:
                found = conn.execute("select name from accounts where name = ?", (name,)).fetchone()
                if not found:
                    raise BadArguments(f"There is no account {name[:100]!r}.")
                (name,) = found
            conn.execute("insert or ignore into shares (job, kind, name) values (?, ?, ?)", (job, kind, name))
            if conn.changes():
                read_again(conn)
            return _shares(conn, job, who)

    def remove(self, job: int, who: Who, kind: str, name: str) -> list[ShareRow]:
        """Take that back. Raises NotFound, Refused."""
        with transaction(self.conn) as conn:
            _shares(conn, job, who, moves=True)
            conn.execute("delete from shares where job = ? and kind = ? and name = ?", (job, kind, name))
            if conn.changes():
                read_again(conn)
            return _shares(conn, job, who)

    def taken_back(self, job: int) -> int:
        """How often the links to a job's card were taken back."""
        row = self.conn.execute("select cards from jobs where id = ?", (job,)).fetchone()
        return int(row[0]) if row else 0

    def take_back(self, job: int, who: Who) -> None:
        """Links to a job's card that were made until now open nothing more. Raises NotFound, Refused."""
        with transaction(self.conn) as conn:
            _shares(conn, job, who, moves=True)
            conn.execute("update jobs set cards = cards + 1 where id = ?", (job,))


def _shares(conn: Connection, job: int, who: Who, moves: bool = False) -> list[ShareRow]:
    (owner,) = conn.execute("select owner from jobs where id = ?", (job,)).fetchone() or ("",)
    if not sees(conn, who, job, owner):
        raise NotFound(f"There is no job {job}.")
    if moves:
        demand_moves(who, job, owner)
    rows = conn.execute("select kind, name from shares where job = ? order by kind, name", (job,))
    return [ShareRow(*row) for row in rows]
