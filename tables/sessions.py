"""Sessions and tokens: what a browser or a program shows to be let in. The database has hashes of them alone.

What is shown is 256 random bits, so a plain SHA-256 is enough: there is nothing to guess. A session ends when
it was not used for a while, and in any case some days after it began; a token when it is said to.
"""

import hashlib
import secrets

from rowcast.tables.database import OnDatabase, transaction
from rowcast.tasks import clock
from rowcast.tasks.accounts import SCOPES, Account, SessionRow, TokenRow
from rowcast.tasks.records import BadArguments, NotFound

DAY = 86_400
IDLE = DAY / 2  # seconds without a request after which one is signed out,
LIFE = 7 * DAY  # and in any case
IDLE_STAYING = 14 * DAY  # where one has asked to stay signed in
LIFE_STAYING = 30 * DAY
SEEN_EVERY = 60  # seconds between two notes of when a session or a token was seen
PREFIX = "rowcast_"  # of tokens, by which scanners for secrets know them
SHOWN = len(PREFIX) + 6  # letters of a token that are kept, for people to know it by
MOST_DAYS = 3_660
LIVE = "ends_at > ?1 and seen_at + idle > ?1"


def fingerprint(token: str) -> str:
    """What is kept of what is shown."""
    return hashlib.sha256(token.encode()).hexdigest()


class Sessions(OnDatabase):
    """The browsers that are signed in, of one database file."""

    def begin(self, account: str, device: str, address: str, stay: bool = False) -> str:
        """Sign in: returns what the cookie is to say. Sessions that are over are forgotten."""
        token = secrets.token_urlsafe(32)
        now = clock.now()
        idle, life = (IDLE_STAYING, LIFE_STAYING) if stay else (IDLE, LIFE)
        with transaction(self.conn) as conn:
            conn.execute(f"delete from sessions where not ({LIVE})", (now,))
            conn.execute(
                """insert into sessions (token, account, device, address, created_at, seen_at, idle, ends_at)
                   values (?, ?, ?, ?, ?5, ?5, ?, ?)""",
                (fingerprint(token), account, device, address, now, idle, now + life),
            )
        return token

    def find(self, token: str) -> tuple[int, Account] | None:
        """The session that a cookie names and its account, if both still are."""
        return self._live("token", fingerprint(token))

    def account(self, session: int) -> Account | None:
        """Whose session it is, as long as it lasts."""
        found = self._live("sessions.id", session)
        return found[1] if found else None

    def _live(self, column: str, value: str | int) -> tuple[int, Account] | None:
        row = self.conn.execute(
            f"""select sessions.id, accounts.name, role from sessions join accounts on name = account
                where {column} = ?2 and not disabled and {LIVE}""",
            (clock.now(), value),
        ).fetchone()
        return (row[0], Account(row[1], row[2])) if row else None

    def seen(self, session: int, address: str) -> None:
        """Note that it was used, once a minute."""
        now = clock.now()
        late = self.conn.execute(
            "select 1 from sessions where id = ? and seen_at < ?", (session, now - SEEN_EVERY)
        )
        if late.fetchall():  # all: a look that goes on holds what it sees, and nobody may write after that
            with transaction(self.conn) as conn:
                conn.execute(
                    "update sessions set seen_at = ?, address = ? where id = ?", (now, address, session)
                )

    def every(self, account: str) -> list[SessionRow]:
        """Where an account is signed in, the one seen last first."""
        rows = self.conn.execute(
            f"""select id, device, address, created_at, seen_at, min(ends_at, seen_at + idle) from sessions
                where account = ?2 and {LIVE} order by seen_at desc, id desc""",
            (clock.now(), account),
        )
        return [SessionRow(*row) for row in rows]

    def end(self, account: str, session: int) -> None:
        """Sign out one browser of the account's. Raises NotFound."""
        with transaction(self.conn) as conn:
            conn.execute("delete from sessions where id = ? and account = ?", (session, account))
            if not conn.changes():
                raise NotFound(f"There is no session {session}.")

    def end_all(self, account: str, but: int | None = None) -> None:
        """Sign out everywhere, `but` in that session."""
        with transaction(self.conn) as conn:
            conn.execute("delete from sessions where account = ? and id is not ?", (account, but))


class Tokens(OnDatabase):
    """The tokens for programs, of one database file."""

    def add(self, account: str, label: str, scope: str, days: float | None = None) -> tuple[str, int]:
        """Make a token, which ends after so many days: returns what a program is to show, once, and its id.

        Raises BadArguments.
        """
        if scope not in SCOPES:
            raise BadArguments(f"scope is one of {', '.join(SCOPES)}, not {scope[:40]!r}.")
        if days is not None and not 0 < days <= MOST_DAYS:
            raise BadArguments(f"days is a number up to {MOST_DAYS:,}.")
        token = PREFIX + secrets.token_urlsafe(32)
        now = clock.now()
        with transaction(self.conn) as conn:
            conn.execute(
                """insert into tokens (token, account, label, prefix, scope, created_at, ends_at)
                   values (?, ?, ?, ?, ?, ?, ?)""",
                (
                    fingerprint(token),
                    account,
                    label[:100] or "a program",
                    token[:SHOWN],
                    scope,
                    now,
                    None if days is None else now + days * DAY,
                ),
            )
            return token, conn.last_insert_rowid()

    def find(self, token: str) -> tuple[int, Account] | None:
        """The token that is shown and the account it asks for, with its scope. Users of an app around us have
        no account of ours: theirs may start and stop their own."""
        return self._live("token", fingerprint(token))

    def account(self, token: int) -> Account | None:
        """For whom it asks, as long as it lasts."""
        found = self._live("tokens.id", token)
        return found[1] if found else None

    def _live(self, column: str, value: str | int) -> tuple[int, Account] | None:
        row = self.conn.execute(
            f"""select tokens.id, tokens.account, coalesce(role, 'operator'), scope
                from tokens left join accounts on name = account and name = account collate binary
                where {column} = ? and not coalesce(disabled, 0) and (ends_at is null or ends_at > ?)""",
            (value, clock.now()),
        ).fetchone()
        return (row[0], Account(*row[1:])) if row else None

    def seen(self, token: int, address: str) -> None:
        """Note that it was used, once a minute."""
        now = clock.now()
        late = self.conn.execute(
            "select 1 from tokens where id = ? and coalesce(seen_at, 0) < ?", (token, now - SEEN_EVERY)
        )
        if late.fetchall():  # all: a look that goes on holds what it sees, and nobody may write after that
            with transaction(self.conn) as conn:
                conn.execute("update tokens set seen_at = ?, address = ? where id = ?", (now, address, token))

    def every(self, account: str) -> list[TokenRow]:
        """An account's tokens, the newest first."""
        rows = self.conn.execute(
            """select id, label, prefix, scope, created_at, ends_at, seen_at, address from tokens
               where account = ? and (ends_at is null or ends_at > ?) order by id desc""",
            (account, clock.now()),
        )
        return [TokenRow(*row) for row in rows]

    def revoke(self, account: str, token: int) -> None:
        """End a token of the account's. Raises NotFound."""
        with transaction(self.conn) as conn:
            conn.execute("delete from tokens where id = ? and account = ?", (token, account))
            if not conn.changes():
                raise NotFound(f"There is no token {token}.")
