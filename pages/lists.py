"""The pages: whole documents, made of components. A page knows where its live updates come from, and nothing of requests.

No inline style or script: the Content-Security-Policy allows neither. What the page does beyond htmx is in static/app.js.
"""

from typing import Any
from urllib.parse import urlencode

from fasthtml.common import to_xml
from fasthtml.components import (
    H1,
    H2,
    A,
    Aside,
    Body,
    Button,
    Dd,
    Div,
    Dl,
    Dt,
    Form,
    Head,
    Header,
    Html,
    I,
    Input,
    Label,
    Li,
    Link,
    Main,
    Meta,
    Nav,
    Option,
    P,
    Script,
    Section,
    Select,
    Small,
    Span,
    Table,
    Tbody,
    Td,
    Th,
    Thead,
    Title,
    Tr,
    Ul,
)  # fmt: skip

from rowcast.components import (
    JOBS_PAGE,
    PAGE,
    JobNow,
    View,
    earlier_jobs,
    empty_text,
    error_list,
    filters,
    items_table,
    job_head,
    job_row,
    job_title,
    list_summary,
    pager,
    search_form,
)
from rowcast.pages.buttons import RETRY_ONE
from rowcast.pages.crew import workers_body
from rowcast.pages.forms import pace_form, schedules_body, start_form
from rowcast.pages.values import WORDS, bar, cell, day, icon_of, look_of, progress_text, status_mark, word_of
from rowcast.tables.schedules import Schedule
from rowcast.tables.slots import Hand
from rowcast.tables.users import Imported
from rowcast.tables.users import Row as User
from rowcast.tasks.records import ITEM_STATUSES, WITH_FAILURES, Item, Job, encode
from rowcast.tasks.registry import Task

HTMX = {
    "metaCharacter": "-",
    "includeIndicatorCSS": False,
    "history": False,
    "noSwap": [204, 304, "4xx", "5xx"],
    "sse": {"reconnectDelay": 500, "reconnectMaxDelay": 4000, "connectTimeout": 30000},
}


THEMES = {"auto": "◐ Auto", "light": "○ Light", "dark": "● Dark"}


def page(
    base: str, title: str, *content: Any, here: str = "", stream: str = "", fresh: bool = False, status: str = ""
) -> Any:
    """A whole page. `stream`: the URL of its live updates, '' for a page at rest; `fresh`: whether a page at rest is known
    to be up to date; `status`: what the favicon shows."""
    return Html(
        head(base, title, icon_of(status)),
        Body(
            A("Skip to the content", href="#main", cls="skip"),
            top(base, here, "Not live" if stream else "Up to date" if fresh else ""),
            Main(
                *content,
                P(cls="sr", role="status", aria_live="polite", id="spoken"),
                Div(
                    id="feed",
                    hidden=True,
                    hx_sse_connect=stream,
                    hx_sse_close="done",
                    hx_swap="none",
                    hx_trigger="load, again",
                )
                if stream
                else "",
                id="main",
                tabindex="-1",
            ),
            Div(id="toasts", role="status", aria_live="polite"),
            # not deferred: htmx would then start before an extension that comes later, and never connect the stream
            *[Script(src=f"{base}/static/vendor/{name}.js") for name in ("htmx.min", "hx-sse.min", "hx-upsert.min")],
            data_live="offline" if stream else "live",
            data_base=base,
        ),
        lang="en",
    )


def head(base: str, title: str, icon: str) -> Any:
    """What a page is made with: its title, icon, style and first script, all from this server."""
    return Head(
        Meta(charset="utf-8"),
        Meta(name="viewport", content="width=device-width, initial-scale=1"),
        Meta(name="color-scheme", content="light dark"),
        Meta(name="htmx-config", content=encode(HTMX).decode()),
        Title(title),
        Link(rel="icon", id="favicon", href=f"{base}/static/icon-{icon}.svg", type="image/svg+xml"),
        Link(rel="stylesheet", href=f"{base}/static/app.css"),
        Script(src=f"{base}/static/app.js"),
        Script(src=f"{base}/static/stream.js"),
    )


def top(base: str, here: str, live: str) -> Any:
    """The line above every page: where one can go, and whether what is shown is fresh."""
    return Header(
        A("Rowcast", href=f"{base}/", cls="brand"),
        Nav(
            *[
                A(name, href=f"{base}{path}", **({"aria-current": "page"} if here == name else {}))
                for name, path in (("Jobs", "/"), ("Users", "/users"), ("Schedules", "/schedules"), ("Workers", "/workers"))
            ],
            aria_label="Pages",
        ),
        Span(I(), Span(live, id="live-word"), cls="live waiting" if live == "Not live" else "live", id="live", role="status")
        if live
        else "",
        Select(
            *[Option(word, value=name) for name, word in THEMES.items()],
            id="theme",
            aria_label="Theme",
            title="Light, dark, or as the system has it",
        ),
        cls="top",
    )


def error_page(base: str, status: int, sentence: str) -> Any:
    """What a person sees instead of a page."""
    return page(
        base,
        f"{status} · Rowcast",
        Section(
            H1(sentence),
            P(A("All jobs", href=f"{base}/", cls="button"), A("Users", href=f"{base}/users", cls="button"), cls="row"),
            cls="card notice",
        ),
    )


def job_page(base: str, now: JobNow, view: View, items: list[Item], back: int | None, cursor: int) -> Any:
    """The page of one job: what it is, how far, what is wrong, what can be done, and the rows."""
    job = now.job
    return page(
        base,
        job_title(job),
        Div(*job_head(base, now), id="head"),
        Div(
            Div(
                Aside(*error_list(base, job, now.groups, view), id="errors", cls="card side", aria_label="Why items fail"),
                pace_form(base, job),
                cls="sides",
            ),
            Form(
                id=RETRY_ONE,
                method="post",
                action=f"{base}/jobs/{job.id}/retry",
                hx_post=f"{base}/jobs/{job.id}/retry",
                hx_swap="none",
                hidden=True,
            ),
            Section(
                Div(
                    Nav(*filters(base, job, view), id="filters", aria_label="Filter the items"),
                    search_form(base, job, view),
                    cls="tabs",
                ),
                items_table(job, view, items),
                P(*empty_text(base, job, view), cls="empty", id="empty"),
                Div(*pager(base, job, view, items, back), id="pager", cls="pager"),
                cls="card",
                aria_label="Items",
            ),
            cls="cols",
        ),
        here="Jobs",
        stream="" if job.terminal else f"{base}/events?job={job.id}&{view.query(cursor=cursor)}",
        fresh=True,
        status=look_of(job),
    )


EMPTY = {
    "failed": "No job has failed: one whose items fail goes to its end, and is listed under With failures. ",
    WITH_FAILURES: "No job has failed items. ",
}


def jobs_page(
    base: str, jobs: list[Job], tasks: list[Task], users: int, status: str, before: int | None, cursor: int
) -> Any:
    """The first page: forms that start jobs, and all jobs, newest first, each row live."""
    return page(
        base,
        "Jobs · Rowcast",
        H1("Jobs"),
        Section(*[start_form(base, task, users) for task in tasks], cls="starts", aria_label="Start a job"),
        Section(jobs_filter(base, status), *jobs_table(base, jobs, status), cls="card", aria_label="All jobs"),
        *list_summary([]),
        here="Jobs",
        stream=f"{base}/events?view=jobs&status={status}&cursor={cursor}" if before is None else "",
    )


def jobs_filter(base: str, status: str) -> Any:
    words = {"": "All"} | {s: WORDS[s] for s in ("running", "paused", "completed", "failed", "cancelled")}
    words[WITH_FAILURES] = "With failures"
    return Div(
        Nav(
            *[
                A(word, href=f"{base}/" + (f"?status={s}" if s else ""), **({"aria-current": "true"} if s == status else {}))
                for s, word in words.items()
            ],
            aria_label="Filter the jobs",
        ),
        cls="tabs",
    )


def jobs_table(base: str, jobs: list[Job], status: str) -> tuple[Any, ...]:
    """The list, what it says when it is empty, and the link to what is older."""
    return (
        Table(
            Thead(
                Tr(
                    Th("Job", cls="name"),
                    Th("Status", cls="is"),
                    Th("Progress", cls="wide"),
                    Th("Done", cls="num done"),
                    Th("Failed", cls="num fails"),
                    Th("Per second", cls="num rate"),
                    Th("Started", cls="num when"),
                    Th("Took", cls="num took"),
                )
            ),
            Tbody(*[job_row(base, job) for job in jobs], id="jobs", data_max=str(JOBS_PAGE), data_sort="desc"),
            cls="jobs",
            aria_label="Jobs",
        ),
        P(EMPTY.get(status, f"No job is {status}. "), A("Show all jobs", href=f"{base}/"), cls="empty")
        if status
        else P("No jobs yet: start one above, and it appears here and moves.", cls="empty"),
        Div(earlier_jobs(base, jobs[-1].id if len(jobs) == JOBS_PAGE else 0, status), cls="pager", id="pager"),
    )


def card_page(base: str, job: Job) -> Any:
    """A job's progress alone, for a frame in another page; it loads itself again until the job has ended."""
    return Html(
        Head(
            Meta(charset="utf-8"),
            Meta(name="viewport", content="width=device-width, initial-scale=1"),
            Meta(name="color-scheme", content="light dark"),
            "" if job.terminal else Meta(http_equiv="refresh", content="2"),
            Title(job_title(job)),
            Link(rel="stylesheet", href=f"{base}/static/app.css"),
        ),
        Body(
            Main(
                Div(H2(job.task), status_mark(look_of(job), word_of(job)), cls="row apart"),
                bar(job),
                P(progress_text(job), cls="soft"),
                cls="card embedded",
            ),
            cls="embed",
        ),
        lang="en",
    )


def schedules_page(base: str, schedules: list[Schedule], tasks: list[Task]) -> Any:
    """What starts by itself."""
    return page(base, "Schedules · Rowcast", *schedules_body(base, schedules, tasks), here="Schedules")


def workers_page(base: str, hands: list[Hand]) -> Any:
    """Who does the work."""
    return page(base, "Workers · Rowcast", *workers_body(base, hands), here="Workers")


def results_page(base: str, now: JobNow, items: list[Item], after: int) -> Any:
    """What came of a job: a summary by status and error, the files, and the items with what they returned."""
    job, url = now.job, f"{base}/jobs/{now.job.id}"
    return page(
        base,
        f"Results of {job.task} #{job.id} · Rowcast",
        Div(H1(f"Results of {job.task}"), Small(A(f"Job #{job.id}", href=url)), cls="titles"),
        "" if job.terminal else not_complete(job),
        bar(job),
        Div(
            Section(H2("By status"), by_status(job), files(url), cls="card side"),
            Section(*error_list(base, job, now.groups, View()), cls="card side"),
            cls="halves",
        ),
        Section(
            results_table(items),
            P("There are no items. ", A("Back to the job", href=url), cls="empty"),
            Div(
                A("← First", href=f"{url}/results") if after >= 0 else "",
                A("Later →", href=f"{url}/results?after={items[-1].position}", rel="next")
                if len(items) == PAGE and items[-1].position < job.total - 1
                else "",
                cls="pager",
            ),
            cls="card",
            aria_label="Items",
        ),
        here="Jobs",
        status=look_of(job),
    )


def not_complete(job: Job) -> Any:
    return P(
        f"The job is {job.status}: {job.done:,} of {job.total:,} items have ended so far, and these results are not "
        "complete. ",
        A("Load them again", href=""),
        cls="note",
    )


def by_status(job: Job) -> Any:
    counts = {s: getattr(job, s) for s in ITEM_STATUSES}
    return Dl(*[Div(Dt(status_mark(s)), Dd(f"{n:,}", cls="num")) for s, n in counts.items() if n], cls="pairs")


def files(url: str) -> Any:
    """The results as files, for spreadsheets and for programs."""
    names = ("results.csv", "results.ndjson")
    return P(*[A(name, href=f"{url}/{name}", cls="button", download=True) for name in names], cls="row pad")


def results_table(items: list[Item]) -> Any:
    return Table(
        Thead(
            Tr(Th("Item", cls="key"), Th("Status", cls="is"), Th("Code", cls="num code"), Th("Result or error", cls="why"))
        ),
        Tbody(
            *[
                Tr(
                    Td(i.key, cls="key"),
                    Td(status_mark(i.status), cls="is"),
                    Td(str(i.code or ""), cls="num code"),
                    Td(i.error or (i.result or "")[:300], cls="why"),
                )
                for i in items
            ],
        ),
        cls="items whole",
        aria_label="Results",
    )


def users_page(base: str, rows: list[User], total: int, text: str, number: int, done: Imported | None = None) -> Any:
    """The users: search, pages, and a CSV to add more."""
    pages = max(1, -(-total // PAGE))
    return page(
        base,
        "Users · Rowcast",
        Div(H1("Users"), Small(f"{total:,}{f' with “{text}”' if text else ''}"), cls="titles"),
        imported_note(done) if done else "",
        Section(
            Div(find_user(base, text), import_form(base), cls="tabs"),
            Table(
                Thead(Tr(Th("E-mail", cls="key"), Th("Account updated", cls="num when"))),
                Tbody(*[Tr(cell(row.email, "key"), Td(day(row.account_updated), cls="num when")) for row in rows]),
                cls="users",
                aria_label="Users",
            ),
            P(f"Nobody's address has “{text}” in it. ", A("Show all users", href=f"{base}/users"), cls="empty")
            if text
            else P("There are no users yet: add some from a CSV file that has a column named email.", cls="empty"),
            Div(
                A("← Earlier", href=f"{base}/users?{_query(q=text, page=number - 1)}", rel="prev") if number > 1 else "",
                Span(f"Page {number:,} of {pages:,}", cls="soft") if pages > 1 else "",
                A("Later →", href=f"{base}/users?{_query(q=text, page=number + 1)}", rel="next") if number < pages else "",
                cls="pager",
            ),
            cls="card",
            aria_label="All users",
        ),
        here="Users",
    )


def find_user(base: str, text: str) -> Any:
    return Form(
        Input(type="search", name="q", value=text, placeholder="Find an address", aria_label="Find users"),
        Button("Find", type="submit"),
        action=f"{base}/users",
        method="get",
        role="search",
        cls="row",
    )


def import_form(base: str) -> Any:
    return Form(
        Label("Add from CSV", _for="file"),
        Input(type="file", name="file", id="file", accept=".csv,text/csv", required=True),
        Button("Import", type="submit"),
        action=f"{base}/users",
        method="post",
        enctype="multipart/form-data",
        cls="row",
    )


def imported_note(done: Imported) -> Any:
    """What came of a CSV: the good, and every bad line with its number and reason (the first hundred are shown)."""
    return Div(
        P(done.sentence),
        Ul(*[Li(f"Line {number}: {why}.") for number, why in done.refused[:100]]) if done.refused else "",
        cls="note",
        role="status",
    )


def to_html(page: Any) -> str:
    """A whole page as text, for answers that no handler returns."""
    return to_xml(page, indent=False)


def _query(**values: Any) -> str:
    return urlencode({k: v for k, v in values.items() if v})
