"""Addresses of mail, and hosts: which are some, and how they go over the wire.

Whoever asks for a host's address asks Python for its codec `idna` (socket.getaddrinfo, of any name). Threads
that are the first to do so, at the same moment, may be told that there is none, and so is the whole
process from then on ("unknown encoding: idna"; a race in `encodings`, which keeps what it has not found). So
it is there before any thread is: every process of the program's imports this module.
"""

import encodings.idna  # noqa: F401 as said above
import re

import idna

LENGTH = 254  # letters (RFC 5321, 4.5.3.1.3, and the erratum to RFC 3696)
ODD_LETTERS = frozenset('()<>,;:\\"[] ')  # none of an address as it is written without quotes
DOMAIN = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


class BadMail(ValueError):
    """What cannot be sent, whoever tries: the message is one sentence."""


def address_in(text: str) -> str:
    """A plain address, as it was given. Raises BadMail."""
    address = text.strip()
    local, _, domain = address.rpartition("@")
    well = domain and len(address) <= LENGTH and not ODD_LETTERS & set(address)
    if not (well and address.isprintable() and "@" not in local and all(local.split("."))):
        raise BadMail(f"{text[:80]!r} is no e-mail address.")
    return address


def on_the_wire(address: str) -> str:
    """An address as servers know it: a domain in its ASCII form, unless the part before it needs SMTPUTF8
    anyway. Raises BadMail."""
    local, _, domain = address_in(address).rpartition("@")
    try:
        plain = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        plain = ""
    if not DOMAIN.fullmatch(plain):
        raise BadMail(f"{address[:80]!r} is no e-mail address.")
    return f"{local}@{plain if local.isascii() else domain}"


def is_address(text: str) -> bool:
    """Whether a mail can be sent there, as far as that is seen before one is."""
    try:
        on_the_wire(text)
    except BadMail:
        return False
    return True


def is_host(name: str) -> bool:
    """Whether a host can have this name, or is at this address, as HTTP clients see it."""
    if ":" in name:  # IPv6, which has been read
        return True
    try:
        plain = name if name.isascii() else idna.encode(name).decode()
        if "xn--" in plain:
            idna.decode(plain)
    except UnicodeError:
        return False
    return len(plain) <= LENGTH and bool(DOMAIN.fullmatch(plain))
