"""Filling: what an item source yields, in the chunks in which it is written.

A source yields values, one after the other; one that has its items in the database reads them in chunks of its own
(registry.CHUNKED), and nothing is done here for each of them. Chunks are small at first, so that runners soon have
something to do. Runs in a thread beside the running job; no SQL.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from rowcast.tasks.records import KEY_LENGTH, NAMES, Chunk, chunk_size, encode, shorten
from rowcast.tasks.registry import CHUNKED, Task

FILL = 1.0  # seconds that a slow item source gets until what it has yielded is written
PLAIN = (str, int)


def chunks(task: Task, args: dict[str, Any], there: int, most: int | None) -> Iterator[Chunk]:
    """The items of a job with these arguments, from the one at position `there`, before the one at `most`.

    The last chunk says that it is, so that what fits into one is written, and ended, at once; it may be empty.
    """
    if task.items in CHUNKED:
        yield from CHUNKED[task.items](there, most, **task.source_values(args))
        return
    rows: list[tuple[str, str | None]] = []
    write_by = time.monotonic() + FILL
    for row in itertools.islice(map(as_row, task.source(args)), there, most):
        rows.append(row)
        if len(rows) == chunk_size(there) or time.monotonic() > write_by:
            yield Chunk.of(rows)
            there += len(rows)
            rows, write_by = [], time.monotonic() + FILL
    yield Chunk.of(rows, last=True)


def as_row(value: Any) -> tuple[str, str | None]:
    """What an item source yielded as (key, payload): a string is its own key; a dict is named by its first plain value.

    Of a dict, the NAMES come first. Raises TypeError for what JSON does not know.
    """
    if isinstance(value, str):
        return (value, None) if len(value) <= KEY_LENGTH else (shorten(value), encode(value).decode())
    payload = msgspec.json.encode(value).decode()
    if isinstance(value, dict):
        for name in itertools.chain(NAMES, value):
            key = value.get(name)
            if isinstance(key, PLAIN):
                return shorten(str(key)), payload
    return shorten(payload), payload
