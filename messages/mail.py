"""The channel `email`: a mail that says how a job has ended, to an address.

It goes the way of every mail of Rowcast's (worker/mail.py): over SMTP where a server is named, else into the
built-in mailbox. Its Message-ID is the message's own id, the same on every try.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from rowcast.messages.channels import Later, Means, Never, take
from rowcast.messages.mail_text import GROUPS, html_of, subject_of, text_of
from rowcast.tables.database import connection
from rowcast.tables.mailbox import Mailbox
from rowcast.tables.measures import groups_of, spent_by
from rowcast.tasks.addresses import BadMail
from rowcast.tasks.languages import spoken
from rowcast.tasks.mail import Mail, Posted, sender_in
from rowcast.tasks.records import Delivery, ErrorGroup, decode, iso
from rowcast.worker.mail import (
    ANSWER,
    NOBODY,
    TAKEN,
    MailboxMailer,
    MailLost,
    MailNotSent,
    MailRefused,
    SmtpMailer,
)

SENT = 250  # the code by which a server takes a mail (RFC 5321, 4.2.3)


async def send(delivery: Delivery, means: Means) -> int:
    """Send it. Raises Later, Never.

    Where nobody knows whether it arrived, it is sent again: to be told twice under one id is better than
    never.
    """
    groups, spent = await asyncio.to_thread(told_besides, means.path, delivery)
    domain = sender_in(means.settings.mail_from or NOBODY)[1].rpartition("@")[2]
    with spoken(means.language(delivery)):
        mail = letter(delivery, means.link(delivery.job), groups, domain, spent)
    try:
        if means.settings.smtp_url:
            await (await means.keep(open_smtp)).send(mail)
        else:
            await into_mailbox(means, delivery.job).send(mail)
    except MailRefused as error:
        kind = Later if 400 <= error.code < 500 else Never
        raise kind(str(error), error.code) from error
    except BadMail as error:
        raise Never(str(error)) from error
    except (MailNotSent, MailLost) as error:
        raise Later(str(error)) from error
    return SENT


def letter(
    delivery: Delivery,
    link: str,
    groups: list[ErrorGroup],
    domain: str = "localhost",
    spent: float | None = None,
) -> Mail:
    """The mail of a message: what it says is how the job was then. `spent`: the seconds of its runs."""
    job = decode(delivery.body)["data"] | {"spent": spent}
    about = (job, delivery.event, groups, link, delivery.to)
    return Mail(
        to=delivery.to,
        subject=subject_of(job, delivery.event),
        text=text_of(*about),
        html=html_of(*about),
        id=f"{delivery.id}@{domain}",
    )


def told_besides(path: str, delivery: Delivery) -> tuple[list[ErrorGroup], float | None]:
    """What a mail says that the message has not: why items of the job fail, and the seconds of its runs,
    where it is still at the end that is told of."""
    conn = connection(path)
    ended = decode(delivery.body)["data"]["finished_at"]
    found = spent_by(conn, delivery.job)
    spent = found[1] if found and ended and iso(found[0]) == ended else None
    return groups_of(conn, delivery.job, GROUPS + 1), spent


@contextlib.asynccontextmanager
async def open_smtp(means: Means) -> AsyncIterator[SmtpMailer]:
    """One mailer for all messages."""
    mailer = SmtpMailer(means.settings.smtp_url, means.settings.mail_from, take_time)
    try:
        yield mailer
    finally:
        await mailer.aclose()


async def take_time() -> None:
    """The text comes next: a server that looks into it before it answers has it, and another try would send
    it twice."""
    take(ANSWER + TAKEN)


def into_mailbox(means: Means, job: int) -> MailboxMailer:
    mailbox = Mailbox(means.path)

    async def keep(posted: Posted) -> None:
        posted.job = job
        await asyncio.to_thread(mailbox.put, posted)

    return MailboxMailer(means.settings.mail_from, keep)
