"""Tasks of the engines' tests, imported by name on every side."""

import asyncio
import os
import pathlib
import signal
import threading
import time

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
def contract_waits(name: str):
    "Its step takes until there is a file of that name, and then fails."

    def wait() -> None:
        while not pathlib.Path(name).exists():
            time.sleep(0.02)
        raise ValueError("it was there")

    step("first", str.upper, name)
    step("wait", wait)


def hold_up(seconds: float) -> None:
    time.sleep(seconds)


@task(concurrency=1)
async def contract_blocks(item: str):
    "Holds up all that its worker runs."
    hold_up(2.2)


@task
def contract_large(item: str):
    "A result that is worth compressing."
    return item * 1000


@task(timeout=1.5)
async def contract_hangs(item: str):
    "Two of its items take too long."
    if item == "hangs":
        await asyncio.sleep(30)


@task(timeout=1.5)
def contract_hangs_in_a_thread(item: str):
    "The same with a function that cannot be broken off."
    if item == "hangs":
        threading.Event().wait(2.5)  # and it ends, so nobody doubts what became of it


@task(concurrency=2)
def contract_fatal(item: str):
    "Some items end the process that runs them."
    if item == "fatal exit":
        os._exit(7)
    if item == "fatal signal":
        signal.raise_signal(signal.SIGSEGV)  # to this very thread, before it goes on
    return item.upper()
