"""An agent, by the official client: what it finds, what it is told, and what it may do only where it is let."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rowcast.commands.terminal import ask
from rowcast.tables.accounts import Accounts
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.sessions import Tokens
from tests.conftest import Server
from tests.test_search import fill

MANY = 100_000
TASKS = """
import logging
from pathlib import Path
from rowcast import task

@task(max_attempts=1)
def deliver(item: str, password: str = ""):
    if item.startswith("!") and not Path(item[1:].partition("-")[0]).exists():
        logging.info("The address of %s was looked up, with token=%s", item, "s3cret-of-the-log")
        raise RuntimeError("paper is out" if item.startswith("!paper") else "no such address")
"""
Told = dict[str, Any]
Client = Any  # of mcp: what it imports takes a second, which only who runs these tests needs to wait


class Desk:
    """A dashboard with two accounts and very many jobs, and the tokens of one of them."""

    def __init__(self, directory: Path):
        (directory / "data").mkdir()
        (directory / "work.py").write_text(TASKS)
        path = str(directory / "data" / "rowcast.db")
        fill(path, MANY)
        with transaction(connection(path)) as conn:  # every fiftieth has failures, but none has 37 of them
            conn.execute("update jobs set started_at = created_at")
            conn.execute("update jobs set failed = 1 + id % 36, total = 100 where failed and id % 3")
        Accounts(path).add("ann", "operator", "a bicycle over twelve mountains")
        Accounts(path).add("ben", "operator", "a bicycle over twelve mountains")
        self.write = Tokens(path).add("ann", "an agent", "write", 1)[0]
        self.read = Tokens(path).add("ann", "an agent", "read", 1)[0]
        close_databases()
        self.server = Server(directory, "--tasks", "work")
        self.server.client.headers["Authorization"] = f"Bearer {self.write}"

    def rowcast(self, *flags: str, token: str) -> Any:
        """The command, as an agent's program starts it."""
        words = ["-m", "rowcast", "mcp", "--url", self.server.url, *flags]
        from mcp import StdioServerParameters

        return StdioServerParameters(command=sys.executable, args=words, env={"ROWCAST_TOKEN": token})

    def failing(self) -> int:
        """A job that has 37 failures, of two kinds."""
        kinds = ["a", "b", "c"] + [f"!paper-{n}" for n in range(12)] + [f"!address-{n}" for n in range(25)]
        job = self.server.begin("deliver", items=kinds, password="s3cret")
        return self.server.ended(job)["id"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    yield made
    made.server.stop()
    made.server.client.close()


def talk(to: Any, said: Callable[[Client], Awaitable[Any]]) -> Any:
    import mcp

    async def talking() -> Any:
        async with mcp.Client(to) as client:
            return await said(client)

    return asyncio.run(talking())


async def told(client: Client, tool: str, **given: Any) -> Told:
    answer = await client.call_tool(tool, given)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return answer.structured_content


async def refused(client: Client, tool: str, **given: Any) -> str:
    answer = await client.call_tool(tool, given)
    assert answer.is_error
    return str(answer.content[0].text)


def test_the_job_with_37_failures_among_100_000_is_found_and_a_group_of_them_retried_in_four_calls(
    desk: Desk,
):
    job = desk.failing()

    async def mend(client: Client) -> Told:
        (found,) = (await told(client, "find_jobs", failures="37"))["jobs"]
        groups = (await told(client, "read_job", job=found["id"]))["error_groups"]
        assert [(group["message"], group["items"]) for group in groups] == [
            ("RuntimeError: no such address", 25),
            ("RuntimeError: paper is out", 12),
        ]
        which = {"job": found["id"], "group": groups[1]["fingerprint"]}
        would = await told(client, "retry_group", **which)
        assert would["items"] == 12 and "Nothing was done" in would["sentence"]
        assert desk.server.job(job)["failed"] == 37
        (desk.server.directory / "paper").touch()
        return await told(client, "retry_group", **which, dry_run=False)

    assert talk(desk.rowcast("--write", token=desk.write), mend)["id"] == job
    done = desk.server.ended(job)
    assert (done["completed"], done["failed"]) == (15, 25)


def test_who_is_not_let_write_is_offered_nothing_that_changes_and_is_told_no_secret(desk: Desk):
    job = desk.failing()

    async def look(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {
            "find_jobs", "read_job", "find_items", "read_item", "list_tasks"
        }  # fmt: skip
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
        assert "Unknown tool" in await refused(client, "act", job=job, action="retry", dry_run=False)
        group = (await told(client, "read_job", job=job))["error_groups"][0]
        listed = await told(client, "find_items", job=job, group=group["fingerprint"], limit=2)
        assert [item["status"] for item in listed["items"]] == ["failed"] * 2
        after = await told(client, "find_items", job=job, limit=2, after=listed["next"])
        assert after["items"][0]["position"] == listed["next"] + 1
        item = await told(client, "read_item", job=job, item=listed["items"][0]["id"])
        (tried,) = item["attempts"]
        assert tried["status"] == "failed" and "no such address" in tried["error"]
        assert item["log"][0]["text"] == f"The address of {item['key']} was looked up, with token=•••"
        whole = await told(client, "read_job", job=job)
        assert whole["job"]["args"]["password"] == "•••"
        assert "s3cret" not in f"{item}{whole}{await told(client, 'find_jobs', words='deliver')}"
        tasks = (await told(client, "list_tasks"))["tasks"]
        assert {"deliver", "counter"} <= {one["task"] for one in tasks}
        theirs = await told(client, "find_jobs", limit=100)
        assert {found["owner"] for found in theirs["jobs"]} == {"ann"}

    talk(desk.rowcast(token=desk.read), look)


@pytest.fixture
def agent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `rowcast mcp --write` runs, in this process."""
    monkeypatch.setenv("ROWCAST_TOKEN", desk.write)
    from rowcast.extras.mcp import server

    return server(partial(ask, desk.server.url), write=True)


def test_what_changes_something_only_says_so_unless_it_is_told_to(desk: Desk, agent: Any):
    async def do(client: Client) -> None:
        tag = "of-an-agent"
        given = {"task": "counter", "args": {"loops": 2}, "tags": [tag], "unique_key": tag}
        would = await told(client, "start_job", **given)
        assert would["sentence"] == "It would be a job of counter. Nothing was started."
        assert (await told(client, "find_jobs", tag=tag))["jobs"] == []
        started = await told(client, "start_job", **given, dry_run=False)
        assert (await told(client, "start_job", **given, dry_run=False))["id"] == started["id"]
        desk.server.ended(started["id"])
        waits = desk.server.begin("counter", loops=4, tags=[tag], run_at="3600s")
        pause = {"job": waits, "action": "pause"}
        assert "would be paused" in (await told(client, "act", **pause))["sentence"]
        assert desk.server.job(waits)["status"] == "queued"
        assert (await told(client, "act", **pause, dry_run=False))["status"] == "paused"
        assert "it cannot be paused" in await refused(client, "act", **pause)
        cancel = {"action": "cancel", "tag": tag}
        assert await told(client, "act_on_all", **cancel) == {"matched": 2, "changed": 1}
        assert desk.server.job(waits)["status"] == "paused"
        assert await told(client, "act_on_all", **cancel, dry_run=False) == {"matched": 2, "changed": 1}
        assert desk.server.job(waits)["status"] == "cancelled"

    talk(agent, do)


def test_what_is_refused_is_one_sentence(desk: Desk, agent: Any, monkeypatch: pytest.MonkeyPatch):
    async def do(client: Client) -> None:
        for tool, given, sentence in (
            ("read_job", {"job": 10**9}, "There is no job 1000000000."),
            ("find_jobs", {"failures": "none"}, "failures is a number from 1, like 37"),
            ("find_jobs", {"status": "broken"}, "status is one of"),
            ("start_job", {"task": "counter", "args": {"loops": "many"}}, "argument `loops`"),
            ("start_job", {"task": "no_such", "args": {}, "dry_run": False}, "There is no task 'no_such'"),
            ("act", {"job": 1, "action": "explode"}, "There is no action 'explode'"),
            ("act", {"job": 1, "action": "pause"}, "There is no job 1."),  # it is somebody else's
            ("find_jobs", {"failures": 0}, "failures is a number from 1, like 37"),
            ("find_jobs", {"q": "counter"}, "find_jobs: q: "),
            ("find_jobs", {"limit": 1000}, "find_jobs: limit: Input should be less than or equal to 100."),
            ("read_job", {}, "read_job: job: Field required."),
            ("act_on_all", {"action": "cancel", "owner": "nobody", "dry_run": False}, "act_on_all: owner: "),
        ):
            said = await refused(client, tool, **given)
            assert sentence in said and "\n" not in said, tool
        tools = (await client.list_tools()).tools
        assert all(tool.input_schema["additionalProperties"] is False for tool in tools)
        monkeypatch.setenv("ROWCAST_TOKEN", desk.read)
        assert "This token is for reading" in await refused(client, "act", job=2, action="retry")

    talk(agent, do)


def test_an_action_that_there_is_not_is_asked_of_nobody():
    from rowcast.extras.mcp import server

    asked: list[Any] = []

    def note(*said: Any, **_: Any) -> Told:
        asked.append(said)
        return {}

    async def do(client: Client) -> None:
        for action in ("../../halts", "card", "retry?", ""):
            for dry_run in (True, False):
                said = await refused(client, "act", job=1, action=action, dry_run=dry_run)
                assert f"There is no action {action!r}" in said

    talk(server(note, write=True), do)
    assert asked == []


def test_a_check_says_how_many_items_an_act_would_move(desk: Desk):
    job = desk.failing()
    client = desk.server.client
    groups = client.get(f"/api/jobs/{job}/errors").json()["errors"]
    failed = desk.server.items(job, status="failed")[0]["id"]
    for asked, items in (
        ({"action": "retry"}, sum(group["items"] for group in groups)),
        ({"action": "retry", "group": groups[0]["fingerprint"]}, groups[0]["items"]),
        ({"action": "retry", "item": failed}, 1),
    ):
        before = desk.server.job(job)
        assert client.post(f"/api/jobs/{job}/check", json=asked).json()["items"] == items
        assert desk.server.job(job) == before
    for asked, status in (
        ({"action": "settle"}, 409),
        ({"action": "pause"}, 409),
        ({"action": "retry", "item": 10**9}, 404),
        ({"action": "pause", "item": failed}, 422),
        ({}, 422),
    ):
        assert client.post(f"/api/jobs/{job}/check", json=asked).status_code == status, asked
    waits = desk.server.begin("deliver", items=["a", "b", "c"], run_at="3600s")
    assert client.post(f"/api/jobs/{waits}/check", json={"action": "cancel"}).json()["items"] in (0, 3)
    desk.server.act(waits, "cancel")


def test_what_hides_or_is_too_long_is_not_told():
    from rowcast.extras.mcp import LONGEST, fit

    assert fit({"error": "a\u202eb\nc", "list": ["\U000e0041"]}) == {
        "error": "a[U+202E]b\nc",
        "list": ["[U+E0041]"],
    }
    long = fit("x" * (LONGEST + 1500))
    assert long.startswith("x" * LONGEST) and long.endswith("[1,500 letters more]")
    assert fit({"password": "p", "deep": [{"api_key": "k", "n": 1}]}) == {
        "password": "•••",
        "deep": [{"api_key": "•••", "n": 1}],
    }


def test_without_the_extra_it_is_one_line_and_code_2(tmp_path: Path):
    code = "import sys; sys.modules['mcp'] = None; from rowcast.__main__ import main; main(['mcp'])"
    env = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'rowcast[mcp]'" in done.stderr and done.stderr.count("\n") == 1
