"""One act on all that a filter has: how many they are is said first, and no others are touched."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rowcast.jobs import Jobs
from rowcast.tables.accounts import Accounts
from rowcast.tables.bulk import BULK, BULK_CHUNK, Bulk
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.schema import prepare
from rowcast.tables.shares import Shares
from rowcast.tasks.accounts import LOCAL, Account
from rowcast.tasks.built_in import counter
from rowcast.tasks.filters import Filter
from rowcast.tasks.records import BadArguments, NotAllowed, NotFound, Options, iso
from rowcast.tasks.work import Chunk
from tests.conftest import Server, until

ANN = Account("ann", "operator")
BEN = Account("ben", "operator")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()


def made_up(path: str) -> list[int]:
    """A job of each kind there is: waiting, running, paused, well, with failures, unknown, failed, cancelled; of either shape."""
    jobs = Jobs(path)
    made = []
    for shape in ("items", "body"):
        for act in ("", "start", "pause", "complete", "failures", "unknown", "fail", "cancel"):
            job, _ = jobs.submit(counter, {}, "ann", "background", Options(tags=("kind",)))
            conn = connection(path)
            conn.execute("update jobs set shape = ? where id = ?", (shape, job.id))
            ended = act in ("complete", "failures", "unknown")
            if act:
                jobs.add_items(job.id, Chunk.of([("a", None), ("b", None)], last=True))
                jobs.start(job.id)
            if act in ("pause", "cancel"):
                jobs.act(job.id, "ann", act)
            if act == "fail":
                jobs.fail(job.id, "so")
            if ended:
                which = {"complete": "completed", "failures": "failed", "unknown": "unknown"}[act]
                conn.execute(f"update items set status = '{which}', attempt = 1 where job = ?", (job.id,))
                conn.execute(
                    f"update jobs set status = 'completed', finished_at = 1, queued = 0, {which} = 2 where id = ?",
                    (job.id,),
                )
            made.append(job.id)
    return made


@pytest.mark.parametrize("action", [action for action in BULK if action != "delete"])
def test_what_is_said_first_is_what_is_then_allowed(path: str, action: str):
    made = made_up(path)
    bulk = Bulk(path)
    meant = bulk.chunk(LOCAL, Filter(tag="kind"), action)
    assert bulk.count(LOCAL, Filter(tag="kind"), action) == (len(made), len(meant))
    allowed = []
    for job in made[::-1]:
        try:
            Jobs(path).act(job, LOCAL, action)
        except NotAllowed:
            continue
        allowed.append(job)
    assert meant == allowed


def test_what_has_ended_is_deleted_and_found_no_more(path: str):
    made_up(path)
    bulk = Bulk(path)
    meant = bulk.chunk(LOCAL, Filter(), "delete")
    assert {Jobs(path).job(job, LOCAL).ended for job in meant} == {True}
    before = Jobs(path).counted(LOCAL, Filter()).jobs[""]
    assert bulk.delete([*meant, 1]) == len(meant)  # job 1 has not ended
    assert Jobs(path).counted(LOCAL, Filter()).jobs[""] == before - len(meant)
    assert bulk.chunk(LOCAL, Filter(), "delete") == [] and Jobs(path).job(1, LOCAL).status == "queued"


def test_what_is_shared_is_found_and_left_alone(path: str):
    jobs = Jobs(path)
    mine, _ = jobs.submit(counter, {}, "ann", "background")
    shared, _ = jobs.submit(counter, {}, "ben", "background")
    connection(path).execute("insert into accounts (name, role, created_at) values ('ann', 'operator', 0)")
    Shares(path).add(shared.id, BEN, "account", "ann")
    bulk = Bulk(path)
    assert bulk.count(ANN, Filter(), "cancel") == (2, 1)
    assert bulk.chunk(ANN, Filter(), "cancel") == [mine.id]
    assert bulk.count(LOCAL, Filter(), "cancel") == (2, 2)


def test_of_many_jobs_the_engine_does_a_few_at_a_time_and_goes_on_where_it_was(path: str):
    jobs = Jobs(path)
    made = [jobs.submit(counter, {}, "ann", "background", Options(tags=("many",)))[0].id for _ in range(120)]
    jobs.act(made[7], "ann", "cancel")
    theirs, _ = jobs.submit(counter, {}, "ben", "background", Options(tags=("many",)))
    bulk = Bulk(path)
    number = bulk.begin(ANN, Filter(tag="many"), "pause", *bulk.count(ANN, Filter(tag="many"), "pause"))
    late, _ = jobs.submit(counter, {}, "ann", "background", Options(tags=("many",)))
    begun = bulk.bulk(number, ANN)
    assert (begun.found, begun.total, begun.done) == (120, 119, 0)
    bulk.go_on(jobs.act_as_one_of_many, seconds=1e-9)
    some = bulk.bulk(number, LOCAL)
    assert some.done < 119 and some.finished_at is None
    close_databases()  # as if the process had died
    turns = 0
    while Bulk(path).bulk(number, ANN).finished_at is None and turns < 200:
        Bulk(path).go_on(Jobs(path).act_as_one_of_many, seconds=0.01)
        turns += 1
    assert Bulk(path).bulk(number, ANN).done == 119
    statuses = {job: Jobs(path).job(job, LOCAL).status for job in [*made, theirs.id, late.id]}
    assert [job for job, status in statuses.items() if status != "paused"] == [made[7], theirs.id, late.id]
    with pytest.raises(NotFound):
        Bulk(path).bulk(number, BEN)


def many_of(path: str, number: int, **wanted: str) -> tuple[Jobs, list[int], int]:
    """So many jobs, and an act that cancels those of them that a filter has."""
    jobs = Jobs(path)
    made = [
        jobs.submit(counter, {}, "ann", "background", Options(tags=("many",)))[0].id for _ in range(number)
    ]
    return jobs, made, Bulk(path).begin(ANN, Filter(**wanted), "cancel", number, number)


def test_jobs_that_are_hard_to_find_are_found_at_once_and_none_is_done_more_slowly_for_it(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    jobs, made, number = many_of(path, 120, q="counter", status="queued")
    really = Bulk.chunk
    reads = list[int]()

    def slow(self: Bulk, *asked: Any) -> list[int]:
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass
        reads.append(1)
        return really(self, *asked)

    monkeypatch.setattr(Bulk, "chunk", slow)
    bulk = Bulk(path)
    bulk.go_on(jobs.act_as_one_of_many)
    assert bulk.bulk(number, ANN).done >= BULK_CHUNK
    while bulk.bulk(number, ANN).finished_at is None:
        bulk.go_on(jobs.act_as_one_of_many)
    assert bulk.bulk(number, ANN).done == 120 and len(reads) == 2, "and there are no more"
    assert {jobs.job(job, ANN).status for job in made} == {"cancelled"}


def test_a_job_that_has_changed_since_it_was_found_is_left_alone(path: str):
    jobs, made, number = many_of(path, 3, q="counter", tag="many", status="queued")
    bulk = Bulk(path)
    bulk.go_on(jobs.act_as_one_of_many, seconds=1e-9)  # the newest, and all are found
    jobs.add_items(made[0], Chunk.of([("a", None)], last=True))
    jobs.start(made[0])
    while bulk.bulk(number, ANN).finished_at is None:
        bulk.go_on(jobs.act_as_one_of_many)
    assert [jobs.job(job, ANN).status for job in made] == ["running", "cancelled", "cancelled"]
    assert bulk.bulk(number, ANN).done == 2


def test_a_job_that_was_deleted_since_it_was_found_is_not_retried(path: str):
    jobs = Jobs(path)
    job, _ = jobs.submit(counter, {}, "ann", "background")
    jobs.fail(job.id, "so")
    Bulk(path).delete([job.id])
    with pytest.raises(NotFound):
        jobs.act_as_one_of_many(job.id, LOCAL, "retry")
    assert jobs.due() == []


def test_an_act_on_jobs_of_so_long_ago_means_those_of_when_it_was_asked_for(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    jobs = Jobs(path)
    bulk = Bulk(path)
    old, young = [jobs.submit(counter, {}, "ann", "background")[0].id for _ in range(2)]
    connection(path).execute("update jobs set created_at = created_at - 7200 where id = ?", (old,))
    wanted = Filter(until="1h")
    assert bulk.count(ANN, wanted, "pause") == (1, 1)
    number = bulk.begin(ANN, wanted, "pause", 1, 1)
    later = time.time() + 86_400  # as if nothing had run for a day
    monkeypatch.setattr("rowcast.tasks.filters.time.time", lambda: later)
    assert bulk.count(ANN, wanted, "pause") == (2, 2)
    for _ in range(2):
        bulk.go_on(jobs.act_as_one_of_many)
    assert bulk.bulk(number, ANN).done == 1
    assert [jobs.job(job, ANN).status for job in (old, young)] == ["paused", "queued"]


def test_an_act_on_jobs_of_before_the_year_1000_is_one_like_others_and_one_that_cannot_be_read_holds_up_none(
    path: str,
):
    jobs, made, first = many_of(path, 2, since="1000000d")
    bulk = Bulk(path)
    connection(path).execute("update bulks set total = 0 where id = ?", (first,))
    unread = bulk.begin(ANN, Filter(), "cancel", 2, 2)
    connection(path).execute("""update bulks set filter = '{"since": "of old"}' where id = ?""", (unread,))
    last = bulk.begin(ANN, Filter(), "cancel", 2, 2)
    for _ in range(2):
        with pytest.raises(BadArguments, match="of old"):
            bulk.go_on(jobs.act_as_one_of_many)
    over = [bulk.bulk(number, ANN).finished_at is not None for number in (first, unread, last)]
    assert over == [True, False, True] and {jobs.job(job, ANN).status for job in made} == {"cancelled"}
    assert iso(-50_000_000_000.0) == "0385-07-25T07:06:40.000Z"


def test_many_jobs_are_deleted_by_the_engine_too(path: str):
    jobs = Jobs(path)
    for _ in range(3):
        jobs.act(jobs.submit(counter, {}, "ann", "background")[0].id, "ann", "cancel")
    bulk = Bulk(path)
    number = bulk.begin(ANN, Filter(), "delete", 3, 3)
    assert bulk.go_on(jobs.act_as_one_of_many) and bulk.bulk(number, ANN).done == 3
    assert jobs.jobs("ann") == [] and not bulk.go_on(jobs.act_as_one_of_many)


@pytest.mark.parametrize(
    ("role", "disabled", "action", "left"),
    [
        ("admin", False, "delete", set()),
        ("operator", False, "delete", {"ben"}),
        ("operator", False, "retry", {"ben"}),
        ("viewer", False, "delete", {"ann", "ben"}),
        ("viewer", False, "retry", {"ann", "ben"}),
        ("admin", True, "delete", {"ann", "ben"}),
    ],
)
def test_an_act_goes_on_as_far_as_its_account_may_act_now(
    path: str, role: str, disabled: bool, action: str, left: set[str]
):
    jobs = Jobs(path)
    made = [jobs.submit(counter, {}, owner, "background")[0].id for owner in ("ann", "ben") * 60]
    for job in made:
        jobs.act(job, LOCAL, "cancel")
    accounts = Accounts(path)
    accounts.add("ann", "admin", None)
    for job in made:
        Shares(path).add(job, LOCAL, "account", "ann")
    bulk = Bulk(path)
    number = bulk.begin(Account("ann", "admin"), Filter(), action, 120, 120)
    bulk.go_on(jobs.act_as_one_of_many, seconds=1e-9)
    done = bulk.bulk(number, LOCAL).done
    assert 0 < done < 120
    accounts.set_role("ann", role)
    accounts.set_disabled("ann", disabled)
    before = {job.id for job in jobs.jobs(LOCAL, limit=200) if job.status == "cancelled"}
    while bulk.bulk(number, LOCAL).finished_at is None:
        bulk.go_on(jobs.act_as_one_of_many)
    after = {job.id: job.owner for job in jobs.jobs(LOCAL, limit=200) if job.status == "cancelled"}
    assert set(after.values()) == left
    assert bulk.bulk(number, LOCAL).done - done == len(before - after.keys())


# ---- as it is served -----------------------------------------------------------------------------------------------


def waiting(server: Server, number: int) -> tuple[str, list[int]]:
    """So many jobs that do not begin by themselves, and the tag that they have."""
    tag = f"b{time.time_ns()}"
    return tag, [server.begin("counter", loops=1, run_at="3600s", tags=[tag]) for _ in range(number)]


def act(server: Server, action: str, dry_run: bool = False, **wanted: Any) -> dict[str, int]:
    answer = server.client.post(
        "/api/jobs/act", json={"action": action, "filter": wanted, "dry_run": dry_run}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_program_asks_how_many_and_does_it(server: Server):
    tag, jobs = waiting(server, 60)  # more than are read at once
    other = server.begin("counter", loops=1, run_at="3600s")
    server.act(jobs[0], "cancel")
    assert act(server, "pause", dry_run=True, tag=tag) == {"matched": 60, "changed": 59}
    assert {server.job(job)["status"] for job in jobs} == {"queued", "cancelled"}
    assert act(server, "pause", tag=tag) == {"matched": 60, "changed": 59}
    assert act(server, "cancel", tag=tag, status="paused") == {"matched": 59, "changed": 59}
    assert {server.job(job)["status"] for job in jobs} == {"cancelled"}
    assert server.job(other)["status"] == "queued"
    until(lambda: act(server, "delete", dry_run=True, tag=tag)["changed"] == 60)
    assert act(server, "delete", tag=tag)["changed"] == 60
    assert {server.client.get(f"/api/jobs/{job}").status_code for job in jobs} == {404}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"action": "explode"}, 422),
        ({"action": "pause", "filter": {"colour": "red"}}, 422),
        ({"action": "pause", "filter": {"status": "odd"}}, 422),
        ({"action": "pause", "filter": {"failures": 0}}, 422),
        ({"filter": {}}, 422),
        ({"action": "pause", "more": 1}, 422),
    ],
)
def test_what_is_no_act_is_refused_in_a_sentence(server: Server, body: dict[str, Any], code: int):
    answer = server.client.post("/api/jobs/act", json=body)
    assert answer.status_code == code and answer.json()["error"].endswith(".")


def test_a_number_in_a_filter_is_what_its_text_is(server: Server):
    made = server.begin("counter", loops=1, run_at="3600s", tags=["2026"])
    assert act(server, "pause", True, tag=2026, since=1.5) == {"matched": 1, "changed": 1}
    assert act(server, "pause", True, q=2026) == {"matched": 1, "changed": 1}
    assert act(server, "retry", True, failures=37) == {"matched": 0, "changed": 0}
    server.act(made, "cancel")


def test_a_person_is_asked_first_and_told_what_came_of_it(server: Server):
    tag, jobs = waiting(server, 3)
    listed = server.client.get("/", params={"tag": tag}).text
    bar = (
        listed.partition('id="bulk"')[0].rpartition("<form")[2]
        + listed.partition('id="bulk"')[2].partition("</form>")[0]
    )
    assert f'name="tag" value="{tag}"' in bar and 'value="cancel"' in bar
    asked = server.client.post("/jobs/act", data={"action": "cancel", "tag": tag}).text
    assert "3 jobs of 3 will be cancelled." in asked and "Cancel 3 jobs" in asked
    german = {"Accept-Language": "de"}
    said = server.client.post("/jobs/act", data={"action": "cancel", "tag": tag}, headers=german).text
    assert ">3 Jobs abbrechen</button>" in said
    assert {server.job(job)["status"] for job in jobs} == {"queued"}
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', asked))
    done = server.client.post("/jobs/act", data=hidden | {"sure": "1"}).text
    assert "3 jobs of 3 were cancelled." in done
    assert {server.job(job)["status"] for job in jobs} == {"cancelled"}
    again = server.client.post("/jobs/act", data={"action": "cancel", "tag": tag}).text
    assert "none can be cancelled" in again and 'name="sure"' not in again


def test_an_act_on_many_jobs_has_a_progress_of_its_own(server: Server):
    tag, (first,) = waiting(server, 1)
    path = str(server.directory / "data" / "rowcast.db")
    conn = connection(path)
    columns = ", ".join(
        row[1] for row in conn.execute("pragma table_info(jobs)") if row[1] not in ("id", "seq")
    )
    with transaction(conn):
        conn.execute(
            f"""insert into jobs (id, seq, {columns})
                with recursive n(i) as (select 1 union all select i + 1 from n where i < 600)
                select ?1 + i, seq, {columns} from jobs, n where jobs.id = ?1""",
            (first,),
        )
    done = act(server, "cancel", tag=tag)
    assert (done["matched"], done["changed"]) == (601, 601)
    page = server.client.get(f"/bulks/{done['bulk']}").text
    assert "601" in page and 'id="bulk-bar"' in page
    until(lambda: server.client.get(f"/api/bulks/{done['bulk']}").json()["finished_at"])
    assert server.client.get(f"/api/bulks/{done['bulk']}").json()["done"] == 601
    assert server.client.get("/api/jobs", params={"tag": tag, "status": "queued"}).json()["jobs"] == []
    close_databases()


def test_what_failed_is_retried_in_all_jobs_at_once(server: Server):
    tag = f"b{time.time_ns()}"
    jobs = [server.begin("counter", loops=2, tags=[tag]) for _ in range(3)]
    for job in jobs:
        server.ended(job)
    broken = server.begin("counter", loops=1000, tags=[tag])
    server.act(broken, "cancel")
    server.ended(broken)
    assert act(server, "retry", tag=tag) == {"matched": 4, "changed": 1}
    until(lambda: server.job(broken)["status"] == "running")
    server.act(broken, "cancel")
