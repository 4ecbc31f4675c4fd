"""Who is told of a job, and of what: receivers as data, and how they are read.

A `Notify` names a channel, an address and events. They come as JSON (`notify` of a start, `--notify`), in
code (`@task(notify=...)`) and from the form; a job keeps the `Receiver`s that it was started with. What is
told is a row of tables/outbox.py, and how it is sent is in messages/.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from rowcast.tasks.addresses import is_address, is_host
from rowcast.tasks.sentences import worded
from rowcast.tasks.text import ODD

Channel = Literal["webhook", "email", "apprise", "push"]
Event = Literal["completed", "failed", "cancelled", "paused", "turned"]
CHANNELS: tuple[str, ...] = get_args(Channel)
EVENTS: tuple[Event, ...] = get_args(Event)
USUAL: tuple[Event, ...] = ("completed", "failed", "cancelled", "paused")  # `turned` would say it twice
MOST = 20  # receivers of a job
LONGEST = 2000  # letters of an address
ELLIPSIS = "…"  # in place of what of an address is not shown
EMAIL = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[^\s@<>,;:\"()\[\]\\]{1,255}")
BROWSER = "browser-"  # and sixteen letters: a browser that is told by Web Push
EXAMPLE = '[{"channel": "email", "to": "ann@example.com"}]'


class Notify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to tell, over which channel, of which events."""

    channel: Channel
    to: str
    on: tuple[Event, ...] = USUAL

    @property
    def address(self) -> tuple[Channel, str]:
        """What is the same of two rules for one receiver."""
        return self.channel, self.to

    @property
    def digest(self) -> str:
        """What a form calls this rule, so that it need not tell its address to who may not know it."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Receiver(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Notify as a job keeps it. `trusted`: it is of a setting or of a task's code, and not of a form or a
    request, so it may be on a private network. `always`: it is told of every job.
    """

    channel: Channel
    to: str
    on: tuple[Event, ...] = USUAL
    trusted: bool = False
    always: bool = False

    @property
    def address(self) -> tuple[Channel, str]:
        """As a Notify's."""
        return self.channel, self.to

    def asked(self, event: str, turned: bool) -> str:
        """The event that this one is told of, '' for none: what has happened, or else that it has turned."""
        if event in self.on:
            return event
        return "turned" if turned and "turned" in self.on else ""

    @property
    def given(self) -> Notify:
        """As it was given."""
        return Notify(self.channel, self.to, self.on)


class Usual(msgspec.Struct, frozen=True):
    """Whom the server's settings tell: of a job for which nobody else is named, and of every job."""

    unless_said: tuple[Notify, ...] = ()
    always: tuple[Notify, ...] = ()


def checked(given: Any) -> tuple[Notify, ...]:
    """Receivers, each a Notify or what JSON has for one; those of one address are one.

    Raises ValueError with a sentence.
    """
    if isinstance(given, (str, bytes, dict)) or not isinstance(given, Iterable):
        raise ValueError(worded(f"notify is a list, like {EXAMPLE}."))
    try:
        plain = [msgspec.to_builtins(one) for one in given]
        rules = msgspec.convert(plain, list[Notify])
    except (msgspec.ValidationError, TypeError) as error:
        raise ValueError(worded(f"notify is not as it should be: {error}.")) from None
    if len(rules) > MOST:
        raise ValueError(worded(f"notify has {MOST} receivers at most, not {len(rules):,}."))
    for rule in rules:
        if wrong := what_is_wrong(rule):
            raise ValueError(wrong)
    return merged(rules)


def merged(rules: Iterable[Notify | Receiver]) -> tuple[Notify, ...]:
    """Rules of which those for one address are one."""
    events: dict[tuple[Channel, str], set[Event]] = {}
    for rule in rules:
        events.setdefault(rule.address, set()).update(rule.on)
    return tuple(
        Notify(channel, to, tuple(event for event in EVENTS if event in on))
        for (channel, to), on in events.items()
    )


def what_is_wrong(rule: Notify) -> str:
    """What is wrong with a rule, as one sentence; '' for nothing."""
    shown = f"{rule.to[:80]!r}"
    if not rule.on:
        return worded(f"notify: say of what {shown} is told: `on` is one or more of {', '.join(EVENTS)}.")
    if not 0 < len(rule.to) <= LONGEST or ODD.search(rule.to) or re.search(r"\s", rule.to):
        return worded(f"notify: an address has from 1 to {LONGEST:,} letters and no space, not {shown}.")
    if rule.channel == "email":
        fits = EMAIL.fullmatch(rule.to) and is_address(rule.to)
        return "" if fits else worded(f"notify: {shown} is no mailbox, like ann@example.com.")
    if rule.channel == "push":
        well = re.fullmatch(f"{BROWSER}[0-9a-f]{{16}}", rule.to)
        return "" if well else worded(f"notify: {shown} is no browser that has said yes.")
    if rule.channel == "apprise":
        well = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://.", rule.to)
        return "" if well else worded(f"notify: {shown} is no address of apprise's, like slack://...")
    wrong = what_is_wrong_with_webhook(rule.to)
    return worded(f"notify: {wrong}") if wrong else ""


def what_is_wrong_with_webhook(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        port = parts.port
    except ValueError:
        host = None
        port = None
    if not host or not is_host(host) or port == 0 or parts.scheme not in ("http", "https"):
        return worded(f"A webhook is an http:// or https:// address, not {url[:80]!r}.")
    if ELLIPSIS in url:
        return worded(f"{url[:80]!r} is not the whole address of a webhook.")
    if parts.username is not None or parts.password is not None:
        return worded(f"Leave name and password out of the address of {host}: messages are signed.")
    return ""


def read(text: str | None) -> tuple[Notify, ...]:
    """Receivers from JSON text; none for an empty one. Raises ValueError with a sentence."""
    if not text or not text.strip():
        return ()
    try:
        given = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise ValueError(worded(f"notify is JSON, like {EXAMPLE}, not {text[:40]!r}.")) from None
    return checked(given)


def chosen(
    own: Iterable[Notify], usual: Usual, given: Iterable[Notify | Receiver] | None
) -> tuple[Receiver, ...]:
    """A job's receivers: those `given` at its start, or else its task's `own` and the server's; and who is
    told of every job. One that is trusted stays so, whatever task and server tell by now.
    """
    known = [*own, *usual.unless_said]
    always = {rule.address for rule in usual.always}
    trusted = {rule.address for rule in known} | always | trusted_of(given or ())
    return tuple(
        Receiver(rule.channel, rule.to, rule.on, rule.address in trusted, rule.address in always)
        for rule in merged([*(known if given is None else given), *usual.always])
    )


def trusted_of(receivers: Iterable[Notify | Receiver]) -> set[tuple[Channel, str]]:
    """The addresses of those that are trusted."""
    return {one.address for one in receivers if isinstance(one, Receiver) and one.trusted}


def masked(channel: str, to: str) -> str:
    """An address for who is not to know it: with all of a webhook's, or of a chat's, one may post there."""
    parts = urlsplit(to) if channel in ("webhook", "apprise") else None
    if parts is None:
        return to
    return (
        f"{parts.scheme}://{parts.hostname}/{ELLIPSIS}"
        if channel == "webhook"
        else f"{parts.scheme}://{ELLIPSIS}"
    )


def unmasked(given: Iterable[Notify], kept: Iterable[Receiver]) -> list[Notify]:
    """Rules of which one with a masked address is for the kept one that was shown so, each in its turn."""
    shown: dict[tuple[Channel, str], list[str]] = {}
    for one in kept:
        if one.trusted:
            shown.setdefault((one.channel, masked(*one.address)), []).append(one.to)
    return [
        Notify(rule.channel, whole.pop(0), rule.on) if (whole := shown.get(rule.address)) else rule
        for rule in given
    ]


def as_text(receivers: Iterable[Receiver]) -> str | None:
    """What a job's row keeps; None for nobody."""
    kept = list(receivers)
    return msgspec.json.encode(kept).decode() if kept else None


def of_text(text: str | None) -> list[Receiver]:
    """What `as_text` was given."""
    return msgspec.json.decode(text, type=list[Receiver]) if text else []
