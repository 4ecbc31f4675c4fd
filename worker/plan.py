"""What the keeper of a run does next: plain functions of a small state, which ask nothing and do nothing.

runner.py keeps the state and does what is said here. Moments are of time.monotonic, in seconds.
"""

import math
from collections.abc import Sequence

import msgspec

from rowcast.tasks.records import CLAIMABLE
from rowcast.tasks.work import Work

FLUSH = 0.05  # seconds at most between a result and its transaction
REPORT_EVERY = (
    0.09  # seconds between two transactions while items are in flight: one for each frame that a page is sent
)
AHEAD_MS = 200.0  # milliseconds of work to claim beyond what is in flight
MOST_AHEAD = 3_000  # items to claim beyond what is in flight
LEAST_AHEAD = 50  # which each of many jobs of a task may claim, so that a small one is claimed at once
SLOW_MS = 90.0  # milliseconds that an item takes of which none is claimed ahead,
SLOW_OF_MANY_MS = 1_000.0  # and of each of many jobs of a task, so that they report and claim many at a time
SOON = 0.02  # seconds at least between two claims of which the first was in vain
LONGEST_WAIT = (
    0.5  # a wait for pace or backoff is looked at again after this, so that pause and cancel are seen
)


class State(msgspec.Struct):
    """What a run has at one moment, and what it knows of its job."""

    status: str
    limit: int  # items that may be tried at once here
    flying: int = 0  # items that are tried
    waiting: int = 0  # items that were claimed and have not begun
    ended: int = 0  # tries that have ended and are not recorded
    idempotent: bool = True
    stop_rule: bool = False
    took: float = (
        SLOW_MS  # milliseconds that an item took, of late; before one has ended, none is claimed ahead
    )
    on_hold: bool = False  # the API has asked for a pause that is not over
    stopping: bool = False
    stop_by: float = math.inf  # what is still in flight then is broken off
    until: float = math.inf  # nothing is claimed after this
    claim_at: float = 0.0  # nothing is claimed before this
    soon: float = SOON / 8  # seconds to wait after a claim in vain; the first items are written in a moment
    every: float = REPORT_EVERY  # seconds between two reports
    measured: bool = False  # one has ended here: it is known how long it takes
    part: int = 0  # of the limit, what it has by right beside others of its task here; 0: all
    shares: bool = False  # it claims for its part; else the ledger knows what others leave
    runs: int = 1  # that share the task here

    @property
    def idle(self) -> bool:
        """Whether there is nothing here that is to be tried, awaited or recorded."""
        return not (self.flying or self.waiting or self.ended)


class Plan(msgspec.Struct, frozen=True):
    """What is to be done now."""

    claim: int = 0  # items to ask for
    give_back: bool = False  # what has not begun
    break_off: bool = False  # what is in flight
    last: bool = False  # nothing is claimed here any more: a run that is idle is over


def plan(state: State, now: float) -> Plan:
    """What to claim, and whether to give back or to break off what is here."""
    going = state.status in CLAIMABLE and not state.stopping
    break_off = state.status == "cancelled" or now > state.stop_by
    give_back = break_off or state.on_hold or not going
    last = not going or now >= state.until
    waiting = 0 if give_back else state.waiting
    places = state.part if state.shares else state.limit
    room = 0 if last or now < state.claim_at else places + ahead(state) - state.flying - waiting
    return Plan(max(0, room), give_back, break_off, last)


def ahead(state: State) -> int:
    """Items to claim beyond the limit, so that no runner waits for a transaction.

    None where a claim is a risk, or an item takes so long that the wait is little beside it; but each of many
    jobs that have a place would have a transaction for every item. Few where a stop rule may be hit: what has
    been claimed may begin before the rule's word is heard.
    """
    places = state.part or state.limit
    shares = state.measured and 1 < state.runs <= state.limit
    if not state.idempotent or state.took >= (SLOW_OF_MANY_MS if shares else SLOW_MS):
        return 0
    if state.took >= SLOW_MS:
        return min(math.ceil(places / state.took * AHEAD_MS) + 1, places)
    # Little's law: as many at once, for so long each
    most = max(MOST_AHEAD // state.runs, LEAST_AHEAD) if state.runs > 1 else MOST_AHEAD
    items = min(math.ceil(places / max(state.took, 0.1) * AHEAD_MS), most)
    return min(items, places) if state.stop_rule else items


def average(took: float, times: Sequence[float], limit: int) -> float:
    """How long an item takes, over as many as are tried at once, now that some took these times."""
    return took + (sum(times) / len(times) - took) * min(1.0, len(times) / limit) if times else took


def learn(state: State, claimed: int, work: Work, now: float) -> None:
    """Note when to ask again, by what a claim of so many has brought."""
    short = 0 < len(work.items) < claimed and not work.filled
    state.every = until_half(state) if short else REPORT_EVERY
    if claimed and not work.items:
        wait = work.wait or (FLUSH if work.filled else 0.0)
        state.claim_at = now + max(state.soon, min(wait, LONGEST_WAIT))
        state.soon = min(2 * state.soon, SOON if state.runs < 2 else REPORT_EVERY)


def until_half(state: State) -> float:
    """Seconds until half of what waits here has begun: while a job is being written, there is more of it
    by then.
    """
    return min(max(SOON, state.waiting / 2 * state.took / 1000 / state.limit), REPORT_EVERY)


def look_at(state: State, now: float) -> float:
    """The moment at which to look again, if nothing happens before."""
    return min(now + LONGEST_WAIT, state.claim_at) if state.idle else now + state.every
