"""Steps: how those of a body task are known again, which key each sends, and which may have been done.

A step is known by its key: whatever ran before it or beside it, the n-th of a key is the n-th item of that
key.
"""

import asyncio
import hashlib
import re
import time
from collections import deque

from rowcast.tasks.records import Job
from rowcast.tasks.steps import Cancelled, OpenStep
from rowcast.tasks.work import Step, shorten
from rowcast.worker.failures import failure_of

ADDRESS = re.compile(r"0x[0-9a-fA-F]+")  # another one in the next process


def taken(rows: dict[str, deque[Step]], key: str) -> Step | None:
    """The first of the rows that have this key; it is theirs no more."""
    name = plain(key)
    if name not in rows:
        return None
    row = rows[name].popleft()
    if not rows[name]:
        del rows[name]
    return row


def plain(key: str) -> str:
    """A key as it is known again: as it is shown, addresses in memory apart."""
    return ADDRESS.sub("", shorten(key))


def on_a_loop() -> bool:
    """Whether this code runs on an event loop, which must not be held up."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def ms_of(opened: OpenStep) -> float | None:
    return (time.perf_counter() - opened.began) * 1000 if opened.began else None


def key_of(job: Job, key: str, number: int) -> str:
    """The Idempotency-Key of the n-th step of a key: the same on every try, and no other database's."""
    told = f"{job.created_at!r}/{job.entry}/{number}/{key}"
    return f"{job.id}-{hashlib.sha256(told.encode(errors='replace')).hexdigest()[:16]}"


def is_doubt(failure: BaseException) -> bool:
    """Whether what has failed so may have been done nevertheless."""
    broken_off = isinstance(failure, asyncio.CancelledError | Cancelled)
    return broken_off or failure_of(failure).may_have_arrived
