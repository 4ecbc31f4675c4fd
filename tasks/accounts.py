"""Accounts as data: who asks, what a role lets one do, and how an account may be called.

An owner is a name. Who asks is an Account, which also says whether it sees the jobs of all, or only its own
and those that are shared with it. A name alone sees and moves what is its own.
"""

import re
import unicodedata

import msgspec

from rowcast.tasks.records import OWNER, BadArguments
from rowcast.tasks.sentences import worded
from rowcast.tasks.text import ODD

# What each role may do. Each route of the dashboard names the right that it asks for.
ROLES = {
    "viewer": ("look",),
    "operator": ("look", "start", "act"),
    "admin": ("look", "start", "act", "admin"),
}
# The two rights that no role is needed for: `open` is for everybody, `self` for whoever is signed in, and
# not for a token.
RIGHTS = ("open", "self", "look", "start", "act", "admin")
MAY = {
    "viewer": worded("may look"),
    "operator": worded("may start and stop jobs"),
    "admin": worded("may do all"),
}
SCOPES = ("read", "write")
NAME = re.compile(r"[^\s,;:/?#\"'<>`\\]{1,100}")
SAFE = ("GET", "HEAD")


class Account(msgspec.Struct, frozen=True):
    """Who asks. `scope`: what the token opens that was shown, '' where one has signed in."""

    name: str
    role: str
    scope: str = ""

    def may(self, right: str, method: str = "GET") -> bool:
        """Whether this account may ask for what needs that right; with a token to read, by no other method
        than those that change nothing."""
        if self.scope == "read" and method not in SAFE:
            return False
        if right == "self":
            return not self.scope
        return right == "open" or right in ROLES.get(self.role, ())

    @property
    def sees_all(self) -> bool:
        return self.role == "admin"

    def moves(self, owner: str) -> bool:
        """Whether it may change what belongs to that owner."""
        return self.may("act", "POST") and (self.sees_all or owner == self.name)

    def knows(self, owner: str, of_settings: bool) -> bool:
        """Whether it is shown the whole address of who is told of that owner's job; one `of_settings`, which
        may hold a secret of the server's, only admins are."""
        return self.sees_all if of_settings else self.moves(owner)


Who = Account | str  # who asks: an account, or the name of an owner, which sees what is its own
LOCAL = Account(OWNER, "admin")  # who sits at this machine, where there are no accounts
EVERYBODY = Account("", "admin")  # for what opens a job by itself: a signed link


class Refused(Exception):
    """What was asked for is there, and not for this account; the message is one sentence."""


def account(who: Who) -> Account:
    """Who asks, by name alone with the rights over what is its own."""
    return Account(who, "operator") if isinstance(who, str) else who


def checked_name(text: str) -> str:
    """A name for an account, composed. Raises BadArguments."""
    name = unicodedata.normalize("NFC", text.strip())
    if not NAME.fullmatch(name) or ODD.search(name):
        raise BadArguments(
            f"{name[:40]!r} is no name for an account: up to 100 letters, digits and signs, as of an address."
        )
    if name == OWNER:
        raise BadArguments(f"{name} is no name for an account: it owns what was started without one.")
    return name


def checked_role(text: str) -> str:
    """Raises BadArguments."""
    if text not in ROLES:
        raise BadArguments(f"A role is one of {', '.join(ROLES)}, not {text[:40]!r}.")
    return text


class AccountRow(msgspec.Struct):
    """An account as it is listed: one row of `accounts`, and when it was last seen."""

    name: str
    role: str
    has_password: int  # 0: signs in elsewhere
    disabled: int
    created_at: float
    seen_at: float | None


class SessionRow(msgspec.Struct):
    """A browser that is signed in, as it is shown."""

    id: int
    device: str
    address: str
    created_at: float
    seen_at: float
    ends_at: float


class TokenRow(msgspec.Struct):
    """A token for programs, as it is shown."""

    id: int
    label: str
    prefix: str
    scope: str
    created_at: float
    ends_at: float | None
    seen_at: float | None
    address: str | None


class AuditRow(msgspec.Struct):
    """One line of the audit: who did what, when, from where, to which job."""

    id: int
    at: float
    account: str
    action: str
    job: int | None
    detail: str
    address: str


class ShareRow(msgspec.Struct):
    """With whom a job is shared: an account, or all that have a role."""

    kind: str  # account or role
    name: str
