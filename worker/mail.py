"""Mailers: what sends a task's mails. Over SMTP, into the built-in mailbox, or, in a dry run, nowhere.

A connection is kept for many mails; as many are open as mails are sent at once. What became of a mail is one
of four. Sent: the server has taken it. MailNotSent: the line broke, or nobody answered, before the mail's
text was sent, so another try sends no second one. MailRefused: the server said no, with its code: 4xx is
worth another try, 5xx is not. MailLost: the line broke after that, and nobody knows.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import aiosmtplib
import msgspec

from rowcast.tasks.addresses import BadMail, on_the_wire
from rowcast.tasks.checks import is_loopback
from rowcast.tasks.mail import Keep, Mail, Mailer, Posted, message_id, sender_in
from rowcast.tasks.settings import read
from rowcast.tasks.steps import DryRun, job_here, not_again
from rowcast.worker.hiding import hidden
from rowcast.worker.mime import as_data, composed

NOBODY = "rowcast@localhost"  # whom a mail into the mailbox comes from, where nobody is named
ANSWER = 30.0  # seconds that a server gets to answer a command,
TAKEN = 600.0  # and to take a mail whose text it has (RFC 5321, 4.5.3.2.6)
KEPT = 25.0  # seconds that a connection is kept for the next mail: servers hang up after 30 or more
SHOWN = {"text": 6_000, "html": 48_000}  # letters that a dry run shows: a result has 64,000


class MailNotSent(Exception):
    """The mail's text was not sent: another try sends no second mail."""


class MailRefused(Exception):
    """The server would not take it."""

    def __init__(self, code: int, said: str):
        super().__init__(" ".join(said.split()) or "the server said no more than its code")
        self.code = code


class MailLost(Exception):
    """The text was sent, or a part of it, and no answer came."""


async def say_goodbye(smtp: aiosmtplib.SMTP) -> None:
    transport = smtp.transport
    with contextlib.suppress(aiosmtplib.SMTPException, OSError):
        await smtp.quit(timeout=1)  # which closes it
    let_go(smtp, transport)


def let_go(smtp: aiosmtplib.SMTP, transport: Any = None) -> None:
    """End a connection at once: to close one with TLS takes the server's own word, for which nobody waits."""
    transport = smtp.transport or transport
    smtp.close()
    if transport is not None:
        transport.abort()


class SmtpMailer(Mailer):
    """Sends over SMTP: smtp://, with STARTTLS where the server offers it, or smtps://. `before_text` is
    awaited right before a mail's text."""

    def __init__(self, url: str, sender: str, before_text: Callable[[], Awaitable[None]] = not_again):
        parts = urlsplit(url)
        self.host = parts.hostname or "localhost"
        self.tls = parts.scheme == "smtps"
        usual = 587 if parts.username else 25
        self.port = parts.port or (465 if self.tls else usual)
        self.login = (unquote(parts.username or ""), unquote(parts.password or ""))
        self.sender = sender
        self.before_text = before_text
        self.address = on_the_wire(sender_in(sender)[1])
        self.idle: list[tuple[aiosmtplib.SMTP, float]] = []  # connections, and since when they rest

    async def send(self, mail: Mail) -> str:
        message = composed(mail, self.sender, message_id(mail, self.address.rpartition("@")[2]))
        data = as_data(message)
        to = on_the_wire(mail.to)
        async with self._connection() as (smtp, rested):
            try:
                await self._announce(smtp, to, len(data))
            except (MailNotSent, aiosmtplib.SMTPServerDisconnected):
                if not rested:
                    raise
                # the server has hung up on a connection that rested: that is no failure of this mail's
                let_go(smtp)
                await self._open(smtp)
                await self._announce(smtp, to, len(data))
            return await self._hand_over(smtp, data)

    async def aclose(self) -> None:
        for smtp, _ in self.idle:
            await say_goodbye(smtp)
        self.idle.clear()
        await asyncio.sleep(0)  # what was closed is let go of

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[aiosmtplib.SMTP, bool]]:
        """A connection, and whether it has rested. It is kept where the mail was taken or refused; where
        anything else came up, it is closed."""
        smtp = self._rested()
        rested = smtp is not None
        if smtp is None:
            smtp = aiosmtplib.SMTP(
                hostname=self.host,
                port=self.port,
                use_tls=self.tls,
                start_tls=False if self.tls else None,
                timeout=ANSWER,
            )
            await self._open(smtp)
        well = False
        try:
            yield smtp, rested
            well = True
        except MailRefused as error:
            well = error.code != 421 and await self._begins_anew(smtp)
            raise
        except (aiosmtplib.SMTPException, OSError) as error:
            self._did_not_come_to_it(error)
        finally:
            if well and smtp.is_connected:
                self.idle.append((smtp, time.monotonic()))
            else:
                let_go(smtp)

    def _rested(self) -> aiosmtplib.SMTP | None:
        while self.idle:
            smtp, since = self.idle.pop()
            if smtp.is_connected and time.monotonic() < since + KEPT:
                return smtp
            let_go(smtp)
        return None

    async def _open(self, smtp: aiosmtplib.SMTP) -> None:
        """Connect, and log in. Raises MailNotSent, MailRefused."""
        try:
            await smtp.connect()
            await smtp._ehlo_or_helo_if_needed()
            if self.login[0]:
                if not (self._is_private(smtp) or is_loopback(self.host)):
                    raise BadMail(f"{self.host} offers no TLS, and a password is not sent without it.")
                await smtp.login(*self.login)
        except BadMail:
            let_go(smtp)
            raise
        except (aiosmtplib.SMTPException, OSError) as error:
            let_go(smtp)
            self._did_not_come_to_it(error)

    def _is_private(self, smtp: aiosmtplib.SMTP) -> bool:
        return smtp.transport is not None and smtp.transport.get_extra_info("sslcontext") is not None

    async def _begins_anew(self, smtp: aiosmtplib.SMTP) -> bool:
        """After a mail that was refused: whether the connection takes another one."""
        try:
            await smtp.rset()
        except (aiosmtplib.SMTPException, OSError):
            return False
        return True

    async def _announce(self, smtp: aiosmtplib.SMTP, to: str, size: int) -> None:
        """Sender and receiver. Raises MailRefused, MailNotSent."""
        options = [f"SIZE={size}"] if smtp.supports_extension("size") else []
        if not (to + self.address).isascii():
            if not smtp.supports_extension("smtputf8"):
                raise BadMail(f"{self.host} takes no address with letters like those of {to} (SMTPUTF8).")
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        encoding = "ascii" if (to + self.address).isascii() else "utf-8"
        try:
            await smtp.mail(self.address, options=options, encoding=encoding)
            await smtp.rcpt(to, encoding=encoding)
        except aiosmtplib.SMTPResponseException as error:
            raise MailRefused(error.code, error.message) from error

    async def _hand_over(self, smtp: aiosmtplib.SMTP, data: bytes) -> str:
        """The mail's text; returns what the server answered. Raises MailRefused, MailNotSent, MailLost."""
        await self.before_text()
        asked = await smtp.execute_command(b"DATA")
        if asked.code != 354:
            raise MailRefused(asked.code, asked.message)
        protocol = smtp.protocol
        if protocol is None:
            raise MailNotSent(f"{self.host} has hung up")
        try:
            protocol.write(data)
            answer = await protocol.read_response(timeout=TAKEN)
        except aiosmtplib.SMTPResponseException as error:  # it says what is no SMTP
            raise MailLost(f"{self.host}: {one_sentence(error)}") from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise MailLost(f"{self.host} has hung up") from error
        if answer.code != 250:
            raise MailRefused(answer.code, answer.message)
        return f"{answer.code} {' '.join(answer.message.split())}"

    def _did_not_come_to_it(self, error: Exception) -> NoReturn:
        """Say what kept a mail from being sent. Raises MailRefused, MailNotSent, BadMail."""
        # where a login is not offered it raises no more than the first of all its errors
        if isinstance(error, aiosmtplib.SMTPNotSupported) or type(error) is aiosmtplib.SMTPException:
            raise BadMail(f"{self.host}: {one_sentence(error)}") from error
        if isinstance(error, aiosmtplib.SMTPResponseException) and error.code > 0:
            raise MailRefused(error.code, error.message) from error
        raise MailNotSent(f"{self.host}:{self.port}: {one_sentence(error)}") from error


def one_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class MailboxMailer(Mailer):
    """Puts mails into the built-in mailbox, where they can be read and go no further."""

    def __init__(self, sender: str, keep: Keep):
        self.sender = sender or NOBODY
        self.address = on_the_wire(sender_in(self.sender)[1])
        self.keep = keep

    async def send(self, mail: Mail) -> str:
        ident = message_id(mail, self.address.rpartition("@")[2])
        message = composed(to_be_shown(mail), self.sender, ident)
        raw = message.as_bytes()
        await self.keep(Posted(ident, mail.to, str(message["Subject"]), raw, job_here()))
        return "250 kept in the mailbox"


def to_be_shown(mail: Mail) -> Mail:
    """A mail as a page may show it: without the secrets of the task that sends it."""
    return msgspec.structs.replace(
        mail,
        subject=hidden(mail.subject),
        text=hidden(mail.text),
        html=hidden(mail.html),
        unsubscribe=mail.unsubscribe if hidden(mail.unsubscribe) == mail.unsubscribe else "",
    )


class DryMailer(Mailer):
    """Sends nothing: shows what would be sent."""

    def __init__(self, sender: str):
        self.sender = sender or NOBODY
        self.address = on_the_wire(sender_in(self.sender)[1])

    async def send(self, mail: Mail) -> str:
        message = composed(mail, self.sender, message_id(mail, "localhost"))
        headers = {name: str(value) for name, value in message.items() if name != "Date"}
        parts = {name: getattr(mail, name)[:most] for name, most in SHOWN.items()}
        is_cut = len(mail.text) + len(mail.html) > sum(map(len, parts.values()))
        told = {"to": mail.to, "subject": str(message["Subject"]), "headers": headers}
        raise DryRun(told | parts | ({"cut": True} if is_cut else {}))


def open_mailer(keep: Keep, dry: bool = False) -> Mailer:
    """The mailer that this process's environment asks for: `keep` is how a mail gets into the mailbox."""
    settings = read(argparse.Namespace(), "smtp_url", "mail_from")
    if dry:
        return DryMailer(settings.mail_from)
    if settings.smtp_url:
        return SmtpMailer(settings.smtp_url, settings.mail_from)
    return MailboxMailer(settings.mail_from, keep)
