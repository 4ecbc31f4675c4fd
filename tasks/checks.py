"""Checks of settings: what is wrong with a value, as the end of a sentence that begins with its flag."""

import base64
import ipaddress
import re
from collections.abc import Collection
from email.utils import parseaddr
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from rowcast.tasks.languages import there
from rowcast.tasks.notify import read as read_notify
from rowcast.tasks.reach import Reach

HOST = re.compile(r"[0-9A-Za-z._:\[\]%-]+")  # an address, or a name
HEADER = re.compile(r"[0-9A-Za-z-]+")
ENGINES = ("background", "celery", "dramatiq")
BROKERS = ("redis", "rediss", "amqp", "amqps")


def a_port(port: int) -> str:
    return "" if 0 <= port <= 65535 else f"is a number from 0 to 65535, not {port}."


def a_host(host: str) -> str:
    return "" if HOST.fullmatch(host) else f"is an address or a name of this machine, not {host!r}."


def a_secret(key: str) -> str:
    well = not key or len(key) >= 32
    return "" if well else f"has 32 letters or more, not {len(key)}: `openssl rand -hex 32` makes one."


def some_proxies(text: str) -> str:
    try:
        for one in split(text):
            ipaddress.ip_network(one)
    except ValueError:
        return f"are addresses or networks like 127.0.0.1,10.0.0.0/8, not {text!r}."
    return ""


def a_header(name: str) -> str:
    return "" if not name or HEADER.fullmatch(name) else f"is the name of a header, not {name!r}."


def a_file(name: str) -> str:
    if not name or name.startswith((":", "file:")):
        return f"is the name of a file, not {name!r}."
    try:
        Path(name).resolve().exists()
    except OSError as error:
        return f"cannot be looked at: {error.strerror}."
    except RuntimeError:  # so Python 3.11 and 3.12 call it
        return f"is the name of a file, not of a link to itself, as {name!r} is."
    return ""


def has_host(url: str, schemes: Collection[str]) -> bool:
    """Whether it is an address with one of these schemes, and a host."""
    try:
        parts = urlsplit(url)
    except ValueError:  # what looks like an address of IPv6 is none
        return False
    return parts.scheme in schemes and bool(parts.hostname)


def an_address(url: str) -> str:
    well = not url or has_host(url, ("http", "https"))
    return "" if well else f"is an http:// or https:// address, not {url!r}."


def a_broker(url: str) -> str:
    well = not url or has_host(url, BROKERS)
    scheme, found, _ = url.partition(":")  # and no more of it: there may be a password in it
    said = scheme if found else repr(url)
    return "" if well else f"is an address like redis://host:6379/0 or amqp://host, not {said}."


def a_mail_server(url: str) -> str:
    try:
        parts = urlsplit(url)
        well = not url or (parts.scheme in ("smtp", "smtps") and parts.hostname and parts.port != 0)
    except ValueError:  # the port is no number
        well = False
    return "" if well else "is an address like smtp://user:password@host:587 or smtps://host."


def a_sender(text: str) -> str:
    well = not text or (text.isprintable() and "@" in parseaddr(text)[1])
    return "" if well else f"is an address like Ann <ann@example.com>, not {text!r}."


def a_format(name: str) -> str:
    return "" if name in ("text", "json") else f"is text or json, not {name!r}."


def all_or_none(which: str) -> str:
    return "" if which in ("all", "none") else f"is all or none, not {which!r}."


def a_language(code: str) -> str:
    return "" if not code or code in there() else f"is one of {', '.join(there())}, not {code!r}."


def an_engine(name: str) -> str:
    return "" if name in ENGINES else f"is one of {', '.join(ENGINES)}, not {name!r}."


def a_token(token: str) -> str:
    well = token.isascii() and token.isprintable() and " " not in token
    return "" if well else "is of plain letters, digits and signs, without spaces."


def a_crowd(number: int) -> str:
    return "" if 1 <= number < 1000 else f"is a number from 1 to 999, not {number}."


def a_limit(number: float) -> str:
    return "" if 0 <= number < 1e9 else f"is a number from 0, not {number}."


def a_grace(seconds: float) -> str:
    return "" if 0 <= seconds <= 3600 else f"is a number of seconds from 0 to 3600, not {seconds}."


def a_notify(text: str) -> str:
    try:
        read_notify(text)
    except ValueError as error:
        return f"cannot be read: {error}"
    return ""


def a_contact(address: str) -> str:
    well = not address or re.fullmatch(r"mailto:[^\s@]+@[^\s@]+|https://[^\s/]+(/\S*)?", address)
    return "" if well else f"is mailto: and an address, or an https:// address, not {address[:80]!r}."


def some_hosts(hosts: str) -> str:
    try:
        Reach(hosts)
    except ValueError as error:
        return str(error)
    return ""


def some_secrets(text: str) -> str:
    """One, or while they are exchanged two, the new one first (Standard Webhooks: 24 to 64 bytes each)."""
    for word in text.split():
        try:
            bytes_of = len(base64.b64decode(word.removeprefix("whsec_"), validate=True))
        except ValueError:
            bytes_of = 0
        if not word.startswith("whsec_") or not 24 <= bytes_of <= 64:
            return "is whsec_ and the base64 of 24 to 64 bytes, or two of these, a space between them."
    return ""


def a_while(seconds: float) -> str:
    return "" if 0 < seconds <= 30 * 86_400 else f"is a number of seconds, to thirty days, not {seconds}."


def with_otel(wanted: bool) -> str:
    try:
        there = not wanted or bool(find_spec("opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:
        there = False
    return "" if there else "needs `pip install 'rowcast[otel]'`."


def split(text: str) -> list[str]:
    """What commas separate."""
    return [one.strip() for one in text.split(",") if one.strip()]


def is_loopback(host: str) -> bool:
    """Whether an address or host name means this machine alone."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
        return True
    except ValueError:
        return False


def is_listed(host: str, networks: str) -> bool:
    """Whether an address is among addresses and networks that commas separate."""
    if not is_address(host):
        return False
    found = ipaddress.ip_address(host)
    return any(found in ipaddress.ip_network(one) for one in split(networks))
