"""Filters as data: which jobs are meant, on the list, for programs, and by an act on many of them.

A filter is the query of an address, and the other way round; tables/search.py answers it.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from rowcast.tasks.records import JOB_STATUSES, RETRYING, WITH_FAILURES, BadArguments, Job, iso

ACTIVE_JOBS = "active"  # those that have not ended
STATUSES = (ACTIVE_JOBS, *JOB_STATUSES, WITH_FAILURES, RETRYING)
LARGEST = 10**18 - 1  # of the numbers of jobs, items and changes: eighteen digits, which SQLite can hold
MOVES = 10**15  # by so much what has not ended is before what has, in the list; a browser counts so far
FEW = 1000  # jobs that are counted one by one
TAG = re.compile(r"(?=.*[^\W_])[^\s,\"'<>\x00-\x1f\x7f-\x9f]{1,60}")
MOST_TAGS = 20  # of a job
LONGEST_SEARCH = 200  # letters
AGO = re.compile(r"([0-9]{1,9})([smhd])")
BETWEEN = re.compile(r"([0-9]{1,9})(-([0-9]{1,9})?)?")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Filter:
    """Which jobs are meant: those for which all of it holds. `q`: words of name, arguments, tags, reason and
    owner; times are of when it was written, as `moment_before` reads them; `failures`: how many of its items
    have failed, as `failures_between` reads it."""

    q: str = ""
    task: str = ""
    tag: str = ""
    status: str = ""
    since: str = ""
    until: str = ""
    failures: str = ""

    def but(self, **changes: Any) -> "Filter":
        return replace(self, **changes)

    @property
    def is_all(self) -> bool:
        return self == Filter()

    @property
    def by_end(self) -> bool:
        """Whether what has ended is listed by its end: of all, or of a task. What else narrows the list finds
        jobs by their numbers."""
        return self == Filter(task=self.task)

    @property
    def values(self) -> dict[str, str]:
        """What is asked for, by name; what is not is left out."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in found.items() if value}

    def query(self, **more: Any) -> str:
        """The filter as the query of an address."""
        return urlencode(self.values | {name: value for name, value in more.items() if value})


class Bookmark(msgspec.Struct):
    """A filter that somebody has kept: one row of `bookmarks`."""

    id: int
    name: str
    filter: str  # JSON

    @property
    def wanted(self) -> Filter:
        return filter_of(msgspec.json.decode(self.filter))


class BulkRow(msgspec.Struct):
    """One act on many jobs: a row of `bulks`."""

    id: int
    account: str  # who has asked for it
    role: str
    action: str
    filter: str  # JSON
    found: int  # jobs that the filter had
    total: int  # of them, those that it was to change
    done: int  # of them, those that are changed
    last: int  # the job that it has come to: it goes from the newest to the oldest
    created_at: float
    finished_at: float | None


@dataclass(frozen=True)
class Counted:
    """How many jobs each status has, '' all; none where they are `over` so many."""

    jobs: dict[str, int]
    over: int = 0


def order_of(job: Job, by_end: bool = True) -> int:
    """Where the job stands in the list: before those with a smaller one. What has ended goes by when it did,
    or by its number, as `Filter.by_end` says."""
    if not job.finished_at:
        return MOVES + job.id
    return job.news if by_end else job.id


def filter_of(given: Mapping[str, Any]) -> Filter:
    """A filter of what a query, a form or JSON says. Raises BadArguments."""
    said = {name: "" if value is None else str(value).strip() for name, value in given.items()}
    status = said.get("status", "")
    if status and status not in STATUSES:
        raise BadArguments(f"status is one of {', '.join(STATUSES)}, not {status[:40]!r}.")
    failures_between(said.get("failures", ""))
    for name in ("since", "until"):
        moment_before(name, said.get(name, ""))
    return Filter(
        q=said.get("q", "")[:LONGEST_SEARCH],
        task=said.get("task", "")[:LONGEST_SEARCH],
        tag=said.get("tag", "")[:LONGEST_SEARCH],
        status=status,
        since=said.get("since", ""),
        until=said.get("until", ""),
        failures=said.get("failures", ""),
    )


def failures_between(text: str) -> tuple[int, int] | None:
    """How many failed items are meant, from and to: "37", "10-50", or "100-" for that and more.

    Raises BadArguments.
    """
    if not text:
        return None
    if (said := BETWEEN.fullmatch(text)) and (least := int(said[1])):
        most = LARGEST if said[2] else least
        if said[3]:
            most = int(said[3])
        if least <= most:
            return least, most
    raise BadArguments(f"failures is a number from 1, like 37, or 10-50, or 100-, not {text[:40]!r}.")


def moment_before(name: str, text: str) -> float | None:
    """An ISO 8601 time (UTC unless it says otherwise), unix seconds, or "90m", "24h", "7d" ago.

    Raises BadArguments.
    """
    if not text:
        return None
    try:
        if ago := AGO.fullmatch(text):
            return time.time() - int(ago[1]) * SECONDS[ago[2]]
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
            return float(text)
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadArguments(
            f"{name} is a time like 2026-12-31T06:00:00Z, or 24h for so long ago, not {text[:40]!r}."
        ) from None


def as_of_now(wanted: Filter) -> Filter:
    """With what is so long ago as the time that this is now: an act that takes a while means the same jobs to
    its end."""
    return wanted.but(**{
        name: iso(max(0.0, moment_before(name, text) or 0.0))  # no job is older
        for name in ("since", "until") if AGO.fullmatch(text := getattr(wanted, name))
    })  # fmt: skip


def checked_tags(given: Any) -> tuple[str, ...]:
    """Tags as a job keeps them, each once: a list of words, or a text in which commas or spaces part them.

    Raises BadArguments.
    """
    words = re.split(r"[\s,]+", given.strip()) if isinstance(given, str) else list(given)
    tags = tuple(dict.fromkeys(word for word in words if word != ""))
    for tag in tags:
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            raise BadArguments(
                "A tag is a word of up to 60 letters, digits and signs, without a comma, not"
                f" {str(tag)[:70]!r}."
            )
    if len(tags) > MOST_TAGS:
        raise BadArguments(f"A job has at most {MOST_TAGS} tags, not {len(tags)}.")
    return tags
