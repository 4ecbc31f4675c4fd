"""Halts: nothing new of a task, or of all, starts. What runs ends, jobs are written as ever, and wait.

The ledger gives nothing out and engines take nothing up while there is a halt (HALTED); the jobs keep their
status, so that all is as it was when it is lifted.
"""

import time

from rowcast.tables.database import Connection, OnDatabase, tick, transaction
from rowcast.tasks.halts import Halt

# SQL of a row of `jobs`: whether nothing of it is to start
HALTED = "exists (select 1 from halts where halts.task in ('', jobs.task))"
COLUMNS = ", ".join(Halt.__struct_fields__)


class Halts(OnDatabase):
    """The halts of one database file."""

    def every(self) -> list[Halt]:
        """All there are, that of everything first."""
        rows = self.conn.execute(f"select {COLUMNS} from halts order by task")
        return [Halt(*row) for row in rows]

    def stop(self, task: str, account: str, reason: str = "") -> Halt:
        """Nothing new of the task, '' for all, starts from now on; where that is so already, it stays."""
        with transaction(self.conn) as conn:
            conn.execute(
                "insert or ignore into halts (task, account, reason, at) values (?, ?, ?, ?)",
                (task, account, reason, time.time()),
            )
            tick(conn)
            return Halt(*conn.execute(f"select {COLUMNS} from halts where task = ?", (task,)).fetchone())

    def lift(self, task: str) -> bool:
        """It goes on; what is not stopped does anyway. Whether it was."""
        with transaction(self.conn) as conn:
            conn.execute("delete from halts where task = ?", (task,))
            was = bool(conn.changes())
            tick(conn)
            return was


def halt_of(conn: Connection, task: str) -> str:
    """That nothing new of the task starts, in a sentence; '' where it does."""
    sql = f"select {COLUMNS} from halts where task in ('', ?) order by task limit 1"
    row = conn.execute(sql, (task,)).fetchone()
    return Halt(*row).sentence if row else ""
