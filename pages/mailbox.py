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
from rowcast.tasks.mail import MailRow, MailView, mail_of
from rowcast.tasks.records import Item, Job

HEAD = {"To": "key", "Subject": "subject", "Job": "num job", "When": "num when"}
ASKS_EVERY = 2  # seconds
FIRST = ("From", "To", "Subject", "Date")  # of the headers, those that a mail program shows
SHOWN = 20_000  # letters of a mail's source
PREVIEWED = 3  # mails


def where_mails_go(server: str) -> Any:
    """What happens to mails here, and how that is changed."""
    if server:
        return P("Mails are sent by ", Code(server), ": none comes in here.", cls="note quiet")
    return P(
        "Nothing is sent: every mail of every task comes in here and goes no further. To send them, start"
        " Rowcast with ",
        Code("--smtp-url smtp://user:password@mail.example.com:587 --mail-from you@example.com"),
        ".",
        cls="note quiet",
    )


def mails_table(rows: list[MailRow], size: int, job: int | None) -> Any:
    """The list, which asks for itself again, newest first."""
    older = url("/mailbox", before=rows[-1].id, job=job) if len(rows) == size else ""
    return Div(
        Section(
            table(HEAD, [mail_row(row) for row in rows], cls="mails", aria_label="Mails"),
            P(*no_mails(job), cls="empty"),
            Div(*pager("", older), cls="pager"),
            cls="card",
            aria_label="All mails",
        ),
        id="mailbox",
        hx_get=url("/mailbox", job=job),
        hx_trigger=f"every {ASKS_EVERY}s",
        hx_select="#mailbox",
        hx_swap="outerMorph",
    )


def mail_row(row: MailRow) -> Any:
    subject = A(visible(row.subject or "(no subject)"), href=url(f"/mailbox/{row.id}"))
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
        return (f"Job {job} has sent no mail. ", A("Show all mails", href=url("/mailbox")))
    return (
        "No mail yet. Start ",
        A("bulk_email or setup_account", href=url("/")),
        ", and what they send appears here.",
    )


def clear_form(number: int) -> Any:
    """What empties the mailbox."""
    if not number:
        return ""
    asked = f"Delete {'this mail' if number == 1 else f'all {number:,} mails'}?"
    return post_form(url("/mailbox/clear"), Button("Empty the mailbox", type="submit"), hx_confirm=asked)


def as_received(mail: MailView, frame: str) -> Any:
    """A mail as its receiver would see it; `frame` is where its HTML is."""
    top = [(name, value) for name, value in mail.headers if name in FIRST]
    rest = [(name, value) for name, value in mail.headers if name not in FIRST]
    parts = [Dl(*[pair(*one) for one in top], cls="mail-head")]
    if mail.html:
        parts.append(html_frame(mail, frame))
    text = Pre(visible(mail.text), cls="mail-text")
    parts.append(Details(Summary("Text alone"), text) if mail.html else text)
    if mail.cut:
        parts.append(P("It is longer than a preview shows; it is sent whole.", cls="soft"))
    if rest:
        parts.append(Details(Summary("More headers"), Dl(*[pair(*one) for one in rest], cls="mail-head")))
    if mail.source:
        cut = f"The first {SHOWN:,} letters of {mail.size:,} bytes." if mail.size > SHOWN else ""
        source = Pre(visible(mail.source[:SHOWN]), cls="mail-text")
        parts.append(Details(Summary("Source"), source, P(cut, cls="soft") if cut else ""))
    to = next((value for name, value in top if name == "To"), "")
    return Section(*parts, cls="card mail", aria_label=in_words(f"Mail to {to}: {mail.subject}"))


def pair(name: str, value: str) -> Any:
    return Div(Dt(name), Dd(visible(value)))


def html_frame(mail: MailView, frame: str) -> Any:
    """A mail's HTML, where it can do nothing."""
    return Iframe(
        src=frame,
        sandbox="",
        title=f"HTML of the mail: {in_words(mail.subject)}",
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
    wait = P("The first mails come in a moment.", cls="soft")
    return Div(*(shown or [wait]), id="preview", **({} if job.ended else live))


def preview(job: Job, item: Item) -> Any:
    mail = mail_of(item.result)
    if mail is not None:
        return as_received(mail, url(f"/jobs/{job.id}/preview/{item.id}"))
    said = item.error or ("It sends no mail." if item.status == "completed" else "It comes in a moment.")
    what = P(visible(said), cls="error" if item.error else "soft")
    return Section(H2(visible(item.key)), what, cls="card mail")


def start_for_real(job: Job) -> Any:
    """What starts the job that was previewed."""
    return post_form(
        url(f"/jobs/{job.id}/again"),
        Button("Start", type="submit", name="real", value="1", cls="primary"),
        A("Change it", href=url("/"), cls="button"),
        Small("This was a dry run: nothing was sent. Start sends them all."),
        once_field("start-for-real"),
        id="start-for-real",
        cls="row",
    )


# ---- whole pages ---------------------------------------------------------------------------------------


@below
def mailbox_page(rows: list[MailRow], total: int, size: int, server: str = "", job: int | None = None) -> Any:
    """The mailbox: where mails go while no mail server is named. `server`: the one that is; `size`: mails on
    a page."""
    whose = f" of job {job}" if job else ""
    return page(
        "Mailbox · Rowcast",
        Div(
            Div(H1(f"Mailbox{whose}"), Small(f"{total:,}"), cls="titles"),
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
    job = A(f"Job #{row.job}", href=url(f"/jobs/{row.job}")) if row.job else ""
    return page(
        f"{in_words(row.subject)} · Rowcast",
        Div(H1(visible(row.subject or "(no subject)")), Small(job), cls="titles"),
        as_received(mail, url(f"/mailbox/{row.id}/html")),
        P(A("All mails", href=url("/mailbox")), cls="pad"),
        here="Mail",
    )


@below
def preview_page(job: Job, items: list[Item]) -> Any:
    """What the first items of a dry run would send, and the button that starts it in earnest."""
    return page(
        f"Preview of {job.task} · Rowcast",
        Div(
            H1(f"Preview of {job.task}"),
            Small(A(f"Job #{job.id}", href=url(f"/jobs/{job.id}"))),
            cls="titles",
        ),
        start_for_real(job),
        previews(job, items),
        here="Jobs",
    )
