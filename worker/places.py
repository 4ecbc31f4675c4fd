"""Places: how the runs of one worker share what may be tried at once, where their jobs are of one task.

The ledger shares a task's concurrency out among all that want it (tables/pacing.py). A worker that has the
task to itself is given more items than there are places, so that none waits for a transaction; who of its
jobs tries how many of them is said here. Each owner has an equal part, and of that each of its jobs by its
priority. What one leaves of its part may be had by the others, until it wants it; one that rests, as nothing
of its job may start before a moment that it knows, has no part until then. Where there are more jobs
than places they take turns; one of a lower priority has its turn once it is starved.
"""

import time
from collections import Counter, deque
from typing import Any, Protocol

from rowcast.tasks.records import Job
from rowcast.tasks.work import Claimed
from rowcast.worker.plan import State

TURN = 0.02  # seconds that a place is kept for at least, while others wait
LOOK_AGAIN = 0.5  # seconds after which it is looked again at who has less than its part: one may be starved
STARVED = 10.0  # seconds without a place after which a run gets one, whatever its priority


class Sharer(Protocol):
    """A run, as those see it that share its task."""

    job: Job
    state: State
    most: int  # items of its job at once; what it has found that its API bears is less
    priority: int
    runners: set[Any]
    queue: deque[Claimed]  # what was claimed and has not begun

    def staff(self) -> None: ...

    def ask_again(self) -> None: ...


class Places:
    """The places of one task in one worker. Who shares them has a runner for each that it has."""

    def __init__(self) -> None:
        self.runs: dict[Sharer, float] = {}  # and when (time.monotonic) each came, or last left a place
        self.owners: dict[str, Counter[int]] = {}  # of each, how many runs there are of which priority
        self.mosts: Counter[int] = Counter()  # how many runs there are of which concurrency
        self.whole = 1  # the task's concurrency: the largest among its jobs
        self.taken = 0
        self.hungry: dict[Sharer, None] = {}  # those that would try more, in the order in which they came
        self.short: dict[Sharer, None] = {}  # those of them that have less than their part,
        self.short_at = 0.0  # as was found then (time.monotonic), and of each since when it has changed
        self.parts: dict[tuple[str, int], int] = {}  # by owner and priority, of which all have the same
        self.resting: set[Sharer] = set()  # those of which nothing runs, or may start for a while
        self.in_vain: dict[Sharer, None] = {}  # those that have asked the ledger for items, and got none
        self.took: float | None = None  # milliseconds that an item took, of late
        self.ahead: dict[Sharer, None] = {}  # those that claim more than they try at once

    def join(self, run: Sharer) -> None:
        self.runs[run] = time.monotonic()
        self._count(run, 1)

    def leave(self, run: Sharer) -> None:
        self.runs.pop(run)
        self.wait(run, False)
        self.in_vain.pop(run, None)
        self.ahead.pop(run, None)
        self.taken -= len(run.runners)
        run.runners.clear()  # a call that will not be broken off has no place
        self.rest(run, True)
        self.resting.discard(run)
        self.pass_on()

    def rest(self, run: Sharer, rests: bool) -> None:
        """Note whether a run wants no place for a while."""
        if rests and run not in self.resting:
            self.resting.add(run)
            self._count(run, -1)
        elif not rests and run in self.resting:
            self.resting.discard(run)
            self._count(run, 1)

    @property
    def alone(self) -> bool:
        """Whether there is one run at most, which has all places."""
        return len(self.runs) < 2

    def tune(self) -> None:
        """The concurrency or the priority of a run is another than before."""
        self.owners.clear()
        self.mosts.clear()
        for run in self.runs.keys() - self.resting:
            self._count(run, 1)

    def _count(self, run: Sharer, by: int) -> None:
        own = self.owners.setdefault(run.job.owner, Counter())
        for counts, of in ((own, run.priority), (self.mosts, run.most)):
            counts[of] += by
            if not counts[of]:
                del counts[of]
        if not own:
            del self.owners[run.job.owner]
        self.whole = max(self.mosts, default=1)
        self.parts.clear()
        self.short_at = 0.0

    def part(self, run: Sharer) -> int:
        """The places that are a run's by right: each step of priority doubles them, as in the ledger."""
        if self.alone:
            return run.state.limit
        kind = (run.job.owner, run.priority)
        part = self.parts.get(kind)
        if part is None or run in self.resting:  # then what it has once it goes on
            own = self.owners.get(run.job.owner, Counter()) + Counter(
                {run.priority: int(run in self.resting)}
            )
            each = max(1, max(self.whole, run.most) // len(self.owners.keys() | {run.job.owner}))
            highest = max(own)
            weights = sum(n * 2.0 ** (priority - highest) for priority, n in own.items())
            part = int(each * 2.0 ** (run.priority - highest) / weights + 1e-9)
            part = max(part, int(run.priority == highest))
            if run not in self.resting:
                self.parts[kind] = part
        return min(run.most, part or int(self._is_starved(run)))

    def _is_starved(self, run: Sharer) -> bool:
        return not run.runners and time.monotonic() > self.runs[run] + STARVED

    def shares_out(self, run: Sharer, claims_ahead: bool) -> bool:
        """Whether what a run may claim is said by its part here. It is where the ledger cannot say it: who
        claims ahead holds there what has not begun, and takes no place, or has more than its part and will
        hold as much again before what it has left could be had by another.
        """
        if claims_ahead:
            self.ahead[run] = None
        else:
            self.ahead.pop(run, None)
        return not self.alone and (claims_ahead or any(self._keeps_more(one) for one in self.ahead))

    def _keeps_more(self, run: Sharer) -> bool:
        return bool(run.queue) or len(run.runners) > self.part(run)

    def may_add(self, run: Sharer) -> bool:
        """Whether a run may take one more place."""
        if self.alone:
            return True
        if self.taken >= self.whole:
            return False
        return self._has_less(run) or not self._others_have_less(run)

    def vacate(self, run: Sharer) -> None:
        """A place that a run had is free."""
        self.taken -= 1
        self.runs[run] = time.monotonic()
        self.pass_on()

    def gives_way(self, run: Sharer, since: float) -> bool:
        """Whether a run is to leave a place that it has had since then (time.monotonic) to another."""
        if self.alone:
            return False
        if self.taken > self.whole:  # it was made smaller
            return True
        if not self.hungry or time.monotonic() < since + TURN:
            return False
        return self._others_have_less(run, None if len(run.runners) > self.part(run) else len(run.runners))

    def _others_have_less(self, run: Sharer, than: int | None = None) -> bool:
        """Whether another waits that has less than its part, and less `than` so many."""
        if time.monotonic() > self.short_at + LOOK_AGAIN:
            self.short_at = time.monotonic()
            self.short = {one: None for one in self.hungry if self._has_less(one)}
        return any(one is not run and (than is None or len(one.runners) < than) for one in self.short)

    def _has_less(self, run: Sharer) -> bool:
        return len(run.runners) < self.part(run)

    def wait(self, run: Sharer, wants: bool) -> None:
        """Note whether a run would try more than it may."""
        if wants:
            self.hungry.setdefault(run)
        else:
            self.hungry.pop(run, None)
        if wants and self._has_less(run):
            self.short.setdefault(run)
        else:
            self.short.pop(run, None)

    def pass_on(self) -> None:
        """A place is free: it is for who has waited longest."""
        for run in list(self.hungry):
            if self.taken >= self.whole:
                break
            self.wait(run, False)
            run.staff()  # it comes back behind the others where it would have more

    def wake(self, items: int) -> None:
        """So many items have ended for which who held them got no others: who got none asks again."""
        for run in list(self.in_vain)[: max(0, items)]:
            del self.in_vain[run]
            run.ask_again()
