"""Chat: a message to Slack, Teams, ntfy and a hundred more, by apprise (`rowcast[apprise]`).

An address of apprise's can name any host, this machine and its desktop too, and apprise makes its own
connections. So only whoever runs Rowcast gives such addresses: in a setting, or in a task's code.
"""

import asyncio
import importlib
from typing import Any

import msgspec

from rowcast.messages.channels import Later, Means, Never
from rowcast.tasks.languages import Words, mark, spoken, tr, written
from rowcast.tasks.records import Delivery
from rowcast.tasks.sentences import translated

WORDS = Words(
    {
        "job.completed": mark("{job} is done"),
        "job.failed": mark("{job} has failed"),
        "job.cancelled": mark("{job} was cancelled"),
        "job.paused": mark("{job} waits for a person"),
        "job.turned": mark("{job} has turned"),
    }
)
COUNTED = Words(
    {
        "completed": mark("completed"),
        "failed": mark("failed"),
        "unknown": mark("unknown"),
        "cancelled": mark("cancelled"),
    }
)


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
    with spoken(means.language(delivery)):
        counts = ", ".join(
            f"{written(f'{job[kind]:,}')} {word}" for kind, word in COUNTED.items() if job[kind]
        )
        title = WORDS[body["type"]].format(job=f"{job['task']} #{job['id']}")
        how_many = tr("{counts} of {total:,}", counts=counts, total=job["total"]) if counts else ""
        lines = [how_many, translated(job["reason"]), means.link(job["id"])]
        return title, "\n".join(line for line in lines if line)
