"""Concurrency as it is given: so many items at once, or `auto`: a run finds how many its API bears."""

import re

import msgspec

MOST_AT_ONCE = 1_000  # items of a job in flight
FIRST_AT_ONCE = 8  # where that is to be found
AUTO = re.compile(r"auto(?:[ :]+([0-9]{1,6}) *- *([0-9]{1,6}))?")
LIKE = f"a whole number from 1 to {MOST_AT_ONCE:,}, auto, or auto with its bounds, like auto 5-200"


class Found(msgspec.Struct, omit_defaults=True):
    """What a run has found that its API bears."""

    limit: int  # items at once
    settled: bool = False  # no more is looked for, but by a probe now and then
    slows: int = 0  # with so many at once it was slower; 0: with none that were tried
    pace: float = 0.0  # starts per second, where it refuses more; 0: it has refused none
    usual: float = 0.0  # seconds that an answer takes with few at once


def parse_concurrency(given: int | str | None) -> int | str | None:
    """A concurrency as it is kept: a number, "auto" or "auto 5-200"; None for none. Raises ValueError."""
    if given is None or given == "":
        return None
    text = str(given).strip().lower()
    if re.fullmatch("[0-9]{1,6}", text) and 1 <= int(text) <= MOST_AT_ONCE:
        return int(text)
    if found := AUTO.fullmatch(text):
        least = int(found[1] or 1)
        most = int(found[2] or MOST_AT_ONCE)
        if 1 <= least <= most <= MOST_AT_ONCE:
            return as_given(most, least)
    raise ValueError(f"concurrency is {LIKE}, not {str(given)[:40]!r}.")


def as_given(most: int | None, least: int | None) -> int | str | None:
    """What `bounds_of` was given."""
    if least is None or most is None:
        return most
    return "auto" if (least, most) == (1, MOST_AT_ONCE) else f"auto {least}-{most}"


def bounds_of(concurrency: int | str) -> tuple[int, int | None]:
    """The most at once and the least, which is None where the concurrency is a number; of what
    `parse_concurrency` has read."""
    if isinstance(concurrency, int):
        return concurrency, None
    found = AUTO.fullmatch(concurrency)
    least, most = (found[1], found[2]) if found else (None, None)
    return int(most or MOST_AT_ONCE), int(least or 1)


def together(parts: list[Found]) -> Found:
    """What the runs of one job have found, all in all: at least one."""
    return Found(
        limit=sum(part.limit for part in parts),
        settled=all(part.settled for part in parts),
        slows=sum(part.slows or part.limit for part in parts) if any(part.slows for part in parts) else 0,
        pace=sum(part.pace for part in parts) if all(part.pace for part in parts) else 0.0,
        usual=max(part.usual for part in parts),
    )


def share_of(found: Found, runs: int) -> Found:
    """What one of so many runs begins with, of what all have found together."""
    return Found(
        max(1, found.limit // runs),
        found.settled,
        found.slows // runs,
        found.pace / runs,
        found.usual,
    )
