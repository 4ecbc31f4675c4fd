"""Webhooks: what arrives at a real receiver, signed, and what happens where one says no, hangs, or is where it may not be."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Server, until
from receiver import Got, Receiver, receiving
from standardwebhooks import Webhook

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may tell this machine."""
    made = Server(tmp_path_factory.mktemp("server"), "--notify-hosts", "127.0.0.1, hooks.test")
    yield made
    made.stop()
    made.client.close()


def tell(server: Server, *receivers: Any, task: str = "counter", **args: Any) -> int:
    """Start a job that tells these: addresses of webhooks, or rules."""
    rules = [one if isinstance(one, dict) else {"channel": "webhook", "to": one} for one in receivers]
    body = {"task": task, "args": args or {"loops": 1}, "notify": rules}
    answer = server.client.post("/api/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def deliveries(server: Server, job: int) -> list[dict[str, Any]]:
    return server.client.get(f"/api/jobs/{job}/deliveries").json()


def came_of(server: Server, job: int, status: str, seconds: float = 40) -> dict[str, Any]:
    """The job's only message, once it has this status."""
    return until(
        lambda: (found := deliveries(server, job)) and found[0]["status"] == status and found[0], seconds
    )


def arrived(receiver: Receiver, path: str, number: int = 1) -> list[Got]:
    return until(lambda: len(found := receiver.at(path)) >= number and found)


def test_a_job_that_ends_is_told_with_its_facts_and_a_signature_that_verifies(
    server: Server, receiver: Receiver
):
    made = server.client.post("/api/webhooks", json={"url": f"{receiver.url}/ok/facts"})
    assert made.status_code == 201 and made.headers["Cache-Control"] == "no-store"
    job = tell(server, f"{receiver.url}/ok/facts")
    told = came_of(server, job, "delivered")
    (got,) = arrived(receiver, "/ok/facts")
    verified = Webhook(made.json()["secret"]).verify(got.body, got.headers)
    assert verified["type"] == "job.completed" and verified["data"]["id"] == job
    shown = server.job(job)
    assert verified["data"] | {"seq": 0} == shown | {"seq": 0}
    assert (told["code"], told["attempts"], told["event"]) == (200, 1, "completed")
    assert told["id"] == got.ident and told["delivered_at"] and told["error"] is None
