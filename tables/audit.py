"""The audit: who did what, when, from where, to which job. It is only added to, which the database itself
sees to, and no pruning touches it."""

from collections.abc import Iterator

from rowcast.tables.database import OnDatabase, transaction
from rowcast.tasks import clock
from rowcast.tasks.accounts import AuditRow

COLUMNS = "id, at, account, action, job, detail, address"
READ = 1000  # rows at once


class Audit(OnDatabase):
    """The audit of one database file."""

    def note(self, account: str, action: str, address: str, job: int | None = None, detail: str = "") -> None:
        with transaction(self.conn) as conn:
            conn.execute(
                "insert into audit (at, account, action, job, detail, address) values (?, ?, ?, ?, ?, ?)",
                (clock.now(), account[:200], action, job, detail[:500], address[:100]),
            )

    def rows(self, before: int, limit: int) -> list[AuditRow]:
        """What was done, the newest first, of a smaller id than `before`."""
        rows = self.conn.execute(
            f"select {COLUMNS} from audit where id < ? order by id desc limit ?", (before, limit)
        )
        return [AuditRow(*row) for row in rows]

    def every(self) -> Iterator[AuditRow]:
        """All of it, the oldest first, read in pages."""
        after = 0
        while rows := self.conn.execute(
            f"select {COLUMNS} from audit where id > ? order by id limit ?", (after, READ)
        ).fetchall():
            yield from (AuditRow(*row) for row in rows)
            after = rows[-1][0]
