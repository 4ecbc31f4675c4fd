"""Bookmarks: filters of jobs that an account has kept by a name, for itself alone."""

from rowcast.tables.database import OnDatabase, transaction
from rowcast.tasks import clock
from rowcast.tasks.filters import Bookmark, Filter
from rowcast.tasks.records import BadArguments, NotFound, encode

MOST = 50  # of an account
LONGEST = 60  # letters of a name


class Bookmarks(OnDatabase):
    """The bookmarks of one database file."""

    def every(self, account: str) -> list[Bookmark]:
        """An account's own, by name."""
        rows = self.conn.execute(
            "select id, name, filter from bookmarks where account = ? order by name", (account,)
        )
        return [Bookmark(*row) for row in rows]

    def keep(self, account: str, name: str, wanted: Filter) -> Bookmark:
        """Keep a filter; one of that name is another from now on. Raises BadArguments."""
        name = name.strip()
        if not 0 < len(name) <= LONGEST:
            raise BadArguments(f"name has from 1 to {LONGEST} letters.")
        if wanted.is_all:
            raise BadArguments("All jobs need no bookmark: find some first.")
        with transaction(self.conn) as conn:
            sql = "select count(*) from bookmarks where account = ? and name <> ?"
            if conn.execute(sql, (account, name)).fetchone()[0] >= MOST:
                raise BadArguments(f"An account keeps {MOST} bookmarks at most: forget one first.")
            row = conn.execute(
                """insert into bookmarks (account, name, filter, created_at) values (?, ?, ?, ?)
                   on conflict (account, name) do update set filter = excluded.filter
                   returning id, name, filter""",
                (account, name, encode(wanted.values).decode(), clock.now()),
            ).fetchone()
            return Bookmark(*row)

    def forget(self, account: str, bookmark: int) -> None:
        """Raises NotFound."""
        with transaction(self.conn) as conn:
            conn.execute("delete from bookmarks where account = ? and id = ?", (account, bookmark))
            if not conn.changes():
                raise NotFound(f"There is no bookmark {bookmark}.")
