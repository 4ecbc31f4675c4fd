"""What the tests see on a page in a real Chromium, and the task that they watch there."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect
from servers import PATIENCE, Server

expect.set_options(timeout=1000 * PATIENCE)
Opens = Callable[..., Page]
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
FLAGS = ("--tasks", "chores")
FILES = {
    "chores.py": """
import asyncio
import random
import httpx
from rowcast import Retry, task

tried = set()

@task(concurrency=4, max_attempts=2)
async def chores(item: str, api: httpx.AsyncClient, seconds: float = 0.0):
    "Do each of the things that are given, one per line."
    for when, after in {"later": 9, "much later": 60, "tomorrow": 86400}.items():
        if item.startswith(when) and item not in tried:
            tried.add(item)
            raise Retry("it is too early", after=after)
    if item.startswith("stalled"):
        await api.get("/turn")
    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
    if item.startswith("lost"):
        raise LookupError("nobody knows where it is " * 30)
    if item.startswith("broken"):
        raise ValueError("it is broken")
    return {"done": item}
"""
}


def people(number: int, kind: str = "user") -> list[str]:
    return [f"{kind}-{n:04}@example.com" for n in range(number)]


def watch(opens: Opens, server: Server, job: int, query: str = "", **options: object) -> Page:
    """A job's page, its stream connected."""
    page = opens(f"{server.url}/jobs/{job}{query}", **options)
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    return page


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def start_of(page: Page, task: str) -> Locator:
    """The form of a task in the picker, which is opened, and the task in it."""
    for place in (page.locator("#start"), page.locator(f"#pick-{task}")):
        if place.get_attribute("open") is None:
            place.locator("summary").first.click()
    return page.get_by_role("form", name=f"Start {task}")


def status(page: Page) -> Locator:
    return page.locator("#job-status")


def done(page: Page) -> int:
    return int(page.locator("#head").get_by_role("progressbar").get_attribute("aria-valuenow") or 0)


def rows(page: Page) -> list[list[str]]:
    """[id, status] of each item's row, from the top."""
    found: list[list[str]] = page.evaluate(
        "[...document.querySelectorAll('#items > tr')].map(row => [row.id, row.dataset.status])"
    )
    return found


def live(page: Page) -> Locator:
    return page.locator("#live-word")


def note_what_it_says(page: Page, place: str) -> None:
    """Each text that the place has from now on, also for a moment, is noted in the page: `window.said`."""
    page.evaluate(
        """place => { window.said = []; new MutationObserver(() => {
            for (const found of document.querySelectorAll(place))
                if (said.at(-1) !== found.textContent) said.push(found.textContent);
        }).observe(document.querySelector('main'), {childList: true, subtree: true, characterData: true}) }""",
        place,
    )


def but_its_icon(asked: list[str]) -> list[str]:
    """What a page has asked for, without its icon, which a Chromium that has a window fetches, once."""
    assert sum("/icon-" in url for url in asked) <= 1
    return [url for url in asked if "/icon-" not in url]


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
