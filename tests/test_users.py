"""The users: the first thousand, tables that are there already, CSV files, the page, and what update_users sends."""

import asyncio
import contextlib
import io
import re
import sqlite3
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote, unquote

import apsw
import httpx
import pytest

from rowcast.dashboard import create
from rowcast.tables import database
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks import sources
from rowcast.tasks.records import BadArguments, decode
from rowcast.tasks.settings import Settings
from rowcast.tasks.sources import as_row
from rowcast.tasks.users import Imported, User
from rowcast.tasks.work import FIRST_CHUNK, Chunk
from tests.conftest import Api, Server


@pytest.fixture
def path(tmp_path: Path):
    """A database with an empty table of users."""
    path = str(tmp_path / "users.db")
    prepare(path)
    Users(path).as_source()
    yield path
    database.close_databases()


def emails(path: str) -> list[str]:
    return [row.email for row in Users(path).search(size=1000)]


def imported(path: str, text: str, **how: bool) -> Imported:
    return Users(path).import_csv(io.BytesIO(text.encode()), **how)


def made(tmp_path: Path, *statements: str) -> str:
    """A database of another program, with these tables."""
    path = str(tmp_path / "theirs.db")
    with contextlib.closing(sqlite3.connect(path)) as conn, conn:
        for statement in statements:
            conn.execute(statement)
    return path


# ---- the first thousand --------------------------------------------------------------------------------------------


def test_the_first_users_are_a_thousand_people_at_domains_that_reach_nobody(path: str):
    Users(path).seed()
    found = emails(path)
    assert len(set(found)) == 1000
    assert {email.partition("@")[2] for email in found} == {"example.com", "example.org", "example.net"}
    assert all(re.fullmatch(r"[a-z]+[.]?[a-z]*\d*@.*", email) for email in found)


def test_the_first_start_makes_users_and_the_second_leaves_them_alone(serve):
    server = serve()
    assert "1,000 users" in server.log.read_text()
    server.users("ada@example.com")
    server.stop()
    server.start()
    assert "rowcast.db, 1 users" in server.log.read_text()


# ---- CSV -----------------------------------------------------------------------------------------------------------


def test_good_lines_are_kept_and_bad_ones_reported_by_number_and_reason(path: str):
    text = (
        "email,name\nada@example.com,Ada\nnobody,N\n\nben@example.com,Ben\n,empty\nada@example.com,again\n"
        + "x" * 250
        + "@example.com,"
    )
    done = imported(path, text)
    assert (done.added, done.known) == (2, 0)
    assert done.refused == [
        (3, "'nobody' is not an e-mail address"),
        (6, "no address"),
        (7, "ada@example.com is on line 2 already"),
        (8, "an address has at most 254 characters (RFC 5321)"),
    ]
    assert emails(path) == ["ada@example.com", "ben@example.com"]


def test_who_is_there_already_is_counted_and_left_alone(path: str):
    imported(path, "ada@example.com")
    database.connection(path).execute("update users set account_updated = 5")
    done = imported(path, "ada@example.com\nben@example.com")
    assert (done.added, done.known, done.refused) == (1, 1, [])
    assert Users(path).search()[0] == User("ada@example.com", 5)


@pytest.mark.parametrize(
    "text",
    [
        "ada@example.com\nben@example.com\n",
        "email\nada@example.com\nben@example.com\n",
        "Name,E-Mail\nAda,ada@example.com\nBen,ben@example.com\n",
        "Ada,ada@example.com\nBen,ben@example.com\n",
        "email\r\nada@example.com\r\nben@example.com\r\n",
        "email;name\nada@example.com;Ada\nben@example.com;Ben\n",
        "name\temail address\nAda\tada@example.com\nBen\tben@example.com",
        'email,note\n"ada@example.com","two\nlines, and ""quotes"""\nben@example.com,\n',
        "email\rada@example.com\rben@example.com\r",
    ],
    ids=[
        "bare",
        "header",
        "second column",
        "second column, bare",
        "crlf",
        "semicolons",
        "tabs",
        "quotes",
        "cr",
    ],
)
def test_the_addresses_are_found_in_files_as_programs_write_them(path: str, text: str):
    done = imported(path, text)
    assert (done.refused, emails(path)) == ([], ["ada@example.com", "ben@example.com"])


@pytest.mark.parametrize(
    ("bad", "number"),
    [
        ('"broken@example.com', 3),
        ('"broken@example.com\nalso@example.com"', 3),
        ('"a"b@example.com', 3),
        ('x@example.com,"', 3),
    ],
)
def test_a_quote_that_is_not_closed_costs_its_own_line_and_not_those_after_it(
    path: str, bad: str, number: int
):
    done = imported(path, f"email,note\nada@example.com,\n{bad}\nben@example.com,\ncy@example.com,\n")
    assert {"ada@example.com", "ben@example.com", "cy@example.com"} <= set(emails(path))
    assert done.refused[0][0] == number and done.refused[0][1].startswith("not readable as CSV")


@pytest.mark.parametrize("text", ["", "\n\n", "email\n"])
def test_a_file_with_nobody_in_it_adds_nobody(path: str, text: str):
    assert imported(path, text) == Imported(refused=[])


@pytest.mark.parametrize(
    "email", ["a b@example.com", "a@b@c", "<a@example.com", "a\x00@example.com", 'a"@x', "@", "a@", "@b"]
)
def test_what_is_no_address_is_refused(path: str, email: str):
    quoted = '"' + email.replace('"', '""') + '"'
    assert [number for number, _ in imported(path, f"email\n{quoted}\n").refused] == [2]
    assert emails(path) == []


def test_addresses_of_all_scripts_and_signs_are_kept_as_they_are(path: str):
    odd = [
        "a+b/c?d#e%41@example.com",
        "jürgen@exämple.com",
        "日本@example.jp",
        "o'neil@example.com",
        "Ada@example.com",
    ]
    assert imported(path, "\n".join(odd)).added == len(odd)
    assert sorted(emails(path)) == sorted(odd)


def test_a_large_file_is_written_in_several_transactions_so_that_nobody_waits_long(path: str):
    seqs = []
    conn = database.connection(path)
    conn.trace_v2(
        apsw.SQLITE_TRACE_STMT, lambda event: seqs.append(event["sql"]) if event["sql"] == "commit" else None
    )
    imported(path, "\n".join(f"user{n}@example.com" for n in range(12_000)))
    conn.trace_v2(0, None)
    assert len(seqs) == 3 and Users(path).count() == 12_000


# ---- tables that are there already ---------------------------------------------------------------------------------

THEIRS = {
    "more columns": "(id integer primary key, name text default 'x', email text unique, account_updated int)",
    "without rowid": "(email text primary key, plan text default 'free', account_updated integer) without rowid",
    "no stamp": "(email text primary key, name text)",
    "generated columns": "(email text primary key, up text as (upper(email)), low text as (lower(email)) stored) strict",
}


@pytest.mark.parametrize("table", THEIRS.values(), ids=THEIRS)
def test_a_table_of_users_that_is_there_already_is_used_as_it_is(serve, tmp_path, api: Api, table: str):
    path = made(
        tmp_path,
        f"create table users {table}",
        "insert into users (email) values ('ada@example.com'), ('ben@example.com'), ('gone-x@example.com')",
    )
    server = serve("--database", path, "--api-url", api.url)
    done = server.ended(server.begin())
    assert (done["total"], done["completed"], done["failed"]) == (3, 2, 1)
    assert "3 users" in server.log.read_text() and "ben@example.com" in server.client.get("/users").text
    with contextlib.closing(sqlite3.connect(path)) as conn:
        (now,) = conn.execute("select sql from sqlite_schema where name = 'users'").fetchone()
        assert now.lower() == f"create table users {table}".lower()
        if "account_updated" in table:
            stamped = conn.execute(
                "select email from users where account_updated > 1e9 order by email"
            ).fetchall()
            assert stamped == [("ada@example.com",), ("ben@example.com",)]


def test_a_task_gets_all_columns_of_the_users_row(serve, tmp_path):
    made(tmp_path, "create table users (email text primary key, plan text, seats integer) without rowid",
         "insert into users values ('ada@example.com', 'team', 5)")  # fmt: skip
    (tmp_path / "work.py").write_text(
        "from rowcast import task\n\n@task\ndef show(user: dict):\n    return user\n"
    )
    server = serve("--database", "theirs.db", "--tasks", "work")
    job = server.begin("show")
    server.ended(job)
    assert server.items(job)[0]["result"] == {"email": "ada@example.com", "plan": "team", "seats": 5}


def test_a_table_that_wants_more_than_an_address_refuses_the_line_with_the_reason(tmp_path):
    path = made(tmp_path, "create table users (email text primary key, name text not null)")
    prepare(path)
    done = imported(path, "email\nada@example.com\n")
    assert done.added == 0
    assert done.refused == [(2, "the table users does not take it: NOT NULL constraint failed: users.name")]
    database.close_databases()


def test_users_without_an_address_are_passed_over(path: str):
    database.connection(path).execute("insert into users values (null, 1), ('ada@example.com', null)")
    assert Users(path).count() == 1
    assert [user["email"] for user in sources.user()] == ["ada@example.com"]


# ---- as the items of a job -----------------------------------------------------------------------------------------


def test_users_come_in_the_order_in_which_they_were_added_and_as_many_as_are_asked_for(path: str):
    imported(path, "\n".join(f"user{n}@example.com" for n in range(12_000)))
    every = [user["email"] for user in sources.user()]
    assert every == [f"user{n}@example.com" for n in range(12_000)]
    for limit in (1, 4_999, 5_000, 5_001, 11_999, 20_000):
        assert [user["email"] for user in sources.user(limit)] == every[:limit]


def test_a_start_without_users_is_refused(path: str):
    with pytest.raises(BadArguments, match="There are no users yet"):
        Users(path).check_start({})


# ---- the page ------------------------------------------------------------------------------------------------------


def listed(server: Server, **query: str | int) -> list[str]:
    return re.findall(r'<td class="key">([^<]+)', server.client.get("/users", params=query).text)


def test_the_page_shows_a_hundred_and_pages_on(shared: Server):
    shared.users(*[f"user{n:03}@example.com" for n in range(250)])
    assert listed(shared) == [f"user{n:03}@example.com" for n in range(100)]
    assert listed(shared, page=3) == [f"user{n:03}@example.com" for n in range(200, 250)]
    page = shared.client.get("/users?page=2").text
    assert "Page 2 of 3" in page and 'href="/users?page=1"' in page and 'href="/users?page=3"' in page
    assert "250" in page


def test_the_page_finds_addresses_by_any_part_of_them_whatever_their_case(shared: Server):
    shared.users("ada@example.com", "Adam@example.org", "ben@example.com", "100%@example.com")
    assert listed(shared, q="ADA") == ["Adam@example.org", "ada@example.com"]
    assert listed(shared, q="%") == ["100%@example.com"]
    assert "Nobody's address has “zoe” in it." in shared.client.get("/users?q=zoe").text.replace(
        "&#x27;", "'"
    ).replace("&#39;", "'")


def test_the_page_takes_a_csv_and_tells_what_came_of_it(shared: Server):
    shared.users("ada@example.com")
    file = ("people.csv", "\ufeffada@example.com\r\nben@example.com\r\n\r\nnobody\r\n".encode(), "text/csv")
    page = shared.client.post("/users", files={"file": file}).text
    assert "1 added, 1 were there already, 1 line refused." in page
    assert re.search(r"Line 4: .{1,6}nobody.{1,6} is not an e-mail address", page)
    assert listed(shared) == ["ada@example.com", "ben@example.com"]


def test_markup_in_a_csv_is_text_on_the_page(shared: Server):
    file = ("x.csv", b"email\n<script>alert(1)</script>\n", "text/csv")
    page = shared.client.post("/users", files={"file": file}).text
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({}, "Choose a CSV file to import."),
        ({"data": {"file": "text"}}, "Choose a CSV file to import."),
        (
            {"files": {"file": ("x.csv", b"PK\x03\x04 and so on", "text/csv")}},
            "The file is a workbook, not CSV: save it as CSV first.",
        ),
    ],
)
def test_what_is_no_csv_is_refused(shared: Server, sent: dict, says: str):
    answer = shared.client.post("/users", **sent)
    assert answer.status_code == 422 and says in answer.text


# ---- the demo API --------------------------------------------------------------------------------------------------


def test_the_demo_api_answers_the_first_thousand_with_every_kind_of_row(path: str):
    """Most with 200, some never, some at the second try; and what is busy says for how long."""
    Users(path).seed()
    demo = create(Settings(database=path)).asgi

    async def post_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(demo), base_url="http://127.0.0.1"
        ) as client:
            posts = [
                client.post(
                    f"/demo/update-user/{quote(email, safe='')}", headers={"Idempotency-Key": f"1-{email}"}
                )
                for email in emails(path)
            ]
            return await asyncio.gather(*posts)

    first = asyncio.run(post_all())
    second = asyncio.run(post_all())
    codes = Counter(answer.status_code for answer in first)
    assert codes[200] > 900 and codes[404] > 5 and codes[503] > 5 and codes[429] > 0
    assert all(answer.headers["Retry-After"] == "2" for answer in first if answer.status_code == 429)
    again = Counter(answer.status_code for answer in second)
    assert again[404] == codes[404] and 0 < again[503] < codes[503] and again[429] == 0


# ---- what update_users sends ---------------------------------------------------------------------------------------


def test_each_address_is_sent_whole_with_its_key_and_the_version(shared: Server, api: Api):
    odd = [
        "a+b/c?d#e%41@example.com",
        "jürgen@exämple.com",
        "日本@example.jp",
        "o'neil&co=x;y@example.com",
        "..@example.com",
        "a b@x",
    ]
    shared.users(*odd)
    job = shared.begin()
    assert shared.ended(job)["completed"] == len(odd)
    arrived = {
        unquote(path.removeprefix("/update-user/")): (path, key, agent) for path, key, agent, _ in api.log()
    }
    for item in shared.items(job):
        path, key, agent = arrived[item["key"]]
        assert path == f"/update-user/{quote(item['key'], safe='')}"
        assert key == f"{job}-{item['id']}"
        assert agent == f"rowcast/{version('rowcast')}"


def test_the_key_is_the_same_on_every_attempt(shared: Server, api: Api):
    shared.users("once-1@example.com")
    job = shared.begin()
    assert shared.ended(job)["completed"] == 1
    item = shared.items(job)[0]
    assert item["attempt"] == 2
    assert [key for _, key, _, _ in api.log()] == [f"{job}-{item['id']}"] * 2


def test_only_who_the_api_said_yes_to_is_stamped(shared: Server, api: Api):
    shared.users("ada@example.com", "gone-1@example.com")
    shared.ended(shared.begin())
    with contextlib.closing(sqlite3.connect(shared.directory / "data" / "rowcast.db")) as conn:
        stamps = dict(conn.execute("select email, account_updated from users"))
    assert stamps["gone-1@example.com"] is None and isinstance(stamps["ada@example.com"], int)
    assert stamps["ada@example.com"] > 1.7e9
    page = shared.client.get("/users").text
    assert "never" in page and re.search(r"<time[^>]*>\d{4}-\d\d-\d\d", page)


def test_a_limit_posts_only_so_many(shared: Server, api: Api):
    shared.users(*[f"user{n}@example.com" for n in range(10)])
    assert shared.ended(shared.begin(limit=3))["total"] == 3
    assert len(api.log()) == 3


# ---- a table with more columns -------------------------------------------------------------------------------------


def test_all_columns_come_with_the_users_and_new_ones_to_the_table(tmp_path: Path):
    path = made(
        tmp_path,
        "create table users (email text primary key, name text, plan text default 'free', visits integer)",
    )
    prepare(path)
    Users(path).as_source()
    text = (
        'Email,NAME,visits,"no, such",plan,empty,account_updated\n'
        "ada@example.com,Ada,7,x,,,5\nben@example.com,Ben\n"
    )
    foreseen = imported(path, text, dry_run=True)
    assert (foreseen.added, foreseen.columns) == (2, ["no, such"]) and Users(path).count() == 0
    assert foreseen.sentence == (
        "2 would be added, 0 are there already, 0 lines would be refused. The table users would get the new"
        " column no, such. This was a dry run: nothing was written."
    )
    done = imported(path, text)
    assert (done.added, done.refused, done.columns) == (2, [], ["no, such"])
    assert list(sources.user()) == [
        {"email": "ada@example.com", "name": "Ada", "plan": "free", "visits": 7, "no, such": "x"},
        {"email": "ben@example.com", "name": "Ben", "plan": "free", "visits": None, "no, such": None},
    ]
    assert done.sentence.endswith("0 lines refused. The table users has the new column no, such.")
    assert imported(path, text).sentence == "0 added, 2 were there already, 0 lines refused."
    database.close_databases()


def test_values_and_names_reach_the_items_as_they_are_and_what_json_has_not_is_none(tmp_path: Path):
    path = made(tmp_path, 'create table users (email, "it\'s", "a ""b""", photo, far, least, text, at)')
    prepare(path)
    Users(path).as_source()
    said = 'line\nbreak "quoted" \\ \0 ü \U0001f600'
    database.connection(path).execute(
        "insert into users values ('ada@example.com', ?, ?, x'00ff', -9e999, ?, '9e999', 1)",
        (said, 0.1 + 0.2, -(2**63)),
    )
    (ada,) = sources.user()
    assert ada.items() >= {"email": "ada@example.com", "it's": said, 'a "b"': 0.1 + 0.2, "at": 1}.items()
    assert (ada["photo"], ada["far"], ada["least"], ada["text"]) == (None, None, -(2**63), "9e999")


def test_users_are_called_as_any_other_item_of_the_same_values(tmp_path: Path):
    path = made(tmp_path, "create table users (name, email, key, id)")
    prepare(path)
    Users(path).as_source()
    rows = [
        ("Ada", "ada@example.com", None, 1),
        ("Ben", "ben@example.com", 7, 2),
        ("Cy", "cy@example.com", 1.5, 3),
        ("Di", "di@example.com", "d" * 301, 4),
        ("Ed", 12, None, 5),
        ("Flo", 1.5, None, 6),
        ("Gus", "a\nb@example.com", "", 7),
        ("Hal", "ÜBER@example.com", None, 8),
    ]
    database.connection(path).executemany("insert into users values (?, ?, ?, ?)", rows)
    (chunk,) = Users(path).chunks(0, None)
    assert [tuple(row) for row in decode(chunk.rows)] == [as_row(user) for user in sources.user()]
    assert chunk.keys == Chunk.of([as_row(user) for user in sources.user()]).keys
    assert chunk.size == len(rows)
    database.close_databases()


def test_the_chunks_of_users_begin_anywhere_and_end_where_they_are_to(path: str):
    imported(path, "\n".join(f"user{n}@example.com" for n in range(3_000)))
    every = list(range(3_000))
    some = [
        (0, None, None),
        (0, None, 700),
        (1_234, None, None),
        (499, 1_501, 2_000),
        (600, 2_000, 601),
        (9_999, None, None),
    ]
    for there, most, limit in some:
        chunks = list(Users(path).chunks(there, most, limit))
        found = [int(key[4:].partition("@")[0]) for chunk in chunks for key, _ in decode(chunk.rows)]
        assert found == every[there : min(most or 3_000, limit or 3_000)]
        assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert next(Users(path).chunks(0, None)).size == FIRST_CHUNK  # runners soon have something to do


def test_a_column_that_goes_while_users_are_read_ends_the_reading(path: str):
    database.connection(path).execute("alter table users add column plan default 'free'")
    imported(path, "\n".join(f"user{n}@example.com" for n in range(6_000)))
    reading = sources.user()
    assert next(reading)["plan"] == "free"
    database.connection(path).execute("alter table users drop column plan")
    with pytest.raises(apsw.SQLError, match="no such column"):
        list(reading)


def test_users_too_large_for_a_chunk_are_read_in_smaller_ones(path: str, monkeypatch: pytest.MonkeyPatch):
    database.connection(path).execute("alter table users add column note default ''")
    imported(path, "\n".join(f"user{n}@example.com" for n in range(70)))
    conn = database.connection(path)
    conn.execute("update users set note = hex(zeroblob(10000))")
    before = conn.limit(apsw.SQLITE_LIMIT_LENGTH, 200_000)
    try:
        assert [user["email"] for user in sources.user(66)] == [f"user{n}@example.com" for n in range(66)]
    finally:
        conn.limit(apsw.SQLITE_LIMIT_LENGTH, before)
