"""The built-in mailbox: where mails go while no mail server is named. Owns its table, which is bounded.

A mail that is put in once more, by another try, is known by its Message-ID and not put in again.
"""

from rowcast.tables.database import Connection, OnDatabase, transaction
from rowcast.tables.shares import owned_by
from rowcast.tasks import clock
from rowcast.tasks.accounts import Who
from rowcast.tasks.addresses import BadMail
from rowcast.tasks.mail import MailRow, Posted
from rowcast.tasks.records import OWNER, NotFound

KEPT = 1_000  # mails at most: those of a job over the first users
ROOM = 50_000_000  # bytes of them at most
LARGEST = 5_000_000  # bytes of one
MAILS_PAGE = 50  # mails on a page
LAST = 2**63 - 1  # of SQLite's numbers
ROW = ", ".join(MailRow.__struct_fields__)


class Mailbox(OnDatabase):
    """The mailbox of one database file."""

    def put(self, posted: Posted) -> None:
        """Put a mail in, for the owner of its job; the oldest leave where it is full. Raises BadMail."""
        size = len(posted.raw)
        if size > LARGEST:
            raise BadMail(f"The mail has {size / 1e6:,.1f} MB; the mailbox takes {LARGEST / 1e6:,.0f}.")
        with transaction(self.conn) as conn:
            row = conn.execute("select owner from jobs where id = ?", (posted.job,)).fetchone()
            conn.execute(
                """insert or ignore into mails
                       (message_id, owner, job, receiver, subject, size, created_at, raw)
                   values (?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    posted.message_id,
                    row[0] if row else OWNER,
                    posted.job if row else None,
                    posted.receiver,
                    posted.subject,
                    size,
                    clock.now(),
                    posted.raw,
                ),
            )
            if conn.changes():
                _make_room(conn)

    def count(self, who: Who) -> int:
        """How many mails one sees."""
        seen, values = owned_by(who)
        return int(self.conn.execute(f"select count(*) from mails where {seen}", values).fetchone()[0])

    def page(self, who: Who, before: int = LAST, job: int | None = None) -> list[MailRow]:
        """The mails that one sees, newest first: a page of those before the mail `before`, perhaps of one
        job."""
        seen, values = owned_by(who)
        rows = self.conn.execute(
            f"""select {ROW} from mails where {seen} and id < ? and coalesce(job = ?, ?)
                order by id desc limit ?""",
            (*values, before, job, job is None, MAILS_PAGE),
        )
        return [MailRow(*row) for row in rows]

    def raw(self, mail: int, who: Who) -> tuple[MailRow, bytes]:
        """One mail, as it would go over the wire. Raises NotFound."""
        seen, values = owned_by(who)
        found = self.conn.execute(
            f"select {ROW}, raw from mails where id = ? and {seen}", (mail, *values)
        ).fetchone()
        if found is None:
            raise NotFound(f"There is no mail {mail}.")
        *row, raw = found
        return MailRow(*row), raw

    def clear(self, who: Who) -> int:
        """Take all mails out that one sees; returns how many."""
        seen, values = owned_by(who)
        with transaction(self.conn) as conn:
            conn.execute(f"delete from mails where {seen}", values)
            return int(conn.changes())


def _make_room(conn: Connection) -> None:
    """Let the oldest go, but for the one that came last: KEPT mails, and ROOM bytes of them, stay."""
    conn.execute(
        """delete from mails where id <= (
               select id from (
                   select id, row_number() over newest as place, sum(size) over newest as bytes
                   from mails window newest as (order by id desc))
               where place > 1 and (place > ? or bytes > ?) order by id desc limit 1)""",
        (KEPT, ROOM),
    )
