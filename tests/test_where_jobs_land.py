"""Jobs land in the database that was named: of an app whose lifespan nobody runs, of two mounts, of a job that starts one."""

import os
import subprocess
import sys
from pathlib import Path

import apsw
import forks
import pytest
from conftest import nursery

COMMON = """
import time
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from rowcast import BackgroundTask, mount, task
from tasks_here import note, starts_another

def site(name, **settings):
    async def go(request):
        return PlainTextResponse("on its way", background=BackgroundTask(note, name))

    def go_plainly(request):
        return PlainTextResponse("on its way", background=BackgroundTask(note, name))

    app = Starlette(routes=[Route("/go", go), Route("/plainly", go_plainly)])
    mount(app, "/jobs", **settings)
    return app

def browser(app):
    return TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000))

def ended(client, path="", jobs=1):
    for _ in range(3_000):
        found = client.get(f"{path}/jobs/api/jobs").json()["jobs"]
        if len(found) == jobs and all(job["finished_at"] for job in found):
            assert {job["status"] for job in found} == {"completed"}, found
            return [job["task"] for job in found]
        time.sleep(0.05)
    raise SystemExit(f"still not so: {found}")
"""
TASKS = """
from pathlib import Path
from rowcast import BackgroundTask, task

def note(name: str):
    with open("noted", "a") as file:
        file.write(name + "\\n")

@task
async def starts_another(name: str):
    await BackgroundTask(note, name)()
"""
FIRST = """
from rowcast import mount
from rowcast.web.background_task import here

app = Starlette()
dashboard = mount(app, "/jobs", database="data/named.db")
assert here() is dashboard, "before anybody has run its lifespan"
assert dashboard.users.count() == 1000
dashboard.engine.stop()
"""
BARE = """
client = browser(site("bare", database="data/named.db"))
assert client.get("/go").text == "on its way"
assert client.get("/plainly").text == "on its way"
assert ended(client, jobs=2) == ["note", "note"]
page = client.get("/jobs/jobs/1").text
assert "Completed" in page and client.get("/jobs/healthz").is_success
with open("tasks_here.py", "a") as file:
    file.write("# edited")
for _ in range(3_000):
    if "tasks_here.py has changed since" in client.get("/jobs/").text:
        break
    time.sleep(0.05)
else:
    raise SystemExit("what looks on is not there")
"""
SUB_APP = """
outer = Starlette(routes=[Mount("/inner", app=site("sub", database="data/named.db"))])
with browser(outer) as client:
    assert client.get("/inner/go").text == "on its way"
    assert ended(client, "/inner") == ["note"]
"""
TWICE = """
outer = Starlette(routes=[
    Mount("/a", app=site("one", database="data/a.db")), Mount("/b", app=site("two", database="data/b.db")),
])
with browser(outer) as client:
    for path in ("/a", "/b", "/a"):
        assert client.get(f"{path}/go").text == "on its way"
    assert ended(client, "/a", 2) == ["note", "note"]
    assert ended(client, "/b") == ["note"]
"""
TWICE_ON_ONE = """
app = site("first", database="data/a.db")
mount(app, "/others", database="data/b.db")
with browser(app) as client:
    assert client.get("/go").text == "on its way"
    assert ended(client) == ["note"]
    assert client.get("/others/api/jobs").json()["jobs"] == []
"""
A_JOB_STARTS_ONE = """
with browser(site("outer", database="data/named.db", tasks="tasks_here")) as client:
    answer = client.post("/jobs/api/jobs", json={"task": "starts_another", "args": {"name": "by a job"}})
    assert answer.status_code == 201, answer.text
    assert ended(client, jobs=2) == ["note", "starts_another"]
"""


RUN = """
import runpy, warnings
warnings.simplefilter("ignore")
runpy.run_path("app.py", run_name="__main__")
"""


def jobs_in(path: Path) -> int:
    conn = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return conn.execute("select count(*) from jobs").fetchone()[0]
    finally:
        conn.close()


@pytest.mark.parametrize(
    ("code", "landed", "noted"),
    [
        (BARE, {"named.db": 2}, ["bare", "bare"]),
        (SUB_APP, {"named.db": 1}, ["sub"]),
        (TWICE, {"a.db": 2, "b.db": 1}, ["one", "one", "two"]),
        (TWICE_ON_ONE, {"a.db": 1, "b.db": 0}, ["first"]),
        (A_JOB_STARTS_ONE, {"named.db": 2}, ["by a job"]),
    ],
    ids=["a bare TestClient", "a sub-app", "two apps", "two of one app", "a job of a job"],
)
def test_jobs_land_in_the_database_that_was_named(
    tmp_path: Path, code: str, landed: dict[str, int], noted: list[str]
):
    (tmp_path / "tasks_here.py").write_text(TASKS)
    (tmp_path / "app.py").write_text(COMMON + code)
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")}
    log = tmp_path / "log"
    with log.open("wb") as out:
        ran = forks.Forked(nursery(), RUN, [], cwd=tmp_path, env=env, stdout=out, stderr=out, workers=True)
    assert ran.wait(280) == 0, log.read_text()
    assert {file.name: jobs_in(file) for file in sorted((tmp_path / "data").glob("*.db"))} == landed
    assert sorted((tmp_path / "noted").read_text().split("\n")[:-1]) == noted


def test_a_background_task_that_comes_first_seeds_the_users_as_a_start_does(tmp_path: Path):
    (tmp_path / "tasks_here.py").write_text(TASKS)
    (tmp_path / "app.py").write_text(COMMON + FIRST)
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")}
    subprocess.run([sys.executable, "app.py"], cwd=tmp_path, env=env, check=True, timeout=280)


AS_A_MODULE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from rowcast import BackgroundTask, mount, task

def note(name: str):
    with open("noted", "a") as file:
        file.write(name + "\\n")

@task
def note_each(item: str):
    note(item)

async def go(request):
    return PlainTextResponse("on its way", background=BackgroundTask(note, "as a module"))

app = Starlette(routes=[Route("/go", go)])
mount(app, "/jobs", database="data/named.db")

if __name__ == "__main__":
    import time
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        assert client.get("/go").text == "on its way"
        client.post("/jobs/api/jobs", json={"task": "note_each", "args": {"items": ["a"]}}).raise_for_status()
        for _ in range(3_000):
            jobs = client.get("/jobs/api/jobs").json()["jobs"]
            if len(jobs) == 2 and all(job["finished_at"] for job in jobs):
                break
            time.sleep(0.05)
        assert [(job["status"], job["reason"]) for job in jobs] == [("completed", "")] * 2, jobs
"""


def test_an_app_may_be_started_as_a_module_of_a_package(tmp_path: Path):
    """`python -m myapp.main`: what stands in it is found by its module's name, not by its file's."""
    (tmp_path / "myapp").mkdir()
    (tmp_path / "myapp" / "__init__.py").touch()
    (tmp_path / "myapp" / "main.py").write_text(AS_A_MODULE)
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "myapp.main"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert sorted((tmp_path / "noted").read_text().split("\n")[:-1]) == ["a", "as a module"]
