"""Pictures of how a job goes: what they show is what happened, also to who does not see them, and they are live."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Api, Server, until
from on_page import Opens, people, watch
from place import Place
from test_components import a_job

from rowcast.components import to_html
from rowcast.pages.charts import charts, charts_inside, growth_line, in_columns
from rowcast.pages.tasks import last_runs
from rowcast.tables.clock import move
from rowcast.tables.database import close_databases, connection
from rowcast.tables.measures import pictures_of
from rowcast.tasks import clock
from rowcast.tasks.accounts import LOCAL
from rowcast.tasks.buckets import FINE, bounds_of, bucket_of, quantile, width_at
from rowcast.tasks.records import Pictures
from rowcast.tasks.work import Hold, Report, Result

FILES = {
    "shop.py": """
import asyncio
from rowcast import Retry, task

tried = {}


@task(concurrency=4, max_attempts=3, backoff=0.01)
async def sell(item: str):
    await asyncio.sleep(0.02)
    tried[item] = tried.get(item, 0) + 1
    if item.startswith("once") and tried[item] == 1:
        raise Retry(after=0)
    if item.startswith("bad"):
        raise ValueError(f"no such thing {item!r}")
"""
}
FLAGS = ("--tasks", "shop")


# ---- what is kept --------------------------------------------------------------------------------------------------


def test_a_bucket_has_what_is_between_its_bounds_and_the_next_is_a_fifth_wider():
    for ms in (0.01, 0.9, 1, 1.2, 84, 1000, 30_000, 86_400_000):
        low, high = bounds_of(bucket_of(ms))
        assert low <= ms * 1.000001 and ms <= high * 1.000001 and high / low == pytest.approx(2**0.25)


def test_quantiles_are_as_near_as_a_bucket():
    times = sorted((bucket, 1) for bucket in map(bucket_of, range(1, 1001)))
    merged = [(bucket, sum(n for b, n in times if b == bucket)) for bucket in sorted({b for b, _ in times})]
    for part in (0.5, 0.95, 0.99):
        assert quantile(merged, part) == pytest.approx(1000 * part, rel=0.05)
    assert quantile([], 0.5) == 0.0


def test_a_row_of_growth_is_never_more_than_a_thirtieth_of_the_jobs_life():
    assert [width_at(age) for age in (0, FINE - 1, FINE, 2 * FINE, 4 * FINE)] == [1, 1, 2, 4, 8]
    assert all(width_at(age) <= max(1, age / 30) for age in range(0, 100_000, 7))


@pytest.fixture
def place(tmp_path: Path):
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def work(item: str) -> None: ...


def test_the_pictures_are_drawn_from_what_was_reported(place: Place):
    job = place.begin(work, [f"item {n}" for n in range(20)], concurrency=20, max_attempts=3)
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    given = place.ledger.exchange(job.id, "one", Report(limit=20)).items
    again = [Result(item.id, item.attempt, "queued", 503, "no", None, 40.0, 1.0) for item in given[:5]]
    good = [Result(item.id, item.attempt, "completed", 200, None, None, 10.0) for item in given[5:15]]
    bad = [
        Result(item.id, item.attempt, "failed", 404, f"no {item.key!r}", None, 10.0) for item in given[15:]
    ]
    back = place.ledger.exchange(job.id, "one", Report([*again, *good, *bad], limit=5)).items
    assert len(back) == 5
    place.ledger.exchange(
        job.id, "one", Report([Result(i.id, i.attempt, "completed", 200, None, None, 1000.0) for i in back])
    )
    found = place.jobs.pictures(place.jobs.job(job.id, LOCAL))
    assert found
    assert sum(n for *_, n in found.growth) == 20
    assert [(name, sum(n for *_, n in rows)) for name, rows in found.failures] == [("404 no …", 5)]
    assert dict(found.times) == {bucket_of(10): 15, bucket_of(40): 5, bucket_of(1000): 5}
    assert found.tries == [(1, 15), (2, 5)]
    assert found.parts[0] == pytest.approx(10, rel=0.2) and found.parts[2] == pytest.approx(1000, rel=0.2)


def test_a_result_that_is_refused_is_in_no_picture(place: Place):
    job = place.begin(work, ["a"], concurrency=1)
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    (item,) = place.ledger.exchange(job.id, "one", Report(limit=1)).items
    place.ledger.exchange(job.id, "two", Report([Result(item.id, item.attempt, "completed", ms=5.0)]))
    place.ledger.exchange(job.id, "one", Report([Result(item.id, item.attempt, "queued", begun=False)]))
    conn = connection(place.path)
    assert conn.execute("select count(*) from tallies").get == 0
    found = pictures_of(conn, place.jobs.job(job.id, LOCAL), 0.0)
    assert found and found.growth == []


def test_the_pauses_that_an_api_asked_for_are_kept_as_long_as_they_lasted(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    now = 1_900_000_000.0
    monkeypatch.setattr(clock, "now", lambda: now)
    job = place.begin(work, [f"item {n}" for n in range(20)], concurrency=20, max_attempts=3)
    place.ledger.heartbeat("one", "here", 1, "background", "1")

    def asked(seconds: float) -> None:
        place.ledger.exchange(job.id, "one", Report(hold=Hold(clock.told(now + seconds), "429, Retry-After")))

    asked(10)
    now += 4
    asked(10)  # it is longer than it was
    asked(1)
    now += 20
    asked(86_400)
    now += 5
    place.jobs.act(job.id, LOCAL, "resume")  # a person has lifted it
    now += 30
    found = place.jobs.pictures(place.jobs.job(job.id, LOCAL))
    began = 1_900_000_000.0
    assert found and found.holds == [(began, began + 14), (began + 24, began + 29)]
    move(place.jobs.conn, 3600.0)  # the machine's clock was set
    now += 3600
    found = place.jobs.pictures(place.jobs.job(job.id, LOCAL))
    assert found and found.holds == [(began + 3600, began + 3614), (began + 3624, began + 3629)]


# ---- what is drawn -------------------------------------------------------------------------------------------------


class Bars(HTMLParser):
    """The bars of an SVG: the attributes of each, with its title; and the cells of tables."""

    def __init__(self, html: str):
        super().__init__()
        self.bars: list[dict[str, Any]] = []
        self.cells: list[str] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.inside = tag
        if tag == "rect":
            self.bars.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if self.inside == "title" and self.bars:
            self.bars[-1]["title"] = data
        if self.inside == "td":
            self.cells.append(data)


def pictures(**given: Any) -> Pictures:
    usual: dict[str, Any] = {
        "began": 1000.0,
        "end": 1060.0,
        "growth": [(1000.0 + n, 1001.0 + n, 10) for n in range(60)],
        "failures": [],
        "times": [(bucket_of(84), 600)],
        "parts": [84.0, 310.0, 1400.0],
        "tries": [(1, 600)],
    }
    return Pictures(**(usual | given))


def test_every_bar_says_its_figures_and_none_leaves_the_picture():
    kinds = [(f"kind {n}", [(1000.0 + 3 * n, 1001.0 + 3 * n, 4)]) for n in range(6)]
    parts = charts(a_job(pace=12.0), pictures(failures=kinds, tries=[(1, 500), (2, 80), (3, 20)]))
    assert len(parts) == 4
    for part in parts:
        bars = Bars(to_html(part)).bars
        assert bars and all(bar["title"] for bar in bars)
        for bar in bars:
            x, y, width, height = (float(bar[name]) for name in ("x", "y", "width", "height"))
            assert x >= -0.1 and x + width <= 320.1 and y >= -1 and y + height <= 66.1 and height >= 1
            assert not {"style", "onclick"} & set(bar)


def test_items_a_second_are_those_that_ended():
    rows = [(1000.0 + n, 1001.0 + n, 10 if n < 30 else 40) for n in range(60)]
    (speed, _) = charts(a_job(), pictures(growth=rows))
    html = to_html(speed)
    said = [bar["title"].partition(": ")[2] for bar in Bars(html).bars]
    assert said == ["10/s"] * 30 + ["40/s"] * 30
    assert "25/s on average, 40/s at most" in html
    assert Bars(html).cells[1::2] == ["10/s"] * 6 + ["40/s"] * 6  # the table, in twelve rows


def test_the_pauses_that_an_api_asked_for_stand_behind_what_ended():
    holds = [(1010.0, 1020.0), *((1040.0 + n / 2, 1040.25 + n / 2) for n in range(4))]
    (speed, _) = charts(a_job(), pictures(holds=holds))
    html = to_html(speed)
    held = [bar for bar in Bars(html).bars if bar["class"] == "c-held"]
    assert [bar["title"].partition(": ")[2] for bar in held] == [
        "the API asked for a pause, over after 0:10",
        "the API asked for 4 pauses, over after 1.7 s",
    ]
    x, width = (float(held[0][name]) for name in ("x", "width"))
    assert (x, width) == pytest.approx((10 * 320 / 60, 10 * 320 / 60), abs=0.1)
    assert "the API asked for 5 pauses, 0:11" in html
    assert Bars(html).cells[2::3] == [*["0.0 s"] * 2, *["5.0 s"] * 2, *["0.0 s"] * 4, "1.0 s", *["0.0 s"] * 3]
    kinds = [("busy", [(1012.0, 1013.0, 4), (1030.0, 1031.0, 3)])]
    html = to_html(*charts_inside(a_job(failed=7), pictures(holds=holds, failures=kinds)))
    assert "4 of 7 around pauses" in html
    line = [
        re.sub("<[^>]+>", "", one) for one in re.findall("<span>.*?</span>", html.rpartition("figures")[2])
    ]
    assert line == [
        "10/s on average",
        "p50 84 ms · p95 310 ms · p99 1.4 s",
        "the API asked for 5 pauses",
    ]


def test_rows_that_lie_across_columns_are_shared_by_them():
    assert in_columns([(0.0, 8.0, 8), (8.0, 10.0, 4)], 0.0, 10.0, 5) == pytest.approx([2, 2, 2, 2, 4])
    assert sum(in_columns([(3.0, 5.5, 7)], 0.0, 10.0, 7)) == pytest.approx(7)
    assert in_columns([(9.0, 64.0, 5)], 0.0, 10.0, 2) == pytest.approx([0, 5])  # it is not over yet


def test_there_is_no_picture_of_nothing():
    assert charts(a_job(), None) == ()
    assert charts(a_job(), pictures(growth=[])) == ()
    names = re.findall(r'id="chart-(\w+)"', to_html(*charts(a_job(), pictures())))
    assert names == ["items", "time"]  # nothing has failed, and no item had a second try


def test_what_others_wrote_is_text_in_a_picture_too():
    kinds = [('<script>alert("1")</script>', [(1000.0, 1001.0, 4)])]
    html = "".join(to_html(part) for part in charts(a_job(), pictures(failures=kinds)))
    assert "<script>" not in html


def test_the_growth_of_a_group_ends_where_its_count_is():
    line = growth_line([(1000, 5), (1030, 5)], 1000.0, 1060.0)
    (drawn,) = re.findall(r'points="([^"]+)"', line)
    points = [tuple(map(float, point.split(","))) for point in drawn.split()]
    heights = [y for _, y in points]
    assert heights == sorted(heights, reverse=True) and points[-1] == (100.0, 2.0)
    assert heights[10] == pytest.approx(10.5)


def test_the_last_runs_stand_side_by_side_and_the_last_is_held_against_them():
    runs = [
        a_job(
            id=n, status="completed", started_at=1000.0, finished_at=1000.0 + took, completed=90, failed=n % 2
        )
        for n, took in ((1, 60), (2, 62), (3, 58), (4, 180))
    ]
    html = to_html(last_runs(runs))
    assert html.index("#1") < html.index("#4") and "median 1:01" in html
    assert "took 3.0 times as long as usual" in re.sub("<[^>]+>", "", html)
    assert "None has ended yet" in to_html(last_runs([]))
    assert "more of them" in to_html(last_runs(runs[:1]))


# ---- on the page ---------------------------------------------------------------------------------------------------


def test_the_pictures_are_live_and_say_their_figures_to_a_mouse_and_to_a_keyboard(
    server: Server, api: Api, open_page: Opens
):
    api.stall()
    api.latency(100)  # so that nothing is claimed ahead
    server.users(*people(60))
    job = server.begin(concurrency=4)
    api.answer(8)
    until(lambda: server.job(job)["completed"] == 8)
    page = watch(open_page, server, job)
    chart = page.locator("#chart-time")
    tries = "Array.from(document.querySelectorAll('#chart-time table td:last-child')).reduce((n, e) => n + +e.textContent, 0)"
    until(lambda: page.evaluate(tries) == 8)
    api.answer(20)
    until(lambda: page.evaluate(tries) == 28)
    chart.locator("rect").first.hover()
    until(lambda: re.fullmatch(r".+ to .+: \d+ tr(y|ies)", chart.locator(".figure").inner_text()))
    page.mouse.move(0, 0)
    page.locator("#chart-items svg").focus()
    figure = page.locator("#chart-items .figure")
    until(lambda: re.fullmatch(r"\d\d:\d\d:\d\d: .+", figure.inner_text()))
    page.keyboard.press("Home")
    first = page.locator("#chart-items rect.pointed")
    assert first.evaluate("e => [...e.parentNode.querySelectorAll('rect')].indexOf(e)") == 0
    api.answer()
    server.ended(job)
    until(lambda: page.evaluate(tries) == 60)
    assert page.evaluate("document.activeElement.closest('.chart')?.id") == "chart-items"  # the focus is kept


def test_a_real_job_shows_its_failures_and_its_second_tries(server: Server, open_page: Opens):
    items = [*(f"a{n}" for n in range(40)), *(f"once{n}" for n in range(7)), *(f"bad{n}" for n in range(5))]
    job = server.begin("sell", items=items)
    server.ended(job)
    page = open_page(f"{server.url}/jobs/{job}")
    until(lambda: page.locator("#chart-tries").count())
    said = page.locator("#chart-tries rect title").all_text_contents()
    assert said == ["1 try: 45 items", "2 tries: 7 items"]
    assert "5 in 1 group" in (page.locator("#chart-failures svg").get_attribute("aria-label") or "")


def test_a_tasks_page_is_there_for_each_task_and_404_for_no_task(server: Server):
    ended = [server.begin("sell", items=["a"]) for _ in range(3)]
    for job in ended:
        server.ended(job)
    page = server.client.get("/tasks/sell")
    assert page.status_code == 200 and all(f'href="/jobs/{job}"' in page.text for job in ended)
    assert server.client.get("/tasks/counter").status_code == 200
    gone = server.client.get("/tasks/nothing")
    assert gone.status_code == 404 and "There is no task nothing." in gone.text
    assert 'href="/tasks/sell"' in server.client.get(f"/jobs/{ended[0]}").text
