"""The thousand users on Celery: the same task, table and page; the work is done by workers on any host.

    pip install 'rowcast[celery]'
    export ROWCAST_BROKER_URL=redis://127.0.0.1:6379/0 ROWCAST_WORKER_TOKEN=$(openssl rand -hex 16) ROWCAST_TASKS=05_celery
    rowcast doctor --engine celery                 what would not survive the move, if anything
    rowcast --engine celery                        the dashboard
    celery -A rowcast.extras.engine_celery worker    a worker; elsewhere also ROWCAST_DASHBOARD_URL

A job that is half done when the dashboard is started with another --engine goes on there.
"""

from urllib.parse import quote

import httpx

from rowcast import task


@task(concurrency=50, rate="100/s", max_attempts=5, timeout=10, stamp="account_updated")
async def post_user(user: dict, api: httpx.AsyncClient):
    """Post one user to the API."""
    (await api.post(f"/update-user/{quote(user['email'], safe='')}")).raise_for_status()
