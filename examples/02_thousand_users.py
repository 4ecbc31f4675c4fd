"""A thousand users from a database, an API called for each: one function with one decorator.

    rowcast --tasks 02_thousand_users                                       against the built-in demo API
    rowcast --tasks 02_thousand_users --api-url https://api.example.com     against your own

A parameter named `user` is each row of the table `users`; the client is opened once and shared. Retries, the pace, pause,
cancel, progress and the table of what failed come with it.
"""

from urllib.parse import quote

import httpx

from rowcast import task


@task(concurrency=50, rate="100/s", max_attempts=5, timeout=10, stamp="account_updated")
async def post_user(user: dict, api: httpx.AsyncClient):
    """Post one user to the API."""
    (await api.post(f"/update-user/{quote(user['email'], safe='')}")).raise_for_status()
