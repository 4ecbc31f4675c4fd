"""Records to HTML: whole pages, and the frames that follow them.

A page and its frames are made of the same parts (pages/): `item_row` draws a row at the first load, at a
reconnect and in a frame. Each drawing here is given first the path where the dashboard is mounted. Nothing
here reads a database or a request. What comes from users and APIs is passed as text and escaped.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from typing import Any

from fasthtml.components import H1, H2, A, Aside, Div, Nav, P, Section, Small, Title

from rowcast.pages.accounts import account_page as account_page
from rowcast.pages.accounts import accounts_page as accounts_page
from rowcast.pages.accounts import audit_page as audit_page
from rowcast.pages.accounts import no_accounts_page as no_accounts_page
from rowcast.pages.accounts import sign_in_page as sign_in_page
from rowcast.pages.again import again_page as again_page
from rowcast.pages.bookmarks import bookmarks_part
from rowcast.pages.charts import charts_inside, charts_section
from rowcast.pages.followers import follower_form
from rowcast.pages.forms import once_field, pace_form
from rowcast.pages.halts import halts_page as halts_page
from rowcast.pages.item import item_panel, item_title
from rowcast.pages.job import job_head, job_title
from rowcast.pages.jobs import (
    bulk_bar,
    bulk_done,
    bulk_progress,
    bulk_question,
    bulk_title,
    by_job_status,
    earlier_jobs,
    job_row,
    jobs_filter,
    jobs_table,
    kept_note,
    list_rows,
    list_summary,
    what_is_meant,
)
from rowcast.pages.jobs import of_now as of_now
from rowcast.pages.mailbox import mail_page as mail_page
from rowcast.pages.mailbox import mailbox_page as mailbox_page
from rowcast.pages.mailbox import preview_page as preview_page
from rowcast.pages.messages import message_log, tell_form
from rowcast.pages.messages import messages_page as messages_page
from rowcast.pages.needs import needs_part
from rowcast.pages.news import news_of, tell_alone
from rowcast.pages.picker import picker
from rowcast.pages.progress import framed, progress_parts
from rowcast.pages.results import (
    by_status,
    file_links,
    filter_note,
    not_complete,
    results_pager,
    results_table,
)
from rowcast.pages.rows import (
    empty_text,
    error_list,
    filters,
    item_pager,
    item_rows,
    items_table,
    retry_form,
    search_form,
    view_url,
)
from rowcast.pages.schedules import called, edit_form, schedule_form, schedules_table
from rowcast.pages.shares import share_form
from rowcast.pages.shell import banner, embedded, page
from rowcast.pages.skeleton import ASKS, NEWEST, TROUBLE, below, may, may_move, to_html, url
from rowcast.pages.tasks import task_page as task_page
from rowcast.pages.tasks import tasks_page as tasks_page
from rowcast.pages.users import users_page as users_page
from rowcast.pages.values import bar, in_words, look_of, visible
from rowcast.pages.workers import workers_table
from rowcast.tasks.accounts import Account, ShareRow
from rowcast.tasks.filters import Bookmark, BulkRow, Counted, Filter
from rowcast.tasks.languages import Catalogue, speak, tr
from rowcast.tasks.needs import NOTHING, Needs
from rowcast.tasks.notify import Usual, of_text
from rowcast.tasks.records import (
    Item,
    Job,
    JobView,
    Pictures,
    ProgressView,
    View,
    WorkerRow,
)
from rowcast.tasks.registry import Task
from rowcast.tasks.schedules import Schedule
from rowcast.tasks.sentences import translated
from rowcast.tasks.tries import ItemNow

NO_JOBS: Mapping[str, Job] = {}

# ---- one job -----------------------------------------------------------------------------------------------


@below
def job_page(look: JobView, opened: ItemNow | None = None, shares: list[ShareRow] | None = None) -> Any:
    """The page of one job: what it is, how far, what is wrong, what can be done, and the rows; beside them an
    item that is open. `shares`: with whom it is shared, where one may change that and there are accounts.
    """
    job = look.job
    view = look.view
    stream = url(f"/events?job={job.id}&{look.view.query(cursor=look.cursor)}")
    return page(
        item_title(opened) if opened else job_title(job),
        A(tr("← All rows of this job"), href=view_url(job, view, item=None), cls="back") if opened else "",
        Div(*job_head(look), id="head"),
        charts_section(job, look.pictures),
        Div(
            Div(
                Aside(*item_panel(opened, view), id="item", cls="card panel", aria_label=tr("One item"))
                if opened
                else "",
                *[once_field(form) for form in ("act-again", "run-edited") if may("start")],
                Aside(*error_list(look), id="errors", cls="card side", aria_label=tr("Why items fail")),
                pace_form(job) if may_move(job.owner) else "",
                tell_form(job, of_text(job.notify)) if may_move(job.owner) else tell_alone(job),
                share_form(job.id, shares) if may_move(job.owner) else "",
                Section(
                    *message_log(look.deliveries), id="messages", cls="card side", aria_label=tr("Messages")
                ),
                cls="sides",
            ),
            retry_form(job) if may_move(job.owner) else "",
            Section(
                Div(
                    Nav(*filters(look), id="filters", aria_label=tr("Filter the items")),
                    search_form(look),
                    cls="tabs",
                ),
                items_table(look),
                P(*empty_text(look), cls="empty", id="empty"),
                Div(*item_pager(look), id="pager", cls="pager"),
                cls="card",
                aria_label=tr("Items"),
            ),
            cls="cols opened" if opened else "cols",
        ),
        here="Jobs",
        stream="" if look.at_rest else stream,
        at_rest=tr("Up to date"),
        status=look_of(job),
    )


@below
def job_frame(look: JobView, whole: bool = False) -> str:
    """One update of a job's page: title, head, counts, errors; and items, upserted, or the `whole` page."""
    view = look.view
    parts = [
        "" if view.item else to_html(Title(job_title(look.job))),
        partial("#head", job_head(look)),
        partial("#filters", filters(look)),
        partial("#errors", error_list(look)),
        partial("#messages", message_log(look.deliveries)),
        partial("#empty", empty_text(look)),
    ]
    drawn = item_rows(look)
    if whole:
        parts += [partial("#items", drawn), partial("#pager", item_pager(look))]
    elif drawn:
        parts.append(upsert("#items", drawn, view.sort))
    if view.name == "all" and not view.redrawn:
        parts.append(partial("#pager", item_pager(look)))  # items that come make another page
    return "".join(parts)


@below
def charts_frame(job: Job, pictures: Pictures | None) -> str:
    """The pictures of a job's page."""
    return partial("#charts", charts_inside(job, pictures))


@below
def item_frame(look: ItemNow, view: View) -> str:
    """One update of an item that is open."""
    return to_html(Title(item_title(look))) + partial("#item", item_panel(look, view))


def banner_frame(trouble: str) -> str:
    """What keeps the dashboard from working now, or that it is over, for a page that is open."""
    return partial("#banner", banner(trouble))


def note_trouble(trouble: str) -> Token[str]:
    """From now on, in this request, every page says so."""
    return TROUBLE.set(trouble)


def note_account(account: Account | None) -> Token[Account | None]:
    """From now on, in this request, pages are drawn for who asks: with what they may do."""
    return ASKS.set(account)


def note_language(accepted: str, fixed: str) -> Token[Catalogue | None]:
    """From now on, in this request, pages are drawn in a language that is `accepted`, or `fixed`."""
    return speak(accepted, fixed)


def note_newest(newest: Callable[[], int | None]) -> Token[Callable[[], int | None]]:
    """From now on, in this request, every page knows from where on it is told news."""
    return NEWEST.set(newest)


@below
def news_frame(jobs: list[Job]) -> list[dict[str, Any]]:
    """What every page of their owner's is told of jobs that have ended, or wait for a person."""
    return [news_of(job) for job in jobs]


def partial(target: str, content: Any, swap: str = "innerMorph") -> str:
    return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{to_html(*content)}</hx-partial>'


def upsert(target: str, rows: list[Any], order: str) -> str:
    return f'<hx-upsert hx-target="{target}" key="data-order" sort="{order}">{to_html(*rows)}</hx-upsert>'


@below
def card_page(job: Job, token: str = "") -> Any:
    """A job's progress alone, for a frame in another page; by a signed link where there is a `token`."""
    view = ProgressView()
    source = url(f"/events/card/{token}") if token else url(f"/events/progress/{job.id}")
    return embedded(
        job_title(job),
        Div(H2(job.task), Small(f"#{job.id}"), cls="row apart"),
        framed("" if job.ended else source, *progress_parts(job, view)),
    )


@below
def progress_box(
    job: int, view: ProgressView, found: tuple[Job, list[Item], list[Item]] | None, why: str = ""
) -> Any:
    """A job's progress for a page of somebody else's; empty until its stream comes where nothing is given.

    `why` there is no such job for whom the page goes to.
    """
    if why:
        return framed("", P(why))
    source = url(f"/events/progress/{job}", **view.query)
    if found is None:
        return framed(source)
    return framed("" if found[0].ended else source, *progress_parts(found[0], view, *found[1:]))


@below
def progress_frame(job: Job, view: ProgressView, rows: list[Item], problems: list[Item]) -> str:
    """One update of that."""
    return to_html(*progress_parts(job, view, rows, problems))


@below
def results_page(look: JobView) -> Any:
    """What came of a job: a summary by status and error, the files, and the items with what they returned."""
    job = look.job
    back = url(f"/jobs/{job.id}")
    return page(
        tr("Results of {task} #{id} · Rowcast", task=job.task, id=job.id),
        Div(
            H1(tr("Results of {task}", task=job.task)),
            Small(A(tr("Job #{id}", id=job.id), href=back)),
            cls="titles",
        ),
        not_complete(job),
        filter_note(look),
        bar(job),
        Div(
            Section(
                H2(tr("By status")),
                by_status(job),
                P(*file_links(job, look.view), cls="row pad"),
                cls="card side",
            ),
            Section(*error_list(look), cls="card side"),
            cls="halves",
        ),
        Section(
            results_table(look.items),
            P(tr("There are no items. "), A(tr("Back to the job"), href=back), cls="empty"),
            Div(*results_pager(look), cls="pager"),
            cls="card",
            aria_label=tr("Items"),
        ),
        here="Jobs",
        status=look_of(job),
    )


# ---- the list of jobs --------------------------------------------------------------------------------------


@below
def jobs_page(
    jobs: list[Job],
    tasks: list[Task],
    users: int,
    wanted: Filter,
    counted: Counted,
    earlier: bool,
    cursor: int,
    background_days: float = 0,
    usual: Usual = Usual(),
    needs: Needs = NOTHING,
    last: Mapping[str, Job] = NO_JOBS,
    bookmarks: Sequence[Bookmark] = (),
) -> Any:
    """The first page: what needs a person, and all jobs, what moves before what has ended, each row live; the
    pages of `earlier` ones stand still. On top is the picker, which has the form of each task.

    `background_days`: after which ended background tasks are deleted, 0 for never. `usual`: whom the settings
    tell; `last`: of each task the job started last.
    """
    stream = url("/events", view="jobs", **wanted.values) + f"&cursor={cursor}"
    is_first = not jobs and wanted.is_all and not earlier
    return page(
        tr("Jobs · Rowcast"),
        Div(
            H1(tr("Jobs")),
            picker(tasks, users, usual, last, is_first) if may("start") else "",
            cls="titles home",
        ),
        Section(*needs_part(needs), id="needs", cls="card", aria_label=tr("Needs a person")),
        Section(
            jobs_filter(wanted, counted, tasks),
            bookmarks_part(bookmarks, wanted),
            bulk_bar(wanted) if may("act") else "",
            *jobs_table(jobs, wanted),
            cls="card",
            aria_label=tr("All jobs"),
        ),
        kept_note(background_days),
        *list_summary([]),
        here="Jobs",
        stream="" if earlier else stream,
    )


@below
def jobs_frame(jobs: list[Job], gone: list[Job], last: int, wanted: Filter) -> str:
    """One update of the list of jobs: rows that changed, those that its filter has no longer, and the link to
    what is older than `last`."""
    parts = [f'<hx-partial hx-target="#job-{job.id}" hx-swap="delete"></hx-partial>' for job in gone]
    if jobs:
        parts.append(upsert("#jobs", [job_row(job, wanted.by_end) for job in jobs], "desc"))
    parts.append(partial("#pager", [earlier_jobs(last, wanted)]))
    parts.append(partial("#summary", list_summary([*jobs, *gone]), "outerMorph"))
    return "".join(parts)


@below
def list_frame(jobs: list[Job], last: int, wanted: Filter) -> str:
    """The list of jobs whole, and the link to what is older than `last`."""
    return partial("#jobs", list_rows(jobs, wanted)) + partial("#pager", [earlier_jobs(last, wanted)])


@below
def bulk_page(action: str, wanted: Filter, matched: int, changed: int, is_done: bool) -> Any:
    """An act on all that a filter has: the question, or what came of it."""
    said = bulk_done if is_done else bulk_question
    return page(
        tr("{action} jobs · Rowcast", action=bulk_title(action)),
        H1(tr("{action} jobs", action=bulk_title(action))),
        Section(
            P(visible(what_is_meant(wanted)), cls="soft"),
            *said(action, wanted, matched, changed),
            cls="card notice",
            id="bulk-act",
        ),
        here="Jobs",
    )


@below
def bulk_progress_page(bulk: BulkRow, wanted: Filter) -> Any:
    """How far an act on many jobs is."""
    return page(
        tr("{action} jobs · Rowcast", action=bulk_title(bulk.action)),
        H1(tr("{action} jobs", action=bulk_title(bulk.action))),
        Section(
            P(visible(what_is_meant(wanted)), cls="soft"),
            *bulk_progress(bulk, wanted),
            cls="card notice",
            id="bulk-act",
        ),
        here="Jobs",
    )


@below
def counts_frame(wanted: Filter, counted: Counted, needs: Needs) -> str:
    """The filters of the list, with how many jobs each has now, and what needs a person."""
    return partial("#jobs-filter", by_job_status(wanted, counted)) + partial("#needs", needs_part(needs))


# ---- pages that stand still --------------------------------------------------------------------------------


@below
def follower_page(job: Job, tasks: list[Task], chosen: Task, usual: Usual = Usual()) -> Any:
    """What is to start when a job has ended: a form of the task that is `chosen`."""
    return page(
        tr("After {task} #{id} · Rowcast", task=job.task, id=job.id),
        Div(
            H1(tr("After {task}", task=job.task)),
            Small(A(tr("Job #{id}", id=job.id), href=url(f"/jobs/{job.id}"))),
            cls="titles",
        ),
        Section(
            follower_form(job, tasks, chosen, usual), cls="card start", aria_label=tr("What starts then")
        ),
        here="Jobs",
    )


@below
def schedules_page(
    schedules: list[Schedule], tasks: list[Task], chosen: Task | None, usual: Usual = Usual()
) -> Any:
    """What starts by itself, the next first, and a form for one more, of the task that is `chosen`."""
    nothing = tr(
        "Nothing is scheduled. Add a task above, and it starts by the clock, every day at six for example."
    )
    return page(
        tr("Schedules · Rowcast"),
        H1(tr("Schedules")),
        Section(schedule_form(tasks, chosen, usual), cls="card start", aria_label=tr("Add a schedule"))
        if may("start") and chosen
        else "",
        Section(
            schedules_table(schedules), P(nothing, cls="empty"), cls="card", aria_label=tr("All schedules")
        ),
        here="Schedules",
    )


@below
def schedule_page(schedule: Schedule, task: Task | None, usual: Usual = Usual()) -> Any:
    """One schedule, to be edited; `task`: None where it is not among those of this server."""
    return page(
        tr("{schedule} · Rowcast", schedule=in_words(called(schedule))),
        Div(
            H1(visible(called(schedule))),
            Small(A(tr("All schedules"), href=url("/schedules"))),
            cls="titles",
        ),
        Section(schedules_table([schedule], alone=True), cls="card", aria_label=tr("How it stands")),
        Section(edit_form(schedule, task, usual), cls="card start", aria_label=tr("Edit the schedule"))
        if task
        else P(tr("The task {entry} is not among those of this server.", entry=schedule.entry), cls="note"),
        here="Schedules",
    )


@below
def workers_page(workers: list[WorkerRow]) -> Any:
    """Who does the work."""
    return page(tr("Workers · Rowcast"), H1(tr("Workers")), workers_table(workers), here="Workers")


@below
def error_page(status: int, sentence: str) -> Any:
    """What a person sees instead of a page."""
    ways = (A(tr("All jobs"), href=url("/"), cls="button"), A(tr("Users"), href=url("/users"), cls="button"))
    notice = Section(H1(visible(translated(sentence))), P(*ways, cls="row"), cls="card notice")
    return page(tr("{status} · Rowcast", status=status), notice)
