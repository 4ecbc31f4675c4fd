"""Browsers that are told by Web Push: where the push service of their maker takes messages for them, and the
keys with which these are sealed. A row is one browser of one owner's, who has said yes there.
"""

import secrets

import msgspec

from rowcast.tables.database import OnDatabase, tick, transaction
from rowcast.tasks import clock
from rowcast.tasks.notify import BROWSER

MOST = 50  # browsers of an owner; the oldest goes


class Browser(msgspec.Struct, frozen=True):
    """A browser that is told by Web Push: one row of `browsers`."""

    name: str
    address: str
    key: str
    secret: str


class Browsers(OnDatabase):
    """The browsers of one database file."""

    def add(self, owner: str, address: str, key: str, secret: str) -> str:
        """A browser that has said yes: its name, by which a job's receivers know it. Whoever says it again
        keeps the name.
        """
        with transaction(self.conn) as conn:
            found = conn.execute(
                "select name from browsers where owner = ? and address = ?", (owner, address)
            ).fetchone()
            name = found[0] if found else f"{BROWSER}{secrets.token_hex(8)}"
            conn.execute(
                """insert into browsers (name, owner, address, key, secret, created_at)
                       values (?1, ?2, ?3, ?4, ?5, ?6)
                   on conflict (name) do update set key = ?4, secret = ?5, created_at = ?6""",
                (name, owner, address, key, secret, clock.now()),
            )
            conn.execute(
                """delete from browsers where owner = ?1 and name not in (
                       select name from browsers where owner = ?1 order by created_at desc limit ?2)""",
                (owner, MOST),
            )
            tick(conn)
            return str(name)

    def find(self, owner: str, name: str) -> Browser | None:
        """One of the owner's; None where it is not told any more."""
        row = self.conn.execute(
            "select name, address, key, secret from browsers where owner = ? and name = ?", (owner, name)
        ).fetchone()
        return Browser(*row) if row else None

    def forget(self, owner: str, name: str) -> bool:
        """It is told nothing more; False where it was not."""
        with transaction(self.conn) as conn:
            conn.execute("delete from browsers where owner = ? and name = ?", (owner, name))
            return bool(conn.changes())
