"""What the keeper of a run does next, case by case: no ledger, no task, no time but what is given."""

import math
from typing import Any

import pytest

from rowcast.tasks.work import Claimed, Work
from rowcast.worker.plan import (
    FLUSH,
    LONGEST_WAIT,
    MOST_AHEAD,
    REPORT_EVERY,
    SOON,
    Plan,
    State,
    ahead,
    average,
    learn,
    look_at,
    plan,
    until_half,
)

NOW = 1000.0


def state(**values: Any) -> State:
    """A run of ten at once of which nothing else is known."""
    return State(**{"status": "running", "limit": 10, **values})


PLANS = [
    ("the first claim is for as many as may be tried at once", {}, Plan(claim=10)),
    ("a job that is still being written is claimed from", {"status": "queued"}, Plan(claim=10)),
    ("what is here already counts", {"flying": 4, "waiting": 3}, Plan(claim=3)),
    ("results that wait take no room", {"flying": 4, "ended": 6}, Plan(claim=6)),
    ("quick items are claimed ahead", {"flying": 10, "took": 20.0}, Plan(claim=100)),
    ("what may not be repeated is not", {"flying": 10, "took": 20.0, "idempotent": False}, Plan()),
    ("a full run claims nothing", {"flying": 10}, Plan()),
    ("nor one that has more than it may, after a change", {"flying": 30, "waiting": 9}, Plan()),
    ("nor one whose last claim was in vain, for a while", {"claim_at": NOW + 0.01}, Plan()),
    ("but then it does", {"claim_at": NOW}, Plan(claim=10)),
    ("in a pause of the API what has not begun goes back", {"on_hold": True, "flying": 2, "waiting": 5},
     Plan(claim=8, give_back=True)),
    ("a paused job goes back, and what is in flight may end", {"status": "paused", "flying": 2, "waiting": 5},
     Plan(give_back=True, last=True)),
    ("of a cancelled one it is broken off", {"status": "cancelled", "flying": 2},
     Plan(give_back=True, break_off=True, last=True)),
    ("a job that has ended is left", {"status": "completed"}, Plan(give_back=True, last=True)),
    ("a run whose time is over goes on with what it has", {"until": NOW, "flying": 2, "waiting": 5},
     Plan(last=True)),
    ("who stops gives back what has not begun", {"stopping": True, "stop_by": NOW + 1, "waiting": 5},
     Plan(give_back=True, last=True)),
    ("and breaks off what is in flight after its grace", {"stopping": True, "stop_by": NOW - 1, "flying": 5},
     Plan(give_back=True, break_off=True, last=True)),
]  # fmt: skip


@pytest.mark.parametrize(("values", "planned"), [case[1:] for case in PLANS], ids=[case[0] for case in PLANS])
def test_a_run_plans(values: dict[str, Any], planned: Plan):
    assert plan(state(**values), NOW) == planned


MANY = {"runs": 3, "measured": True}  # jobs of a task
AHEAD = [
    ("before one has ended none", {}, 0),
    ("what ten at once get through in a fifth of a second", {"took": 20.0}, 100),
    ("slow ones are not worth it", {"took": 90.0}, 0),
    ("but of many jobs each would tell of them one by one", {**MANY, "took": 500.0, "part": 3}, 3),
    ("a fifth of a second's, and one", {**MANY, "limit": 1000, "took": 500.0, "part": 100}, 41),
    ("not before one of the job's has ended", {**MANY, "took": 500.0, "part": 3, "measured": False}, 0),
    ("nor where they take so long that they would wait for long", {**MANY, "took": 1000.0, "part": 3}, 0),
    ("nor where there are more jobs than places", {**MANY, "took": 500.0, "part": 1, "runs": 11}, 0),
    ("nor what may not be repeated", {**MANY, "took": 500.0, "part": 3, "idempotent": False}, 0),
    ("never more than so many", {"took": 0.001}, MOST_AHEAD),
    ("a stop rule allows as many again as may be tried at once", {"took": 1.0, "stop_rule": True}, 10),
    ("what may not be repeated waits for its turn", {"took": 1.0, "idempotent": False}, 0),
]


@pytest.mark.parametrize(("values", "items"), [case[1:] for case in AHEAD], ids=[case[0] for case in AHEAD])
def test_a_run_claims_ahead(values: dict[str, Any], items: int):
    assert ahead(state(**values)) == items


def test_a_few_quick_items_among_slow_ones_have_none_claimed_ahead():
    run = state()

    def ahead_after(*times: float) -> int:
        run.took = average(run.took, times, run.limit)
        return ahead(run)

    assert ahead_after(*[250.0] * 10) == ahead_after(20.0) == ahead_after(20.0, 30.0) == 0
    assert ahead_after(*[20.0] * 10) == 100
    assert ahead_after() == 100, "none has ended since"


@pytest.mark.parametrize(
    ("waiting", "took", "seconds"),
    [
        (200, 5.0, 0.05),  # ten at once get through a hundred in five hundredths
        (0, 5.0, SOON),
        (200, 80.0, REPORT_EVERY),
    ],
)
def test_while_a_job_is_written_more_is_claimed_before_what_waits_has_run_out(
    waiting: int, took: float, seconds: float
):
    assert until_half(state(waiting=waiting, took=took)) == seconds


LEARNED = [
    # claimed, what came: when it is claimed again, and how often is reported
    ("what was asked for", 10, {"items": 10}, 0.0, REPORT_EVERY),
    ("less, while the job is being written", 10, {"items": 4, "filled": False}, 0.0, SOON),
    ("less, of a job that has been written", 10, {"items": 4}, 0.0, REPORT_EVERY),
    ("nothing, of a job that is being written", 10, {"filled": False}, NOW + SOON / 8, REPORT_EVERY),
    ("nothing, for others have it", 10, {}, NOW + FLUSH, REPORT_EVERY),
    ("nothing, for its pace", 10, {"wait": 0.2}, NOW + 0.2, REPORT_EVERY),
    ("nothing for long", 10, {"wait": 60.0}, NOW + LONGEST_WAIT, REPORT_EVERY),
    ("nothing, and nothing was asked for", 0, {}, 0.0, REPORT_EVERY),
]


@pytest.mark.parametrize(
    ("claimed", "came", "claim_at", "every"),
    [case[1:] for case in LEARNED],
    ids=[case[0] for case in LEARNED],
)
def test_a_run_learns_from_a_claim(claimed: int, came: dict[str, Any], claim_at: float, every: float):
    run = state()
    items = [Claimed(n, "key", None, 1, 0, 0) for n in range(came.get("items", 0))]
    learn(run, claimed, Work(**{"status": "running", **came, "items": items}), NOW)
    assert (run.claim_at, run.every) == (claim_at, every)


def test_claims_in_vain_come_less_often_and_no_less_than_so():
    run = state()
    waits = []
    for _ in range(5):
        learn(run, 10, Work("running", filled=False), NOW)
        waits.append(run.claim_at - NOW)
    assert waits == pytest.approx([SOON / 8, SOON / 4, SOON / 2, SOON, SOON])


@pytest.mark.parametrize(
    ("values", "moment"),
    [
        ({"flying": 1}, NOW + REPORT_EVERY),
        ({"waiting": 1, "every": SOON}, NOW + SOON),
        ({"ended": 1, "claim_at": NOW + 60}, NOW + REPORT_EVERY),
        ({"claim_at": NOW + 0.2}, NOW + 0.2),
        ({"claim_at": NOW + 60}, NOW + LONGEST_WAIT),
    ],
)
def test_a_run_looks_again(values: dict[str, Any], moment: float):
    run = state(**values)
    assert look_at(run, NOW) == moment
    assert run.idle == (not math.isclose(moment, NOW + run.every))
