"""Webhooks: the secrets that messages to them are signed with, a row for each address of an owner's. One that
settings or a task's code name is OWNER's, and who sees all sees it too.

A secret is made when an address is first used, and shown once, when a person asks for it. Who exchanges it
has a day in which messages are signed with both, so that the receiver can be changed at leisure.
"""

import base64
import secrets
from typing import Any

from rowcast.tables.database import Connection, OnDatabase, transaction
from rowcast.tasks import clock
from rowcast.tasks.accounts import Who, account
from rowcast.tasks.records import OWNER, NotAllowed, NotFound, Webhook

BYTES = 32  # of a secret; Standard Webhooks has 24 to 64
BOTH = 86_400.0  # seconds in which the secret before is valid too
COLUMNS = ", ".join("receiver" if name == "url" else name for name in Webhook.__struct_fields__)


def new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(BYTES)).decode()}"


class Webhooks(OnDatabase):
    """The webhooks of one database file."""

    def every(self, who: Who) -> list[Webhook]:
        """Those that one sees, by address."""
        where, values = _kept_for(who)
        rows = self.conn.execute(f"select {COLUMNS} from webhooks where {where} order by receiver", values)
        return [Webhook(*row) for row in rows]

    def secrets(self, owner: str, url: str) -> list[str]:
        """What messages of an owner's to an address are signed with now, one or two; made at first use."""
        sql = "select secret, retired, retired_at from webhooks where owner = ? and receiver = ?"
        row = self.conn.execute(sql, (owner, url)).fetchone()
        if row is None:
            with transaction(self.conn) as conn:
                _make(conn, owner, url)
            row = self.conn.execute(sql, (owner, url)).fetchone()
        secret, retired, until = row
        return [secret, retired] if retired and until > clock.now() else [secret]

    def add(self, owner: str, url: str) -> tuple[Webhook, str]:
        """A webhook of the owner's, and its secret, which is shown this once. Raises NotAllowed."""
        with transaction(self.conn) as conn:
            _make(conn, owner, url)
            (made,) = conn.execute(
                "select id from webhooks where owner = ? and receiver = ?", (owner, url)
            ).fetchone()
            if self.webhook(made, owner).shown_at is not None:
                raise NotAllowed(f"The secret of {url} was shown already: rotate it to see another one.")
            return self._show(conn, made, owner)

    def rotate(self, webhook: int, who: Who) -> tuple[Webhook, str]:
        """Another secret for a webhook, and what it is; the one that somebody knows is valid for BOTH more.

        Raises NotFound.
        """
        with transaction(self.conn) as conn:
            known = self.webhook(webhook, who).shown_at is not None
            if known:
                conn.execute(
                    """update webhooks set retired = secret, retired_at = ?, secret = ?
                       where id = ?""",
                    (clock.now() + BOTH, new_secret(), webhook),
                )
            return self._show(conn, webhook, who)

    def webhook(self, webhook: int, who: Who) -> Webhook:
        """One of those that one sees. Raises NotFound."""
        where, values = _kept_for(who)
        row = self.conn.execute(
            f"select {COLUMNS} from webhooks where id = ? and {where}", (webhook, *values)
        ).fetchone()
        if not row:
            raise NotFound(f"There is no webhook {webhook}.")
        return Webhook(*row)

    def _show(self, conn: Connection, webhook: int, who: Who) -> tuple[Webhook, str]:
        conn.execute("update webhooks set shown_at = ? where id = ?", (clock.now(), webhook))
        (secret,) = conn.execute("select secret from webhooks where id = ?", (webhook,)).fetchone()
        return self.webhook(webhook, who), str(secret)


def _kept_for(who: Who) -> tuple[str, list[Any]]:
    """The webhooks that one sees: one's own, and those of settings and code for who sees all."""
    asks = account(who)
    return "owner in (?, ?)", [asks.name, OWNER if asks.sees_all else asks.name]


def _make(conn: Connection, owner: str, url: str) -> None:
    conn.execute(
        """insert into webhooks (owner, receiver, secret, created_at) values (?, ?, ?, ?)
           on conflict (owner, receiver) do nothing""",
        (owner, url, new_secret(), clock.now()),
    )
