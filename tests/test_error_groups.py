"""Errors group by kind: what differs from item to item is no other group, and 50,000 kinds cost no more than some."""

import time
from pathlib import Path

import pytest
from place import OWNER, Place

from rowcast.components import job_page, to_html
from rowcast.tables.database import close_databases, connection
from rowcast.tasks import answers
from rowcast.tasks.groups import LOOKED_AT, MOST_GROUPS, OTHERS, message_of
from rowcast.tasks.records import View
from rowcast.tasks.work import Chunk, Report, Result

ALIKE = [
    ("no user 'ann'", "no user 'bob smith'"),
    ('no user "ann" here', 'no user "it\'s me" here'),
    ("no `a` in the row", "no `b.c` in the row"),
    ("no such “thing”", "no such “other thing”"),
    ("no such »thing« here", "no such »other thing« here"),
    ("no such ›thing‹ here", "no such ›other thing‹ here"),
    ("no such ‹thing› here", "no such ‹other thing› here"),
    ("no such ‚thing‘ here", "no such ‚other thing‘ here"),
    ("ユーザー「太郎」がいません", "ユーザー「花子」がいません"),
    ("bad key b'ann' here", "bad key b'\\x00 x' here"),
    ('bad key rb"it\'s" here', 'bad key rb"an" here'),
    ("KeyError: 'name'", "KeyError: 'e-mail'"),
    (
        "[Errno 2] No such file or directory: '/srv/a.csv'",
        "[Errno 2] No such file or directory: '/tmp/b/c.csv'",
    ),
    ("cannot read /srv/data/a.csv", "cannot read ../b.json"),
    ("cannot read C:\\Users\\ann\\a.txt", "cannot read D:\\b.txt"),
    ("cannot read exports/march.csv", "cannot read exports/2026/april.csv"),
    ("GET https://api.example.com/users/1?x=2 was refused", "GET http://10.0.0.7:80/y was refused"),
    ("Could not connect: api.example.com:443", "Could not connect: 10.1.2.3:8080"),
    ("no route to fe80::1", "no route to 2001:db8::7:1"),
    ("took 1,204 ms", "took 3.5 ms"),
    ("balance is -5", "balance is 1.5e-07"),
    ("row 7 of [1, 2, 3]", "row 12 of [4]"),
    ("object 5f3a9c1e is gone", "object 0a7d is gone".replace("0a7d", "deadbeef1234")),
    ("request 7d9f6c3e-5b1a-4f0e-9a57-1d2c3b4a5f60", "request 00000000-0000-4000-8000-000000000000"),
    ("request req_01HZXK3ABCDEF99 failed", "request req_9Q2W8E7R6T5Y4U3 failed"),
    ("at 2026-01-01T10:00:00Z", "at 2025-12-31T23:59:59.123456Z"),
    ("ann@example.com is not known", "bob.b@example.org is not known"),
    ('Bad Request: {"detail": "no 5"}', 'Bad Request: {"detail": "nothing like it"}'),
    ("cut in the middle of 'a long na", "cut in the middle of 'another"),
]
APART = [
    ("Timed out after 10 s", "Could not connect"),
    ("no such account", "address is not valid"),
    ("don't do that, you can't", "don't do this, you can't"),
    ("and/or", "either/or"),
    ("no «thing» of Ann's", "no «thing» of nobody's"),
    ("user «a» of «b» is gone", "user «a» of «b» is new"),
    ("no »thing« of theirs", "no »thing« of hers"),
    ("ValueError: 'a'", "TypeError: 'a'"),
]


@pytest.mark.parametrize("pair", ALIKE, ids=[a for a, _ in ALIKE])
def test_what_differs_only_by_what_it_is_about_is_one_kind(pair: tuple[str, str]):
    assert message_of(pair[0]) == message_of(pair[1])
    assert message_of(message_of(pair[0])) == message_of(pair[0])


@pytest.mark.parametrize("pair", APART, ids=[a for a, _ in APART])
def test_what_differs_otherwise_is_of_two_kinds(pair: tuple[str, str]):
    assert message_of(pair[0]) != message_of(pair[1])


@pytest.mark.parametrize("odd", ["'", "\\'", '"a', "a.", "a/", "0:", "1-", "a1", "…,", "x'y ", "://"])
def test_no_text_takes_more_than_its_length(odd: str):
    """An expression that looks again and again at the same letters would take minutes for the long one."""
    assert len(message_of(odd * LOOKED_AT)) <= 200


@pytest.fixture
def place(tmp_path: Path):
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def tries(item: str) -> None: ...


def fail(place: Place, job: int, errors: list[str], at_once: int = 1000) -> None:
    """Each of the next items fails with its error."""
    while errors:
        given = place.ledger.exchange(job, "one", Report(limit=min(at_once, len(errors)))).items
        told = [
            Result(item.id, item.attempt, "failed", 500, error)
            for item, error in zip(given, errors, strict=False)
        ]
        place.ledger.exchange(job, "one", Report(told))
        errors = errors[len(given) :]


def a_job(place: Place, items: int) -> int:
    job = place.begin(tries, concurrency=1000)
    for first in range(0, items, 5000):
        keys = [(f"item {n}", None) for n in range(first, min(first + 5000, items))]
        place.jobs.add_items(job.id, Chunk.of(keys, last=first + 5000 >= items))
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    return job.id


def word(n: int) -> str:
    """A word without a digit, another for each n."""
    return "".join("ghijklmnop"[int(digit)] for digit in str(n))


def test_more_kinds_than_are_kept_apart_are_one_group_which_is_retried_as_one(place: Place):
    job = a_job(place, 1500)
    fail(place, job, [f"{word(n)} went wrong" for n in range(1500)])
    groups = place.jobs.error_groups(job, 1000)
    assert len(groups) == MOST_GROUPS + 1
    assert groups[0].fingerprint == OTHERS and groups[0].items == 1500 - MOST_GROUPS
    assert groups[0].message == f"Others, beyond the first {MOST_GROUPS} kinds"
    assert len(place.jobs.items(job, fingerprint=OTHERS, limit=5000)) == 1500 - MOST_GROUPS
    assert place.jobs.act(job, OWNER, "retry", fingerprint=OTHERS).queued == 1500 - MOST_GROUPS
    assert OTHERS not in {group.fingerprint for group in place.jobs.error_groups(job, 1000)}
    fail(place, job, ["ggg went wrong, once more"])
    assert place.jobs.error_groups(job, 1000)[0].items == 1


def test_a_kind_that_is_known_is_filed_in_its_group_also_where_there_are_many(place: Place):
    job = a_job(place, MOST_GROUPS + 30)
    fail(place, job, [f"{word(n)} went wrong" for n in range(MOST_GROUPS + 10)])
    fail(place, job, [f"{word(7)} went wrong"] * 20)
    groups = place.jobs.error_groups(job, 1000)
    assert {group.items for group in groups if group.message == f"{word(7)} went wrong"} == {21}


def test_the_page_of_50_000_kinds_is_no_larger_than_that_of_some(place: Place):
    few = a_job(place, 100)
    fail(place, few, [f"{word(n % 25)} went wrong" for n in range(100)])
    many = a_job(place, 50_000)
    fail(place, many, [f"{word(n)} went wrong" for n in range(50_000)], at_once=5000)
    assert place.jobs.job(many, OWNER).failed == 50_000
    rows = connection(place.path).execute("select count(*) from error_groups where job = ?", (many,)).get
    assert rows == MOST_GROUPS + 1
    pages = [to_html(job_page("", place.jobs.look(job, OWNER, View("queued")))) for job in (few, many)]
    assert len(pages[1]) < len(pages[0]) * 1.2
    assert "more, of other kinds" in pages[1]


def test_a_group_shows_how_its_count_grew(place: Place):
    job = a_job(place, 30)
    fail(place, job, ["no user 'a'"] * 10)
    began = place.jobs.job(job, OWNER).began
    assert began
    conn = connection(place.path)  # the job is four minutes old by now
    conn.execute("update jobs set started_at = started_at - 240")
    conn.execute("update growth set second = second - 240")
    fail(place, job, ["no user 'b'"] * 20)
    (group,) = place.jobs.error_groups(job)
    assert [items for _, items in group.growth] == [10, 20]
    told = answers.of(group).growth
    assert [number for _, number in told] == [10, 30] and told[0][0] < told[1][0]
    page = to_html(job_page("", place.jobs.look(job, OWNER, View("all"))))
    assert "grew to 30 in 4:0" in page


def test_growth_gets_coarser_as_a_job_gets_older(place: Place):
    job = a_job(place, 400)
    conn = connection(place.path)
    for _ in range(400):  # one every ten minutes
        fail(place, job, ["no"])
        conn.execute("update jobs set started_at = started_at - 600")
        conn.execute("update growth set second = second - 600")
    rows = conn.execute("select count(*), sum(items) from growth where job = ? and fingerprint = ''", (job,))
    number, items = rows.fetchone()
    assert items == 400 and number < 250
    assert time.time() - 400 * 600 - 3600 < conn.execute("select min(second) from growth").get < time.time()
