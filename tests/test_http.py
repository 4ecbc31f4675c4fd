"""Pages, JSON and files over HTTP, against a real server with a real API behind it."""

import asyncio
import csv
import inspect
import io
import json
import re
from collections.abc import Iterator

import httpx
import pytest
from starlette.requests import Request

from rowcast.tasks.records import Item, Job
from rowcast.web import files
from rowcast.web.routes import ROUTES
from tests.conftest import Api, Server, until

FILES = {
    "work.py": """
import pathlib
import time
import httpx
from rowcast import task

def in_two_parts():
    yield from map(str, range(500))
    while not pathlib.Path("go on").exists():
        time.sleep(0.02)
    yield from map(str, range(500, 1000))

@task(items=in_two_parts)
def two_parts(item: str):
    "Its items are there once there is a file of that name."

@task
async def post(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()

@task(concurrency=1, max_attempts=1)
def say(item: str, seconds: float = 0.0):
    "Give the item back, or fail with it."
    time.sleep(seconds)
    if item.startswith("!"):
        raise RuntimeError(item[1:])
    return {"said": item} if item.startswith("{") else item
"""
}
FLAGS = ("--tasks", "work")
JOB = """id task args owner engine status total queued running completed failed cancelled unknown rate eta created_at
started_at finished_at seq""".split()
ITEM = "id job position key status attempt code error result ms run_at updated_at seq".split()


@pytest.fixture(scope="module")
def mixed(shared: Server) -> int:
    """A job that has ended: ten users of whom two fail."""
    shared.users(*[f"user{n}@example.com" for n in range(8)], "gone-1@example.com", "gone-2@example.com")
    job = shared.begin()
    shared.ended(job)
    return job


# ---- a click becomes a job -----------------------------------------------------------------------------------------


def test_a_start_is_answered_before_its_items_are_written(shared: Server):
    answer = shared.client.post("/jobs", data={"task": "two_parts"})
    assert answer.status_code == 303
    job = int(answer.headers["Location"].removeprefix("/jobs/"))
    until(lambda: 0 < shared.job(job)["total"] <= 500)
    (shared.directory / "go on").touch()
    assert shared.ended(job)["completed"] == 1000


def test_for_htmx_a_start_names_the_page_in_a_header(shared: Server):
    answer = shared.client.post(
        "/jobs", data={"task": "counter", "loops": "1"}, headers={"HX-Request": "true"}
    )
    assert answer.status_code == 200
    assert re.fullmatch(r"/jobs/\d+", answer.headers["HX-Redirect"])


def test_a_start_over_json_answers_201_and_the_job(shared: Server):
    answer = shared.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}, "concurrency": 2})
    assert answer.status_code == 201
    assert (answer.json()["task"], answer.json()["args"], answer.json()["status"]) == (
        "counter",
        {"loops": 1},
        "queued",
    )


def test_a_form_leaves_defaults_to_the_task_and_turns_text_into_numbers(shared: Server):
    answer = shared.client.post("/jobs", data={"task": "say", "items": "one\n\n two ", "seconds": ""})
    job = shared.ended(int(answer.headers["Location"].rsplit("/", 1)[1]))
    assert job["args"] == {"items": ["one", "two"], "seconds": 0.0}
    assert [item["key"] for item in shared.items(job["id"])] == ["one", "two"]


# ---- JSON ----------------------------------------------------------------------------------------------------------


def test_a_job_is_given_with_its_counts_and_times(shared: Server, mixed: int):
    job = shared.job(mixed)
    assert [name for name in JOB if name not in job] == []
    assert (job["total"], job["completed"], job["failed"], job["status"]) == (10, 8, 2, "completed")
    assert job["eta"] is None and job["rate"] > 0
    for name in ("created_at", "started_at", "finished_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job[name])


def test_an_item_is_given_with_its_code_and_the_words_of_the_api(shared: Server, mixed: int):
    items = {item["key"]: item for item in shared.items(mixed)}
    assert list(items["user1@example.com"]) == ITEM
    good = items["user1@example.com"]
    gone = items["gone-1@example.com"]
    assert (good["status"], good["code"], good["error"], good["attempt"]) == ("completed", 200, None, 1)
    assert (gone["status"], gone["code"], gone["error"]) == ("failed", 404, "Not Found: no such account")
    assert good["ms"] > 0 and good["job"] == mixed and good["run_at"] is None


def test_items_are_paged_by_position_and_the_last_page_says_so(shared: Server, mixed: int):
    seen = []
    after = -1
    while after is not None:
        page = shared.client.get(f"/api/jobs/{mixed}/items", params={"limit": 5, "after": after}).json()
        seen += [item["position"] for item in page["items"]]
        after = page["next"]
    assert seen == list(range(10))
    assert len(page["items"]) == 5


def test_items_can_be_asked_for_by_status(shared: Server, mixed: int):
    failed = shared.client.get(f"/api/jobs/{mixed}/items", params={"status": "failed", "limit": 1}).json()
    assert [item["key"] for item in failed["items"]] == ["gone-1@example.com"]
    rest = shared.client.get(
        f"/api/jobs/{mixed}/items", params={"status": "failed", "after": failed["next"]}
    ).json()
    assert [item["key"] for item in rest["items"]] == ["gone-2@example.com"] and rest["next"] is None


def test_jobs_are_listed_newest_first_and_paged(shared: Server, mixed: int):
    shared.ended(shared.begin("counter", loops=1))
    shared.ended(shared.begin("counter", loops=1))
    seen = []
    after = None
    while True:
        page = shared.client.get(
            "/api/jobs", params={"limit": 2, **({"after": after} if after else {})}
        ).json()
        seen += [job["id"] for job in page["jobs"]]
        if (after := page["next"]) is None:
            break
    assert seen == sorted(seen, reverse=True) and seen[-1] == 1 and mixed in seen


def test_jobs_can_be_asked_for_by_status(shared: Server, mixed: int):
    found = shared.client.get("/api/jobs", params={"status": "cancelled"}).json()["jobs"]
    assert {job["status"] for job in found} <= {"cancelled"}
    assert mixed not in {job["id"] for job in found}


def test_pause_resume_and_cancel_answer_with_the_job(shared: Server, api: Api):
    api.stall()
    job = shared.begin("post", items=["a", "b", "c"])
    until(lambda: shared.job(job)["status"] == "running")
    for action, status in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        answer = shared.client.post(f"/api/jobs/{job}/{action}")
        assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert shared.ended(job)["status"] == "cancelled"


def test_retry_takes_one_item_or_all_that_failed(shared: Server):
    job = shared.begin("say", items=["!no", "!never", "yes"])
    shared.ended(job)
    one = next(item for item in shared.items(job) if item["key"] == "!no")
    answer = shared.client.post(f"/api/jobs/{job}/retry", json={"item": one["id"]})
    assert answer.json()["queued"] + answer.json()["running"] == 1
    shared.ended(job)
    assert [item["attempt"] for item in shared.items(job)] == [2, 1, 1]
    shared.client.post(f"/api/jobs/{job}/retry")
    shared.ended(job)
    assert [item["attempt"] for item in shared.items(job)] == [3, 2, 1]


def test_a_pace_is_set_and_taken_away_by_a_program_and_by_a_form(shared: Server, api: Api):
    api.stall()
    job = shared.begin("post", items=["a", "b", "c"])
    until(lambda: shared.job(job)["running"])

    def is_run(at_once: str, at_most: str) -> bool:
        """Whether the form for it shows these: what holds the job may stand in the place of the sentence."""
        page = shared.client.get(f"/jobs/{job}").text
        fields = [re.search(rf'<input[^>]*name="{name}"[^>]*>', page) for name in ("concurrency", "rate")]
        shown = [re.search(r'value="([^"]*)"', field[0]) for field in fields if field]
        return [found[1] if found else "" for found in shown] == [at_once, at_most]

    shared.client.patch(f"/api/jobs/{job}", json={"rate": "5/s"}).raise_for_status()
    assert is_run("10", "5/s")
    shared.client.patch(f"/api/jobs/{job}", json={"concurrency": 2}).raise_for_status()
    assert is_run("2", "5/s")
    shared.client.patch(f"/api/jobs/{job}", json={"rate": 0}).raise_for_status()
    assert is_run("2", "")
    assert shared.client.post(f"/jobs/{job}/tune", data={"concurrency": "", "rate": "7/s"}).status_code == 303
    assert is_run("2", "7/s")
    shared.client.post(f"/jobs/{job}/tune", data={"concurrency": "3", "rate": ""})
    assert is_run("3", "")
    shared.client.post(f"/api/jobs/{job}/cancel")


def test_an_action_posted_by_a_form_goes_back_to_the_job(shared: Server, api: Api):
    api.stall()
    job = shared.begin("post", items=["a", "b"])
    answer = shared.client.post(f"/jobs/{job}/cancel")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/jobs/{job}")


def test_an_action_posted_by_htmx_leaves_the_page_where_it_is(shared: Server, api: Api):
    api.stall()
    job = shared.begin("post", items=["a", "b"])
    answer = shared.client.post(f"/jobs/{job}/cancel", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.content) == (204, b"")


# ---- errors --------------------------------------------------------------------------------------------------------

WRONG = [
    (400, "POST", "/api/jobs", {"content": b"{no"}),
    (400, "POST", "/api/jobs/1/pause", {"content": b"{no"}),
    (403, "GET", "/api/jobs", {"headers": {"Host": "evil.example"}}),
    (404, "GET", "/api/jobs/999999", {}),
    (404, "GET", "/api/jobs/999999/items", {}),
    (404, "GET", "/api/jobs/999999/events", {}),
    (404, "POST", "/api/jobs/999999/cancel", {}),
    (404, "POST", "/api/jobs/1/explode", {}),
    (404, "GET", "/api/nothing", {}),
    (405, "DELETE", "/api/jobs", {}),
    (409, "POST", "/api/jobs/{ended}/pause", {}),
    (413, "POST", "/api/jobs", {"content": b" " * 10_000_000}),
    (422, "POST", "/api/jobs", {"json": {"task": "no_such"}}),
    (422, "POST", "/api/jobs", {"json": {"task": "counter", "args": {"loops": "many"}}}),
    (422, "GET", "/api/jobs?status=happy", {}),
    (422, "GET", "/api/jobs/1/items?limit=0", {}),
]


@pytest.mark.parametrize(
    ("code", "verb", "path", "options"), WRONG, ids=[f"{w[0]} {w[1]} {w[2]}" for w in WRONG]
)
def test_an_error_for_a_program_is_one_sentence_as_json(
    shared: Server, mixed: int, code, verb, path, options
):
    answer = shared.client.request(verb, path.format(ended=mixed), **options)
    assert answer.status_code == code
    assert answer.json().keys() == {"error", "detail"}
    assert answer.json()["error"].endswith((".", ")")) and "\n" not in answer.json()["error"]


def test_an_error_for_a_person_is_a_page_with_the_sentence(shared: Server):
    answer = shared.client.get("/jobs/999999")
    assert answer.status_code == 404
    assert "There is no job 999999." in answer.text and answer.text.startswith("<!doctype html>")


def test_an_error_for_htmx_is_the_bare_sentence(shared: Server):
    answer = shared.client.post("/jobs", data={"task": "no_such"}, headers={"HX-Request": "true"})
    assert answer.status_code == 422
    assert answer.text.startswith("There is no task 'no_such'; there are bulk_email, counter,")


def test_a_refused_verb_names_those_that_are_answered(shared: Server):
    allowed = shared.client.delete("/api/jobs/1").headers["Allow"]
    assert set(allowed.split(", ")) == {"GET", "HEAD"}


# ---- pages ---------------------------------------------------------------------------------------------------------


def test_each_task_has_a_form_made_from_its_signature(shared: Server):
    page = shared.client.get("/").text
    form = re.search(r'<form[^>]*aria-label="Start say".*?</form>', page, re.S)[0]
    assert "Give the item back, or fail with it." in form
    assert re.search(r'<textarea[^>]*name="items"', form) and re.search(
        r'<input[^>]*type="number"[^>]*name="seconds"', form
    )


@pytest.mark.parametrize(
    "query", ["", "?view=all", "?view=failed", "?view=all&after=4", "?find=gone", "?view=queued"]
)
def test_a_jobs_page_shows_the_view_that_its_address_names(shared: Server, mixed: int, query: str):
    rows = re.findall(r'<tr[^>]* id="item-\d+"', shared.client.get(f"/jobs/{mixed}{query}").text)
    assert len(rows) == {
        "": 10,
        "?view=all": 10,
        "?view=failed": 2,
        "?view=all&after=4": 5,
        "?find=gone": 2,
    }.get(query, 0)


def test_a_row_bears_its_number_its_status_and_its_key(shared: Server, mixed: int):
    item = shared.items(mixed, status="failed")[0]
    row = re.search(
        rf'<tr[^>]*id="item-{item["id"]}".*?</tr>', shared.client.get(f"/jobs/{mixed}?view=all").text, re.S
    )[0]
    assert 'data-status="failed"' in row and item["key"] in row


def test_the_bar_and_the_body_bear_what_tests_read(shared: Server, mixed: int):
    page = shared.client.get(f"/jobs/{mixed}").text
    bar = re.search(r'<div[^>]*role="progressbar"[^>]*>', page)[0]
    assert 'aria-valuenow="10"' in bar and 'aria-valuemax="10"' in bar
    assert re.search(r'<body[^>]*data-live="live"', page)
    assert f'id="job-{mixed}"' in shared.client.get("/").text


def test_what_an_api_or_a_user_says_is_text_and_never_markup(shared: Server):
    job = shared.begin("post", items=["html-<img src=x onerror=alert(2)>"])
    shared.ended(job)
    assert shared.items(job)[0]["error"] == "Internal Server Error: <script>alert(1)</script><b>broken</b>"
    for path in (
        f"/jobs/{job}",
        f"/jobs/{job}?view=failed",
        f"/jobs/{job}?find=<img",
        f"/jobs/{job}/results",
        "/",
    ):
        page = shared.client.get(path).text
        assert "<script>alert" not in page and "<b>broken" not in page and "<img" not in page
    assert "&lt;script&gt;alert(1)" in shared.client.get(f"/jobs/{job}?view=failed").text


GETS = """/ /users /jobs/{job} /jobs/{job}/results /jobs/{job}/results.csv /jobs/{job}/results.ndjson
/api/jobs /api/jobs/{job} /api/jobs/{job}/items /api/jobs/{job}/events /api/events /api/openapi.json
/events?view=jobs /events?job={job} /healthz /static/app.css""".split()


@pytest.mark.parametrize("path", GETS)
def test_head_is_answered_like_get_without_the_body(shared: Server, mixed: int, path: str):
    with httpx.Client(base_url=shared.url, timeout=60) as client:
        answer = client.head(path.format(job=mixed))
        assert (answer.status_code, answer.content) == (200, b"")
        # the connection is free again, also after a stream
        assert client.get("/healthz").status_code == 200


def test_no_handler_has_parameters_that_fasthtml_would_look_up_in_cookies_or_headers():
    for path, verb, _, handler in ROUTES:
        parameters = inspect.signature(handler).parameters
        assert list(parameters) == ["req"], f"{verb} {path}"
        # the type itself is handed the request; any other annotation would be filled from ?req=
        assert parameters["req"].annotation is Request


def test_healthz_says_what_runs(shared: Server):
    health = shared.client.get("/healthz").json()
    assert (health["database"], health["engine"], health["watcher"]) == ("ok", "running", "running")


# ---- results -------------------------------------------------------------------------------------------------------


def test_results_sum_up_by_status_and_error(shared: Server, mixed: int):
    page = shared.client.get(f"/jobs/{mixed}/results").text
    assert "not complete" not in page
    assert "no such account" in page and "results.csv" in page and "results.ndjson" in page
    assert re.search(r"Completed</span></dt><dd class=\"num\">8<", page)


def test_results_as_csv_have_a_line_for_each_item(shared: Server, mixed: int):
    answer = shared.client.get(f"/jobs/{mixed}/results.csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="job-{mixed}-results.csv"'
    assert answer.content.startswith(b"\xef\xbb\xbfposition,key")  # by which Excel knows that it is UTF-8
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert [row["position"] for row in rows] == [str(n) for n in range(10)]
    assert rows[8]["key"] == "gone-1@example.com" and rows[8]["code"] == "404"


def test_results_as_ndjson_are_the_items(shared: Server, mixed: int):
    answer = shared.client.get(f"/jobs/{mixed}/results.ndjson")
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in answer.text.splitlines()] == shared.items(mixed)


SIGNS = "=+-@\t\r\n＝＋－＠"


def spreadsheet(server: Server, job: int, separator: str = ",", **query: str) -> list[list[str]]:
    """The rows of results.csv as a program sees them that splits at `separator`."""
    answer = server.client.get(f"/jobs/{job}/results.csv", params=query)
    text = io.StringIO(answer.content.decode("utf-8-sig"), newline="")
    return list(csv.reader(text, delimiter=separator))


def test_no_cell_of_a_csv_can_start_a_formula_and_numbers_stay_numbers(shared: Server):
    starts = [
        "=1+1",
        "+1",
        "-x",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "＝1",
        "＋1",
        "－1",
        "＠1",
        "x;=1+1",
        "x\n=1",
        "x|@y",
    ]
    job = shared.begin(
        "say", items=[*starts, *[f"!{s}" for s in starts], "plain", "-1", "-2.5e3", "x-1", "a=b"]
    )
    shared.ended(job)
    for separator in ",;|\t":  # some Excels split at semicolons
        cells = [cell for row in spreadsheet(shared, job, separator) for cell in row]
        assert [cell for cell in cells if cell.startswith(tuple(SIGNS))] in ([], ["-1", "-2.5e3"])
    cells = [cell for row in spreadsheet(shared, job) for cell in row]
    assert {"'=1+1", "plain", "-1", "-2.5e3", "x-1", "a=b", "x;'=1+1"} <= set(cells)


def test_the_files_have_what_the_view_has(shared: Server, mixed: int):
    def keys(**query: str) -> list[str]:
        lines = shared.client.get(f"/jobs/{mixed}/results.ndjson", params=query).text.splitlines()
        found = [json.loads(line)["key"] for line in lines]
        assert [row[1] for row in spreadsheet(shared, mixed, **query)[1:]] == found
        return found

    gone = ["gone-1@example.com", "gone-2@example.com"]
    group = shared.client.get(f"/api/jobs/{mixed}/errors").json()["errors"][0]["fingerprint"]
    assert keys(status="failed") == keys(group=group) == keys(find="GONE") == gone
    assert keys(find="gone-2", status="failed") == ["gone-2@example.com"]
    assert keys(find="gone", status="completed") == keys(group="no such") == []
    assert len(keys()) == 10 and len(keys(status="completed")) == 8
    assert refuses(shared, f"/jobs/{mixed}/results.csv?status=happy")


def refuses(server: Server, path: str) -> bool:
    return server.client.get(path).status_code == 422


def test_the_links_of_a_page_save_what_the_page_shows(shared: Server, mixed: int):
    for page, rest in (
        (f"/jobs/{mixed}?view=failed", "?status=failed"),
        (f"/jobs/{mixed}?find=gone", "?find=gone"),
        (f"/jobs/{mixed}/results?status=failed", "?status=failed"),
        (f"/jobs/{mixed}/results?find=gone", "?find=gone"),
        (f"/jobs/{mixed}/results", ""),
    ):
        text = shared.client.get(page).text
        for name in ("results.csv", "results.ndjson"):
            assert f'href="/jobs/{mixed}/{name}{rest}"' in text
        shown = (
            {f"gone-{n}@example.com" for n in (1, 2)} if rest else {"gone-1@example.com", "user1@example.com"}
        )
        assert all(key in text for key in shown) and ("user1@" in text) == (not rest)


def test_results_are_written_as_they_are_read_and_never_held_as_a_whole(shared: Server, mixed: int):
    """Items without end: the first block is there all the same, after some hundred of them."""
    taken = 0

    def endless() -> Iterator[Item]:
        nonlocal taken
        while True:
            taken += 1
            yield Item(1, 1, taken, "key", "completed", 1, 200, None, None, 1.0, 0.0, 0.0, 1)

    job = Job(**dict.fromkeys(Job.__struct_fields__))
    answer = files.download(job, "csv", "text/csv", files.csv_lines(endless()))
    block = asyncio.run(anext(answer.body_iterator))
    assert len(block.splitlines()) - 1 == taken < 1000


def test_results_before_the_end_say_that_they_are_not_complete(shared: Server, api: Api):
    api.stall()
    api.answer(1)
    job = shared.begin("post", items=["a", "b", "c", "d"])
    until(lambda: shared.job(job)["completed"])
    assert "these results are not complete" in " ".join(
        shared.client.get(f"/jobs/{job}/results").text.split()
    )
    file = shared.client.get(f"/jobs/{job}/results.csv").headers["Content-Disposition"]
    assert file == f'attachment; filename="job-{job}-results-not-complete.csv"'
    shared.client.post(f"/api/jobs/{job}/cancel")


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "app.css",
        "app.js",
        "icon-idle.svg",
        "hotkeys.js",
        "vendor/htmx.min.js",
        "vendor/hx-sse.min.js",
        "vendor/hotkey.js",
    ],
)
def test_the_page_has_its_files_and_asks_again_when_they_change(shared: Server, name: str):
    answer = shared.client.get(f"/static/{name}")
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-cache"
    again = shared.client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_every_file_that_a_page_names_is_there(shared: Server, mixed: int):
    for page in ("/", f"/jobs/{mixed}", "/users", "/nothing", "/static/nothing"):
        for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', shared.client.get(page).text):
            assert shared.client.get(path).status_code == 200, f"{path} on {page}"
