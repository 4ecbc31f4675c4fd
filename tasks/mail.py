"""Mail: what a task sends to people, and who sends it for it.

A parameter annotated `Mailer` is given one: by SMTP where the settings name a server, else into the built-in
mailbox; in a dry run it shows what it would send. Which of the outcomes it was is said by what `send` raises
(worker/mail.py). A mail's Message-ID is made from the key of its item or step, so each try has the same.
"""

from collections.abc import Awaitable, Callable
from email.utils import parseaddr

import msgspec

from rowcast.tasks.addresses import BadMail, address_in
from rowcast.tasks.records import decode
from rowcast.tasks.steps import count_mail, idempotency_key

PREVIEWED = 3  # of a job's mails, the first: so many a preview makes, and shows


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """One mail to one person."""

    to: str  # an address
    subject: str
    text: str
    html: str = ""  # the same for who reads HTML
    unsubscribe: str = ""  # https:// or mailto: for the header List-Unsubscribe
    id: str = ""  # its Message-ID; where there is none, the item's or the step's


class Mailer:
    """What sends mails. A task that asks for one by this annotation is given it, shared by all its items."""

    address: str  # whom its mails come from

    async def send(self, mail: Mail) -> str:
        """Send a mail, and say what the server answered.

        Raises MailRefused with the server's code, MailNotSent where it did not come to be sent, MailLost
        where nobody knows, BadMail for what is no mail.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """No mail is sent any more."""


class Posted(msgspec.Struct):
    """A mail on its way into the built-in mailbox."""

    message_id: str
    receiver: str
    subject: str
    raw: bytes  # as it would go over the wire
    job: int | None = None  # that sends it; null: none


Keep = Callable[[Posted], Awaitable[None]]  # how a mail gets into the built-in mailbox


def sender_in(text: str) -> tuple[str, str]:
    """Name and address of whom mails come from, written as `Ann <ann@example.com>`. Raises BadMail."""
    name, address = parseaddr(text)
    if not text.isprintable():
        raise BadMail(f"{text[:80]!r} is no e-mail address.")
    return name, address_in(address or text)


def message_id(mail: Mail, domain: str) -> str:
    """A mail's Message-ID without its brackets: its own, or the n-th of the item or step that sends it.

    Raises LookupError outside of both.
    """
    return mail.id or f"{idempotency_key()}.{count_mail()}@{domain}"


# ---- as the mailbox shows them -----------------------------------------------------------------------------


class MailRow(msgspec.Struct):
    """A mail in the mailbox, as the list shows it."""

    id: int
    job: int | None
    receiver: str
    subject: str
    size: int
    created_at: float


class MailView(msgspec.Struct):
    """A mail as its page shows it: as its receiver would read it, and as it would go over the wire."""

    subject: str
    headers: list[tuple[str, str]]
    text: str
    html: str
    source: str = ""
    size: int = 0
    cut: bool = False  # it is longer than a dry run keeps


def mail_of(result: str | None) -> MailView | None:
    """What an item of a dry run would send, by its result, where that is a mail."""
    shown = decode(result) if result else None
    if not isinstance(shown, dict) or not {"to", "subject", "text", "headers"} <= shown.keys():
        return None
    headers = [(name, str(value)) for name, value in shown["headers"].items()]
    view = MailView(str(shown["subject"]), headers, str(shown["text"]), str(shown.get("html") or ""))
    view.cut = bool(shown.get("cut"))
    return view
