"""A dashboard asked from a shell: start, act, jobs, what they print, and how they end."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from rowcast.__main__ import parser
from rowcast.tables.accounts import Accounts
from rowcast.tables.sessions import Tokens
from tests.conftest import Server, free_port, rowcast, until


def run(server: Server | None, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    where = ["--url", server.url] if server else []
    given = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")} | env
    return rowcast(*words, *where, env=given)


def test_a_job_is_started_with_arguments_and_tags_and_followed(server: Server):
    tag = f"s{time.time_ns()}"
    done = run(server, "start", "counter", "--arg", "loops=2", "--tag", tag, "--tag", "shell", "--follow")
    assert done.returncode == 0, done.stderr
    (job,) = server.client.get("/api/jobs", params={"tag": tag}).json()["jobs"]
    assert (job["args"], job["tags"], job["status"]) == ({"loops": 2}, [tag, "shell"], "completed")
    assert f"{server.url}/jobs/{job['id']}" in done.stdout
    listed = run(server, "jobs", "--q", tag)
    assert listed.returncode == 0 and listed.stdout.split()[:3] == [str(job["id"]), "completed", "counter"]
    (line,) = run(server, "jobs", "--tag", tag, "--status", "completed", "--json").stdout.splitlines()
    assert json.loads(line) == server.job(job["id"])
    assert run(server, "jobs", "--tag", tag, "--status", "failed").stdout == ""


def test_jobs_are_acted_on_and_the_exit_code_says_whether_all_were(server: Server):
    jobs = [server.begin("counter", loops=1, run_at="3600s") for _ in range(2)]
    numbers = [str(job) for job in jobs]
    done = run(server, "act", "cancel", *numbers)
    assert (done.returncode, done.stdout.count("is cancelled.")) == (0, 2)
    refused = run(server, "act", "pause", *numbers)
    assert refused.returncode == 1 and refused.stderr.count("cannot be paused") == 2
    other = str(server.begin("counter", loops=1, run_at="3600s"))
    done = run(server, "act", "cancel", numbers[0], "999999999", other)
    assert done.returncode == 2 and done.stdout == f"Job {other} is cancelled.\n"
    assert [said in done.stderr for said in ("cannot be cancelled", "There is no job 999999999.")] == [
        True
    ] * 2
    paused = server.begin("counter", loops=1, run_at="3600s")
    said = run(server, "act", "pause", str(paused), "--json")
    assert json.loads(said.stdout)["status"] == "paused"


def test_everything_is_stopped_and_goes_on_again_and_a_job_follows_another(server: Server):
    first = server.begin("counter", loops=1, run_at="3600s")
    words = (
        "start",
        "counter",
        "--arg",
        "loops=1",
        "--after",
        str(first),
        "--if",
        "ended",
        "--unique-key",
        "k",
    )
    made = json.loads(run(server, *words, "--json").stdout)
    assert (made["after_job"], made["condition"]) == (first, "ended")
    other = run(server, "start", "counter", "--arg", "loops=2", "--unique-key", "k")
    assert other.returncode == 2 and f"is job {made['id']}'s" in other.stderr
    done = run(server, "halt", "--reason", "a fire")
    assert done.returncode == 0 and "Everything was stopped by local (a fire)" in done.stdout
    assert run(server, "lift").stdout == "Everything goes on.\n"
    assert server.client.get("/api/halts").json()["halts"] == []
    for job in (first, made["id"]):
        server.client.post(f"/api/jobs/{job}/cancel")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("start", "no_such_task"), "There is no task 'no_such_task'"),
        (("start", "counter", "--arg", "loops"), "--arg is NAME=VALUE"),
        (("start", "counter", "--arg", "loops=many"), "argument `loops`"),
        (("jobs", "--since", "yesterday"), "since is a time"),
        (("jobs", "--limit", "0"), "limit is a whole number from 1"),
        (("lift", "countr"), "There is no task 'countr'"),
    ],
)
def test_what_is_refused_is_one_sentence_and_two(server: Server, words: tuple[str, ...], sentence: str):
    done = run(server, *words)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_dashboard_that_is_not_there_is_one_sentence_and_two():
    done = run(None, "jobs", "--port", str(free_port()))
    assert done.returncode == 2 and "cannot be reached" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_dashboard_with_accounts_is_shown_a_token(tmp_path: Path):
    server = Server(tmp_path)
    try:
        path = str(tmp_path / "data" / "rowcast.db")
        Accounts(path).add("ann", "operator", "a bicycle over twelve mountains")
        write, _ = Tokens(path).add("ann", "a shell", "write", 1)
        read, _ = Tokens(path).add("ann", "a shell", "read", 1)
        until(lambda: run(server, "jobs").returncode == 2)
        started = run(server, "start", "counter", "--arg", "loops=1", "--follow", ROWCAST_TOKEN=write)
        assert started.returncode == 0, started.stderr
        assert "counter" in run(server, "jobs", "--token", read).stdout
        refused = run(server, "start", "counter", "--token", read)
        assert refused.returncode == 2 and "This token is for reading" in refused.stderr
    finally:
        server.stop()
        server.client.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str):
    done = run(None, "completion", shell)
    assert done.returncode == 0
    for word in ("tail", "start", "--follow", "with-failures"):
        assert word in done.stdout, word


def test_bash_takes_the_completion(tmp_path: Path):
    script = tmp_path / "rowcast.bash"
    script.write_text(run(None, "completion", "bash").stdout)
    ask = f'source {script}; COMP_WORDS=(rowcast act re); COMP_CWORD=2; COMP_LINE="rowcast act re"; _shtab_rowcast; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["resume", "retry"]


def test_every_command_says_what_it_is_for():
    texts = parser().format_help()
    for word in ("start", "act", "jobs", "completion"):
        assert f"\n    {word} " in texts
