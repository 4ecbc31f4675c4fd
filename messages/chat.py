"""Chat: a message to Slack, Teams, ntfy and a hundred more, by apprise (`rowcast[apprise]`).

An address of apprise's can name any host, this machine and its desktop too, and apprise makes its own
connections. So only whoever runs Rowcast gives such addresses: in a setting, or in a task's code.
"""

import asyncio
import importlib
from typing import Any

import msgspec

from rowcast.messages.channels import Later, Means, Never
from rowcast.tasks.records import Delivery

WORDS = {
    "job.completed": "is done",
    "job.failed": "has failed",
    "job.cancelled": "was cancelled",
    "job.paused": "waits for a person",
    "job.turned": "has turned",
}
COUNTED = ("completed", "failed", "unknown", "cancelled")


async def send(delivery: Delivery, means: Means) -> None:
    """Tell it there. Raises Later, Never."""
    if not delivery.trusted:
        raise Never("Addresses of apprise are for whoever runs Rowcast.")
    try:
        apprise: Any = importlib.import_module("apprise")
    except ImportError as error:
        raise Never("This needs apprise: pip install 'rowcast[apprise]'.") from error
    told = apprise.Apprise()
    # the first time it imports all that it knows, which takes a while
    if not await asyncio.to_thread(told.add, delivery.to):
        raise Never("apprise does not know this address.")
    title, text = text_of(delivery, means)
    if not await told.async_notify(title=title, body=text):
        raise Later("apprise could not deliver it; the log says why")


def text_of(delivery: Delivery, means: Means) -> tuple[str, str]:
    """A message as a title and a few lines of plain text."""
    body = msgspec.json.decode(delivery.body)
    job = body["data"]
    counts = [f"{job[kind]:,} {kind}" for kind in COUNTED if job[kind]]
    title = f"{job['task']} #{job['id']} {WORDS[body['type']]}"
    how_many = f"{', '.join(counts)} of {job['total']:,}" if counts else ""
    lines = [how_many, job["reason"], means.link(job["id"])]
    return title, "\n".join(line for line in lines if line)
