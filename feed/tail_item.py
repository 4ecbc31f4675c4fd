"""`rowcast tail JOB --item KEY`: one item followed in a terminal: its tries, and what they say."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import msgspec

from rowcast.feed.tail import (
    CUT,
    LONGEST_PAUSE,
    MOST_TRIES,
    Lost,
    credentials,
    error_of,
    is_near,
    unreachable,
)
from rowcast.tasks.text import printable_json, say

EVERY = 0.25  # seconds between two looks
SOME = 5  # keys that are named where several fit


async def follow_item(url: str, job: int, key: str, as_json: bool = False) -> int:
    """Follow an item to its end; returns the exit code, 0 where it completed. `as_json`: the item as a line
    of JSON, as often as it has changed.

    Raises Lost.
    """
    told: set[str] = set()
    status = ""
    async for item in looks(url, job, key):
        status = item["status"]
        if as_json:
            line = msgspec.json.encode(item).decode()
            if line not in told:
                told = {line}
                print(printable_json(line), flush=True)
            continue
        for name, line in lines_of(item):
            if name not in told:
                told.add(name)
                say(line)
    return 0 if status == "completed" else 1


async def looks(url: str, job: int, key: str) -> AsyncGenerator[dict[str, Any], None]:
    """The item as it is, again and again until it has ended. Raises Lost."""
    tries = 0
    number = 0
    begun = False
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(10), trust_env=not is_near(url), headers=credentials()
    ) as client:
        while True:
            try:
                number = number or await found(client, url, job, key)
                item = await answer(client, f"{url}/api/jobs/{job}/items/{number}")
                begun = True
                tries = 0
                yield item
                if item["status"] not in ("queued", "running"):
                    return
            except CUT as error:
                tries += 1
                if tries > MOST_TRIES or not begun:
                    raise unreachable(url, error) from None
            await asyncio.sleep(min(EVERY * 2**tries, LONGEST_PAUSE))


async def found(client: httpx.AsyncClient, url: str, job: int, key: str) -> int:
    """The number of the item of that key, or of the only one that has it in its key. Raises Lost."""
    page = await answer(client, f"{url}/api/jobs/{job}/items", find=key, limit=100)
    items = page["items"]
    same = [item for item in items if item["key"] == key] or items
    if len(same) == 1:
        return int(same[0]["id"])
    if same:
        some = ", ".join(item["key"] for item in same[:SOME])
        raise Lost(
            f"Several items of job {job} fit {key!r}: {some}{' and more' if len(same) > SOME else ''}."
        )
    if key.isascii() and key.isdecimal():
        return int(key)
    raise Lost(f"Job {job} has no item {key!r}.")


async def answer(client: httpx.AsyncClient, url: str, **query: Any) -> dict[str, Any]:
    """What the dashboard answers, as JSON. Raises Lost where it refuses."""
    got = await client.get(url, params=query)
    if got.is_error:
        raise Lost(await error_of(got))
    try:
        return msgspec.json.decode(got.content, type=dict[str, Any])
    except msgspec.DecodeError:
        raise Lost(f"{url} is no dashboard of Rowcast.") from None


def lines_of(item: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What there is to tell of an item, try by try; each line with a name by which it is known."""
    for number, one in enumerate(item["attempts"], 1):
        yield f"begins {number}", f"{one['started_at'][11:23]}  try {number}"
        said = [line for line in item["log"] if line["attempt"] == one["attempt"]]
        for n, line in enumerate(said):
            yield f"line {number} {n}", f"{line['at'][11:23]}    {line['text']}"
        if one["status"] != "running":
            yield f"ends {number}", f"try {number} {ending(one)}"


def ending(one: dict[str, Any]) -> str:
    """How a try ended, in words."""
    took = "" if one["ms"] is None else f" after {one['ms']:,.0f} ms"
    what = " ".join(str(part) for part in (one["code"], one["error"]) if part)
    return f"{one['status']}{took}{': ' if what else ''}{what}"
