"""Mails of a queue's workers, which have neither the mailbox nor, maybe, the mail server."""

import asyncio
from collections.abc import Callable

import pytest
from conftest import Server
from fleet import Fleet, people

from rowcast.tasks.addresses import BadMail
from rowcast.tasks.mail import Posted
from rowcast.worker.remote import RemoteLedger, open_ledger_client


def test_mails_of_a_queues_workers_come_into_the_dashboards_mailbox(fleet: Fleet, clear_fleet: None):
    people(fleet, 3)
    job = fleet.begin("bulk_email", rate="100/s")
    done = fleet.server.ended(job)
    assert done["completed"] == 3
    rows = fleet.server.items(job)
    assert {row["result"] for row in rows} == {"250 kept in the mailbox"}
    assert fleet.server.client.get("/mailbox", params={"job": job}).text.count('id="mail-') == 3


def test_a_worker_that_does_not_know_the_mail_server_is_told_so(serve: Callable[..., Server]):
    server = serve("--worker-token", "t", "--smtp-url", "smtp://127.0.0.1:1", "--mail-from", "a@example.com")

    async def put() -> None:
        async with open_ledger_client(server.url, "t") as client:
            await RemoteLedger(client).mail("one", Posted("1@x", "ada@example.com", "Hello", b"x"))

    with pytest.raises(BadMail, match="give it ROWCAST_SMTP_URL and ROWCAST_MAIL_FROM too"):
        asyncio.run(put())
    page = server.client.get("/mailbox").text
    assert "No mail yet" in page and "Mails are sent by" in page
