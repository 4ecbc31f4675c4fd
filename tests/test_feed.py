"""The feed without a server: what is read and drawn once for all who look."""

import asyncio
import json
import math
import re
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from place import OWNER, Place
from starlette.datastructures import QueryParams

from rowcast.feed import progress, streams
from rowcast.feed.progress import ProgressViewer
from rowcast.feed.sse import Packer, plain, pour, takes_deflate
from rowcast.feed.streams import JobViewer, Rows, Tabs
from rowcast.feed.watch import Feed, Reader, messages_in
from rowcast.jobs import Jobs, NotFound
from rowcast.tables import changes
from rowcast.tables.database import close_databases, transaction
from rowcast.tasks.accounts import LOCAL
from rowcast.tasks.records import ProgressView, View
from rowcast.tasks.work import Chunk, Report, Result
from rowcast.web.browser import viewer_of
from rowcast.web.requests import view_of


async def nothing(item: str) -> None: ...


def test_streams_of_many_jobs_read_what_has_changed_once_for_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Place(str(tmp_path / "rowcast.db"))
    jobs = [place.begin(nothing, [f"{n} a", f"{n} b"]) for n in range(4)]
    feed = Feed(place.jobs)
    read: list[int] = []
    several = place.jobs.changes_of_each
    monkeypatch.setattr(
        place.jobs, "changes_of_each", lambda those, *rest: read.append(len(those)) or several(those, *rest)
    )
    readers = [Rows(feed, OWNER, 0, job.id) for job in jobs]

    def told() -> list[list[str]]:
        """What each is told of its items, and whether it ends."""
        feed.look()
        said = []
        for reader in readers:
            events = messages_in(plain(reader.next()))
            items = [json.loads(one)["data"] for one in events if json.loads(one)["event"] == "item"]
            said.append([f"{item['key']} {item['status']}" for item in items] + ["over"] * reader.ended)
        return said

    def work(job: int, *became: str) -> None:
        given = place.ledger.exchange(job, "one", Report(limit=len(became))).items
        results = [Result(item.id, 1, how) for item, how in zip(given, became, strict=True)]
        place.ledger.exchange(job, "one", Report(results))

    assert told() == [[f"{n} a queued", f"{n} b queued"] for n in range(4)]
    work(jobs[0].id, "completed")
    work(jobs[2].id, "completed", "failed")
    assert told() == [["0 a completed"], [], ["2 a completed", "2 b failed", "over"], []]
    del readers[2]
    late = Rows(feed, OWNER, 0, jobs[3].id)
    late.next()
    work(jobs[1].id, "completed")
    place.jobs.act(jobs[3].id, OWNER, "cancel")
    while place.jobs.sweep(jobs[3].id):
        pass
    readers.append(late)
    assert told() == [
        [],
        ["1 a completed"],
        ["3 a cancelled", "3 b cancelled", "over"],
        ["3 a cancelled", "3 b cancelled", "over"],
    ]
    assert read == [4, 4], "once for all"
    del readers[2:]
    work(jobs[1].id, "completed")
    with transaction(place.jobs.conn) as conn:
        conn.execute("delete from jobs where id = ?", (jobs[0].id,))
    feed.look()
    with pytest.raises(NotFound):
        readers[0].next()
    assert [*map(bool, readers[1].next())] == [True, True]
    close_databases()


def test_who_may_not_see_a_job_any_more_is_sent_nothing_that_was_read_for_others(tmp_path: Path):
    place = Place(str(tmp_path / "rowcast.db"))
    jobs = [place.begin(nothing, ["a"]) for _ in range(3)]
    conn = place.jobs.conn
    with transaction(conn):
        conn.execute("update jobs set owner = 'ann'")
    feed = Feed(place.jobs)
    readers = [Rows(feed, "ann", 0, job.id) for job in jobs]
    feed.look()
    assert all(reader.next() for reader in readers)
    with transaction(conn):
        conn.execute("update jobs set owner = 'bob' where id = ?", (jobs[1].id,))
    for job in jobs:
        place.ledger.exchange(job.id, "one", Report(limit=1))
    feed.look()
    assert readers[0].next() and readers[2].next()
    with pytest.raises(NotFound):
        readers[1].next()
    close_databases()


def test_what_is_large_goes_into_a_compressed_stream_as_it_is(tmp_path: Path):
    packer = Packer()
    large = [b"x" * 200_000, b"", b"y" * 0xFFFF, b"z" * 0x10000]
    assert zlib.decompress(packer.pack(large) + packer.end()) == b"".join(large)

    place = Place(str(tmp_path / "rowcast.db"))
    job = place.begin(nothing)
    place.jobs.add_items(job.id, Chunk.of([("a", {"text": "large " * 15_000})], last=True))
    feed = Feed(place.jobs)
    feed.look()
    view = View(item=place.jobs.items(job.id)[0].id)
    tabs = [Tabs({"one": JobViewer(feed, "", OWNER, job.id, view, feed.seq - 1)}) for _ in range(2)]
    sent, again = [[*tab.next()] for tab in tabs]
    packer = Packer()
    assert zlib.decompress(packer.pack(sent) + packer.end()) == plain(sent)
    assert plain(sent).count(b"large ") >= 1000
    assert [*map(id, again[1::2])] == [*map(id, sent[1::2])], "an open item, too, is packed once for all"
    close_databases()


def test_between_two_drawings_a_progress_hears_of_each_change_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "EVERY", 600.0)
    place = Place(str(tmp_path / "rowcast.db"))
    job = place.begin(nothing, ["a", "b", "c"])
    feed = Feed(place.jobs)
    feed.look()
    reader = ProgressViewer(feed, "", OWNER, job.id, ProgressView())
    asked: list[int] = []
    following = reader.next
    monkeypatch.setattr(reader, "next", lambda: asked.append(1) or following())

    async def followed() -> None:
        stream = pour(feed, "one", reader, plain, 600.0, lambda: None)
        await anext(stream)
        assert b"0 of 3 items" in await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        for moved in range(3):
            await turns()
            assert (len(asked), waiting.done()) == (1 + moved, False), "nor is it asked where nothing moves"
            place.ledger.exchange(job.id, "one", Report(limit=1))
            feed.look()
        await turns()
        reader.drawn_at = -math.inf  # its time has come, however lately this machine was started
        place.ledger.exchange(job.id, "one", Report([Result(place.jobs.items(job.id)[0].id, 1, "completed")]))
        feed.look()
        assert b"1 of 3 items" in await waiting
        await stream.aclose()

    async def turns() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(followed())
    close_databases()


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        (["gzip, deflate, br"], True), (["deflate;q=0.5"], True), (["gzip", "Deflate ; q=1.0"], True), (["DEFLATE"], True),
        (["gzip, deflate;q=0"], False), (["deflate; q=0.000,gzip"], False), (["deflate;q=0."], False),
        (["x-deflate, gzip"], False), (["identity"], False), ([""], False), ([], False),
    ],
)  # fmt: skip
def test_only_who_takes_deflate_is_sent_it(accepted: list[str], taken: bool):
    headers = [(b"accept-encoding", value.encode()) for value in accepted]
    assert takes_deflate({"headers": [(b"x-accepts", b"deflate"), *headers]}) == taken


def test_who_is_very_far_behind_is_told_to_read_anew_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Place(str(tmp_path / "rowcast.db"))
    monkeypatch.setattr(changes, "FAR", 3)
    begun = [place.begin(nothing, [f"{n}"]) for n in range(4)]
    near = place.jobs.job(begun[0].id, OWNER).seq
    feed = Feed(place.jobs)
    feed.look()

    def told(reader: Rows) -> list[tuple[str, Any]]:
        events = map(json.loads, messages_in(plain(reader.next())))
        return [(one["event"], one["data"].get("key", one["data"].get("after"))) for one in events]

    far = Rows(feed, OWNER, 0, None)
    behind = Rows(feed, OWNER, near, None)
    assert told(far) == [("resync", feed.seq)], "four jobs have changed"
    assert [key for event, key in told(behind) if event == "item"] == ["1", "2", "3"], "three have"
    assert Rows(feed, "somebody else", 0, None).next() == [], "and none of theirs"
    place.ledger.exchange(begun[2].id, "one", Report(limit=1))
    feed.look()
    assert [key for event, key in told(far) if event == "item"] == ["2"]


@pytest.mark.parametrize("view", ["moving", "all"])
@pytest.mark.parametrize("looked_through", [5000, 3])
def test_a_search_finds_items_that_come_later_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str, looked_through: int
):
    monkeypatch.setattr(streams, "SEARCHED", looked_through)
    place = Place(str(tmp_path / "rowcast.db"))
    job = place.begin(nothing)
    place.jobs.add_items(job.id, Chunk.of([("x1", None), ("y1", None)]))
    feed = Feed(place.jobs)
    feed.look()
    viewer = JobViewer(feed, "", OWNER, job.id, View(view, find="X"), feed.seq)

    def keys() -> list[str]:
        feed.look()
        return re.findall(r'<td class="key"[^>]*>(?:<a [^>]*>)?(.*?)<', plain(viewer.next()).decode())

    assert keys() == ["x1"]
    place.jobs.add_items(job.id, Chunk.of([("x2", None), ("y2", None), ("Xy", None)], last=True))
    assert sorted(keys()) == ["Xy", "x2"]
    given = place.ledger.exchange(job.id, "one", Report(limit=2)).items
    assert keys() == ["x1"] and [item.key for item in given] == ["x1", "y1"]
    place.ledger.exchange(job.id, "one", Report([Result(item.id, 1, "completed") for item in given]))
    assert keys() == ["x1"]
    close_databases()


def test_a_search_is_of_all_items():
    assert (
        view_of(QueryParams("view=moving&find=x")) == view_of(QueryParams("find=x")) == View("all", find="x")
    )
    assert (
        view_of(QueryParams("view=failed&find=x")).name == "failed"
        and view_of(QueryParams("")).name == "moving"
    )


def test_what_has_changed_is_found_by_its_indexes(tmp_path: Path):
    place = Place(str(tmp_path / "rowcast.db"))
    plan: list[str] = []

    class Noted:
        def execute(self, sql: str, values: Any) -> list[Any]:
            plan.extend(row[3] for row in place.jobs.conn.execute(f"explain query plan {sql}", values))
            return []

    Jobs.changed_items(SimpleNamespace(conn=Noted()), 1, 9, 5)
    assert [line for line in plan if "INDEX items_recent (job=? AND seq>?)" in line]
    assert [line for line in plan if "INDEX items_fresh (job=? AND seq>?)" in line]
    assert not [line for line in plan if "B-TREE" in line or "SCAN items" in line], plan
    close_databases()


@pytest.mark.parametrize("view", ["moving", "all", "failed"])
def test_pages_that_have_seen_more_than_there_is_are_sent_all_anew(tmp_path: Path, view: str):
    """As a restore leaves them: a backup is older than what it is put in place of."""
    place = Place(str(tmp_path / "rowcast.db"))
    over = place.begin(nothing, ["a"])
    job = place.begin(nothing, ["b", "c"])
    for number, became in ((over.id, "completed"), (job.id, "failed")):
        given = place.ledger.exchange(number, "one", Report(limit=1)).items
        place.ledger.exchange(number, "one", Report([Result(given[0].id, 1, became)]))
    feed = Feed(place.jobs)
    seen = place.jobs.seq() + 1000

    def following(query: str) -> Reader:
        return viewer_of(feed, "", LOCAL, QueryParams(query), seen)

    listed, shown, news = (
        following(query) for query in ("view=jobs", f"job={job.id}&view={view}", "view=news")
    )
    assert plain(news.next()) == f"id: {place.jobs.seq()}\r\n\r\n".encode(), "nothing of what was before"
    feed.look()
    sent = plain(listed.next()).decode()
    assert '<hx-partial hx-target="#jobs"' in sent and f'id="job-{job.id}"' in sent
    sent = plain(shown.next()).decode()
    assert '<hx-partial hx-target="#items"' in sent and ">b</" in sent
    place.jobs.fail(job.id, "so")
    feed.look()
    assert f'id="job-{job.id}"' in plain(listed.next()).decode()
    assert "Failed" in plain(shown.next()).decode()
    assert f"id: {place.jobs.job(job.id, OWNER).news}".encode() in plain(news.next())
    assert [reader.cursor for reader in (listed, shown, news)] == [place.jobs.seq()] * 3
    close_databases()
