"""Item sources: what a job's items come from, and the chunks in which they are written.

A source yields values, one after the other; one that has its items in the database reads them in chunks of
its own (CHUNKED), and nothing is done here for each of them. Chunks are small at first, so that runners soon
have something to do. Runs in a thread beside the running job; no SQL.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rowcast.tasks.encoding import as_json, as_text, fields_of, is_text, pack, shown, to_json, unpack
from rowcast.tasks.records import BadArguments, decode
from rowcast.tasks.work import KEY_LENGTH, NAMES, Chunk, chunk_size, shorten

FILL = 1.0  # seconds that a slow item source gets until what it has yielded is written
PLAIN = (str, int)
Source = Callable[..., Iterable[Any]]


def chunks(source: Source, values: dict[str, Any], there: int, most: int | None) -> Iterator[Chunk]:
    """What `source` yields with these arguments, from the item at position `there`, before the one at `most`.

    The last chunk says that it is, so that what fits into one is
    written, and ended, at once; it may be empty.
    """
    if source in CHUNKED:
        yield from CHUNKED[source](there, most, **values)
        return
    rows: list[tuple[str, str | None]] = []
    write_by = time.monotonic() + FILL
    for row in itertools.islice(map(as_row, source(**values)), there, most):
        rows.append(row)
        if len(rows) == chunk_size(there) or time.monotonic() > write_by:
            yield Chunk.of(rows)
            there += len(rows)
            rows = []
            write_by = time.monotonic() + FILL
    yield Chunk.of(rows, last=True)


def as_row(value: Any) -> tuple[str, str | None]:
    """What an item source yielded as (key, payload): a string is its own key; a dict or a record is named by
    its first plain value.

    Of those, the NAMES come first. Raises TypeError for what would not arrive as it is.
    """
    if isinstance(value, str) and type(value) is str:
        return (
            (value, None)
            if len(value) <= KEY_LENGTH and is_text(value)
            else (shorten(as_text(value)), pack(value))
        )
    payload = pack(value)
    fields = value if isinstance(value, dict) else fields_of(value) or {}
    for name in itertools.chain(NAMES, fields):
        key = fields.get(name)
        if isinstance(key, PLAIN):
            return shorten(as_text(str(key))), payload
    plain = shown(as_json(value))
    return shorten(plain if isinstance(plain, str) else to_json(plain).decode()), payload


def given_items(items: list[str | dict[str, Any]]) -> Iterable[Any]:
    """The item source `item`: a list given at the start."""
    return items


def check_given(args: dict[str, Any]) -> None:
    """Raises BadArguments for a list that is empty or names an item twice."""
    seen: set[str] = set()
    for item in args["items"]:
        text = item if isinstance(item, str) else to_json(item).decode()
        if text in seen:
            raise BadArguments(f"items: {text[:80]!r} is listed twice.")
        seen.add(text)
    if not seen:
        raise BadArguments("items is empty: give at least one.")


def user(limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The item source `user`: every row of the table users in the
    order in which it came, at most `limit` of them.

    It is read by tables/users.py, in chunks, where the database is. Raises LookupError elsewhere.
    """
    if user not in CHUNKED:
        raise LookupError("The table users is read where the database is: in the dashboard and its engine.")
    for chunk in CHUNKED[user](0, None, limit):
        for _, payload in decode(chunk.rows):
            yield unpack(payload)


# What a task's first parameter means by its name alone.
ITEM_SOURCES: dict[str, Source] = {"item": given_items, "user": user}
# What refuses a start of a task with this source: a function of the job's arguments.
SOURCE_CHECKS: dict[Source, Callable[[dict[str, Any]], None]] = {given_items: check_given}
# What reads the items of a source in Chunks: a function of the position to begin at, of that to
# end before (None: the source's end), and of the source's own arguments.
CHUNKED: dict[Source, Callable[..., Iterator[Chunk]]] = {}
