"""The table users: who there is to post. Owns its SQL: the first thousand, search, pages, who comes from a
CSV, and the item source `user`.

The table may be there before Rowcast is, with more columns than `email` and `account_updated`; then it is
used as it is.
"""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import apsw

from rowcast.tables.database import BUSY_MS, Connection, OnDatabase, transaction
from rowcast.tables.user_csv import Row, address_of, reading
from rowcast.tasks.records import BadArguments, decode, encode
from rowcast.tasks.sources import CHUNKED, SOURCE_CHECKS, user
from rowcast.tasks.users import Imported, User
from rowcast.tasks.work import CHUNK, KEY_LENGTH, NAMES, Chunk, chunk_size

CHECK = 500  # rows after which it is asked whether the sender is still there
# Of the table: json_object takes a thousand arguments, two for each (SQLite, Limits).
MOST_COLUMNS = 400
# Domains that RFC 2606 and RFC 6761 reserve for examples: mail to them reaches nobody.
DOMAINS = ("example.com", "example.org", "example.net")
FIRST = """
ada amara anders ann aisha akira alma amir andrea anika ben bianca boris carla chen chloe clara dana daniel
david diego dilara elena elif emil emma erik eva fatima felix finn freya gabriel grace hana hassan hugo ida
ines ingrid irene isaac ivan jack jana jin joao jonas julia kaito karim kate kofi kwame laila lara lars lea
leo lena lin lucas lucia luis maja malik mara marco maria mateo maya mei mia mika milan mina mira nadia nils
nina noah nora olga omar oscar paul pia priya rafael rania rosa ruth sam samir sara sofia stefan tara theo
tom uma valeria vera viktor wei yara yuki zoe
""".split()
LAST = """
abe adeyemi ahmed alves andersen bakker bauer becker berg bianchi boateng brown castro chen cohen costa cruz
diaz dubois eriksen evans farah fischer fontaine garcia gomez green gupta haddad hansen hill hoffmann huang
ivanov jansen johnson jones kaya keller khan kim klein kowalski kumar larsen lee lin lopez martin mendez
meyer moreau mori mueller nakamura nguyen novak okafor olsen ortiz park patel pereira petrov popescu reyes
ricci rossi ruiz sato schmidt silva singh smith sokolov sousa suzuki svensson tanaka torres tran vargas
varga vega visser wagner walker wang weber white wolf wright yamada yang yilmaz young zhang ziegler
""".split()


class GoneAway(Exception):
    """Whoever sent the file has gone: no more of it is written."""


class Users(OnDatabase):
    """The users of one database file."""

    def seed(self, number: int = 1000) -> None:
        """Fill an empty users table with `number` plausible people at reserved example domains."""
        chance = random.Random(1)
        emails: dict[str, None] = {}
        while len(emails) < number:
            first = chance.choice(FIRST)
            last = chance.choice(LAST)
            full = f"{first}.{last}"
            numbered = f"{first}{chance.randint(1, 99)}"
            name = chance.choice((full, full, f"{first[0]}.{last}", numbered))
            emails[f"{name}@{chance.choice(DOMAINS)}"] = None
        with transaction(self.conn) as conn:
            conn.executemany("insert into users (email) values (?)", [(email,) for email in emails])

    def count(self, text: str = "") -> int:
        """How many users there are, or how many have `text` in their address."""
        where, values = _matching(text)
        return int(self.conn.execute(f"select count(*) from users {where}", values).fetchone()[0])

    def search(self, text: str = "", page: int = 1, size: int = 100) -> list[User]:
        """One page of users, by address, of those with `text` in it."""
        where, values = _matching(text)
        conn = self.conn
        stamp = "account_updated" if "account_updated" in _columns(conn) else "null"
        rows = conn.execute(
            f"select email, {stamp} from users {where} order by email limit ? offset ?",
            (*values, size, (page - 1) * size),
        )
        return [User(str(email), stamp if isinstance(stamp, int) else None) for email, stamp in rows]

    def import_csv(
        self,
        file: BinaryIO,
        dry_run: bool = False,
        gone: Callable[[], bool] = lambda: False,
        encoding: str = "",
    ) -> Imported:
        """Add the users of a CSV file, good lines only; its other columns come with them, and to the table.

        A user who is there already is counted and left alone. The whole file is read before anything is
        written, and what is to be written waits in a file of SQLite's own. A dry run writes nothing. The
        `encoding` is told from the file where none is named. Raises BadArguments, and GoneAway.
        """
        with reading(file, encoding) as reader, contextlib.closing(Staged(self.path)) as staged:
            done = Imported(dry_run=dry_run, letters=reader.encoding)
            kept = staged.fill(reader, done, gone)
            done.samples = reader.samples
            staged.mark_known(done)
            conn = self.conn
            done.columns = _new_columns(conn, [name for name in reader.layout.names if name in kept])
            if dry_run:
                done.added = staged.count()
                return done
            if done.columns:
                _add_columns(conn, done.columns)
            for chunk in staged.chunks():
                if gone():
                    raise GoneAway
                with transaction(conn):
                    for line, email, more in chunk:
                        _add(conn, done, line, email, decode(more))
        done.refused.sort()
        return done

    def check_start(self, args: dict[str, Any]) -> None:
        """Refuse a start that would have no users. Raises BadArguments."""
        limit = args.get("limit")
        if limit is not None and limit < 1:
            raise BadArguments("limit is a number from 1, or empty for all users.")
        if not self.conn.execute("select 1 from users limit 1").fetchone():
            raise BadArguments(
                "There are no users yet: add some on the page Users, or with `rowcast users import FILE.csv`."
            )

    def chunks(self, there: int, most: int | None, limit: int | None = None) -> Iterator[Chunk]:
        """The item source `user` in chunks, from the user at position `there`, before the one at `most`.

        What JSON has not (blobs, infinities) is None. Each chunk is one row of SQLite's: with each row that
        it returns, SQLite gives up Python's lock, which it has to get back from a running job.
        """
        conn = self.conn
        names = _columns(conn)
        order = "rowid" if _has_rowid(conn) else "email"
        at = "at" + "_" * max(map(len, names))  # as no column is called
        user = ", ".join(_pair(name) for name in names)
        key = _key(names)
        end = min((n for n in (most, limit) if n is not None), default=None)
        after = None
        skip = there
        largest = CHUNK
        while True:
            size = min(chunk_size(there), largest, CHUNK if end is None else max(0, end - there))
            where, values = ("", ()) if after is None else (f"and {order} > ?", (after,))
            try:
                ((rows, keys, newest, found),) = conn.execute(
                    f"""select json_group_array(json_array(key, user) order by {at}),
                            group_concat(replace(key, char(10), ' '), char(10) order by {at}),
                            max({at}), count(*)
                        from (select {at}, {key} as key, json_object({user}) || '' as user
                              from (select {order} as {at}, * from users where email is not null {where}
                                    order by {order} limit ? offset ?) as u)""",
                    (*values, size, skip),
                ).fetchall()
            except apsw.TooBigError:
                if size == 1:
                    raise
                largest = size // 2
                continue
            there = there + found
            after = newest
            skip = 0
            is_last = found < size or (end is not None and there >= end)
            yield Chunk(rows, keys or "", found, is_last)
            if is_last:
                return

    def as_source(self) -> None:
        """From now on the item source `user` is read, and a start checked, here, by this process."""
        SOURCE_CHECKS[user] = self.check_start
        CHUNKED[user] = self.chunks


def _matching(text: str) -> tuple[str, tuple[str, ...]]:
    return ("where instr(lower(email), lower(?))", (text,)) if text else ("where email is not null", ())


def _columns(conn: Connection) -> list[str]:
    """The names that `select *` gives, generated columns among them."""
    return [row[1] for row in conn.execute("pragma table_xinfo(users)") if row[6] != 1]


def _key(names: list[str]) -> str:
    """SQL for how the user `u` is called: by the first of NAMES that is a text or a whole number, as
    sources.as_row has it.

    Where none is, by the address as SQL writes it.
    """
    plain = [
        f"iif(typeof(u.{name}) in ('text', 'integer'), u.{name}, null)" for name in NAMES if name in names
    ]
    return f"""(select iif(length(called) <= {KEY_LENGTH}, called,
                substr(called, 1, {KEY_LENGTH - 1}) || '…')
        from (select cast(coalesce({", ".join(plain)}, quote(u.email)) as text) as called))"""


def _pair(column: str) -> str:
    """A column's name and value as arguments of json_object; of `u`, for a bare name that is gone would be a
    text.
    """
    name = 'u."{}"'.format(column.replace('"', '""'))
    text = "'{}'".format(column.replace("'", "''"))
    no_json = f"typeof({name}) = 'blob' or (typeof({name}) = 'real' and abs({name}) = 9e999)"
    return f"{text}, iif({no_json}, null, {name})"


def _has_rowid(conn: Connection) -> bool:
    row = conn.execute(
        "select type, wr from pragma_table_list where name = 'users' and schema = 'main'"
    ).fetchone()
    return bool(row and row[0] == "table" and not row[1])


class Staged:
    """The users of a file until they are written: a database of its own, on disk and without a name, gone
    when it is closed.

    It says who is in the file twice, and who is in the table already, whatever the size of either.
    """

    def __init__(self, path: str):
        self.conn: Connection = apsw.Connection("")
        self.conn.execute("pragma journal_mode = off")
        self.conn.set_busy_timeout(BUSY_MS)
        self.conn.execute("attach ? as theirs", (path,))
        self.conn.execute(
            "create table staged"
            " (line integer primary key, person text unique, email text, more text, known int)"
        )

    def close(self) -> None:
        self.conn.close()

    def fill(self, rows: Iterable[Row], done: Imported, gone: Callable[[], bool]) -> set[str]:
        """Take the good rows in, refuse the others; returns the columns that have something in them."""
        kept: set[str] = set()
        self.conn.execute("begin")
        for number, row in enumerate(rows):
            if number % CHECK == 0 and gone():
                raise GoneAway
            if row.refused:
                done.refuse(row.line, row.refused)
                continue
            kept.update(row.more)
            self.conn.execute(
                "insert or ignore into staged values (?, ?, ?, ?, 0)",
                (row.line, row.person, row.email, encode(row.more).decode()),
            )
            if not self.conn.changes():
                sql = "select line from staged where person = ?"
                (first,) = self.conn.execute(sql, (row.person,)).fetchone()
                done.refuse(row.line, f"{row.email[:60]} is on line {first} already")
        self.conn.execute("commit")
        return kept

    def mark_known(self, done: Imported) -> None:
        """Mark who is in the table already, however it is written there."""
        know = "update staged set known = 1 where"
        # (cross join: SQLite goes through the users, and looks each up in the index of persons)
        same = "theirs.users cross join staged on person = lower(users.email)"
        self.conn.execute(f"{know} line in (select line from {same})")
        # what SQLite's lower() does not know: letters beyond ASCII, and domains in their other form
        sql = "select email from theirs.users where email glob '*[^ -~]*' or email like '%xn--%'"
        for (email,) in self.conn.execute(sql):
            with contextlib.suppress(ValueError):
                self.conn.execute(f"{know} person = ?", (address_of(str(email))[1],))
        (done.known,) = self.conn.execute("select count(*) from staged where known").fetchone()

    def count(self) -> int:
        """How many are not known yet."""
        return int(self.conn.execute("select count(*) from staged where not known").fetchone()[0])

    def chunks(self) -> Iterator[list[tuple[int, str, str]]]:
        """Who is not known yet, in the order of the file: line, address, the other columns as JSON."""
        found = self.conn.execute("select line, email, more from staged where not known order by line")
        while chunk := list(itertools.islice(found, CHUNK)):
            yield chunk


def _new_columns(conn: Connection, names: list[str]) -> list[str]:
    """Which of a file's columns the table has not. Raises BadArguments where there would be too many."""
    there = _columns(conn)
    known = {name.casefold() for name in there}
    new = [name for name in names if name.casefold() not in known]
    if len(there) + len(new) > MOST_COLUMNS:
        raise BadArguments(
            f"The table users would have {len(there) + len(new):,} columns; {MOST_COLUMNS} are the most."
        )
    return new


def _add_columns(conn: Connection, names: list[str]) -> None:
    """Raises BadArguments for a table that takes none."""
    try:
        with transaction(conn):
            for name in names:
                conn.execute(f"alter table users add column {_quoted(name)} text")
    except apsw.SQLError as error:
        raise BadArguments(f"The table users takes no more columns: {error}.") from None


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _add(conn: Connection, done: Imported, line: int, email: str, more: dict[str, str]) -> None:
    if conn.execute("select 1 from users where email = ?", (email,)).fetchone():  # since it was staged
        done.known += 1
        return
    try:
        names = "".join(f", {_quoted(name)}" for name in more)
        conn.execute(
            f"insert into users (email{names}) values (?{', ?' * len(more)})", (email, *more.values())
        )
        done.added += 1
    except (apsw.ConstraintError, apsw.SQLError) as error:  # a table that was there already may want more
        done.refuse(line, f"the table users does not take it: {error}")
