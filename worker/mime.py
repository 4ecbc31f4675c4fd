"""MIME: a mail as it goes over the wire (RFC 5322, 2045, 6532), whatever is in it.

What a header is given is one line without control characters, so nothing that stands in a name, an address or
a template begins another header.
"""

import re
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from rowcast.tasks.addresses import BadMail, on_the_wire
from rowcast.tasks.mail import Mail, sender_in
from rowcast.tasks.text import ODD

SUBJECT_LENGTH = 250  # letters
LINE = 998  # bytes of a line at most (RFC 5322, 2.1.1)
LARGEST = 10_000_000  # bytes of a text: what most servers take, base64 and all, is some 20 MB
UNFOLDED = ("list-unsubscribe", "message-id")  # what would be encoded where it is longer than a line
LINK_LENGTH = 900  # letters of an address on the web: it stands on one line
SAFE = ":/?#[]@!$&'()*+,;=%~"  # what an address on the web is written with


class MailPolicy(EmailPolicy):
    """As Python writes a mail; but an address on the web stays one word, however long it is."""

    def fold_binary(self, name: str, value: Any) -> bytes:
        if name.lower() in UNFOLDED:
            return f"{name}: {value}{self.linesep}".encode()
        return super().fold_binary(name, value)


POLICY = MailPolicy(linesep="\r\n", max_line_length=78)


def composed(mail: Mail, sender: str, ident: str) -> EmailMessage:
    """A mail from `sender` with this Message-ID, ready to be sent. Raises BadMail."""
    name, address = sender_in(sender)
    to = on_the_wire(mail.to)
    origin = on_the_wire(address)
    message = EmailMessage(policy=POLICY.clone(utf8=not (to + origin).isascii()))
    message["From"] = Address(one_line(name), *origin.rsplit("@", 1))
    message["To"] = Address("", *to.rsplit("@", 1))
    message["Subject"] = one_line(mail.subject)[:SUBJECT_LENGTH]
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{one_line(ident)}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answer comes back
    if mail.unsubscribe:
        link = link_of(mail.unsubscribe)
        message["List-Unsubscribe"] = f"<{link}>"
        if link.startswith("https:"):  # RFC 8058, which is for https alone
            message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    put(message, mail.text or "\n", "plain")
    if mail.html:
        put(message, mail.html, "html")
    return message


def put(message: EmailMessage, text: str, subtype: str) -> None:
    """A text into a mail: as it is where every server takes that, else in base64, which is fast for much."""
    if len(text) > LARGEST:
        raise BadMail(f"The mail's text has {len(text):,} letters; {LARGEST:,} are the most.")
    whole = text.encode(errors="replace").decode()
    plain = whole.isascii() and max(map(len, whole.splitlines()), default=0) <= LINE
    put_part = message.add_alternative if message.get_content_maintype() == "text" else message.set_content
    if "Content-Type" not in message:
        put_part = message.set_content
    put_part(whole, subtype=subtype, charset="utf-8", cte="7bit" if plain else "base64")


def one_line(text: str) -> str:
    """A text for a header: no line break, no control character, no half of a letter."""
    return " ".join(ODD.sub(" ", text).encode(errors="replace").decode().split())


def link_of(url: str) -> str:
    """An address on the web, or mailto:, for a header. Raises BadMail."""
    link = quote(one_line(url), safe=SAFE)
    try:
        scheme = urlsplit(link).scheme
    except ValueError:  # what looks like an address of IPv6 is none
        scheme = ""
    if len(link) > LINK_LENGTH or scheme not in ("https", "http", "mailto"):
        raise BadMail(f"unsubscribe is an https:// or mailto: address, not {url[:80]!r}.")
    return link


DOT = re.compile(rb"(?m)^\.")


def as_data(message: EmailMessage) -> bytes:
    """A mail as the text of DATA: a line that begins with a dot gets another one (RFC 5321, 4.5.2)."""
    raw = message.as_bytes()
    return DOT.sub(b"..", raw if raw.endswith(b"\r\n") else raw + b"\r\n") + b".\r\n"
