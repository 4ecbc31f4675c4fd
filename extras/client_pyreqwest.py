"""The fast lane: a task that annotates a parameter with `pyreqwest.client.Client` posts with pyreqwest, at
about a tenth of httpx's cost per request (bench/). Install with `pip install 'rowcast[fast]'`.

    (await api.post("/path").build().send()).error_for_status()

Nothing of Rowcast stands between the task and the client. So the task names its own `Idempotency-Key` where
the API wants one (`.header("Idempotency-Key", rowcast.idempotency_key())`), and a Retry-After is not obeyed.
"""

from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from pyreqwest.client import Client, ClientBuilder

from rowcast.worker.clients import is_loopback

TIMEOUT = timedelta(seconds=60)  # as clients.open_httpx has it
KEEP_ALIVE = timedelta(seconds=30)
MOST_IDLE = 1000  # connections kept open: the largest concurrency a job may have


def open_client(hint: Any, base_url: str, user_agent: str) -> Client:
    """A client for the API at `base_url`. No limit of its own: the job's concurrency is the limit.

    Paths are joined as in a browser: "a" is below the path of `base_url`, "/a" below its host.
    Raises TypeError for another class of pyreqwest than `Client`.
    """
    if hint is not Client:
        named = f"{hint.__module__}.{hint.__qualname__}"
        raise TypeError(f"No client for the annotation {named}: use pyreqwest.client.Client.")
    builder = ClientBuilder().user_agent(user_agent).follow_redirects(False)
    if is_loopback(urlsplit(base_url).hostname):
        builder = builder.no_proxy()
    builder = builder.timeout(TIMEOUT).pool_idle_timeout(KEEP_ALIVE).pool_max_idle_per_host(MOST_IDLE)
    return (builder.base_url(base_url.rstrip("/") + "/") if base_url else builder).build()
