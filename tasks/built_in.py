"""The work itself: the first file to edit. Each task is one function with one decorator; see
docs/tasks.md.
"""

import time
from typing import Any
from urllib.parse import quote

import httpx

from rowcast.tasks.registry import task
from rowcast.tasks.steps import track


@task(concurrency=10, max_attempts=5, backoff=0.5, timeout=10, stamp="account_updated", doing="Sending")
async def update_users(user: dict[str, Any], api: httpx.AsyncClient) -> None:
    """Post each user to the API and note when the account was updated."""
    (await api.post(f"/update-user/{quote(user['email'], safe='')}")).raise_for_status()


@task
def counter(loops: int = 5) -> None:
    """Slowly print integers to the terminal, as in FastHTML's example of a background task."""
    for i in track(range(loops)):
        print(i, flush=True)
        time.sleep(i)
