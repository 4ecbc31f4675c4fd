"""When a job is done, as a range: what the growth of jobs says of their end, and what is said where nothing can be."""

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from statistics import fmean, pstdev
from typing import Any

import pytest
from conftest import Api, Server, until
from test_components import a_job

from bench.eta import KINDS, Kind, played
from rowcast.tasks.buckets import bucket_of, rest_of, variation
from rowcast.tasks.eta import cut, eta_range, line_through
from rowcast.tasks.held import Outlook, Rival
from rowcast.tasks.records import Job

BEGAN = 1_000_000.0


def job(left: int, **given: Any) -> Job:
    """A running job of which so many items are left, ten of them in flight."""
    usual = {"started_at": BEGAN, "queued": left - 10, "running": 10, "concurrency": 10, "total": left + 100}
    return a_job(**(usual | {"engine": "background", "filled": 1} | given))


def growth(number: int, took: Callable[[int], float]) -> tuple[list[tuple[float, int]], float]:
    """Items that end one after the other, and when the last of them did."""
    now = BEGAN
    rows = []
    for n in range(number):
        now += took(n)
        rows.append((now, 1))
    return rows, now


def asked(left: int, took: Callable[[int], float], number: int = 200, **given: Any) -> tuple[float, float]:
    rows, now = growth(number, took)
    known = {name: given.pop(name) for name in list(given) if name in Outlook.__struct_fields__}
    found, why = eta_range(job(left, **given), Outlook(growth=rows, **known), now)
    assert found and why == "" and 0 <= found[0] < found[1]
    return found


def middle(found: tuple[float, float]) -> float:
    return sum(found) / 2


def test_steady_work_ends_when_its_rate_says():
    low, high = asked(600, lambda n: 0.1)
    assert low < 60 < high and middle((low, high)) == pytest.approx(60, rel=0.05) and high - low < 25


def test_the_more_items_differ_the_wider_the_range():
    chance = random.Random(3)
    even = asked(300, lambda n: 1.0)
    uneven = asked(300, lambda n: chance.lognormvariate(-0.7, 1.2))
    assert (uneven[1] - uneven[0]) / middle(uneven) > 1.2 * (even[1] - even[0]) / middle(even)


def test_work_that_slows_down_is_expected_to_go_on_so_and_work_that_was_slow_at_first_is_not():
    slower = asked(400, lambda n: 0.1 * (1 + n / 200))
    assert middle(slower) > 400 * 0.2  # at the rate of the last item
    warm = asked(400, lambda n: 1.0 if n < 20 else 0.1)
    assert middle(warm) == pytest.approx(40, rel=0.2)


def test_one_long_stop_does_not_make_everything_slow():
    assert middle(asked(400, lambda n: 120.0 if n == 90 else 0.1)) == pytest.approx(40, rel=0.35)


def test_a_pause_that_is_over_makes_nothing_slow():
    rows, now = growth(20, lambda n: 1.0)
    before = eta_range(job(60), Outlook(growth=rows), now)
    went_on = now + 300
    later = [*rows, (went_on + 1, 1), (went_on + 2, 1)]
    paused = {"paused_at": now, "resumed_at": went_on}
    (low, high), _ = eta_range(job(58, **paused), Outlook(growth=later), went_on + 2)
    assert low <= 58 <= high and middle((low, high)) == pytest.approx(middle(before[0]) - 2, rel=0.1)
    (low, high), _ = eta_range(job(60, **paused), Outlook(growth=rows), went_on)
    assert (low, high) == before[0], "nothing has ended since"


def test_a_hold_is_in_the_range():
    rows, now = growth(200, lambda n: 0.1)
    found, _ = eta_range(job(600), Outlook(growth=rows, hold_until=now + 3600), now)
    assert found and found[0] > 3600 + 40 and found[1] < 3600 + 100


def test_a_pace_is_the_least_that_it_takes():
    rows, now = growth(200, lambda n: 0.1)  # it was faster until it was tuned
    found, _ = eta_range(job(600, pace=5.0), Outlook(growth=rows), now)
    assert found and found[0] >= (600 - 11) / 5 and found[1] > found[0]


def test_retries_that_wait_are_waited_for():
    rows, now = growth(200, lambda n: 0.1)
    found, _ = eta_range(job(20), Outlook(growth=rows, latest=now + 60), now)
    assert found and found[0] >= 60


def test_the_places_of_a_job_that_ends_before_are_had_then():
    alone = asked(1000, lambda n: 0.2)
    beside = asked(1000, lambda n: 0.2, rivals=[Rival(9, 100, 5.0)], room=0)
    assert middle(beside) < 0.7 * middle(alone)


def test_what_goes_otherwise_by_now_than_its_growth_knows_is_heeded():
    """Another job of the task has just ended: ten run at once where five did."""
    found = asked(1000, lambda n: 0.2, ms=1000.0, rivals=[])
    assert middle(found) < 0.75 * 200


def test_after_a_change_of_the_concurrency_only_what_came_then_counts():
    rows, now = growth(300, lambda n: 1.0 if n < 200 else 0.1)
    found, _ = eta_range(job(400, tuned_at=rows[199][0]), Outlook(growth=rows), now)
    assert found and middle(found) == pytest.approx(40, rel=0.1)


def test_what_still_runs_at_the_end_takes_as_long_as_what_is_met_at_a_moment():
    """Most of what runs at some moment is long, and the last of it ends well after the others."""
    chance = random.Random(5)
    took = [1000 * chance.lognormvariate(-1, 1.2) for _ in range(5000)]
    times = sorted(Counter(map(bucket_of, took)).items())
    last = sorted(max(ms * chance.random() for ms in chance.choices(took, took, k=10)) for _ in range(1000))
    assert rest_of(times, 10, 0.5) == pytest.approx(last[500], rel=0.15)
    assert rest_of(times, 10, 0.9) == pytest.approx(last[900], rel=0.15)
    assert variation(times) == pytest.approx(pstdev(took) / fmean(took), rel=0.05)
    assert (rest_of([], 10, 0.5), variation([])) == (0.0, 0.0)
    without = asked(300, lambda n: 0.1, ms=700.0)
    later = asked(300, lambda n: 0.1, ms=700.0, rest_ms=(5700.0, 13_700.0))
    assert middle(later) == pytest.approx(middle(without) + 5, abs=0.5) and later[1] > without[1] + 8


def test_items_that_differ_much_make_the_range_wide_also_where_as_many_took_as_long():
    even = asked(300, lambda n: 0.1)
    uneven = asked(300, lambda n: 0.1, varies=1.8)
    assert uneven[1] - uneven[0] > 1.3 * (even[1] - even[0]) and middle(even) == pytest.approx(middle(uneven))


def test_how_the_tasks_last_run_ended_is_in_it():
    without = asked(300, lambda n: 0.1)
    with_tail = asked(300, lambda n: 0.1, tail=60.0)
    assert with_tail[0] == pytest.approx(without[0] + 36, abs=1) and with_tail[1] > without[1] + 60


def test_an_item_that_is_half_done_is_half_done():
    rows, now = growth(50, lambda n: 30.0)
    at_once, _ = eta_range(job(11, concurrency=1, queued=10, running=1), Outlook(growth=rows), now)
    later, _ = eta_range(job(11, concurrency=1, queued=10, running=1), Outlook(growth=rows), now + 20)
    assert at_once and later and middle(at_once) - middle(later) == pytest.approx(20, abs=2)


@pytest.mark.parametrize(
    ("given", "outlook", "why"),
    [
        ({"status": "paused"}, {}, "It is paused."),
        ({"status": "queued"}, {}, "It has not begun."),
        ({"filled": 0}, {}, "Its items are still being written."),
        ({"swept": 1}, {}, "Items are being put back."),
        ({"canary": 5}, {}, "It waits for you after its first items."),
        ({}, {"workers": 0}, "No worker is alive."),
        ({"shape": "body"}, {}, "Only its task knows how much is left."),
        ({}, {}, "Nothing of it has ended yet."),
    ],
)
def test_where_nothing_can_be_said_it_says_why(given: dict[str, Any], outlook: dict[str, Any], why: str):
    assert eta_range(job(600, **({"shape": "items", "completed": 0} | given)), Outlook(**outlook), BEGAN) == (
        None,
        why,
    )


def test_pieces_have_as_many_items_each_and_all_of_the_time():
    chance = random.Random(1)
    points = [(0.0, 0.0)]
    for _ in range(40):
        points.append((points[-1][0] + chance.randint(1, 9), points[-1][1] + chance.uniform(0.1, 5)))
    pieces = cut(points, 10)
    assert len({round(items, 6) for items, _ in pieces}) == 1
    assert sum(seconds for _, seconds in pieces) == pytest.approx(points[-1][1])


def test_a_line_through_noise_is_flat_and_one_through_a_line_is_it():
    places = [float(n) for n in range(10)]
    weights = [1.0] * 10
    slope, noise = line_through(places, [2 + 0.5 * p for p in places], weights)
    assert slope == pytest.approx(0.5) and noise == pytest.approx(0, abs=1e-9)
    chance = random.Random(2)
    slope, noise = line_through(places, [2 + chance.gauss(0, 1) for _ in places], weights)
    assert abs(slope) < 0.2 and noise > 0.3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.items <= 100], ids=lambda kind: kind.name)
def test_a_kind_that_the_bench_plays_ends_in_its_range(kind: Kind):
    """The real tables and the real ledger on a clock that is moved; the bench plays all twelve."""
    found = [
        (left, job.eta_range) for seed in range(4) for left, job, _ in played(kind, seed) if job.eta_range
    ]
    assert len(found) == 12
    assert sum(low <= left <= high for left, (low, high) in found) >= 10


def test_the_page_and_the_api_say_a_range_of_a_real_job(server: Server, api: Api):
    api.latency(100)
    server.users(*(f"user-{n}@example.com" for n in range(400)))
    number = server.begin(concurrency=4)
    told = until(lambda: (j := server.job(number))["completed"] > 40 and j["eta_range"] and j)
    low, high = told["eta_range"]
    assert 0 <= low < told["eta"] < high and told["eta_why"] == ""
    assert 3 * high > (told["queued"] + told["running"]) / 4 * 0.1, "the API lets nobody be done in less"
    api.stall()  # so that it is not over
    assert re.search("Done (in|between) ", server.client.get(f"/jobs/{number}").text)
    api.latency(0)
    api.answer()
    ended = server.ended(number)
    assert (ended["eta_range"], ended["eta"], ended["held_by"]) == (None, None, None)


def test_slow_work_has_a_rate(server: Server, api: Api):
    """One item every other second is no 0.0 a second, and its rate does not fall to nothing between two."""
    api.latency(1500)
    server.users(*(f"user-{n}@example.com" for n in range(6)))
    number = server.begin(concurrency=1)
    until(lambda: server.job(number)["completed"] == 2)
    while not (found := server.job(number))["finished_at"]:
        assert found["rate"] > 0.2
        assert "0.0/s" not in server.client.get(f"/jobs/{number}").text
        time.sleep(0.2)
