"""Faults of workers elsewhere: killed, stopped and woken, without the task, with a wrong clock; by real processes."""

import re
import signal
import time

import pytest
from conftest import Api, until
from fleet import Fleet, ended_well, people, under_way

TASKS = "contract_tasks,late"
FILES = {
    "dashboard_only/late.py": """
import httpx
from rowcast import task

@task(concurrency=4)
async def late(user: dict, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()
""",
    "ahead/sitecustomize.py": "import time\nreal = time.time\ntime.time = lambda: real() + 120\n",
    "behind/sitecustomize.py": "import time\nreal = time.time\ntime.time = lambda: real() - 120\n",
}


pytestmark = pytest.mark.usefixtures("clear_fleet")


def test_workers_that_are_killed_lose_nothing_and_are_greyed(fleet: Fleet, api: Api):
    job, total = under_way(fleet, api, 20, concurrency=10)
    dead = {worker["name"] for worker in fleet.living()}
    fleet.workers.kill()
    api.answer()
    until(lambda: fleet.job(job)["running"] == 0)  # its items are seen to go back
    fleet.workers = fleet.more()
    until(lambda: not dead & {worker["name"] for worker in fleet.living()})
    assert dead <= {worker["name"] for worker in fleet.server.client.get("/api/workers").json()["workers"]}
    rows = re.findall(r"<tr [^>]*>", fleet.server.client.get("/workers").text)
    grey = [row for row in rows if 'class="gone"' in row]
    assert all(any(f'id="worker-{name}"' in row for row in grey) for name in dead) and len(rows) > len(grey)
    ended_well(fleet, job, api, total)
    assert len(api.log()) - total <= 20, "only what was in flight, or not yet reported, is sent again"


def stopped_with(fleet: Fleet, job: int) -> set[str]:
    """Stop the workers; returns what they hold, and wakes them where that is nothing: they were between two claims."""
    fleet.workers.signal(signal.SIGSTOP)
    time.sleep(0.2)  # until the dashboard has answered what they asked
    held = {item["key"] for item in fleet.items(job) if item["status"] == "running"}
    if not held:
        fleet.workers.signal(signal.SIGCONT)
    return held


def test_the_results_of_a_worker_that_slept_past_its_lease_are_refused(fleet: Fleet, api: Api):
    job, total = under_way(fleet, api, 10, concurrency=10)
    held = until(lambda: stopped_with(fleet, job))
    api.answer()
    until(lambda: fleet.job(job)["running"] == 0)
    before = fleet.job(job)["completed"]
    fleet.workers.signal(signal.SIGCONT)
    items = ended_well(fleet, job, api, total)
    assert {items[key]["attempt"] for key in held} == {2}, "what it had done meanwhile did not count"
    assert before < total


def test_a_task_that_does_not_import_on_the_worker_pauses_its_job_which_goes_on_when_it_does(
    fleet: Fleet, api: Api
):
    total = people(fleet, 20)
    job = fleet.begin("late")
    paused = until(lambda: (j := fleet.job(job))["status"] == "paused" and j)
    assert "cannot import late:late: ModuleNotFoundError: No module named 'late'" in paused["reason"]
    assert api.log() == []
    until(lambda: not fleet.slots(job))  # the other worker, too, has said that it cannot
    (fleet.server.directory / "late.py").write_text(FILES["dashboard_only/late.py"])
    fleet.act(job, "resume")
    ended_well(fleet, job, api, total)


def test_a_clock_that_is_two_minutes_off_does_not_matter(fleet: Fleet, api: Api):
    fleet.workers.kill()
    known = {worker["name"] for worker in fleet.living()}
    apart = [fleet.more(1, PYTHONPATH=str(fleet.server.directory / where)) for where in ("ahead", "behind")]
    try:
        total = people(fleet, 300, "once-1@example.com", "limit-1@example.com", "date-1@example.com")
        api.stall()
        api.latency(100)  # so that nothing is claimed ahead
        job = fleet.begin(concurrency=4)
        begun = set[str]()

        def both() -> bool:  # the second gets what the first is done with
            api.answer(1)
            begun.update(worker["name"] for worker in fleet.living() if worker["in_flight"] or worker["done"])
            return len(begun - known) == 2

        until(both, every=0.1)
        ended_well(fleet, job, api, total)
        posts = [path for path, *_ in api.log()]
        assert all(sum(name in path for path in posts) == 2 for name in ("once-1", "limit-1", "date-1"))
        first, second = [at for path, _, _, at in api.log() if "limit-1" in path]
        assert 0.95 <= second - first < 60
    finally:
        for workers in apart:
            workers.kill()
