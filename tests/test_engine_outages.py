"""Faults of what is between: the broker restarted or emptied, the dashboard restarted, messages twice, another engine."""

import signal
import sqlite3
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from conftest import PATIENCE, Api, free_port, nursery, rowcast, until
from fleet import COMMANDS, TOKEN, Fleet, ended_well, people, queue_flags, under_way, worker_env
from forks import Forked

pytestmark = pytest.mark.usefixtures("clear_fleet")


def test_a_broker_that_is_restarted_holds_nothing_up_for_long(fleet: Fleet, api: Api):
    job, total = under_way(fleet, api, 5, "contract_once", concurrency=5)
    fleet.broker.stop()
    time.sleep(1)
    fleet.broker.start()
    items = ended_well(fleet, job, api, total)
    assert {item["attempt"] for item in items.values()} == {1}


def test_a_broker_that_is_emptied_is_supplied_again(fleet: Fleet, api: Api):
    total = people(fleet, 30)
    fleet.workers.signal(signal.SIGSTOP)  # so that the messages lie in the queue
    job = fleet.begin()
    until(lambda: fleet.job(job)["queued"] == total and fleet.slots(job))
    time.sleep(0.5)
    fleet.broker.do("flushall")
    fleet.workers.signal(signal.SIGCONT)
    ended_well(fleet, job, api, total)


def test_workers_wait_for_a_dashboard_that_is_restarted_and_report_late(fleet: Fleet, api: Api):
    job, total = under_way(fleet, api, 20, concurrency=10)
    fleet.server.process.kill()
    fleet.server.process.wait()
    before = len(api.log())
    api.answer()
    time.sleep(1)
    found = sqlite3.connect(fleet.server.directory / "data" / "rowcast.db")
    with found:
        found.execute("update workers set lease = lease - 60")  # as if it had been away for a minute
    found.close()
    fleet.server.start()
    ended_well(fleet, job, api, total)
    assert len(api.log()) == total > before, "what was done meanwhile has counted"


def test_a_function_that_is_called_once_outlives_a_restart_of_the_dashboard_and_its_error_is_told(
    fleet: Fleet, tmp_path: Path
):
    there = tmp_path / "there"
    job = fleet.begin("contract_waits", name=str(there))
    until(lambda: [item["status"] for item in fleet.items(job)] == ["completed", "running"])
    fleet.server.process.kill()
    fleet.server.process.wait()
    time.sleep(1)  # the worker asks how the job stands, in vain
    fleet.server.start()
    time.sleep(1)  # and asks again
    assert [item["status"] for item in fleet.items(job)] == ["completed", "running"]
    there.touch()
    done = fleet.ended(job)
    assert (done["completed"], done["failed"]) == (1, 1)
    assert "it was there" in fleet.items(job)[1]["error"]


def test_a_job_of_ten_beside_one_of_thousands_is_done_long_before(fleet: Fleet, api: Api):
    people(fleet, 3000)
    api.stall()
    api.latency(100)  # so that nothing is claimed ahead
    api.answer(60)
    large = fleet.begin(concurrency=4)
    until(lambda: fleet.job(large)["completed"] > 50)
    small = fleet.begin("contract_once", limit=10)
    until(lambda: api.answer(5) or fleet.job(small)["finished_at"])  # so many posts, of whichever job
    assert fleet.job(small)["completed"] == 10
    assert fleet.job(large)["completed"] < 1000
    api.answer()
    fleet.act(large, "pause")
    until(
        lambda: fleet.job(large)["running"] == 0
    )  # nothing of it is on its way to the API, for the tests after this
    fleet.act(large, "cancel")


def send(fleet: Fleet, messages: list[tuple[int, int, str]]) -> None:
    """By the engine's own client, from a process of its own."""
    code = f"from rowcast.extras.engine_{fleet.engine} import send\nfor message in {messages!r}:\n    send(*message)"
    process = Forked(nursery(), code, [], env=worker_env(fleet.server, fleet.broker_url))
    assert process.wait(PATIENCE) == 0


def test_messages_that_arrive_twice_do_nothing_twice(fleet: Fleet, api: Api):
    total = people(fleet, 150)
    api.stall()
    fleet.workers.signal(signal.SIGSTOP)
    job = fleet.begin("contract_once", concurrency=10)
    sent = until(lambda: fleet.slots(job))
    send(fleet, sent * 3)
    fleet.workers.signal(signal.SIGCONT)
    api.answer(20)
    until(lambda: fleet.job(job)["completed"] > 10)
    send(fleet, [*sent, *fleet.slots(job)] * 2)
    items = ended_well(fleet, job, api, total)
    assert {item["attempt"] for item in items.values()} == {1} and len(api.log()) == total


def test_a_job_that_is_half_done_goes_on_on_another_engine_and_back(fleet: Fleet, api: Api):
    job, total = under_way(fleet, api, 20, concurrency=5)
    server = fleet.server
    queue = (*fleet.server.flags[:4], *queue_flags(fleet.engine, fleet.broker_url))
    for flags, engine in ((queue[:4], "background"), (queue, fleet.engine)):
        if engine == "background":
            assert fleet.workers.stop() == 0
        server.stop()
        server.flags = flags
        server.start()
        if engine != "background":
            fleet.workers = fleet.more()
        before = until(lambda engine=engine: (j := fleet.job(job))["engine"] == engine and j)["completed"]
        api.answer(30)
        until(lambda before=before: fleet.job(job)["completed"] > before + 20)
    ended_well(fleet, job, api, total)


def test_without_a_token_the_dashboard_takes_no_workers_which_say_so_and_end(fleet: Fleet):
    server = fleet.server
    flags = fleet.server.flags
    server.stop()
    server.flags = flags[:4]
    server.start()
    assert fleet.workers.process.wait(PATIENCE) is not None
    assert (
        "rowcast: This dashboard takes no workers: start it with --worker-token."
        in fleet.workers.log.read_text()
    )
    server.stop()
    server.flags = flags
    server.start()
    fleet.workers = fleet.more()


def test_a_worker_with_a_wrong_token_says_so_once_and_ends(fleet: Fleet):
    before = fleet.workers.log.read_text()
    wrong = fleet.more(1, ROWCAST_WORKER_TOKEN="another")
    assert wrong.process.wait(PATIENCE) is not None
    said = fleet.workers.log.read_text()[len(before) :]
    assert (
        said.count("rowcast: The worker's token is not the dashboard's: give both the same --worker-token.")
        == 1
    )


def test_a_worker_without_its_settings_says_which_and_ends(fleet: Fleet):
    env = {k: v for k, v in worker_env(fleet.server, "").items() if k != "ROWCAST_BROKER_URL"}
    ran = subprocess.run(COMMANDS[fleet.engine], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert "rowcast: ROWCAST_BROKER_URL is not set: a worker cannot do without it." in ran.stderr
    assert ran.returncode == 2 and "Traceback" not in ran.stderr


def hello(fleet: Fleet, call: str = "hello", **headers: str) -> httpx.Response:
    given = {"Authorization": f"Bearer {TOKEN}", "Rowcast-Version": version("rowcast")} | headers
    return fleet.server.client.post(f"/api/ledger/{call}", content=b'{"worker": "w"}', headers=given)


def test_the_ledger_lets_nobody_in_without_the_token_and_tells_an_old_worker(fleet: Fleet):
    assert hello(fleet).status_code == 200
    for wrong in ("", "Bearer", "Bearer another", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"):
        refused = hello(fleet, Authorization=wrong.encode("latin-1"))
        assert refused.status_code == 401
        assert (
            refused.json()["error"]
            == "The worker's token is not the dashboard's: give both the same --worker-token."
        )
    old = hello(fleet, **{"Rowcast-Version": "0.0.9"})
    assert old.status_code == 409
    ours = version("rowcast")
    assert (
        old.json()["error"]
        == f"This worker is Rowcast 0.0.9, the dashboard is {ours}: install the same version."
    )
    assert hello(fleet, "explode").status_code == 404
    for headers in ({"Content-Encoding": "gzip"}, {"Rowcast-Clock": "noon"}):
        assert hello(fleet, **headers).status_code == 400


def doctor(fleet: Fleet, *flags: str, tasks: str = "contract_tasks", token: str = TOKEN) -> tuple[int, str]:
    """What `rowcast doctor --engine ...` says, in the directory of the dashboard."""
    server = fleet.server
    ran = rowcast(
        "doctor", "--engine", fleet.engine, "--broker-url", fleet.broker_url, "--dashboard-url", server.url,
        "--worker-token", token, "--tasks", tasks, *flags, cwd=server.directory, env=server.env,
    )  # fmt: skip
    assert "Traceback" not in ran.stderr + ran.stdout
    return ran.returncode, ran.stdout + ran.stderr


def test_the_doctor_finds_nothing_that_would_not_survive_the_move(fleet: Fleet):
    code, said = doctor(fleet)
    assert code == 0 and "BAD" not in said
    assert f"ok   engine: {fleet.engine} is installed" in said and "ok   broker: it answers" in said
    assert f"ok   dashboard: {fleet.server.url} takes workers with this token" in said


def test_the_doctor_says_what_would_not_survive_the_move(fleet: Fleet):
    (fleet.server.directory / "odd.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom rowcast import task\n\n"
        "if 'rowcast.dashboard' not in sys.modules:\n    raise ImportError('not here')\n\n"
        "@task\ndef odd(where: Path = Path('x')): ...\n"
    )
    code, said = doctor(
        fleet, "--broker-url", f"redis://127.0.0.1:{free_port()}", tasks="odd", token="another"
    )
    assert code == 1
    assert "BAD  arguments: argument `where` of odd is a Path, which is not JSON" in said
    assert "BAD  tasks: odd:odd cannot be imported by name: ImportError: not here" in said
    assert "BAD  broker: it cannot be reached: " in said
    assert (
        "BAD  dashboard: The worker's token is not the dashboard's: give both the same --worker-token" in said
    )
    nowhere = f"http://127.0.0.1:{free_port()}"
    code, said = doctor(fleet, "--dashboard-url", nowhere)
    assert code == 1 and f"BAD  dashboard: {nowhere} cannot be reached: " in said
    assert (
        "BAD  settings: --broker-url and --worker-token not given"
        in doctor(fleet, "--broker-url", "", token="")[1]
    )
