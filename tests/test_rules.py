"""Stop rules, canary, dry run, start later, unique keys: over real HTTP, and case by case below it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from place import OWNER, Place

from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.pacing import breaks
from rowcast.tasks.built_in import counter, update_users
from rowcast.tasks.clock import steady
from rowcast.tasks.records import BadArguments, Job, NotAllowed, Options
from rowcast.tasks.registry import parse_stop_rule, task
from rowcast.tasks.work import CHUNK, Chunk, Report, Result
from rowcast.web.start import LATEST, Start, moment, options_of


def paused(server, job):
    return until(lambda: (j := server.job(job))["status"] == "paused" and j)


def test_a_share_of_failures_pauses_the_job_and_resume_goes_on(server, api):
    server.users(*(f"gone-{n}@example.com" for n in range(30)), *(f"user-{n}@example.com" for n in range(70)))
    job = server.begin(concurrency=1, stop_after="5%")
    stopped = paused(server, job)
    assert stopped["reason"].startswith("Stopped by its rule (5% failed)")
    assert 5 <= stopped["failed"] <= 7
    server.client.post(f"/api/jobs/{job}/resume")
    assert paused(server, job)["failed"] > stopped["failed"]
    server.client.post(f"/api/jobs/{job}/cancel")


def test_failures_in_a_row_pause_the_job(server, api):
    server.users("user-a@example.com", *(f"gone-{n}@example.com" for n in range(30)))
    job = server.begin(concurrency=1, stop_after="4")
    stopped = paused(server, job)
    assert "4 failures in a row" in stopped["reason"]
    assert 4 <= stopped["failed"] <= 6


def test_a_canary_runs_so_many_and_waits_for_a_go(server, api):
    job = server.begin(limit=50, canary=5)
    waiting = paused(server, job)
    assert waiting["completed"] == 5 and len(api.log()) == 5
    assert "The canary is over" in waiting["reason"]
    server.client.post(f"/api/jobs/{job}/resume")
    assert server.ended(job)["completed"] == 50


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(server, api):
    job = server.begin(dry_run=3)
    assert server.ended(job)["total"] == 3
    assert api.log() == []
    item = server.items(job)[0]
    assert item["result"]["method"] == "POST"
    assert item["result"]["url"].endswith(f"/update-user/{item['key'].replace('@', '%40')}")
    assert item["result"]["headers"]["idempotency-key"] == f"{job}-{item['id']}"


def test_a_unique_key_gives_back_the_first_job(server, api):
    body = {"task": "update_users", "args": {"limit": 1}, "unique_key": "monday"}
    first, second = (server.client.post("/api/jobs", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]


def test_a_unique_key_is_refused_to_another_start(server, api):
    body = {"task": "update_users", "args": {"limit": 1}, "unique_key": "tuesday"}
    job = server.client.post("/api/jobs", json=body).json()["id"]
    for other, what in (
        ({"task": "counter", "args": {"loops": 1}}, "another task"),
        ({"args": {"limit": 2}}, "other arguments"),
    ):
        answer = server.client.post("/api/jobs", json=body | other)
        assert answer.status_code == 409
        assert (
            answer.json()["error"]
            == f"The unique key 'tuesday' is job {job}'s, which was started with {what}."
        )
    assert server.client.post("/api/jobs", json=body).json()["id"] == job


def test_a_job_can_start_later(server, api):
    before = time.time()
    later = server.begin(limit=2, run_at="900s")
    soon = server.begin(limit=2, run_at="1s")
    done = server.ended(soon)
    assert done["completed"] == 2
    assert datetime.fromisoformat(done["started_at"]).timestamp() >= before + 0.99
    assert "It starts" in server.client.get(f"/jobs/{later}").text
    assert server.job(later)["status"] == "queued" and not server.job(later)["started_at"]


def test_running_again_starts_the_same_job_once_more(server, api):
    job = server.begin(limit=3)
    server.ended(job)
    answer = server.client.post(f"/jobs/{job}/again")
    again = int(answer.headers["location"].rsplit("/", 1)[1])
    assert again != job and server.job(again)["args"] == {"limit": 3}
    assert server.ended(again)["completed"] == 3


# ---- below HTTP ----------------------------------------------------------------------------------------------------


async def work(item: str) -> None: ...


WORK = task(name="rules_work", concurrency=100)(work)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


def begin(place: Place, items: int, last: bool = True, **options: Any) -> Job:
    job, _ = place.jobs.submit(WORK, {}, OWNER, "background", Options(**options))
    place.jobs.start(job.id)
    place.jobs.add_items(job.id, Chunk.of([(f"item {n}", None) for n in range(items)], last))
    return place.job(job)


def work_on(place: Place, job: Job, *outcomes: str, run_at: float = 0.0) -> int:
    """Claim as many items and let them end so; how many there were."""
    items = sorted(
        place.ledger.exchange(job.id, "one", Report(limit=len(outcomes))).items, key=lambda item: item.id
    )
    results = [
        Result(item.id, item.attempt, outcome, error="no" if outcome == "failed" else None, run_at=run_at)
        for item, outcome in zip(items, outcomes, strict=False)
    ]
    place.ledger.exchange(job.id, "one", Report(results))
    return len(items)


@pytest.mark.parametrize(
    ("rule", "failed", "total", "streak", "hit"),
    [
        ("5%", 4, 100, 0, False), ("5%", 5, 100, 0, True), ("0.5%", 1, 200, 0, True), ("0.5%", 1, 201, 0, False),
        ("100%", 9, 10, 9, False), ("5%", 0, 0, 0, False), ("3", 99, 100, 2, False), ("3", 3, 100, 3, True),
    ],
)  # fmt: skip
def test_a_rule_is_hit_by_a_share_of_all_items_or_by_failures_in_a_row(
    rule: str, failed: int, total: int, streak: int, hit: bool
):
    assert breaks(rule, failed, total, streak) is hit


@pytest.mark.parametrize(
    "rule", ["0", "0%", "-1", "five", "101%", "%", "1e3", "5%%", "9" * 400, "0." + "0" * 20 + "1%"]
)
def test_what_is_no_rule_is_refused(rule: str):
    with pytest.raises(ValueError, match="is no stop rule: write a share like 5%"):
        parse_stop_rule(rule)


def test_a_row_of_failures_is_broken_by_a_success_and_not_by_another_try(place: Place):
    job = begin(place, 20, stop_after="3")
    work_on(place, job, "failed", "failed", "completed", "failed", "failed")
    work_on(place, job, "queued", run_at=steady() + 60)
    assert place.job(job).status == "running"
    work_on(place, job, "failed")
    assert (place.job(job).status, place.job(job).failed) == ("paused", 5)


def test_a_share_is_of_all_items_so_it_waits_until_they_are_known(place: Place):
    job = begin(place, 10, last=False, stop_after="50%")
    work_on(place, job, *["failed"] * 5)
    assert place.job(job).status == "running", "these may be the first of many"
    place.jobs.add_items(job.id, Chunk.of([], last=True))
    assert place.job(job).status == "paused"
    assert place.job(job).reason == "Stopped by its rule (50% failed): 5 of 10 items have failed."


def test_a_share_counts_before_that_once_it_is_one_of_thousands(place: Place):
    job = begin(place, CHUNK, last=False, stop_after="1%")
    work_on(place, job, *["failed"] * (CHUNK // 100 - 1))
    assert place.job(job).status == "running"
    work_on(place, job, "failed")
    assert place.job(job).status == "paused"


@pytest.mark.parametrize("action", ["resume", "retry"])
@pytest.mark.parametrize("rule", ["20%", "2"])
def test_after_a_stop_as_many_more_may_fail(place: Place, rule: str, action: str):
    job = begin(place, 10, stop_after=rule)
    work_on(place, job, "failed", "failed")
    assert place.job(job).status == "paused"
    place.jobs.act(job.id, OWNER, action)
    work_on(place, job, "failed")
    assert place.job(job).status == "running"
    work_on(place, job, "failed")
    assert place.job(job).status == "paused"


def test_a_retry_after_a_resume_does_not_let_more_fail_than_the_rule_says(place: Place):
    job = begin(place, 20, stop_after="20%")
    work_on(place, job, *["failed"] * 4)
    place.jobs.act(job.id, OWNER, "resume")
    place.jobs.act(job.id, OWNER, "retry")
    work_on(place, job, *["failed"] * 4)
    assert place.job(job).status == "paused"


def test_a_job_that_has_nothing_left_to_run_is_not_stopped_but_completed(place: Place):
    job = begin(place, 3, stop_after="1")
    work_on(place, job, "completed", "completed", "failed")
    assert place.job(job).status == "completed"


def test_the_canary_is_the_first_items_also_while_one_of_them_waits_for_another_try(place: Place):
    job = begin(place, 10, canary=3)
    assert work_on(place, job, *["completed"] * 10) == 3
    job = begin(place, 10, canary=3)
    items = place.ledger.exchange(job.id, "one", Report(limit=10)).items
    place.ledger.exchange(
        job.id, "one", Report([Result(i.id, 1, "queued", run_at=steady() + 60) for i in items[:1]])
    )
    more = place.ledger.exchange(job.id, "one", Report(limit=10)).items
    assert more == [], "the other two are still in flight, and no fourth begins"
    place.ledger.exchange(job.id, "one", Report([Result(i.id, 1, "completed") for i in items[1:]]))
    seq = place.jobs.seq()
    work = place.ledger.exchange(job.id, "one", Report(limit=10))
    assert work.wait > 50 and place.jobs.seq() == seq, "nothing is written while it waits"
    assert (place.job(job).status, place.job(job).queued) == ("running", 8)


def test_the_canary_says_how_it_went_and_a_retry_runs_what_has_failed_of_it_alone(place: Place):
    job = begin(place, 10, canary=3)
    work_on(place, job, "completed", "failed", "completed")
    assert place.job(job).reason == "The canary is over: 2 completed, 1 failed. Resume to run the other 7."
    place.jobs.act(job.id, OWNER, "retry")
    assert work_on(place, job, *["completed"] * 10) == 1
    assert place.job(job).reason == "The canary is over: 3 completed, 0 failed. Resume to run the other 7."
    place.jobs.act(job.id, OWNER, "resume")
    assert work_on(place, job, *["completed"] * 10) == 7


def test_a_canary_that_ends_while_the_rest_is_still_being_written_pauses_then(place: Place):
    job = begin(place, 2, last=False, canary=2)
    work_on(place, job, "completed", "completed")
    assert place.job(job).status == "running"
    place.jobs.add_items(job.id, Chunk.of([("one more", None)], last=True))
    assert place.job(job).reason.startswith("The canary is over")


@pytest.mark.parametrize("items", [2, 3])
def test_a_job_of_no_more_than_its_canary_is_completed(place: Place, items: int):
    job = begin(place, items, canary=3)
    work_on(place, job, *["completed"] * items)
    assert place.job(job).status == "completed"


def test_a_unique_key_is_the_owners_own(place: Place):
    options = Options(unique_key="monday")
    first, is_new = place.jobs.submit(WORK, {}, OWNER, "background", options)
    again, not_new = place.jobs.submit(WORK, {}, OWNER, "background", options)
    other, new_too = place.jobs.submit(WORK, {}, "somebody else", "background", options)
    assert (is_new, not_new, new_too) == (True, False, True)
    assert first.id == again.id != other.id


def test_a_unique_key_is_free_again_when_its_time_is_over(place: Place):
    options = Options(unique_key="monday", unique_for=3600)
    first, _ = place.jobs.submit(WORK, {}, OWNER, "background", options)
    assert place.jobs.submit(WORK, {}, OWNER, "background", options)[0].id == first.id
    place.jobs.act(first.id, OWNER, "cancel")
    assert place.jobs.submit(WORK, {}, OWNER, "background", options)[0].id == first.id, "its end frees no key"
    with transaction(connection(place.path)) as conn:
        conn.execute("update jobs set unique_until = unique_until - 3601")
    second, is_new = place.jobs.submit(WORK, {"a": 1}, OWNER, "background", Options(unique_key="monday"))
    assert is_new and second.id != first.id, "also of other arguments"
    with pytest.raises(NotAllowed, match=f"is job {second.id}'s"):
        place.jobs.submit(WORK, {}, OWNER, "background", options)


def test_a_job_is_looked_after_when_it_is_due(place: Place):
    job, _ = place.jobs.submit(WORK, {}, OWNER, "background", Options(run_at=time.time() + 900))
    assert place.jobs.due() == []
    with transaction(connection(place.path)) as conn:
        conn.execute("update jobs set run_at = run_at - 899.5")
    until(lambda: [j.id for j in place.jobs.due()] == [job.id])


def test_a_job_that_is_cancelled_before_it_is_due_has_ended(place: Place):
    job, _ = place.jobs.submit(WORK, {}, OWNER, "background", Options(run_at=time.time() + 900))
    assert place.jobs.act(job.id, OWNER, "cancel").ended


# ---- what a start may say ------------------------------------------------------------------------------------------


def ask(**given: Any) -> Options:
    return options_of(update_users, Start("update_users", **given))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"canary": 0}, "canary is a whole number from 1 to 1,000,000, not '0'."),
    ({"canary": 1_000_001}, "canary is a whole number from 1 to 1,000,000, not '1000001'."),
    (
        {"concurrency": 0},
        "concurrency is a whole number from 1 to 1,000, auto, or auto with its bounds, like auto 5-200, not '0'.",
    ),
    (
        {"concurrency": 1001},
        "concurrency is a whole number from 1 to 1,000, auto, or auto with its bounds, like auto 5-200, not '1001'.",
    ),
    ({"dry_run": -1}, "dry_run is a whole number from 1 to 1,000, not '-1'."),
    ({"dry_run": 1001}, "dry_run is a whole number from 1 to 1,000, not '1001'."),
    ({"rate": "fast"}, "'fast' is no rate: write it like 100/s, 60/m or 1000/h."),
    ({"rate": 0}, "0 is no rate: write it like 100/s, 60/m or 1000/h."),
    ({"rate": "9" * 400}, f"'{'9' * 400}' is no rate: write it like 100/s, 60/m or 1000/h."),
    ({"rate": "0.00001/h"}, "'0.00001/h' is no rate: write it like 100/s, 60/m or 1000/h."),
    (
        {"stop_after": "many"},
        "'many' is no stop rule: write a share like 5%, or a number of failures in a row like 20.",
    ),
    ({"unique_key": ""}, "unique_key has from 1 to 200 letters."),
    ({"unique_key": "x" * 201}, "unique_key has from 1 to 200 letters."),
    ({"unique_for": "24h"}, "unique_for says how long a unique_key is the job's own: there is none."),
    (
        {"unique_key": "a", "unique_for": "soon"},
        "unique_for is a time from 1s to ten years, like 90s or 24h, not 'soon'.",
    ),
    (
        {"unique_key": "a", "unique_for": 0},
        "unique_for is a time from 1s to ten years, like 90s or 24h, not '0'.",
    ),
    (
        {"run_at": "tomorrow"},
        "run_at is a time like 2026-12-31T06:00:00Z, or seconds from now, not 'tomorrow'.",
    ),
    ({"run_at": "-5s"}, "run_at is a time like 2026-12-31T06:00:00Z, or seconds from now, not '-5s'."),
    ({"run_at": "9" * 30}, f"run_at is more than ten years away: '{'9' * 30}'."),
    (
        {"run_at": "9999-12-31T23:59:59-12:00"},
        "run_at is more than ten years away: '9999-12-31T23:59:59-12:00'.",
    ),
]


@pytest.mark.parametrize(("given", "sentence"), REFUSED)
def test_what_makes_no_sense_is_refused_in_a_sentence(given: dict[str, Any], sentence: str):
    with pytest.raises(BadArguments) as refused:
        ask(**given)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("given", [{"canary": 5}, {"dry_run": True}, {"stop_after": "5%"}])
def test_a_task_that_is_called_once_has_no_rules_for_items(given: dict[str, Any]):
    with pytest.raises(BadArguments, match="is for tasks that are called per item; counter is called once"):
        options_of(counter, Start("counter", **given))


def test_a_dry_run_that_does_not_say_how_many_shows_five():
    assert [ask(dry_run=dry).dry_run for dry in (True, False, 12)] == [5, 0, 12]


def test_what_is_not_said_is_left_to_the_task(place: Place):
    made = task(name="rules_own", concurrency=3, rate="2/s", stop_after="9%")(work)
    job, _ = place.jobs.submit(made, {}, OWNER, "background", Options())
    assert (job.concurrency, job.pace, job.stop_after) == (3, 2.0, "9%")
    job, _ = place.jobs.submit(
        made, {}, OWNER, "background", Options(concurrency=4, pace=5.0, stop_after="7")
    )
    assert (job.concurrency, job.pace, job.stop_after) == (4, 5.0, "7")


def test_a_start_is_a_moment_or_so_many_seconds_from_now():
    now = datetime.now(UTC)
    assert moment(None) == moment("") == 0.0
    for text in ("90", " 90s ", "90s"):
        before = time.time()
        assert before + 90 <= moment(text) <= time.time() + 90
    at = now + timedelta(hours=1)
    assert abs(moment(at.isoformat()) - at.timestamp()) < 0.001
    assert abs(moment(at.replace(tzinfo=None).isoformat()) - at.timestamp()) < 0.001, (
        "without a zone it is UTC"
    )
    assert moment("1999-01-01") < time.time() < moment(str(LATEST - 60))
