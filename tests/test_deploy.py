"""What docs/deploy.md says is what runs: the units' commands with their settings, and workers behind the proxy's lines."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fleet import TOKEN, Broker, Fleet, Workers, queue_flags
from proxies import run_proxy
from servers import Patient

from rowcast.tables.accounts import Accounts
from rowcast.tables.database import close_databases
from rowcast.tables.sessions import Tokens
from rowcast.tasks.settings import Settings
from tests.conftest import PATIENCE, ROOT, Api, Server, free_port, until

DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
BIN = Path(sys.executable).parent


def block(kind: str, head: str) -> str:
    """The block of that kind of the page which begins so."""
    return next(
        text for text in re.findall(rf"```{kind}\n(.*?)```", DEPLOY, re.S) if text.startswith(f"# {head}")
    )


def settings(**changed: str) -> dict[str, str]:
    lines = block("ini", "/etc/rowcast.env").splitlines()[1:]
    return dict(line.split("=", 1) for line in lines) | changed


@pytest.mark.parametrize("unit", ["rowcast.service", "rowcast-worker.service"])
def test_systemd_takes_the_units(unit: str, tmp_path: Path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd on this machine")
    text = block("ini", f"/etc/systemd/system/{unit}").replace("/srv/rowcast/.venv/bin", str(BIN))
    text = text.replace("/srv/rowcast", str(tmp_path)).replace("User=rowcast", "User=root")
    (tmp_path / unit).write_text(text.replace("/etc/rowcast.env", f"-{tmp_path}/rowcast.env"))
    ran = subprocess.run(["systemd-analyze", "verify", str(tmp_path / unit)], capture_output=True, text=True)
    said = [line for line in ran.stderr.splitlines() if unit in line or str(tmp_path) in line]
    assert ran.returncode == 0 and not said, ran.stderr


def command_of(unit: str) -> list[str]:
    text = block("ini", f"/etc/systemd/system/{unit}")
    line = re.search(r"^ExecStart=(.*)$", text, re.M)
    assert line
    return shlex.split(line[1].replace("/srv/rowcast/.venv/bin", str(BIN)))


def test_the_commands_of_the_units_run_with_the_settings_of_the_page(
    tmp_path: Path, api: Api, broker: Broker
):
    """As systemd would: in that directory, with those variables and no others."""
    (tmp_path / "mine.py").write_text(
        "from rowcast import task\n\n@task\ndef greet(item: str): return f'hello {item}'\n"
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = settings(ROWCAST_BROKER_URL=broker.url, ROWCAST_DASHBOARD_URL=url)
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ROWCAST_PORT": str(port)}
    running = []
    with (tmp_path / "log").open("w") as log:
        for unit in ("rowcast.service", "rowcast-worker.service"):
            if unit != "rowcast.service":
                until(lambda: answers(url))
            running.append(
                subprocess.Popen(command_of(unit), cwd=tmp_path, env=env | plain, stdout=log, stderr=log)
            )
    try:
        job = httpx.post(
            f"{url}/api/jobs", json={"task": "greet", "args": {"items": ["ada"]}}, timeout=PATIENCE
        ).json()["id"]
        done = until(
            lambda: (j := httpx.get(f"{url}/api/jobs/{job}", timeout=PATIENCE).json())["finished_at"] and j
        )
        assert (done["completed"], done["engine"]) == (1, "celery")
    finally:
        ended = []
        for process in reversed(running):
            process.terminate()
            ended.append(process.wait(PATIENCE))
    assert ended == [0, 0], (tmp_path / "log").read_text()


def test_a_container_runs_what_the_units_run_with_the_database_on_its_volume():
    """No container is built here: see the page for what was tried."""
    file = dict(line.split(" ", 1) for line in block("dockerfile", "Containerfile").splitlines()[1:])
    assert json.loads(file["CMD"]) == [Path(command_of("rowcast.service")[0]).name]
    assert Path(file["WORKDIR"], Settings().database).parent == Path(file["VOLUME"])
    said = DEPLOY.replace("\\\n    ", "")
    celery = shlex.join(command_of("rowcast-worker.service")).removeprefix(f"{BIN}/")
    assert f"--stop-timeout 30 rowcast {celery}\n" in said
    assert said.count("dramatiq rowcast.extras.engine_dramatiq`") == 2
    assert f"-v rowcast:{file['VOLUME']} rowcast\n" in said


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("kind", "head"), [("nginx", "nginx"), ("caddy", "Caddyfile")])
def test_behind_the_documented_proxy_workers_need_the_token_and_people_a_sign_in(
    kind: str, head: str, tmp_path: Path, api: Api, broker: Broker
):
    port = free_port()
    server = Server(
        tmp_path,
        "--api-url",
        api.url,
        "--tasks",
        "rowcast.tasks.built_in",
        *queue_flags("celery", broker.url),
    )
    path = str(tmp_path / "data" / "rowcast.db")
    Accounts(path).add("ada", "admin", None)
    token, _ = Tokens(path).add("ada", "a program", "write")
    close_databases()
    ada = {"Authorization": f"Bearer {token}"}
    server.client.headers.update(ada)
    lines = block(kind, head).split("\n", 1)[1]
    url = f"http://127.0.0.1:{port}"
    running = None
    fleet = None
    try:
        running = run_proxy(kind, lines, port, server.port, tmp_path)
        until(lambda: answers_at_all(url))
        assert httpx.get(f"{url}/", timeout=PATIENCE).headers["Location"] == "/sign-in?next=%2F"
        assert httpx.get(f"{url}/api/jobs", timeout=PATIENCE).status_code == 401
        assert httpx.get(f"{url}/", headers=ada, timeout=PATIENCE).status_code == 200
        with httpx.Client(transport=Patient()) as patient:  # Caddy cuts one in some 10,000 quick answers
            refused = patient.post(f"{url}/api/ledger/hello", content=b"{}", timeout=PATIENCE)
            assert refused.json()["error"].startswith("The worker's token is not")
        fleet = Behind("celery", server, broker, url)
        api.stall()
        api.answer(2)
        job = server.begin(limit=50, concurrency=2)
        with httpx.stream("GET", f"{url}/api/jobs/{job}/events", headers=ada, timeout=PATIENCE) as stream:
            assert next(line for line in stream.iter_lines() if '"status":"completed"' in line)
            assert not server.job(job)["finished_at"]  # what is written is passed on at once
        api.answer()
        assert server.ended(job)["completed"] == 50
    finally:
        if fleet:
            fleet.stop()
        else:
            server.stop()
            server.client.close()
        if running:
            running.terminate()
            running.wait(PATIENCE)


class Behind(Fleet):
    """Workers that reach the dashboard by a proxy."""

    def __init__(self, engine: str, server: Server, broker: Broker, url: str):
        self.url = url
        super().__init__(engine, server, broker, 1)

    def more(self, processes: int = 1, **env: str) -> Workers:
        return super().more(processes, ROWCAST_DASHBOARD_URL=self.url, ROWCAST_WORKER_TOKEN=TOKEN)


def answers_at_all(url: str) -> bool:
    try:
        return bool(httpx.get(url).status_code)
    except httpx.TransportError:
        return False
