"""What a run finds of its API: case by case, and against APIs that are made of numbers, in their own time."""

import functools
import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from rowcast.tasks.concurrency import (
    FIRST_AT_ONCE,
    Found,
    as_given,
    bounds_of,
    parse_concurrency,
    share_of,
    together,
)
from rowcast.worker.finder import Finder

# ---- APIs: what each does with a request of a moment, as (when it answers, the code of its refusal or 0) -----------

Api = Callable[[float], tuple[float, int]]


def constant(seconds: float) -> Api:
    """Takes as long however many there are."""
    return lambda now: (now + seconds, 0)


def saturating(rate: float, seconds: float, then: float = 0.0, at: float = math.inf) -> Api:
    """Does so many a second, one after the other; from a moment on only `then`."""
    free = 0.0

    def ask(now: float) -> tuple[float, int]:
        nonlocal free
        free = max(now, free) + 1 / (then if now >= at else rate)
        return free + seconds, 0

    return ask


def refusing(rate: int, seconds: float, then: int = 0, at: float = math.inf) -> Api:
    """Takes so many in any second, and refuses the others; from a moment on only `then`."""
    taken: list[float] = []

    def ask(now: float) -> tuple[float, int]:
        while taken and taken[0] <= now - 1:
            taken.pop(0)
        if len(taken) >= (then if now >= at else rate):
            return now + seconds / 2, 429
        taken.append(now)
        return now + seconds, 0

    return ask


def differing(sizes: Callable[[random.Random], float], seed: int, api: Api | None = None) -> Api:
    """Takes as long as each item is large, and with `api` as much longer as that takes for nothing."""
    chance = random.Random(seed)

    def ask(now: float) -> tuple[float, int]:
        end, refusal = api(now) if api else (now, 0)
        return end if refusal else end + sizes(chance), refusal

    return ask


def few_are(large: float, of: float, else_: float) -> Callable[[random.Random], float]:
    """Some of the items take as long as that, and the others little."""
    return lambda chance: large if chance.random() < of else else_


def faulty(seconds: float) -> Api:
    """Answers every fiftieth with 503, however many there are."""
    number = itertools.count(1)
    return lambda now: (now + seconds, 503 if next(number) % 50 == 0 else 0)


class Fixed:
    """A limit that finds nothing."""

    def __init__(self, limit: int):
        self.limit = limit

    def begin(self, now: float, flying: int) -> float:
        return 0.0

    def end(self, now: float, took: float, refusal: int = 0) -> None: ...


class Run:
    """A run over such an API: as many runners as the finder says, and what came of it at which moment."""

    def __init__(self, api: Api, finders: list[Any], seconds: float, vary: float = 0.0, holds: float = 0.0):
        self.api = api
        self.vary = vary
        self.holds = holds
        self.answers: list[tuple[float, int]] = []
        self.chance = random.Random(4)
        self.hold_until = 0.0
        self.number = itertools.count()
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        for finder in finders:
            self.staff([0, 0], finder, 0.0)
        while self.events and self.events[0][0] <= seconds:
            now, _, happens = heapq.heappop(self.events)
            happens(now)

    def at(self, moment: float, happens: Callable[..., None], *given: Any) -> None:
        heapq.heappush(self.events, (moment, next(self.number), functools.partial(happens, *given)))

    def staff(self, busy: list[int], finder: Any, now: float) -> None:
        if now < self.hold_until:
            self.at(self.hold_until, self.staff, busy, finder)
            return
        while sum(busy) < finder.limit:
            busy[1] += 1
            self.at(now + finder.begin(now, busy[0]), self.start, busy, finder)

    def start(self, busy: list[int], finder: Any, now: float) -> None:
        busy[1] -= 1
        if now < self.hold_until:
            self.staff(busy, finder, now)
            return
        busy[0] += 1
        end, refusal = self.api(now)
        if self.vary:
            end = now + (end - now) * self.chance.uniform(1 - self.vary, 1 + self.vary)
        self.at(end, self.end, busy, finder, now, refusal)

    def end(self, busy: list[int], finder: Any, began: float, refusal: int, now: float) -> None:
        busy[0] -= 1
        self.answers.append((now, refusal))
        if refusal and self.holds:
            self.hold_until = max(self.hold_until, now + self.holds)
        finder.end(now, now - began, refusal)
        self.staff(busy, finder, now)

    def rate(self, since: float, until: float) -> float:
        return sum(since <= at < until and not refusal for at, refusal in self.answers) / (until - since)

    def refused(self, since: float, until: float) -> int:
        return sum(since <= at < until and bool(refusal) for at, refusal in self.answers)


FIXED = (1, 2, 5, 6, 15, 24)  # and the most, for the one that does not mind
APIS: dict[str, Callable[[], Api]] = {
    "takes 50 ms however many there are": lambda: constant(0.05),
    "does 300 a second": lambda: saturating(300, 0.05),
    "does 300 a second, each in a moment": lambda: saturating(300, 0.005),
    "refuses more than 100 a second": lambda: refusing(100, 0.05),
    "refuses more than 100 a second, and is quick": lambda: refusing(100, 0.008),
    "does half of its 300 from a moment on": lambda: saturating(300, 0.05, 150, 16),
    "refuses from a moment on more than half of its 100": lambda: refusing(100, 0.05, 50, 16),
}


@pytest.mark.parametrize("vary", [0.0, 0.3])
@pytest.mark.parametrize("name", APIS)
def test_within_fifteen_seconds_it_does_nine_tenths_of_what_the_best_number_does(name: str, vary: float):
    numbers = (*FIXED, 200) if "however" in name else FIXED
    best = [Run(APIS[name](), [Fixed(limit)], 5, vary).rate(2, 5) for limit in numbers]
    found = Run(APIS[name](), [Finder(1, 200)], 45, vary)
    assert found.rate(10, 15) >= 0.9 * max(best)
    halved = 0.5 if "half" in name else 1.0
    assert found.rate(25, 45) >= 0.9 * max(best) * halved
    # what it has found it keeps to
    assert found.refused(11, 16) <= 5
    assert found.refused(31, 45) <= 0.005 * 14 * found.rate(31, 45)


SIZES: dict[str, Callable[[random.Random], float]] = {
    "1 % of 5 s": few_are(5.0, 0.01, 0.1),
    "0.5 % of 5 s": few_are(5.0, 0.005, 0.05),
    "10 % of 3 s": few_are(3.0, 0.1, 0.1),
    "lognormal": lambda chance: 0.1 * math.exp(chance.gauss(0, 1.5)),
}


@pytest.mark.parametrize("name", SIZES)
def test_where_items_differ_in_size_the_large_ones_are_not_taken_for_an_api_that_slows(name: str):
    for seed in range(1, 6):
        best, found = [
            Run(differing(SIZES[name], seed), [finder], 40).rate(10, 40)
            for finder in (Fixed(60), Finder(1, 60))
        ]
        assert found >= 0.9 * best, (seed, found, best)


@pytest.mark.parametrize("bound", [saturating, refusing])
@pytest.mark.parametrize("name", ["1 % of 5 s", "10 % of 3 s"])
def test_and_one_that_does_slow_or_refuse_is_still_known(bound: Callable[..., Api], name: str):
    for seed in range(1, 4):
        finder = Finder(1, 200)
        found = Run(differing(SIZES[name], seed, bound(100, 0.0)), [finder], 40)
        assert found.rate(10, 20) >= 90, seed
        assert found.rate(20, 40) >= 90, seed
        assert finder.limit <= 120 and found.refused(20, 40) <= 0.005 * 20 * 100, (seed, finder.limit)


def test_where_a_refusal_holds_all_back_it_finds_the_bound_too():
    found = Run(refusing(100, 0.05), [Finder(1, 200)], 60, holds=1.0)
    assert found.rate(15, 20) >= 90
    assert found.refused(0, 20) < 30
    assert found.rate(20, 60) >= 85


def test_what_it_says_of_an_api_that_slows_is_near_what_little_says():
    finder = Finder(1, 1000)
    Run(saturating(300, 0.1), [finder], 15)
    found = finder.found
    assert found.settled and found.pace == 0
    assert 30 <= found.limit <= 60 and found.limit < found.slows <= 1.5 * found.limit


def test_what_it_says_of_an_api_that_refuses_is_what_that_takes():
    finder = Finder(1, 1000)
    Run(refusing(100, 0.05), [finder], 15)
    assert finder.found.settled and 90 <= finder.found.pace <= 100
    assert finder.found.limit < 15


def test_a_bound_that_is_lifted_is_found_too():
    finder = Finder(1, 200)
    found = Run(refusing(100, 0.05, 400, 20), [finder], 60)
    assert found.rate(50, 60) > 300
    more = Run(saturating(150, 0.05, 600, 20), [Finder(1, 200)], 60)
    assert more.rate(50, 60) > 540


def test_answers_that_take_longer_for_another_reason_do_not_make_it_small():
    """From 20 s on each takes three times as long, however many there are."""
    found = Run(lambda now: (now + (0.15 if now > 20 else 0.05), 0), [finder := Finder(1, 60)], 60)
    assert found.rate(45, 60) >= 0.9 * 60 / 0.15
    assert finder.found.limit >= 54


def test_faults_that_come_at_any_pace_are_no_refusals():
    found = Run(faulty(0.05), [finder := Finder(1, 100)], 20)
    assert finder.found.pace == 0 and found.rate(10, 20) > 0.95 * 100 / 0.05 * 0.97


def test_several_runs_of_one_job_find_a_share_each():
    finders = [Finder(1, 250) for _ in range(4)]
    run = Run(saturating(300, 0.1), finders, 60)
    assert run.rate(10, 60) >= 285
    assert sum(finder.limit for finder in finders) <= 120  # and they do not drive each other up
    refused = Run(refusing(100, 0.05), finders := [Finder(1, 250) for _ in range(3)], 60)
    assert refused.rate(20, 60) >= 85 and refused.refused(20, 60) <= 0.03 * 40 * 100


# ---- case by case --------------------------------------------------------------------------------------------------


def fed(finder: Finder, took: float, since: float, seconds: float, flying: int | None = None) -> float:
    """So many seconds of answers that each took as long, with as many in flight as may be."""
    now = since
    while now < since + seconds:
        at_once = finder.limit if flying is None else flying
        finder.begin(now, at_once - 1)
        finder.end(now, took)
        now += took / at_once
    return now


def test_it_begins_with_few_and_doubles_while_answers_take_no_longer():
    finder = Finder(1, 100)
    assert finder.limit == FIRST_AT_ONCE and not finder.found.settled
    seen = set()
    now = 0.0
    while now < 8:
        now = fed(finder, 0.05, now, 0.1)
        seen.add(finder.limit)
    assert seen == {8, 16, 32, 64, 100}
    assert finder.found == Found(100, True, 0, 0.0, 0.05)


@pytest.mark.parametrize(
    ("least", "most", "first"), [(1, 3, 3), (20, 50, 20), (1, 1, 1), (8, 8, 8), (1, 1000, 8)]
)
def test_it_keeps_to_its_bounds(least: int, most: int, first: int):
    finder = Finder(least, most)
    assert finder.limit == first
    now = fed(finder, 0.05, 0.0, 6)
    assert finder.limit <= most
    fed(finder, 5.0, now, 100)
    assert finder.limit >= least
    finder.heed(2, 2)
    assert finder.limit == 2


def test_where_something_else_keeps_it_small_it_learns_nothing():
    finder = Finder(1, 100)
    fed(finder, 0.05, 0.0, 10, flying=3)
    assert finder.limit == FIRST_AT_ONCE and not finder.found.settled


def test_the_next_run_goes_on_where_this_one_was():
    known = Found(40, True, 50, 0.0, 0.1)
    finder = Finder(1, 100, known)
    assert finder.limit == 40 and finder.found == known
    fed(finder, 0.1, 0.0, 2)
    assert finder.found == known
    paced = Finder(1, 100, Found(5, True, 0, 97.0, 0.05))
    waits = [paced.begin(10.0, 0) for _ in range(98)]
    assert waits[0] == 0.0 and 0.95 < waits[-1] < 1.0  # at the pace that was found from the first on


def test_after_a_refusal_nothing_begins_for_a_moment():
    finder = Finder(1, 100)
    now = fed(finder, 0.05, 0.0, 1.0)
    assert finder.begin(now, 0) == 0.0
    finder.end(now, 0.01, 429)
    assert finder.begin(now, 0) > 0.05 and finder.found.pace > 0


@pytest.mark.parametrize("refusal", [0, 429])
def test_answers_that_took_no_time_at_all_are_answers_too(refusal: int):
    finder = Finder(1, 100)
    for n in range(100):
        finder.begin(n * 0.02, finder.limit - 1)
        finder.end(n * 0.02, 0.0, refusal if n % 10 == 9 else 0)
    assert (finder.found.pace > 0) == bool(refusal)


@pytest.mark.parametrize(
    ("given", "kept", "bounds"),
    [
        (7, 7, (7, None)),
        ("7", 7, (7, None)),
        (1000, 1000, (1000, None)),
        ("auto", "auto", (1000, 1)),
        (" AUTO ", "auto", (1000, 1)),
        ("auto 5-200", "auto 5-200", (200, 5)),
        ("auto:5 - 200", "auto 5-200", (200, 5)),
        ("auto 1-1000", "auto", (1000, 1)),
        ("auto 3-3", "auto 3-3", (3, 3)),
    ],
)
def test_a_concurrency_is_read_and_kept(given: Any, kept: Any, bounds: tuple[int, int | None]):
    assert parse_concurrency(given) == kept
    assert bounds_of(kept) == bounds
    assert as_given(*bounds) == kept


@pytest.mark.parametrize(
    "given",
    [0, -1, 1001, "0", "1.5", "many", "auto 0-5", "auto 9-5", "auto 5", "auto 5-2000", "auto5-6", True],
)
def test_what_is_no_concurrency_is_refused_in_a_sentence(given: Any):
    with pytest.raises(
        ValueError, match=r"concurrency is a whole number from 1 to 1,000, auto, or auto with"
    ):
        parse_concurrency(given)


def test_what_the_runs_have_found_is_told_as_one():
    one = Found(10, True, 14, 0.0, 0.1)
    two = Found(20, True, 0, 0.0, 0.2)
    assert together([one, two]) == Found(30, True, 34, 0.0, 0.2)
    assert together([one, Found(8)]).settled is False
    assert together([Found(3, True, 0, 40.0, 0.1), Found(4, True, 0, 50.0, 0.1)]).pace == 90
    assert share_of(Found(30, True, 40, 90.0, 0.1), 3) == Found(10, True, 13, 30.0, 0.1)
    assert share_of(Found(1, True), 3).limit == 1
