"""Rows of an application's own table as items: read by the application's own library, in the worker, from its
own file.

    @task(items=rows("data/app.db", "customers"))
    async def write_to(customer: dict, api: httpx.AsyncClient): ...

Rowcast's file is not opened for it, and neither SQLAlchemy nor fastlite is imported unless it is given.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Read = Callable[[int | None], Iterator[dict[str, Any]]]


def rows(database: Any, what: Any = None) -> Read:
    """An item source: each row of a table, or of a query, as a dict; the job gets an argument `limit`.

    database: the path of a SQLite file, an address as SQLAlchemy takes it ("postgresql://..."), a SQLAlchemy
    Engine, or a table of fastlite (`db.t.customers`). what: the name of a table, or a query that starts with
    "select" or "with"; of SQLAlchemy also a `select(...)`. Give a query an `order by`: after a crash reading
    goes on behind the rows that were read. Raises TypeError for what is none of these.
    """
    read = reader_for(database, what)

    def source(limit: int | None = None) -> Iterator[dict[str, Any]]:
        return read(limit)

    return source


def reader_for(database: Any, what: Any) -> Read:
    kind = type(database).__module__.partition(".")[0]
    if kind in ("fastlite", "apswutils") and hasattr(database, "rows_where"):
        return lambda limit: database.rows_where(limit=limit)
    if kind == "sqlalchemy" or (isinstance(database, str) and "://" in database):
        return lambda limit: by_sqlalchemy(database, what, limit)
    if isinstance(database, str | Path) and isinstance(what, str):
        return lambda limit: by_sqlite(Path(database), what, limit)
    raise TypeError(
        "rows takes the path of a SQLite file and a table, a SQLAlchemy Engine or address and a table,"
        " or a table of fastlite."
    )


def by_sqlite(path: Path, what: str, limit: int | None) -> Iterator[dict[str, Any]]:
    """By Python's own SQLite, which only reads; it raises sqlite3.Error where the file or the table is not
    there.
    """
    sqlite3 = importlib.import_module("sqlite3")  # a worker whose tasks read no file does without
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as conn:
        sql = what if is_query(what) else 'select * from "{}"'.format(what.replace('"', '""'))
        cursor = conn.execute(sql)
        names = [column[0] for column in cursor.description]
        for number, row in enumerate(cursor):
            if number == limit:
                break
            yield dict(zip(names, row, strict=True))


def by_sqlalchemy(database: Any, what: Any, limit: int | None) -> Iterator[dict[str, Any]]:
    """By SQLAlchemy, row by row as the database sends them."""
    alchemy = importlib.import_module("sqlalchemy")
    engine = alchemy.create_engine(database) if isinstance(database, str) else database
    query = what
    if isinstance(what, str):
        quote = engine.dialect.identifier_preparer.quote
        query = alchemy.text(what if is_query(what) else f"select * from {quote(what)}")
    try:
        with engine.connect().execution_options(stream_results=True, max_row_buffer=1000) as conn:
            for number, row in enumerate(conn.execute(query).mappings()):
                if number == limit:
                    break
                yield dict(row)
    finally:
        if engine is not database:
            engine.dispose()


def is_query(what: str) -> bool:
    return what.lstrip()[:6].lower() == "select" or what.lstrip()[:5].lower() == "with "
