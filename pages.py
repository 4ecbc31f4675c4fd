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
    Details,
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
    Pre,
    Script,
    Section,
    Select,
    Small,
    Span,
    Summary,
    Table,
    Tbody,
    Td,
    Textarea,
    Th,
    Thead,
    Title,
    Tr,
    Ul,
)  # fmt: skip

from rowcast.components import (
    PAGE,
    WORDS,
    JobNow,
    View,
    bar,
    day,
    error_list,
    icon_of,
    items_table,
    job_head,
    job_row,
    job_title,
    look_of,
    pager,
    status_mark,
    tabs,
)
from rowcast.records import ITEM_STATUSES, Item, Job, encode
from rowcast.registry import Argument, Task
from rowcast.users import Imported
from rowcast.users import Row as User

HTMX = {
    "metaCharacter": "-",
    "includeIndicatorCSS": False,
    "history": False,
    "noSwap": [204, 304, "4xx", "5xx"],
    "sse": {"reconnectDelay": 500, "reconnectMaxDelay": 4000, "connectTimeout": 10000},
}


def page(base: str, title: str, *content: Any, here: str = "", stream: str = "", status: str = "") -> Any:
    """A whole page. `stream`: the URL of its live updates, '' for a page at rest; `status`: what the favicon shows."""
    return Html(
        Head(
            Meta(charset="utf-8"),
            Meta(name="viewport", content="width=device-width, initial-scale=1"),
            Meta(name="color-scheme", content="light dark"),
            Meta(name="htmx-config", content=encode(HTMX).decode()),
            Title(title),
            Link(rel="icon", id="favicon", href=f"{base}/static/icon-{icon_of(status)}.svg", type="image/svg+xml"),
            Link(rel="stylesheet", href=f"{base}/static/app.css"),
            Script(src=f"{base}/static/app.js"),
            *[
                Script(src=f"{base}/static/vendor/{name}.js", defer=True)
                for name in ("htmx.min", "hx-sse.min", "hx-upsert.min")
            ],
        ),
        Body(
            A("Skip to the content", href="#main", cls="skip"),
            Header(
                A("Rowcast", href=f"{base}/", cls="brand"),
                Nav(
                    *[
                        A(name, href=f"{base}{path}", **({"aria-current": "page"} if here == name else {}))
                        for name, path in (("Jobs", "/"), ("Users", "/users"))
                    ],
                    aria_label="Pages",
                ),
                Span(I(), Span("Connecting" if stream else "Up to date", id="live-word"), cls="live", id="live"),
                Button("Theme", type="button", id="theme", cls="quiet", title="Light, dark, or as the system has it"),
                cls="top",
            ),
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
            ),
            Div(id="toasts", role="status", aria_live="polite"),
            data_live="offline" if stream else "live",
            data_base=base,
        ),
        lang="en",
    )


def error_page(base: str, status: int, sentence: str) -> Any:
    """What a person sees instead of a page."""
    return page(
        base,
        f"{status} · Rowcast",
        Section(
            H1(sentence),
            P(A("To the jobs", href=f"{base}/"), cls="soft"),
            cls="card notice",
        ),
    )


def job_page(base: str, now: JobNow, view: View, items: list[Item], back: int | None, cursor: int) -> Any:
    """The page of one job: what it is, how far, what is wrong, what can be done, and the rows."""
    job = now.job
    stream = "" if job.terminal else f"{base}/events?job={job.id}&{view.query(cursor=cursor)}"
    return page(
        base,
        job_title(job),
        Div(*job_head(base, now), id="head"),
        Div(
            Section(
                Div(*tabs(base, job, view), cls="tabs", id="tabs"),
                items_table(job, view, items),
                Div(*pager(base, job, view, items, back), id="pager", cls="pager"),
                cls="card",
                aria_label="Items",
            ),
            Aside(*error_list(base, job, now.groups, view), id="errors", cls="card side", aria_label="Why items fail"),
            cls="cols",
        ),
        here="Jobs",
        stream=stream,
        status=look_of(job),
    )


def jobs_page(
    base: str, jobs: list[Job], tasks: list[Task], users: int, status: str, before: int | None, cursor: int
) -> Any:
    """The first page: forms that start jobs, and all jobs, newest first, each row live."""
    first = before is None
    stream = f"{base}/events?view=jobs&status={status}&cursor={cursor}" if first else ""
    return page(
        base,
        "Jobs · Rowcast",
        H1("Jobs"),
        Section(*[start_form(base, task, users) for task in tasks], cls="starts", aria_label="Start a job"),
        Section(
            Div(
                Nav(
                    *[
                        A(word, href=f"{base}/" + (f"?status={s}" if s else ""),
                          **({"aria-current": "true"} if s == status else {}))
                        for s, word in [("", "All"), *[(s, WORDS[s]) for s in ("running", "paused", "completed", "failed")]]
                    ],
                    aria_label="Filter the jobs",
                ),
                cls="tabs",
            ),
            Table(
                Thead(
                    Tr(Th("Job"), Th("Status"), Th("Progress", cls="wide"), Th("Done", cls="num"),
                       Th("Failed", cls="num"), Th("Per second", cls="num h"), Th("Started", cls="num h"),
                       Th("Took", cls="num h"))
                ),
                Tbody(
                    *[job_row(base, job) for job in jobs], id="jobs", data_max=str(PAGE // 2),
                    data_empty="No jobs yet: start one above, and its items appear here as they move.",
                ),
            ),
            Div(A("Earlier jobs →", href=f"{base}/?before={jobs[-1].id}" + (f"&status={status}" if status else "")),
                cls="pager") if len(jobs) == PAGE // 2 else "",
            cls="card",
            aria_label="All jobs",
        ),
        here="Jobs",
        stream=stream,
    )  # fmt: skip


def start_form(base: str, task: Task, users: int) -> Any:
    """A task as a form made from its signature: types, defaults, and the docstring as help."""
    help, _, more = task.help.partition("\n\n")
    wants_users = task.item == "user"
    return Form(
        H2(task.name),
        P(help, cls="soft"),
        Details(Summary("More"), Pre(more)) if more else "",
        Input(type="hidden", name="task", value=task.name),
        *[field(task, argument) for argument in task.arguments],
        Div(
            Button("Start", type="submit", cls="primary"),
            Small(f"{users:,} users" if users else "There are no users yet.", cls="soft") if wants_users else "",
            cls="row",
        ),
        method="post",
        action=f"{base}/jobs",
        hx_post=f"{base}/jobs",
        hx_swap="none",
        cls="card start",
        aria_label=f"Start {task.name}",
    )


def field(task: Task, argument: Argument) -> Any:
    """One argument of a task as a labelled field."""
    name, ident = argument.name, f"{task.name}-{argument.name}"
    kind, default = argument.plain_type, None if argument.required else argument.default
    common = {"name": name, "id": ident, **({"required": True} if argument.required else {})}
    shown: Any
    if argument.choices:
        shown = Select(*[Option(str(c), value=str(c), selected=c == default) for c in argument.choices], **common)
    elif kind is bool:
        return Label(
            Input(type="hidden", name=name, value="false"),
            Input(type="checkbox", name=name, id=ident, value="true", checked=bool(default)),
            f" {label_of(name)}",
            cls="check",
        )
    elif kind in (int, float):
        shown = Input(type="number", step="any" if kind is float else "1", value="" if default is None else str(default),
                      placeholder="all" if default is None and name == "limit" else "", **common)  # fmt: skip
    elif kind is str:
        shown = Input(type="text", value=str(default or ""), **common)
    else:
        text = "" if default is None else encode(default).decode()
        shown = Textarea(text, rows=3, placeholder="one per line, or JSON", **common)
    return Div(Label(label_of(name), _for=ident), shown, cls="field")


def label_of(name: str) -> str:
    return name.replace("_", " ").capitalize()


def results_page(base: str, now: JobNow, items: list[Item], after: int) -> Any:
    """What came of a job: a summary by status and error, the files, and the items with what they returned."""
    job = now.job
    return page(
        base,
        f"Results of {job.task} #{job.id} · Rowcast",
        H1(Span(f"Results of {job.task}"), Small(A(f"#{job.id}", href=f"{base}/jobs/{job.id}"))),
        P(
            f"The job is {job.status}: {job.done:,} of {job.total:,} items have ended so far, and these results are not "
            "complete. Load the page again later.",
            cls="note",
        )
        if not job.terminal
        else "",
        bar(job),
        Div(
            Section(
                H2("By status"),
                Dl(
                    *[
                        Div(Dt(status_mark(s)), Dd(f"{getattr(job, s):,}", cls="num"))
                        for s in ITEM_STATUSES
                        if getattr(job, s)
                    ],
                    cls="pairs",
                ),
                P(
                    A("results.csv", href=f"{base}/jobs/{job.id}/results.csv", cls="button", download=True),
                    A("results.ndjson", href=f"{base}/jobs/{job.id}/results.ndjson", cls="button", download=True),
                    cls="row pad",
                ),
                cls="card side",
            ),
            Section(*error_list(base, job, now.groups, View()), cls="card side"),
            cls="halves",
        ),
        Section(
            Table(
                Thead(Tr(Th("Item"), Th("Status"), Th("Code", cls="num"), Th("Result or error"))),
                Tbody(
                    *[
                        Tr(
                            Td(i.key, cls="key"),
                            Td(status_mark(i.status)),
                            Td(str(i.code or ""), cls="num"),
                            Td(i.error or (i.result or "")[:300], cls="why"),
                        )
                        for i in items
                    ],
                    data_empty="There are no items.",
                ),
            ),
            Div(
                A("Later →", href=f"{base}/jobs/{job.id}/results?after={items[-1].position}", rel="next")
                if len(items) == PAGE
                else "",
                cls="pager",
            ),
            cls="card",
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
        H1("Users", Small(f"{total:,}{f' with “{text}”' if text else ''}")),
        imported_note(done) if done else "",
        Section(
            Div(
                Form(
                    Input(type="search", name="q", value=text, placeholder="Find an address", aria_label="Find users"),
                    Button("Find", type="submit"),
                    action=f"{base}/users",
                    method="get",
                    role="search",
                    cls="row",
                ),
                Form(
                    Label("Add from CSV", Input(type="file", name="file", accept=".csv,text/csv", required=True)),
                    Button("Import", type="submit"),
                    action=f"{base}/users",
                    method="post",
                    enctype="multipart/form-data",
                    cls="row",
                ),
                cls="tabs",
            ),
            Table(
                Thead(Tr(Th("E-mail"), Th("Account updated", cls="num"))),
                Tbody(
                    *[
                        Tr(Td(row.email, cls="key"), Td(day(row.account_updated), cls="num"))
                        for row in rows
                    ],
                    data_empty=f"Nobody's address has “{text}” in it." if text
                    else "There are no users yet: add some from a CSV file with a column email.",
                ),
            ),
            Div(
                A("← Earlier", href=f"{base}/users?{_query(q=text, page=number - 1)}", rel="prev") if number > 1 else "",
                Span(f"Page {number:,} of {pages:,}", cls="soft") if pages > 1 else "",
                A("Later →", href=f"{base}/users?{_query(q=text, page=number + 1)}", rel="next") if number < pages else "",
                cls="pager",
            ),
            cls="card",
        ),
        here="Users",
    )  # fmt: skip


def imported_note(done: Imported) -> Any:
    """What came of a CSV: the good, and every bad line with its number and reason (the first hundred are shown)."""
    text = f"{done.added:,} added, {done.known:,} were there already, {len(done.refused):,} lines refused."
    return Div(
        P(text),
        Ul(*[Li(f"Line {number}: {why}.") for number, why in done.refused[:100]]) if done.refused else "",
        cls="note",
        role="status",
    )


def to_html(page: Any) -> str:
    """A whole page as text, for answers that no handler returns."""
    return to_xml(page, indent=False)


def _query(**values: Any) -> str:
    return urlencode({k: v for k, v in values.items() if v})
