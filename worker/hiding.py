"""Hiding: the secrets that a job was started with, taken out of all that its tries say.

An API's answer may repeat a key, an exception may have an address with it, a task may print it. What goes to
the ledger or the terminal goes through the Hider of its run: each secret is MASK in it, also as JSON, an
address, base64 or Python would write it, and as far as it stands where a text was cut.
"""

import base64
import html
import json
import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

from rowcast.tasks.encoding import TAG, to_json
from rowcast.tasks.masking import MASK
from rowcast.tasks.secret import LEAST
from rowcast.tasks.work import Ended, Result, Step

A_LINE = 8  # letters from which one line of a secret is hidden by itself
CUT = "…"  # stands where a text was cut


class Hider:
    """Takes these secrets out of texts; false where there are none."""

    def __init__(self, secrets: Iterable[str] = ()):
        self.whole = [part for secret in secrets for part in parts_of(secret)]
        forms = {form for secret in self.whole for form in forms_of(secret) if len(form) >= LEAST}
        found = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        self.pattern = re.compile(found) if forms else None

    def __bool__(self) -> bool:
        return self.pattern is not None

    def __call__(self, text: str) -> str:
        if self.pattern is None:
            return text
        return CUT.join(map(self._without_beginning, self.pattern.sub(MASK, text).split(CUT)))

    def _without_beginning(self, text: str) -> str:
        """A text, which may have been cut at its end, without as much of a secret as stands there."""
        for secret in self.whole:
            for length in range(min(len(secret) - 1, len(text)), LEAST - 1, -1):
                if text.endswith(secret[:length]):
                    return text[:-length] + MASK
        return text

    def is_in(self, text: str) -> bool:
        return self.pattern is not None and self.pattern.search(text) is not None

    def in_json(self, text: str) -> str:
        """The same for JSON as text, which stays JSON."""
        value = msgspec.json.decode(text)
        hidden = self._in_value(value)
        return text if hidden == value else to_json(hidden).decode()

    def _in_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self(value)
        if isinstance(value, list):
            return [self._in_value(one) for one in value]
        if isinstance(value, dict) and TAG not in value:
            return {self(key): self._in_value(one) for key, one in value.items()}
        # a number, or what stands for a value of a class: it is the same, or it is not there
        return MASK if self.is_in(to_json(value).decode()) else value

    # ---- what is told to the ledger ------------------------------------------------------------------------

    def in_results(self, results: list[Result]) -> list[Result]:
        for one in results if self else ():
            one.error = self(one.error) if one.error else one.error
            one.result = self.in_json(one.result) if one.result else one.result
            one.excerpt = self.in_json(one.excerpt) if one.excerpt else one.excerpt
        return results

    def in_steps(self, steps: list[Step]) -> list[Step]:
        if not self:
            return steps
        return [
            msgspec.structs.replace(
                one,
                key=self(one.key),
                error=self(one.error) if one.error else one.error,
                result=self.in_json(one.result) if one.result else one.result,
            )
            for one in steps
        ]

    def in_end(self, ended: Ended | None) -> Ended | None:
        if ended is not None and ended.error:
            ended.error = self(ended.error)
        return ended


# that of the run whose task speaks here; carried to its threads, as all context is
current_hider: ContextVar[Hider | None] = ContextVar("current_hider", default=None)


def hidden(text: str) -> str:
    """A text that a task says here, without its secrets."""
    hider = current_hider.get()
    return hider(text) if hider else text


def parts_of(secret: str) -> list[str]:
    """A secret, and of one with several lines, as a key file is, each."""
    lines = [line.strip() for line in secret.splitlines()]
    return [secret, *(line for line in lines if len(line) >= A_LINE and line != secret)]


def forms_of(secret: str) -> set[str]:
    """How a secret may be written."""
    raw = secret.encode()
    forms = {
        secret,
        " ".join(secret.split()),
        to_json(secret).decode()[1:-1],
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        repr(raw)[2:-1],
        html.escape(secret),
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
    }
    if len(raw) >= A_LINE:
        forms |= {inner(raw, before, encode) for before in range(3) for encode in BASE64}
    return forms


BASE64 = (base64.b64encode, base64.urlsafe_b64encode)


def inner(raw: bytes, before: int, encode: Any) -> str:
    """What is the same in base64 whatever stands around it, where so many bytes stand before it."""
    text: str = encode(b"\0" * before + raw).decode()
    first = (0, 2, 3)[before]
    rest = (before + len(raw)) % 3
    return text[first : len(text) - (0, 3, 2)[rest]]
