"""Tries as people and programs see them: each call of a task for an item, what became of it, what it said.

An item is its own record of a first try that has succeeded, and of the one that runs; of every other there
is a row (tables/tries.py). Times are unix seconds, `ms` milliseconds.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from rowcast.tasks.encoding import TAG, shown
from rowcast.tasks.masking import masked, unmasked
from rowcast.tasks.records import Item, Job, decode

TRY_STATUSES = ("running", "completed", "failed", "cancelled", "unknown")
BREAK = re.compile("\r\n?")


class TryRow(msgspec.Struct):
    """One call of the task for an item."""

    attempt: int
    status: str  # running, completed, failed, cancelled (broken off), unknown (it may have arrived)
    code: int | None  # the HTTP status of the last answer
    error: str | None
    excerpt: str | None  # JSON of an Excerpt; null: no answer said no
    started_at: float
    ms: float | None  # null: it runs, or its end was not seen
    worker: str | None

    @property
    def excerpt_read(self) -> "Excerpt | None":
        """What is kept of the answer, as a record."""
        return None if self.excerpt is None else msgspec.json.decode(self.excerpt, type=Excerpt)

    @property
    def ended_at(self) -> float | None:
        return None if self.ms is None else self.started_at + self.ms / 1000


class Excerpt(msgspec.Struct, omit_defaults=True):
    """What is kept of an API's answer that says no. Nothing of it is a credential."""

    text: str = ""  # of its body, cut
    content_type: str | None = None
    request_id: str | None = None
    retry_after: str | None = None


class LogLine(msgspec.Struct):
    """One line that a try has logged or printed."""

    at: float
    attempt: int
    level: str  # of logging; stdout or stderr of what was printed; note, of what was cut
    text: str


class ItemNow(msgspec.Struct):
    """All that an item's page shows."""

    job: Job
    item: Item
    payload: str | None  # JSON of what the task gets; null: the key itself
    tries: list[TryRow]
    log: list[LogLine]  # the oldest try first
    back: int | None = None  # the item before it in its job
    next: int | None = None

    @property
    def given(self) -> Any:
        """What the task gets, as people and programs may see it; None for a step, which gets nothing."""
        if self.job.shape == "body":
            return None
        return self.item.key if self.payload is None else masked(shown(decode(self.payload)))

    @property
    def may_be_edited(self) -> bool:
        """Whether what the task got is plain JSON, which somebody can change by hand."""
        return self.job.shape == "items" and (self.payload is None or TAG not in self.payload)

    def edited(self, text: str) -> Any:
        """What somebody has made of `given`; secrets that were left masked are as they were, and so is a text
        that was left alone, with its spaces and line breaks, which a form does not keep.

        Raises ValueError.
        """
        if isinstance(self.given, str) and as_sent(text) == as_sent(self.given):
            return self.item.key if self.payload is None else decode(self.payload)
        if self.payload is None:
            return text.strip()
        return unmasked(msgspec.json.decode(text), decode(self.payload))


def as_sent(text: str) -> str:
    """A text as it comes back from a form, whatever line breaks that has."""
    return BREAK.sub("\n", text).strip()


def tries_of(item: Item, worker: str | None, rows: Sequence[TryRow]) -> list[TryRow]:
    """All tries of an item, the oldest first: those that have rows, and the one that the item records."""
    tries = list(rows)
    own = item.status in ("running", "completed") and item.attempt > 0
    if own and not any(row.attempt == item.attempt for row in tries):
        began = item.updated_at - (item.ms or 0.0) / 1000
        tries.append(TryRow(item.attempt, item.status, item.code, None, None, began, item.ms, worker))
    return tries
