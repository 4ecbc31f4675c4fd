"""The examples run as they say, each in a directory of its own."""

import difflib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import httpx
import pytest
from fleet import TOKEN, Broker, Fleet, Workers, queue_flags

from tests.conftest import PATIENCE, ROOT, SHORT, Api, Server, free_port, python, until

FASTHTMLS = """from fasthtml.common import *
from starlette.background import BackgroundTask
from time import time, sleep

app, rt = fast_app()

def counter(loops:int):
    \"""Slowly print integers to the terminal\"""
    for i in range(loops):
        print(i)
        sleep(i)

@rt
def index():
    task = BackgroundTask(counter, loops=5)
    cts = Titled('Simple Background Task Example')
    return FtResponse(cts, background=task)

serve()
"""


class App:
    """A running example: its client, and what it printed."""

    def __init__(self, directory: Path, command: list[str], port: int, env: dict[str, str]):
        self.log = directory / "app.log"
        self.process: subprocess.Popen[bytes] | forks.Forked
        with self.log.open("ab") as log:
            how: dict[str, Any] = {"cwd": directory, "stdout": log, "stderr": log, "env": env}
            if command[0] == "-m":
                self.process = python(command[1:], workers=True, **how)
            else:  # its own reloader starts it again
                self.process = subprocess.Popen([sys.executable, *command], **how)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, limits=SHORT)

    def up(self, path: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get(path).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Run an example on a free port of this machine; at the end it is told to stop, and must."""
    apps: list[App] = []

    def start(name: str, *command: str, probe: str) -> App:
        if name:
            shutil.copy(ROOT / "examples" / name, tmp_path)
        port = free_port()
        env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")} | {"PORT": str(port)}
        filled = [part.format(port=port) for part in command] or [name]
        apps.append(App(tmp_path, filled, port, env))
        until(lambda: apps[-1].up(probe))
        return apps[-1]

    yield start
    for app in apps:
        app.process.terminate()
        app.process.wait(PATIENCE)
        app.client.close()
        print(app.log.read_text())


def uvicorn(module: str) -> list[str]:
    """As FastHTML's `serve` starts it, but for this machine alone and without watching files."""
    return ["-m", "uvicorn", f"{module}:app", "--host", "127.0.0.1", "--port", "{port}"]


def test_fasthtmls_first_example_has_one_import_changed_and_one_line_more():
    ours = (ROOT / "examples" / "01_counter.py").read_text().partition('"""\n\n')[2]
    changes = [
        line for line in difflib.ndiff(FASTHTMLS.splitlines(), ours.splitlines()) if line[:2] in ("- ", "+ ")
    ]
    assert changes == [
        "- from starlette.background import BackgroundTask",
        "+ from rowcast import BackgroundTask, mount",
        '+ mount(app, "/jobs")',
    ]


def test_fasthtmls_first_example_answers_at_once_counts_in_the_terminal_and_is_a_job(run):
    app = run("01_counter.py", *uvicorn("01_counter"), probe="/jobs/healthz")
    assert "Simple Background Task Example" in app.client.get("/").text
    job = until(lambda: app.client.get("/jobs/api/jobs").json()["jobs"])[0]
    assert (job["task"], job["args"]) == ("counter", {"loops": 5})
    assert job["status"] in ("queued", "running")
    until(lambda: re.search(r"^0\n1$", app.log.read_text(), re.M))
    items = app.client.get("/jobs/api/jobs/1/items").json()["items"]
    assert [(item["key"], item["status"]) for item in items] == [("counter", "running")]
    app.client.post("/jobs/api/jobs/1/cancel")
    assert app.client.post("/jobs/jobs/1/again").headers["Location"] == "/jobs/jobs/2"
    rows = (
        sqlite3.connect(app.log.parent / "data" / "rowcast.db")
        .execute("select entry, args from jobs")
        .fetchall()
    )
    assert rows[0] == rows[1] and rows[0][0] == "01_counter:counter", "its own counter, not the built-in one"
    app.client.post("/jobs/api/jobs/2/cancel")
    assert "Traceback" not in app.log.read_text()


OWN_TASK = """
from fasthtml.common import *
from rowcast import mount, task

app, rt = fast_app()
mount(app, "/jobs")

@task
def greet(item: str): return f"hello {item}"

serve(host="127.0.0.1")
"""


def test_a_task_may_stand_in_the_very_file_that_is_run(run, tmp_path: Path):
    """With FastHTML's `serve`: it is run as __main__, again in the reloader's child, and imported there by its name."""
    (tmp_path / "main.py").write_text(OWN_TASK)
    app = run("", "main.py", probe="/jobs/healthz")
    app.client.post("/jobs/api/jobs", json={"task": "greet", "args": {"items": ["ada"]}})
    done = until(lambda: (job := app.client.get("/jobs/api/jobs/1").json())["finished_at"] and job)
    assert done["completed"] == 1


def test_a_mounted_dashboard_keeps_to_its_path(run):
    app = run("01_counter.py", *uvicorn("01_counter"), probe="/jobs/healthz")
    page = app.client.get("/jobs/").text
    paths = set(re.findall(r'(?:src|href|action|hx-post|hx-sse-connect)="([^"#][^"]*)"', page))
    assert paths and all(path.startswith("/jobs/") for path in paths)
    for path in paths:
        if "/static/" in path:
            assert app.client.get(path).is_success, path
    assert app.client.get("/jobs", follow_redirects=True).text.startswith("<!doctype html>")
    started = app.client.post("/jobs/jobs", data={"task": "update_users", "limit": "3"})
    assert (started.status_code, started.headers["Location"]) == (303, "/jobs/jobs/1")
    # the demo API is inside the app too
    done = until(lambda: (job := app.client.get("/jobs/api/jobs/1").json())["finished_at"] and job)
    assert (done["total"], done["cancelled"]) == (3, 0) and done["completed"] + done["failed"] == 3
    assert all(item["code"] for item in app.client.get("/jobs/api/jobs/1/items").json()["items"])
    nothing = app.client.get("/jobs/nothing")
    assert nothing.status_code == 404 and 'href="/jobs/static/app.css"' in nothing.text


def test_a_mounted_dashboard_that_comes_back_learns_from_any_request_where_its_demo_api_is(run):
    app = run("01_counter.py", *uvicorn("01_counter"), probe="/")
    started = app.client.post("/jobs/jobs", data={"task": "update_users", "limit": "60"})
    job = f"/jobs/api{started.headers['Location'].removeprefix('/jobs')}"
    app.process.kill()
    app.process.wait()
    app = run("01_counter.py", *uvicorn("01_counter"), probe="/")
    time.sleep(2)  # long enough for a job that does not wait to be told
    done = until(lambda: (found := app.client.get(job).json())["finished_at"] and found)
    assert done["completed"] + done["failed"] == 60
    assert all(item["code"] for item in app.client.get(f"{job}/items").json()["items"])


def test_the_thousand_users_are_a_task_of_ten_lines(serve, tmp_path: Path, api: Api):
    code = (ROOT / "examples" / "02_thousand_users.py").read_text().split('"""\n\n', 1)[1]
    assert len([line for line in code.splitlines() if line]) <= 10
    shutil.copy(ROOT / "examples" / "02_thousand_users.py", tmp_path)
    server = serve("--api-url", api.url, "--tasks", "02_thousand_users")
    server.users(*[f"user{n}@example.com" for n in range(99)], "gone-1@example.com")
    done = server.ended(server.begin("post_user"))
    assert (done["completed"], done["failed"]) == (99, 1)
    posted = sorted(path for path, *_ in api.log())
    assert posted == sorted(
        f"/update-user/{name}%40example.com" for name in [*(f"user{n}" for n in range(99)), "gone-1"]
    )


@pytest.mark.parametrize("name", ["05_celery", "06_dramatiq"])
def test_the_thousand_users_on_a_queue_are_the_same_task(tmp_path: Path, api: Api, broker: Broker, name: str):
    queue, alone = (
        (ROOT / "examples" / f"{n}.py").read_text().split('"""\n\n', 1)[1]
        for n in (name, "02_thousand_users")
    )
    assert queue == alone
    shutil.copy(ROOT / "examples" / f"{name}.py", tmp_path)
    engine = name.partition("_")[2]
    server = Server(tmp_path, "--api-url", api.url, "--tasks", name, *queue_flags(engine, broker.url))
    fleet = Fleet(engine, server, broker)
    try:
        server.users(*[f"user{n}@example.com" for n in range(99)], "gone-1@example.com")
        done = server.ended(server.begin("post_user"))
        assert (done["completed"], done["failed"], done["engine"]) == (99, 1, engine)
        assert len(api.log()) == 100
    finally:
        fleet.stop()


APP = """
import os
from pathlib import Path
from typing import Any
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from rowcast import BackgroundTask, mount, step

def welcome(name: str):
    step("write", Path("welcome").write_text, name)

async def sign_up(request):
    return PlainTextResponse("on its way", background=BackgroundTask(welcome, name="ada"))

app = Starlette(routes=[Route("/sign-up", sign_up)])
mount(app, "/jobs")
"""


@pytest.mark.parametrize("engine", ["celery", "dramatiq"])
def test_a_background_task_of_a_mounted_dashboard_runs_on_a_queues_worker(
    tmp_path: Path, broker: Broker, engine: str
):
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")} | {
        "ROWCAST_ENGINE": engine, "ROWCAST_BROKER_URL": broker.url, "ROWCAST_WORKER_TOKEN": TOKEN,
        "ROWCAST_DASHBOARD_URL": f"http://127.0.0.1:{port}/jobs", "PYTHONPATH": str(tmp_path),
    }  # fmt: skip
    app = App(tmp_path, [part.format(port=port) for part in uvicorn("app")], port, env)
    workers = None
    try:
        until(lambda: app.up("/jobs/healthz"))
        workers = Workers(engine, tmp_path, 1, env | {"PYTHONWARNINGS": "ignore"})
        assert app.client.get("/sign-up").text == "on its way"
        done = until(lambda: (j := app.client.get("/jobs/api/jobs/1").json()).get("finished_at") and j)
        assert (done["task"], done["engine"], done["completed"]) == ("welcome", engine, 1)
        assert (tmp_path / "welcome").read_text() == "ada"
        assert "/jobs/static/app.css" in app.client.get("/jobs/workers").text
    finally:
        if workers:
            workers.stop()
        app.process.terminate()
        app.process.wait(PATIENCE)
        app.client.close()


def test_in_a_fastapi_app_each_sign_up_is_a_job_with_its_steps(run):
    app = run("03_fastapi.py", probe="/admin/jobs/healthz")
    answer = app.client.post("/signup", params={"email": "ada@example.com"})
    assert (answer.status_code, answer.json()["status"]) == (202, "on its way")
    job = until(
        lambda: (
            (jobs := app.client.get("/admin/jobs/api/jobs").json()["jobs"])
            and jobs[0]["finished_at"]
            and jobs[0]
        )
    )
    items = app.client.get(f"/admin/jobs/api/jobs/{job['id']}/items").json()["items"]
    assert [(item["key"], item["status"]) for item in items] == [
        ("create the account", "completed"), ("copy the templates", "completed"), ("say welcome", "completed"),
    ]  # fmt: skip
    assert "Welcome, ada@example.com!" in app.log.read_text()
    assert "/signup" in app.client.get("/openapi.json").json()["paths"]
    assert "create the account" in app.client.get(f"/admin/jobs/jobs/{job['id']}?view=all").text


def test_in_a_fasthtml_app_a_form_sets_an_account_up_and_its_owner_is_mailed(run):
    app = run("07_sign_up.py", probe="/jobs/healthz")
    assert 'name="email"' in app.client.get("/").text
    answer = app.client.post("/sign-up", data={"email": "ada@example.com"})
    assert answer.status_code == 200 and "will write to ada@example.com" in answer.text
    job = until(lambda: (found := app.client.get("/jobs/api/jobs/1").json()).get("finished_at") and found)
    items = app.client.get("/jobs/api/jobs/1/items").json()["items"]
    steps = ["create the account", "copy the templates", "build the search index", "send the welcome mail"]
    assert [(item["key"], item["status"]) for item in items] == [(step, "completed") for step in steps]
    assert (job["task"], job["status"]) == ("set_up", "completed")
    mailbox = app.client.get("/jobs/mailbox").text
    assert "ada@example.com" in mailbox and 'href="/jobs/mailbox/1">Welcome</a>' in mailbox
    assert "Your account ada is ready" in app.client.get("/jobs/mailbox/1").text


def test_a_program_follows_a_job_to_its_end(shared: Server):
    shared.users(*[f"user{n}@example.com" for n in range(30)], "gone-1@example.com")
    job = shared.begin()
    script = str(ROOT / "examples" / "04_follow.py")
    ran = subprocess.run(
        [sys.executable, script, str(job), shared.url], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[-1] == "The job is completed"
    assert "failed gone-1@example.com Not Found: no such account" in lines
    assert len({line.split()[1] for line in lines[:-1]}) == 31
    assert subprocess.run([sys.executable, script, "999999", shared.url], capture_output=True).returncode == 1


def test_the_examples_are_numbered_and_say_how_they_are_run():
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert [path.name[:3] for path in examples] == [f"{n:02}_" for n in range(1, len(examples) + 1)]
    for path in examples:
        docstring = re.search(r'^"""(.+?)"""', path.read_text(), re.M | re.S)[1]
        assert path.stem in docstring
