"""Accounts: who may sign in, with which role. Made and changed by `rowcast account` and by admins.

A password comes in and stays as its hash. Whoever is disabled, or gets another password, is signed out.
"""

from rowcast.tables.database import Connection, OnDatabase, transaction
from rowcast.tasks import clock
from rowcast.tasks.accounts import ROLES, Account, AccountRow, checked_name, checked_role
from rowcast.tasks.passwords import demand_strong, hashed
from rowcast.tasks.records import BadArguments, NotFound


class Accounts(OnDatabase):
    """The accounts of one database file."""

    there_are = False  # as soon as there was one: none is ever deleted

    def any(self) -> bool:
        """Whether there is an account: from then on nobody comes in without."""
        if not self.there_are:
            self.there_are = self.conn.execute("select 1 from accounts limit 1").fetchone() is not None
        return self.there_are

    def add(self, name: str, role: str, password: str | None) -> Account:
        """Make an account; without a password it signs in elsewhere. Raises BadArguments."""
        made = Account(checked_name(name), checked_role(role))
        if password is not None:
            demand_strong(password, made.name)
        kept = None if password is None else hashed(password)
        with transaction(self.conn) as conn:
            if conn.execute("select 1 from accounts where name = ?", (made.name,)).fetchone():
                raise BadArguments(f"There is an account {made.name} already.")
            conn.execute(
                "insert into accounts (name, role, password, created_at) values (?, ?, ?, ?)",
                (made.name, made.role, kept, clock.now()),
            )
        return made

    def account(self, name: str) -> Account | None:
        """The account of that name, if it is there and not disabled."""
        sql = "select name, role from accounts where name = ? and not disabled"
        row = self.conn.execute(sql, (name,)).fetchone()
        return Account(*row) if row else None

    def is_disabled(self, name: str) -> bool:
        return self.conn.execute(
            "select 1 from accounts where name = ? and disabled", (name,)
        ).fetchone() is not None  # fmt: skip

    def password_of(self, name: str) -> str | None:
        """The hash of its password; None where it has none, is disabled or not there."""
        row = self.conn.execute(
            "select password from accounts where name = ? and not disabled", (name,)
        ).fetchone()
        return row[0] if row else None

    def every(self) -> list[AccountRow]:
        """All accounts, by name."""
        rows = self.conn.execute(
            """select name, role, password is not null, disabled, created_at,
                   (select max(seen_at) from (select seen_at from sessions where account = name
                        union all select seen_at from tokens where account = name))
               from accounts order by name"""
        )
        return [AccountRow(*row) for row in rows]

    def set_disabled(self, name: str, disabled: bool = True) -> str:
        """Disable an account, or let it in again; returns its name. Who is disabled is signed out, and its
        schedules start nothing until they are resumed.

        Raises NotFound.
        """
        with transaction(self.conn) as conn:
            name = known(conn, name)
            conn.execute("update accounts set disabled = ? where name = ?", (int(disabled), name))
            if disabled:
                conn.execute("delete from sessions where account = ?", (name,))
                conn.execute("update schedules set paused = 1 where owner = ?", (name,))
        return name

    def set_role(self, name: str, role: str) -> str:
        """Give an account another role. Who may start nothing any more has its schedules paused.

        Raises NotFound, BadArguments.
        """
        checked_role(role)
        with transaction(self.conn) as conn:
            name = known(conn, name)
            conn.execute("update accounts set role = ? where name = ?", (role, name))
            if "start" not in ROLES[role]:
                conn.execute("update schedules set paused = 1 where owner = ?", (name,))
        return name

    def set_password(self, name: str, password: str, but: int | None = None) -> str:
        """Give an account another password: it is signed out everywhere `but` in that session, and may guess
        anew.

        Raises NotFound, BadArguments.
        """
        demand_strong(password, name)
        kept = hashed(password)
        with transaction(self.conn) as conn:
            name = known(conn, name)
            conn.execute("update accounts set password = ? where name = ?", (kept, name))
            conn.execute("delete from sessions where account = ? and id is not ?", (name, but))
            conn.execute("delete from guesses where guesser = ?", (f"account {name}",))
        return name


def known(conn: Connection, name: str) -> str:
    """The name as the account has it. Raises NotFound."""
    row = conn.execute("select name from accounts where name = ?", (name,)).fetchone()
    if not row:
        raise NotFound(f"There is no account {name[:100]!r}.")
    return str(row[0])
