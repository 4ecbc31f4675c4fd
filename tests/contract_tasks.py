"""Tasks of the engines' tests, imported by name on every side."""

import httpx

from rowcast import step, task


@task(concurrency=4, idempotent=False)
async def contract_once(user: dict, api: httpx.AsyncClient):
    "May not be sent twice."
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()


@task
def contract_set_up(name: str):
    "A function that is called once, and reports its steps."
    step("create", str.upper, name)
    step("copy", len, name)


@task
def contract_large(item: str):
    "A result that is worth compressing."
    return item * 1000
