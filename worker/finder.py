"""How many items at once an API bears, by the times of its answers and by its refusals: concurrency="auto".

Two limits, each found by what it does. That on *how many at once* is a gradient: it doubles at first, as TCP
does, until answers take longer than they did with few at once, goes back to what keeps the API full without a
queue (Little's law), and from there probes upward now and then. Where answers get slower it goes down in
proportion; where that does not make them faster again, the load is not the cause, and they are the new
measure. What is compared is the geometric mean, beyond what is chance where items differ in size, and the
lower quartile: a few large ones say nothing of the API. (TCP Vegas, Brakmo and Peterson 1995; Gradient2 of
Netflix's concurrency-limits; the probes of BBR, Cardwell et al. 2016.) That on *how many a second* is there
once an API has refused (429, 503): down to what it took (AIMD, Chiu and Jain 1989), then a search between
what it took and what it refused (BIC, Xu, Harfoush and Rhee 2004).

Numbers in, numbers out: it asks no clock. Moments are of time.monotonic, in seconds.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import fmean

from rowcast.tasks.concurrency import FIRST_AT_ONCE, Found

LOOK = 0.25  # seconds that a look at the answers takes at the least
LONGEST_LOOK = 3.0
MOMENT = 1e-6  # seconds that an answer takes at the least, whatever the clock has seen of it
FEW = 16  # answers that say something
ALIKE = 0.3  # is the spread of items that do not differ
FAIR = 3.0  # times the longest answer in it takes the first look, else it knows the quick ones alone
MANY = 256  # answers, or
LONG = 10.0  # seconds of them, that say how long one takes all in all
SURE = 2.0  # standard errors that are chance
SPREAD = 3.0  # standard deviations of how many are at once where they start at a pace
SLOWS = 1.5  # times as long as with few at once: the API slows
QUEUES = 2.0  # times as long: more are at once than it bears
CUT = 0.25  # of what was at once is left when it is clear that the load is not the cause
ROOM = 1.25  # of what it bears are at once, so that it never waits for the next
PROBE = 1.25  # times as many, to see whether it bears more
PATIENCE = 4.0  # seconds from one probe to the next, doubled where it was in vain
LONGEST = 60.0
CLEAN = 1.2  # seconds without a refusal, after which a pace is borne
NEAR = 1.04  # between what is borne and what is not: the search is over
UNDER = 0.97  # of what is borne is kept to then
KEEPS = 10.0  # seconds from the end of that search to the first probe, doubled at each
STRIDE = 0.03  # how much more is tried then, doubled while it is borne
LEAST_CUT = 0.7  # of a pace is left at least where it is refused that was borne before
ECHO = 1.0  # seconds in which refusals are still those of what was before
BURST = 0.02  # seconds' worth of starts that may come at once
PAUSE = 0.1  # seconds in which nothing starts after a refusal
SLOWEST = 1.0  # starts per second
FAULTY = 0.1  # of the answers that say 503: with fewer they are faults, and no refusals
DEAF = 30.0  # seconds in which faults are not taken for refusals again


class Finder:
    """What one run has found of its API: `limit` items at once, and `pace` starts per second."""

    def __init__(self, least: int, most: int, known: Found | None = None):
        self.least = least
        self.most = most
        self.limit = min(max(known.limit if known else FIRST_AT_ONCE, least), most)
        self.usual = known.usual if known else 0.0  # seconds that most take with few at once
        self.slows = known.slows if known else 0  # so many at once were slower; 0: none were
        self.rises = not (known and known.settled)
        self.borne = 0.0  # starts per second that it took
        self.refused = math.inf  # and that it refused
        self.pace = math.inf
        if known and known.pace:
            self.pace = self.borne = known.pace
            self.refused = known.pace * NEAR
        self.took = self.usual  # and that one takes of late, all in all, be it a large one
        self.differs = False  # items do, in size
        self.measured = 0  # answers that this is over
        self.quick = 0.0  # of which a quarter takes less
        self.lately = (0.0, 0.0)  # the same two, of the last look
        self.answers = 0  # of the seen ones, those with few at once
        self.tested: tuple[int, float] | None = None  # the limit and the time before it was cut
        self.base = self.limit  # the limit, where there is no probe under way
        self.probe_at = math.inf
        self.patience = PATIENCE
        self.accepted = 0
        self.since = -math.inf  # what ends from then on is looked at
        self.logs: list[float] = []  # of the seconds that each of these took: the logarithms
        self.longest = 0.0
        self.is_full = False  # as many as may were at once
        self.started = math.inf  # when the first began
        self.arrival = -math.inf  # GCRA's theoretical arrival time of the next start
        self.echo_until = -math.inf
        self.clean_since = -math.inf  # of refusals, at this pace
        self.keeps = KEEPS  # seconds until a pace is tried that was refused
        self.stride = STRIDE  # of a probe of the pace
        self.probes = False  # one is under way
        self.ended: deque[tuple[float, bool]] = deque()  # of the last second: when, and whether it was taken
        self.taken = 0
        self.starts = 0  # since then
        self.vain = 0  # cuts in a row after which it refused as much as before
        self.deaf_until = -math.inf

    def heed(self, least: int, most: int) -> None:
        """The bounds have changed."""
        if (least, most) != (self.least, self.most):
            self.rises = self.rises or (self.limit == self.most < most and math.isinf(self.pace))
            self.least = least
            self.most = most
            self._set(self.base)

    @property
    def found(self) -> Found:
        """As it is told, and known to the next run."""
        pace = 0.0 if math.isinf(self.pace) else round(self.pace, 2)
        slows = self.slows if self.slows > self.base else 0  # else it was slow for another reason
        return Found(self.base, not self.rises, slows, pace, round(self.usual, 4))

    def begin(self, now: float, flying: int) -> float:
        """Seconds until the next item may begin, whose turn that is; so many are in flight already."""
        self.started = min(self.started, now)
        self.is_full = self.is_full or flying + 1 >= 0.9 * self.limit
        self.starts += 1
        if math.isinf(self.pace):
            return 0.0
        burst = max(1.0, self.pace * BURST)
        self.arrival = max(self.arrival, now - (burst - 1) / self.pace)
        wait = max(0.0, self.arrival - now)
        self.arrival += 1 / self.pace
        return wait

    def end(self, now: float, took: float, refusal: int = 0) -> None:
        """An answer came after so many seconds; `refusal` is 429 or 503 where it was one."""
        took = max(took, MOMENT)
        self.ended.append((now, not refusal))
        self.taken += not refusal
        while self.ended[0][0] < now - 1:
            self.taken -= self.ended.popleft()[1]
        if refusal and self._is_refusal(refusal, now):
            self.clean_since = max(self.clean_since, now)
            self.starts = 0
            self.arrival = max(self.arrival, now + PAUSE)
            if now - took >= self.echo_until:
                self._refuse(now, took)
        elif not refusal and now >= self.since:
            self.logs.append(math.log(took))
            self.longest = max(self.longest, took)
        if now > self.clean_since + CLEAN and not math.isinf(self.pace):
            self._bear(now)
        length = now - self.since
        if self.since == -math.inf:
            self.since = now
        elif length >= LOOK and len(self.logs) >= FEW and (length > LONGEST_LOOK or self._is_enough(length)):
            self._look(now)

    # ---- how many at once ----------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Judge the limit by the answers of a while."""
        self._average(now)
        took = math.exp(fmean(self.logs))  # as most do, where a few are large
        slow = self._slow(took)
        if not math.isinf(self.pace):
            self._follow_pace(slow)
        elif self.tested:
            self._judge_cut(took)
        elif slow > QUEUES and self.limit > self.least and not self.rises and self.limit <= self.base:
            self.tested = (self.limit, took)
            self.slows = self.limit
            self._set(self.limit * max(0.5, ROOM / slow))
        elif self.rises:
            self._rise(slow)
        elif self.limit > self.base:
            self._judge_probe(slow, now)
        elif slow < SLOWS and self.is_full and now >= self.probe_at and self.limit < self.most:
            self.limit = min(self.most, max(self.limit + 1, round(self.limit * PROBE)))
        if slow < 1:  # it has become faster
            self.usual *= slow**0.25
            self.quick *= slow**0.25
        if self.probe_at == math.inf and not self.rises:
            self.probe_at = now + self.patience
        self.since = now + took * max(1.0, min(slow, 2.0))
        self.logs = []
        self.is_full = False

    def _is_enough(self, length: float) -> bool:
        """Whether a look of this length has seen enough answers; the first, where they differ, large ones
        too."""
        if len(self.logs) < min(self.limit, 4 * FEW):
            return False
        return bool(self.usual) or length >= FAIR * self.longest or spread_of(self.logs[: 4 * FEW]) < ALIKE

    def _average(self, now: float) -> None:
        """How long one takes all in all, over so many that the large ones are in it which are few."""
        number = len(self.logs)
        self.differs = self.differs or spread_of(self.logs) >= ALIKE
        self.measured = min(self.measured + number, MANY)
        share = max(number / self.measured, min(1.0, (now - self.since) / LONG))
        self.took += (fmean(map(math.exp, self.logs)) - self.took) * share

    def _slow(self, took: float) -> float:
        """How many times as long as usual they take, as far as that is no chance: where items differ in size,
        a few large ones among a few answers say nothing of the API. Where it slows, the quick ones do too.
        """
        self.lately = took, math.exp(sorted(self.logs)[len(self.logs) // 4])
        if not self.usual:
            self.usual = took
        if not self.quick:
            self.quick = self.lately[1] * self.usual / took
        chance = SURE * spread_of(self.logs) * math.sqrt(1 / len(self.logs) + 1 / max(self.answers, FEW))
        log = math.log(took / self.usual)
        if log > 0:
            log = max(0.0, min(log, math.log(self.lately[1] / self.quick)))
        return math.exp(math.copysign(max(0.0, abs(log) - chance), log))

    def _approach(self, share: float) -> None:
        """What is usual comes nearer to what was seen of late."""
        took, quick = self.lately
        self.usual *= (took / self.usual) ** share
        self.quick *= (quick / self.quick) ** share

    def _set(self, limit: float) -> None:
        self.limit = self.base = min(max(round(limit), self.least), self.most)

    def _rise(self, slow: float) -> None:
        """Twice as many, unless the API slows by now."""
        if slow > SLOWS:
            self.slows = self.limit
            self.rises = False
            self._set(self.limit * ROOM / slow)
        elif self.is_full:
            self.answers += len(self.logs)
            self._approach(len(self.logs) / self.answers)
            self.rises = self.limit < self.most
            self._set(self.limit * 2)

    def _judge_cut(self, took: float) -> None:
        """Fewer at once: where answers are not faster for it, nor for a quarter, so long they take now.

        Other runs of the job judge so at the same time, and what one alone takes off is little.
        """
        assert self.tested
        before, then = self.tested
        if took <= then * (1 + self.limit / before) / 2:
            self.tested = None
        elif self.limit > max(self.least, before * CUT):
            self._set(max(self.limit / 2, before * CUT))
        else:
            self.tested = None
            self._approach(1.0)
            self.slows = 0
            self._set(before)

    def _judge_probe(self, slow: float, now: float) -> None:
        """More at once: keep to it where the API was not slower."""
        self.accepted = self.accepted + 1 if slow < SLOWS else 0
        if self.accepted:
            self._set(self.limit)
            self.slows = 0 if self.slows <= self.limit else self.slows
            self.patience = PATIENCE
            self.rises = self.accepted > 1 and self.limit < self.most
            self.probe_at = now
        else:
            self.slows = self.limit
            self.limit = self.base
            self.probe_at = now + self.patience
            self.patience = min(self.patience * 2, LONGEST)

    # ---- how many a second ---------------------------------------------------------------------------------

    def _follow_pace(self, slow: float) -> None:
        """With a pace, as many at once as that takes; where the API slows at it, the pace holds no more."""
        if slow > QUEUES and self.is_full:
            self.pace = self.refused = math.inf
            self.rises = False
            self._set(self.limit * ROOM / slow)
        else:
            self._fit(self.pace)

    def _is_refusal(self, code: int, now: float) -> bool:
        if code == 429:
            return True
        if now < self.deaf_until or len(self.ended) < FEW:
            return False
        share = 1 - self.taken / len(self.ended)
        if self.vain > 3 and share < 0.5:  # it says so at any pace
            self.deaf_until = now + DEAF
            self.pace = self.refused = math.inf
            self.vain = 0
            return False
        return share >= FAULTY

    def _refuse(self, now: float, this: float) -> None:
        """Down to what it took of late."""
        tried = self.pace
        took = 0.95 * self.taken
        if math.isinf(tried):
            usual = self.took or (fmean(map(math.exp, self.logs)) if self.logs else this)
            tried = max(self.limit / usual, SLOWEST)
            took = max(took, tried / 4)
            self.keeps = KEEPS
        self.vain = self.vain + 1 if now < self.echo_until + CLEAN else 0
        took = max(took, self.borne if tried > 1.001 * self.borne else LEAST_CUT * tried)
        self.refused = tried
        self.probes = False
        self.stride = STRIDE
        self.borne = max(min(took, 0.95 * tried), SLOWEST)
        self.echo_until = now + ECHO
        self.rises = False
        self.probe_at = math.inf
        self._go(self.borne, now)

    def _go(self, pace: float, now: float) -> None:
        self.pace = pace
        self.clean_since = now
        self.starts = 0
        if self.took:
            self._fit(pace)

    def _fit(self, pace: float) -> None:
        """As many at once as a pace takes, also where by chance some large ones come together."""
        at_once = pace * self.took
        chance = SPREAD * math.sqrt(at_once) if self.differs else 0.0
        self._set(1 + math.ceil(max(SLOWS * at_once, at_once + chance)))

    def _bear(self, now: float) -> None:
        """It has taken this pace for a while: try more, halfway to what it refused."""
        if self.starts < 0.8 * self.pace * (now - self.clean_since):
            if now > self.clean_since + 2 * CLEAN:  # something else holds it
                self.clean_since = now
                self.starts = 0
            return
        self.vain = 0
        self.borne = max(self.borne, self.pace)
        if self.probes:
            self.stride = min(self.stride * 2, 0.5)
            self._probe_pace(now)
        elif self.refused > NEAR * self.borne:
            self._go(min((self.borne + self.refused) / 2, 1.25 * self.borne), now)
        elif self.pace > UNDER * self.borne:
            self._go(UNDER * self.borne, now)
        elif now > self.clean_since + self.keeps:
            self.keeps = min(self.keeps * 2, 2 * LONGEST)
            self._probe_pace(now)

    def _probe_pace(self, now: float) -> None:
        self.probes = True
        self.refused = math.inf
        self._go((1 + self.stride) * self.borne, now)


def spread_of(logs: Sequence[float]) -> float:
    """How far items differ in size: the standard deviation of the logarithms of what they took."""
    mean = fmean(logs)
    return math.sqrt(fmean((log - mean) ** 2 for log in logs))
