"""From a commit to the DOM of a real Chromium: each row says when it was changed, an observer when it was in its place."""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench.processes import ROOT, Crowd, api, dashboard, until
from bench.table import Row, p99

USERS = 100_000
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync".split()
OBSERVER = """
window.seen = [];
new MutationObserver((changes) => {
  const now = performance.timeOrigin + performance.now();
  for (const change of changes) for (const row of change.addedNodes) {
    const time = row.id?.startsWith("item-") && row.querySelector("time");
    if (time) seen.push([row.id + time.dateTime, now - Date.parse(time.dateTime)]);
  }
}).observe(document, { childList: true, subtree: true });
"""


def held(page: Any) -> tuple[float, float]:
    """What a page holds once its garbage is gone: the megabytes of its scripts, and the nodes of its document."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    session.detach()
    return heap, page.evaluate("document.getElementsByTagName('*').length")


def dom(quick: bool) -> Iterator[Row]:
    """The delay of every row that comes to a page, which is watched alone, and by a hundred."""
    from playwright.sync_api import sync_playwright

    path = subprocess.run(
        [str(ROOT / "bin" / "find-chromium"), sys.executable], capture_output=True, text=True, check=True
    )
    seconds = 5 if quick else 15
    with api(20) as url, dashboard(url, USERS) as ours, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path.stdout.strip(), args=FLAGS)
        job = ours.begin("update_users", 10)
        until(lambda: ours.job(job)["total"] == USERS)
        for others in (0, 99):
            page = browser.new_page()
            page.add_init_script(OBSERVER)
            page.goto(f"{ours.url}/jobs/{job}")
            wants = f"/events?want=v{{n}}.{ours.job(job)['seq']}.job%3D{job}"
            crowd = Crowd(ours.port, wants, others, seconds) if others else None
            time.sleep(4)
            page.evaluate("seen.length = 0")
            before = held(page)
            time.sleep(seconds)
            # a row that is drawn again as it was, is there already
            first = dict(reversed(page.evaluate("seen")))
            delays = list(itertools.islice(first.values(), 100_000))
            page.evaluate("seen.length = 0")
            after = held(page)
            page.close()
            if crowd:
                crowd.seen()
            name = f"commit to DOM, {others + 1} viewers" if others else "commit to DOM, 1 viewer"
            yield Row(
                f"{name}, p50 of {len(delays):,} rows", sorted(delays)[len(delays) // 2], None, "ms", None, ""
            )
            yield Row(f"{name}, p99", p99(delays), None, "ms", None, "")
            yield Row(
                f"{name}, growth of the page's memory in {seconds} s",
                after[0] - before[0],
                None,
                "MB",
                None,
                "< 5",
            )
            yield Row(f"{name}, nodes of the page", after[1], None, "", None, "< 2000")
        browser.close()
