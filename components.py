"""Records to HTML: the pages, the rows, the progress, and the fragments that the stream sends.

A page and its live update use the same component: `item_row` draws a row at the first load, at a reconnect and in a frame.
Nothing here reads a database or a request. What comes from users and APIs is passed as text and escaped by FastHTML.
No inline style or script: widths are SVG attributes, behaviour is in static/app.js.
"""

from typing import Any

from fasthtml.common import to_xml
from fasthtml.components import (
    H1,
    H2,
    A,
    Aside,
    Body,
    Div,
    Form,
    Head,
    Header,
    Html,
    I,
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
)  # fmt: skip

from rowcast.pages.forms import pace_form, start_form
from rowcast.pages.job import job_head, job_title
from rowcast.pages.lists import (
    _query,
    by_status,
    files,
    find_user,
    import_form,
    imported_note,
    not_complete,
    results_table,
    schedules_body,
    workers_body,
)
from rowcast.pages.rows import (
    RETRY_ONE,
    earlier_jobs,
    empty_text,
    error_list,
    filters,
    item_rows,
    items_table,
    job_row,
    jobs_filter,
    jobs_table,
    list_summary,
    pager,
    search_form,
)
from rowcast.pages.values import (
    bar,
    cell,
    day,
    icon_of,
    look_of,
    progress_text,
    status_icon,
    word_of,
)  # fmt: skip
from rowcast.tasks.records import (
    PAGE,
    Imported,
    Item,
    Job,
    JobNow,
    Schedule,
    View,
    WorkerRow,
    encode,
)
from rowcast.tasks.records import User as User
from rowcast.tasks.registry import Task

# ---- the job's page ------------------------------------------------------------------------------------------------


# ---- frames: what the stream sends ---------------------------------------------------------------------------------


def job_frame(base: str, now: JobNow, view: View, rows: list[Item], whole: bool = False, back: int | None = None) -> str:
    """One update of a job's page: title, head, counts, errors; and rows, upserted, or the whole page of them."""
    parts = [
        to_xml(Title(job_title(now.job)), indent=False),
        partial("#head", job_head(base, now)),
        partial("#filters", filters(base, now.job, view)),
        partial("#errors", error_list(base, now.job, now.groups, view)),
        partial("#empty", empty_text(base, now.job, view)),
    ]
    drawn = item_rows(rows, view, now.job)
    if whole:
        parts += [partial("#items", drawn), partial("#pager", pager(base, now.job, view, rows, back))]
    elif drawn:
        parts.append(upsert("#items", drawn, view.sort))
    if view.name == "all" and not view.redrawn:
        parts.append(partial("#pager", pager(base, now.job, view, rows, back)))  # items that come make another page
    return "".join(parts)


def jobs_frame(base: str, jobs: list[Job], gone: list[Job], last: int, status: str) -> str:
    """One update of the list of jobs: rows that changed, those that the list's filter has no longer, and the link to what
    is older than `last`."""
    parts = [f'<hx-partial hx-target="#job-{job.id}" hx-swap="delete"></hx-partial>' for job in gone]
    if jobs:
        parts.append(upsert("#jobs", [job_row(base, job) for job in jobs], "desc"))
    parts.append(partial("#pager", [earlier_jobs(base, last, status)]))
    parts.append(partial("#summary", list_summary([*jobs, *gone]), "outerMorph"))
    return "".join(parts)


def partial(target: str, content: Any, swap: str = "innerMorph") -> str:
    html = "".join(to_xml(c, indent=False) for c in content)
    return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>'


def upsert(target: str, rows: list[Any], order: str) -> str:
    html = "".join(to_xml(row, indent=False) for row in rows)
    return f'<hx-upsert hx-target="{target}" key="data-order" sort="{order}">{html}</hx-upsert>'


# ---- the list of jobs ----------------------------------------------------------------------------------------------

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
                Div(H2(job.task), status_icon(look_of(job), word_of(job)), cls="row apart"),
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


def workers_page(base: str, workers: list[WorkerRow]) -> Any:
    """Who does the work."""
    return page(base, "Workers · Rowcast", *workers_body(base, workers), here="Workers")


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


def to_html(page: Any) -> str:
    """A whole page as text, for answers that no handler returns."""
    return to_xml(page, indent=False)
