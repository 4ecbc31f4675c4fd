"""The mailbox as HTML: the list, one mail as its receiver would see it, and the preview of a dry run.

A mail's own HTML stands in a frame without script, forms, links or anything from elsewhere: the frame is
sandboxed, and what is in it has a Content-Security-Policy of its own (web/mailbox.py).
"""

from typing import Any

from fasthtml.components import (
    H1,
    H2,
    A,
    Button,
    Code,
    Dd,
    Details,
    Div,
    Dl,
    Dt,
    Iframe,
    P,
    Pre,
    Section,
    Small,
    Summary,
    Td,
    Tr,
)

from rowcast.pages.forms import once_field
from rowcast.pages.shell import page
from rowcast.pages.skeleton import below, pager, post_form, table, url
from rowcast.pages.values import cell, clock, in_words, visible
from rowcast.tasks.languages import mark, tr, trn, written
from rowcast.tasks.mail import PREVIEWED, MailRow, MailView, mail_of
from rowcast.tasks.records import Item, Job
from rowcast.tasks.sentences import translated

HEAD = {
    mark("To"): "key",
    mark("Subject"): "subject",
    mark("Job"): "num job",
    mark("When"): "num when",
}
ASKS_EVERY = 2  # seconds
FIRST = (
    mark("From"),
    mark("To"),
    mark("Subject"),
    mark("Date"),
)  # of the headers, those that a mail program shows
SHOWN = 20_000  # letters of a mail's source


def where_mails_go(server: str) -> Any:
    """What happens to mails here, and how that is changed."""
    if server:
        return P(tr("Mails are sent by "), Code(server), tr(": none comes in here."), cls="note quiet")
    return P(
        tr(
            "Nothing is sent: every mail of every task comes in here and goes no further. "
            "To send them, start Rowcast with "
        ),
        Code("--smtp-url smtp://user:password@mail.example.com:587 --mail-from you@example.com"),
        ".",
        cls="note quiet",
    )


def mails_table(rows: list[MailRow], size: int, job: int | None) -> Any:
    """The list, which asks for itself again, newest first."""
    older = url("/mailbox", before=rows[-1].id, job=job) if len(rows) == size else ""
    return Div(
        Section(
            table(HEAD, [mail_row(row) for row in rows], cls="mails", aria_label=tr("Mails")),
            P(*no_mails(job), cls="empty"),
            Div(*pager("", older), cls="pager"),
            cls="card",
            aria_label=tr("All mails"),
        ),
        id="mailbox",
        hx_get=url("/mailbox", job=job),
        hx_trigger=f"every {ASKS_EVERY}s",
        hx_select="#mailbox",
        hx_swap="outerMorph",
    )


def mail_row(row: MailRow) -> Any:
    subject = A(visible(row.subject or tr("(no subject)")), href=url(f"/mailbox/{row.id}"))
    job = A(f"#{row.job}", href=url(f"/jobs/{row.job}")) if row.job else ""
    return Tr(
        cell(row.receiver, "key"),
        Td(subject, cls="subject", title=in_words(row.subject)),
        Td(job, cls="num job"),
        Td(clock(row.created_at), cls="num when"),
        id=f"mail-{row.id}",
    )


def no_mails(job: int | None) -> tuple[Any, ...]:
    if job:
        return (tr("Job {job} has sent no mail. ", job=job), A(tr("Show all mails"), href=url("/mailbox")))
    return (
        tr("No mail yet. Start "),
        A(tr("bulk_email or setup_account"), href=url("/")),
        tr(", and what they send appears here."),
    )


def clear_form(number: int) -> Any:
    """What empties the mailbox."""
    if not number:
        return ""
    asked = trn("Delete this mail?", "Delete all {number:,} mails?", number)
    return post_form(url("/mailbox/clear"), Button(tr("Empty the mailbox"), type="submit"), data_ask=asked)


def as_received(mail: MailView, frame: str) -> Any:
    """A mail as its receiver would see it; `frame` is where its HTML is."""
    top = [(name, value) for name, value in mail.headers if name in FIRST]
    rest = [(name, value) for name, value in mail.headers if name not in FIRST]
    parts = [Dl(*[pair(*one) for one in top], cls="mail-head")]
    if mail.html:
        parts.append(html_frame(mail, frame))
    text = Pre(visible(mail.text), cls="mail-text")
    parts.append(Details(Summary(tr("Text alone")), text) if mail.html else text)
    if mail.cut:
        parts.append(P(tr("It is longer than a preview shows; it is sent whole."), cls="soft"))
    if rest:
        parts.append(Details(Summary(tr("More headers")), Dl(*[pair(*one) for one in rest], cls="mail-head")))
    if mail.source:
        cut = (
            tr("The first {SHOWN:,} letters of {size:,} bytes.", SHOWN=SHOWN, size=mail.size)
            if mail.size > SHOWN
            else ""
        )
        source = Pre(visible(mail.source[:SHOWN]), cls="mail-text")
        parts.append(Details(Summary(tr("Source")), source, P(cut, cls="soft") if cut else ""))
    to = next((value for name, value in top if name == "To"), "")
    return Section(
        *parts,
        cls="card mail",
        aria_label=in_words(tr("Mail to {to}: {subject}", to=to, subject=mail.subject)),
    )


def pair(name: str, value: str) -> Any:
    return Div(Dt(name), Dd(visible(value)))


def html_frame(mail: MailView, frame: str) -> Any:
    """A mail's HTML, where it can do nothing."""
    return Iframe(
        src=frame,
        sandbox="",
        title=tr("HTML of the mail: {subject}", subject=in_words(mail.subject)),
        cls="mail-html",
        loading="lazy",
    )


# ---- the preview -------------------------------------------------------------------------------------------


def previews(job: Job, items: list[Item]) -> Any:
    """What the first items would send; it asks for itself until all of that is there."""
    live = {
        "hx_get": url(f"/jobs/{job.id}/preview"),
        "hx_trigger": "every 1s",
        "hx_select": "#preview",
        "hx_swap": "outerMorph",
    }
    shown = [preview(job, item) for item in items[:PREVIEWED]]
    wait = P(tr("The first mails come in a moment."), cls="soft")
    return Div(*(shown or [wait]), id="preview", **({} if job.ended else live))


def preview(job: Job, item: Item) -> Any:
    mail = mail_of(item.result)
    if mail is not None:
        return as_received(mail, url(f"/jobs/{job.id}/preview/{item.id}"))
    said = translated(item.error or "") or (
        tr("It sends no mail.") if item.status == "completed" else tr("It comes in a moment.")
    )
    what = P(visible(said), cls="error" if item.error else "soft")
    return Section(H2(visible(item.key)), what, cls="card mail")


def start_for_real(job: Job) -> Any:
    """What starts the job that was previewed."""
    return post_form(
        url(f"/jobs/{job.id}/again"),
        Button(tr("Start"), type="submit", name="real", value="1", cls="primary"),
        A(tr("Change it"), href=url("/"), cls="button"),
        Small(tr("This was a dry run: nothing was sent. Start sends them all.")),
        once_field("start-for-real"),
        id="start-for-real",
        cls="row",
    )


# ---- whole pages ---------------------------------------------------------------------------------------


@below
def mailbox_page(rows: list[MailRow], total: int, size: int, server: str = "", job: int | None = None) -> Any:
    """The mailbox: where mails go while no mail server is named. `server`: the one that is; `size`: mails on
    a page."""
    whose = tr(" of job {job}", job=job) if job else ""
    return page(
        tr("Mailbox · Rowcast"),
        Div(
            Div(H1(tr("Mailbox{whose}", whose=whose)), Small(written(f"{total:,}")), cls="titles"),
            clear_form(total),
            cls="row apart mailbox-head",
        ),
        where_mails_go(server),
        mails_table(rows, size, job),
        here="Mail",
    )


@below
def mail_page(row: MailRow, mail: MailView) -> Any:
    """One mail of the mailbox."""
    job = A(tr("Job #{job}", job=row.job), href=url(f"/jobs/{row.job}")) if row.job else ""
    return page(
        tr("{subject} · Rowcast", subject=in_words(row.subject)),
        Div(H1(visible(row.subject or tr("(no subject)"))), Small(job), cls="titles"),
        as_received(mail, url(f"/mailbox/{row.id}/html")),
        P(A(tr("All mails"), href=url("/mailbox")), cls="pad"),
        here="Mail",
    )


@below
def preview_page(job: Job, items: list[Item]) -> Any:
    """What the first items of a dry run would send, and the button that starts it in earnest."""
    return page(
        tr("Preview of {task} · Rowcast", task=job.task),
        Div(
            H1(tr("Preview of {task}", task=job.task)),
            Small(A(tr("Job #{id}", id=job.id), href=url(f"/jobs/{job.id}"))),
            cls="titles",
        ),
        start_for_real(job),
        previews(job, items),
        here="Jobs",
    )
