"""A job of a million items costs what a small one does: bytes, nodes, rows read; and it shows movement while it runs."""

import collections
import re
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import pytest

from rowcast.jobs import Jobs
from rowcast.tables.database import close_databases, connection
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks import built_in
from rowcast.tasks.records import ITEM_STATUSES, OWNER, PAGE, RETRYING, View, encode
from rowcast.tasks.work import Chunk
from tests.conftest import Server, until

SMALL = 1_000
LARGE = 1_000_000
STEPS = 1_000  # rows that one question may step through, full scan or sort; a million would be the whole job
MIX = """status = case position % 100 when 3 then 'failed' when 5 then 'unknown' when 7 then 'cancelled' when 9 then 'queued'
    else 'completed' end"""
# a kind of error that is rare among many
KINDS = "error = iif(position % 10000 = 3, 'rare', 'usual'), fingerprint = iif(position % 10000 = 3, 'rare', 'usual')"


def write(jobs: Jobs, items: int) -> int:
    """A job that has ended but for a hundredth of its items, written as it is."""
    job, _ = jobs.submit(built_in.update_users, {}, "local", "background")
    for first in range(0, items, 100_000):
        number = min(100_000, items - first)
        addresses = (f"user{first + n}@example.com" for n in range(number))
        rows = [(address, encode({"email": address}).decode()) for address in addresses]
        jobs.add_items(job.id, Chunk.of(rows, first + number == items))
    conn = connection(jobs.path)
    conn.execute(f"update items set {MIX}, attempt = 1, code = 200, ms = 12 where job = ?", (job.id,))
    conn.execute(f"update items set {KINDS} where job = ? and status = 'failed'", (job.id,))
    counts = dict.fromkeys(ITEM_STATUSES, 0) | dict(
        conn.execute("select status, count(*) from items where job = ? group by status", (job.id,))
    )
    sets = ", ".join(f"{status} = {number}" for status, number in counts.items())
    conn.execute(
        f"update jobs set {sets}, status = 'paused', started_at = created_at where id = ?", (job.id,)
    )
    return job.id


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory, api_process: str) -> Iterator[tuple[Server, int, int]]:
    """A server over a database with a small job and a large one; gives their numbers too."""
    directory = tmp_path_factory.mktemp("big")
    (directory / "data").mkdir()
    path = str(directory / "data" / "rowcast.db")
    prepare(path)
    Users(path).as_source()
    jobs = Jobs(path)
    connection(path).execute("pragma synchronous = off")
    small = write(jobs, SMALL)
    large = write(jobs, LARGE)
    close_databases()
    server = Server(directory, "--api-url", api_process)
    yield server, small, large
    server.stop()
    server.client.close()
    close_databases()


@pytest.fixture
def steps(
    big: tuple[Server, int, int],
) -> Iterator[Callable[[Callable[[Jobs], Any]], collections.Counter[int]]]:
    """Ask something, and count what SQLite stepped through for it: by full scans, by sorting, by its machine."""
    jobs = Jobs(str(big[0].directory / "data" / "rowcast.db"))

    def ask(question: Callable[[Jobs], Any]) -> collections.Counter[int]:
        found: collections.Counter[int] = collections.Counter()

        def profile(event: dict[str, Any]) -> None:
            for name in (
                "SQLITE_STMTSTATUS_FULLSCAN_STEP",
                "SQLITE_STMTSTATUS_SORT",
                "SQLITE_STMTSTATUS_VM_STEP",
            ):
                found[name] += event["stmt_status"][name]

        jobs.conn.trace_v2(apsw.SQLITE_TRACE_PROFILE, profile)
        try:
            question(jobs)
        finally:
            jobs.conn.trace_v2(0, None)
        return found

    yield ask
    close_databases()


VIEWS = [View(name) for name in ("moving", "all", RETRYING, *ITEM_STATUSES)]
VIEWS += [View("failed", fingerprint="rare"), View("queued", after=LARGE // 2), View("all", after=LARGE - 50)]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.query() or "moving")
def test_no_filter_and_no_page_steps_through_the_job(big, steps, view: View):
    _, _, large = big
    found = steps(lambda jobs: jobs.look(large, OWNER, view))
    assert found["SQLITE_STMTSTATUS_FULLSCAN_STEP"] <= STEPS
    assert 0 < found["SQLITE_STMTSTATUS_VM_STEP"] < 40 * PAGE * 2 + 20 * STEPS


@pytest.mark.parametrize("text", ["user999999", "user5", "nobody"])
def test_the_search_steps_through_rows_of_thousands_of_keys(big, steps, text: str):
    _, _, large = big
    found = steps(lambda jobs: jobs.look(large, OWNER, View("all", find=text)))
    assert 0 < found["SQLITE_STMTSTATUS_VM_STEP"] < 40 * PAGE * 2 + 20 * STEPS


def test_the_head_and_the_changes_are_read_without_stepping_through_the_job(big, steps):
    _, _, large = big
    found = steps(lambda jobs: (jobs.now(large, OWNER, 0), jobs.changes(OWNER, jobs.seq() - 100, large)))
    assert 0 < found["SQLITE_STMTSTATUS_VM_STEP"] < 20 * STEPS


def test_an_item_is_read_without_stepping_through_the_job(big, steps):
    server, _, large = big
    (item,) = server.client.get(f"/api/jobs/{large}/items?after=777776&limit=1").json()["items"]
    found = steps(lambda jobs: jobs.item_now(large, OWNER, item["id"]))
    assert found["SQLITE_STMTSTATUS_FULLSCAN_STEP"] <= STEPS
    assert 0 < found["SQLITE_STMTSTATUS_VM_STEP"] < STEPS
    assert "user777777@example.com" in server.client.get(f"/jobs/{large}/items/{item['id']}").text


def test_the_page_is_as_long_as_that_of_a_small_job(big):
    server, small, large = big
    for query in ("", "?view=all", "?find=user1"):
        lengths = [
            len(server.client.get(f"/jobs/{job}{query}").raise_for_status().content) for job in (large, small)
        ]
        assert lengths[0] < 1.2 * lengths[1]


def test_filters_and_the_search_find_what_there_is(big):
    server, _, large = big
    for status, every in (("failed", 3), ("queued", 9)):
        page = server.client.get(f"/jobs/{large}?view={status}&after=499999").text
        assert keys(page)[:2] == [f"user{500_000 + every}@example.com", f"user{500_100 + every}@example.com"]
    assert keys(server.client.get(f"/jobs/{large}?find=USER777777").text) == ["user777777@example.com"]
    assert len(keys(server.client.get(f"/jobs/{large}?view=failed&group=rare").text)) == PAGE


def keys(page: str) -> list[str]:
    return re.findall(r'<td class="key"><a [^>]+>([^<]+)</a></td>', page)


def test_it_goes_on_at_once_and_its_page_shows_movement_in_few_nodes(big, api, open_page):
    """The last test of the file: the job runs on."""
    server, _, large = big
    page = open_page(f"{server.url}/jobs/{large}")
    page.locator("body[data-live=live]").wait_for()
    before = server.job(large)["completed"]
    api.stall()
    server.client.post(f"/api/jobs/{large}/resume")
    page.locator("#items > tr[data-status=running]").first.wait_for()
    for _ in range(3):
        seen = page.locator("#items > tr").first.get_attribute("id")
        until(
            lambda seen=seen: api.answer(20) or page.locator("#items > tr").first.get_attribute("id") != seen
        )
    until(lambda: server.job(large)["completed"] > before)
    assert page.locator("#items > tr").count() <= PAGE
    assert page.evaluate("document.querySelectorAll('*').length") < 2_000
    server.client.post(f"/api/jobs/{large}/pause")
    page.locator("#job-status[data-status=paused]").wait_for()
