"""The mailbox's routes: its list, one mail, its HTML for a frame; and the preview of what a dry run would
send.
"""

import email
import email.policy
import re
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from rowcast.components import mail_page, mailbox_page, preview_page, to_html
from rowcast.tables.mailbox import MAILS_PAGE
from rowcast.tasks.filters import LARGEST
from rowcast.tasks.mail import MailView, mail_of
from rowcast.tasks.records import Job, NotFound
from rowcast.web.guard import HEADERS
from rowcast.web.requests import at, base_of, number, owner_of, see

# of what others wrote as HTML: its own styles, pictures that it brings itself, and nothing else
STRICT = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none';"
    " frame-ancestors 'self'; sandbox"
)
HEAD = re.compile(r"\s*<!doctype[^>]*>(\s*<html[^>]*>)?(\s*<head[^>]*>)?", re.IGNORECASE)
FRAMED = HEADERS["Content-Security-Policy"] + "; frame-src 'self'"  # of a page that shows such a frame


def show_mailbox(req: Request) -> Any:
    """The mails that one sees, newest first."""
    before = number(req.query_params.get("before"), "before", LARGEST)
    job = number(req.query_params.get("job"), "job", 0) or None
    mailbox = at(req).mailbox
    rows = mailbox.page(owner_of(req), before, job)
    server = urlsplit(at(req).settings.smtp_url).hostname or ""
    return mailbox_page(base_of(req), rows, mailbox.count(owner_of(req)), MAILS_PAGE, server, job)


def show_mail(req: Request) -> Response:
    """One mail as its receiver would see it."""
    row, raw = at(req).mailbox.raw(req.path_params["mail"], owner_of(req))
    return framing(mail_page(base_of(req), row, opened(raw)))


def show_html(req: Request) -> Response:
    """A mail's HTML, for the frame."""
    _, raw = at(req).mailbox.raw(req.path_params["mail"], owner_of(req))
    return harmless(opened(raw).html)


async def clear(req: Request) -> Response:
    """Empty the mailbox."""
    await req.body()
    await run_in_threadpool(at(req).mailbox.clear, owner_of(req))
    return see(req, "/mailbox")


def show_preview(req: Request) -> Response:
    """What the first items of a dry run would send."""
    job = dry_run(req)
    items = at(req).jobs.items(job.id, limit=job.dry_run)
    return framing(preview_page(base_of(req), job, items))


def show_previewed(req: Request) -> Response:
    """The HTML of one of them, for the frame."""
    found = mail_of(at(req).jobs.item(dry_run(req).id, req.path_params["item"]).result)
    return harmless(found.html if found else "")


def dry_run(req: Request) -> Job:
    """The job, if it is a dry run of the owner's. Raises NotFound."""
    job = at(req).jobs.job(req.path_params["job"], owner_of(req))
    if not job.dry_run:
        raise NotFound(f"Job {job.id} is no dry run: there is no preview of it.")
    return job


def opened(raw: bytes) -> MailView:
    """A mail, read as a mail program would."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    return MailView(
        str(message["Subject"] or ""),
        [(name, str(value)) for name, value in message.items()],
        part(message, "plain"),
        part(message, "html"),
        raw.decode(errors="replace"),
        len(raw),
    )


def part(message: EmailMessage, subtype: str) -> str:
    found = message.get_body((subtype,))
    return str(found.get_content()) if found else ""


def harmless(html: str) -> Response:
    """What others wrote, where it can do nothing. Raises NotFound where there is nothing."""
    if not html:
        raise NotFound("This mail has no HTML.")
    top = HEAD.match(html)
    at_top = top.end() if top else 0
    still = f'{html[:at_top]}<base target="_blank">{html[at_top:]}'  # no link leads out of the sandbox
    return HTMLResponse(still, headers={"Content-Security-Policy": STRICT, "Cache-Control": "no-store"})


def framing(page: Any) -> Response:
    """A page with a frame in it."""
    return HTMLResponse(to_html(page), headers={"Content-Security-Policy": FRAMED})
