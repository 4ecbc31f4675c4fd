"""Stop rules, canary, dry run, start later, unique keys, pace and fair shares: over real HTTP."""

import pytest
from conftest import until


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


def test_a_job_can_start_later(server, api):
    job = server.begin(limit=2, run_at="3s")
    assert "It starts" in server.client.get(f"/jobs/{job}").text
    assert server.job(job)["status"] == "queued"
    assert server.ended(job)["completed"] == 2


@pytest.mark.parametrize(
    "option",
    [{"stop_after": "many"}, {"canary": 0}, {"dry_run": 5000}, {"run_at": "tomorrow"}, {"rate": "fast"}, {"concurrency": 0}],
)
def test_an_option_that_makes_no_sense_is_refused_in_a_sentence(server, option):
    answer = server.client.post("/api/jobs", json={"task": "update_users"} | option)
    assert answer.status_code == 422
    assert answer.json()["error"].endswith(".")


def test_the_rate_is_kept_across_two_servers_and_can_be_changed(serve, api):
    first, second = serve("--api-url", api.url), serve("--api-url", api.url)
    job = first.begin(limit=200, rate="20/s", concurrency=20)
    until(lambda: len(api.log()) >= 40, 20)
    times = [at for *_, at in api.log()][:40]
    assert 39 / (times[-1] - times[0]) < 26
    assert second.client.patch(f"/api/jobs/{job}", json={"rate": 0}).status_code == 200
    assert first.ended(job)["completed"] == 200


def test_a_small_job_beside_a_large_one_of_the_same_task_is_done_long_before(server, api):
    api.latency(30)
    large = server.begin(concurrency=8)
    until(lambda: server.job(large)["completed"] > 20)
    small = server.begin(limit=10, concurrency=8)
    server.ended(small)
    assert server.job(large)["completed"] < 400
    server.client.post(f"/api/jobs/{large}/cancel")


def test_running_again_starts_the_same_job_once_more(server, api):
    job = server.begin(limit=3)
    server.ended(job)
    answer = server.client.post(f"/jobs/{job}/again")
    again = int(answer.headers["location"].rsplit("/", 1)[1])
    assert again != job and server.job(again)["args"] == {"limit": 3}
    assert server.ended(again)["completed"] == 3
