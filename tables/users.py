"""The table users: who there is to post. Owns its SQL: the first thousand, search, pages, CSV, and the item
source `user`.

The table may be there before Rowcast is, with more columns than `email` and `account_updated`; then it is
used as it is.
"""

import csv
import io
import itertools
import random
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import apsw

from rowcast.tables.database import Connection, connection, transaction
from rowcast.tasks.records import BadArguments, Imported, User
from rowcast.tasks.sources import CHUNKED, SOURCE_CHECKS, user
from rowcast.tasks.work import CHUNK, KEY_LENGTH, NAMES, Chunk, chunk_size

EMAIL = re.compile(r"[^@\s\x00-\x1f,;<>\"]+@[^@\s\x00-\x1f,;<>\"]+")
# Domains that RFC 2606 and RFC 6761 reserve for examples: mail to them reaches nobody.
DOMAINS = ("example.com", "example.org", "example.net")
FIRST = """ada amara anders ann aisha akira alma amir andrea anika ben bianca boris carla chen chloe clara dana
daniel david diego dilara elena elif emil emma erik eva fatima felix finn freya gabriel grace hana hassan hugo ida
ines ingrid irene isaac ivan jack jana jin joao jonas julia kaito karim kate kofi kwame laila lara lars lea leo lena
lin lucas lucia luis maja malik mara marco maria mateo maya mei mia mika milan mina mira nadia nils nina noah nora
olga omar oscar paul pia priya rafael rania rosa ruth sam samir sara sofia stefan tara theo tom uma valeria vera
viktor wei yara yuki zoe""".split()
LAST = """abe adeyemi ahmed alves andersen bakker bauer becker berg bianchi boateng brown castro chen cohen costa
cruz diaz dubois eriksen evans farah fischer fontaine garcia gomez green gupta haddad hansen hill hoffmann huang
ivanov jansen johnson jones kaya keller khan kim klein kowalski kumar larsen lee lin lopez martin mendez meyer moreau
mori mueller nakamura nguyen novak okafor olsen ortiz park patel pereira petrov popescu reyes ricci rossi ruiz sato
schmidt silva singh smith sokolov sousa suzuki svensson tanaka torres tran vargas varga vega visser wagner walker wang
weber white wolf wright yamada yang yilmaz young zhang ziegler""".split()


def seed(path: str, number: int = 1000) -> None:
    """Fill an empty users table with `number` plausible people at reserved example domains."""
    chance = random.Random(1)
    emails: dict[str, None] = {}
    while len(emails) < number:
        first, last = chance.choice(FIRST), chance.choice(LAST)
        name = chance.choice(
            (f"{first}.{last}", f"{first}.{last}", f"{first[0]}.{last}", f"{first}{chance.randint(1, 99)}")
        )
        emails[f"{name}@{chance.choice(DOMAINS)}"] = None
    conn = connection(path)
    with transaction(conn):
        conn.executemany("insert into users (email) values (?)", [(email,) for email in emails])


def count(path: str, text: str = "") -> int:
    """How many users there are, or how many have `text` in their address."""
    where, values = _matching(text)
    return int(connection(path).execute(f"select count(*) from users {where}", values).fetchone()[0])


def search(path: str, text: str = "", page: int = 1, size: int = 100) -> list[User]:
    """One page of users, by address, of those with `text` in it."""
    where, values = _matching(text)
    conn = connection(path)
    stamp = "account_updated" if "account_updated" in _columns(conn) else "null"
    rows = conn.execute(
        f"select email, {stamp} from users {where} order by email limit ? offset ?",
        (*values, size, (page - 1) * size),
    )
    return [User(str(email), stamp if isinstance(stamp, int) else None) for email, stamp in rows]


def _matching(text: str) -> tuple[str, tuple[str, ...]]:
    return ("where instr(lower(email), lower(?))", (text,)) if text else ("where email is not null", ())


def _columns(conn: Connection) -> list[str]:
    """The names that `select *` gives, generated columns among them."""
    return [row[1] for row in conn.execute("pragma table_xinfo(users)") if row[6] != 1]


def user_chunks(path: str, there: int, most: int | None, limit: int | None = None) -> Iterator[Chunk]:
    """The item source `user` in chunks, from the user at position `there`, before the one at `most`.

    What JSON has not (blobs, infinities) is None. Each chunk is one row of SQLite's.

    With each row that it returns, SQLite gives up Python's lock, which it has to get back from a running job.
    """
    conn = connection(path)
    names, order = _columns(conn), "rowid" if _has_rowid(conn) else "email"
    at = "at" + "_" * max(map(len, names))  # as no column is called
    user, key = ", ".join(_pair(name) for name in names), _key(names)
    end = min((n for n in (most, limit) if n is not None), default=None)
    after, skip, largest = None, there, CHUNK
    while True:
        size = min(chunk_size(there), largest, CHUNK if end is None else max(0, end - there))
        where, values = ("", ()) if after is None else (f"and {order} > ?", (after,))
        try:
            ((rows, keys, newest, found),) = conn.execute(
                f"""select json_group_array(json_array(key, user) order by {at}),
                        group_concat(replace(key, char(10), ' '), char(10) order by {at}), max({at}), count(*)
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
        there, after, skip = there + found, newest, 0
        is_last = found < size or (end is not None and there >= end)
        yield Chunk(rows, keys or "", found, is_last)
        if is_last:
            return


def _key(names: list[str]) -> str:
    """SQL for how the user `u` is called: by the first of NAMES that is a text or a whole number, as
    sources.as_row has it.

    Where none is, by the address as SQL writes it.
    """
    plain = [
        f"iif(typeof(u.{name}) in ('text', 'integer'), u.{name}, null)" for name in NAMES if name in names
    ]
    return f"""(select iif(length(called) <= {KEY_LENGTH}, called, substr(called, 1, {KEY_LENGTH - 1}) || '…')
        from (select cast(coalesce({", ".join(plain)}, quote(u.email)) as text) as called))"""


def _pair(column: str) -> str:
    """A column's name and value as arguments of json_object; of `u`, for a bare name that is gone would be a
    text.
    """
    name, text = ('u."{}"'.format(column.replace('"', '""')), "'{}'".format(column.replace("'", "''")))
    return f"{text}, iif(typeof({name}) = 'blob' or (typeof({name}) = 'real' and abs({name}) = 9e999), null, {name})"


def check_users(path: str, args: dict[str, Any]) -> None:
    """Refuse a start that would have no users. Raises BadArguments."""
    limit = args.get("limit")
    if limit is not None and limit < 1:
        raise BadArguments("limit is a number from 1, or empty for all users.")
    if not connection(path).execute("select 1 from users limit 1").fetchone():
        raise BadArguments(
            "There are no users yet: add some on the page Users, or with `rowcast users import FILE.csv`."
        )


def _has_rowid(conn: Connection) -> bool:
    row = conn.execute(
        "select type, wr from pragma_table_list where name = 'users' and schema = 'main'"
    ).fetchone()
    return bool(row and row[0] == "table" and not row[1])


def import_csv(path: str, text: str) -> Imported:
    """Add the users of a CSV file, good lines only; the address is the column `email`, or the first that has
    one.

    A header line is recognised by having no address in it. Its other columns are kept where the table has
    them too. A user who is there already is counted and left alone.
    """
    done = Imported(refused=[], ignored=[])
    conn = connection(path)
    addresses = _addresses(text, done, set(_columns(conn)) - {"email", "account_updated"})
    while chunk := list(itertools.islice(addresses, CHUNK)):
        with transaction(conn):
            for number, email, more in chunk:
                _add(conn, done, number, email, more)
    done.refused.sort()
    return done


def _add(conn: Connection, done: Imported, number: int, email: str, more: dict[str, str]) -> None:
    if conn.execute("select 1 from users where email = ?", (email,)).fetchone():
        done.known += 1
        return
    try:
        names = "".join(', "{}"'.format(name.replace('"', '""')) for name in more)
        conn.execute(
            f"insert into users (email{names}) values (?{', ?' * len(more)})", (email, *more.values())
        )
        done.added += 1
    except (apsw.ConstraintError, apsw.SQLError) as error:  # a table that was there already may want more
        done.refused.append((number, f"the table users does not take it: {error}"))


def _addresses(text: str, done: Imported, columns: set[str]) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(line number, address, values of these `columns`) of each good line; the others are added to
    `done.refused`.
    """
    lines = list(io.StringIO(text, newline=""))
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    at, column, seen, kept = 0, None, dict[str, int](), dict[int, str]()
    while at < len(lines):
        start, reader = (
            at,
            csv.reader((lines[n] for n in range(at, len(lines))), strict=True, delimiter=delimiter),
        )
        while at < len(lines):
            number = at + 1
            try:
                cells = [cell.strip() for cell in next(reader)]
                at = start + reader.line_num
                if not any(cells):
                    continue
                if column is None:
                    column, is_header = _column(cells)
                    if is_header:
                        kept = {n: name for n, name in enumerate(cells) if n != column and name in columns}
                        done.ignored = [
                            name for n, name in enumerate(cells) if n != column and name and n not in kept
                        ]
                        continue
                email = cells[column] if column < len(cells) else ""
                if "\n" in email or "\r" in email:
                    raise csv.Error("a quote is not closed")
            except csv.Error as error:
                # the next line is a new start: a quote that is not closed would take all the others into its
                # cell
                done.refused.append((number, f"not readable as CSV: {error}"))
                at = number
                break
            if reason := _refuse(email, seen):
                done.refused.append((number, reason))
            else:
                seen[email] = number
                yield (
                    number,
                    email,
                    {name: cells[n] for n, name in kept.items() if n < len(cells) and cells[n]},
                )


def _column(cells: list[str]) -> tuple[int, bool]:
    """Which column has the addresses, by the first line, and whether that line is a header."""
    if with_address := [n for n, cell in enumerate(cells) if "@" in cell]:
        return with_address[0], False
    names = [re.sub(r"[^a-z]", "", cell.lower()) for cell in cells]
    return next((n for n, name in enumerate(names) if name in ("email", "emailaddress", "mail")), 0), True


def _refuse(email: str, seen: dict[str, int]) -> str:
    if not email:
        return "no address"
    if len(email) > 254:
        return "an address has at most 254 characters (RFC 5321)"
    if not EMAIL.fullmatch(email):
        return f"{email[:60]!r} is not an e-mail address"
    if email in seen:
        return f"{email[:60]} is on line {seen[email]} already"
    return ""


def read_from(path: str) -> None:
    """From now on the item source `user` is read, and a start checked, in this database, by this process."""
    SOURCE_CHECKS[user] = partial(check_users, path)
    CHUNKED[user] = partial(user_chunks, path)
