"""Passwords: refused where they are weak, kept as argon2id hashes, and looked at in the same time whether the
account is there or not.

The strength is estimated by zxcvbn, offline. Both libraries are imported when a password comes: a start and
a worker need neither.
"""

from functools import cache
from typing import Any

from rowcast.tasks.records import BadArguments
from rowcast.tasks.sentences import theirs

SHORTEST = 10  # letters
LONGEST = 200  # letters: a hash of a megabyte would cost as much as its sender likes
STRONG = 3  # of zxcvbn's 0 to 4: more than 10^8 guesses
LOOKED_AT = 72  # letters that are looked at for weakness, as that takes longer the more there are
WARNINGS = (  # of zxcvbn
    theirs("Straight rows of keys are easy to guess."),
    theirs("Short keyboard patterns are easy to guess."),
    theirs('Repeats like "aaa" are easy to guess.'),
    theirs('Repeats like "abcabcabc" are only slightly harder to guess than "abc".'),
    theirs('Sequences like "abc" or "6543" are easy to guess.'),
    theirs("Recent years are easy to guess."),
    theirs("Dates are often easy to guess."),
    theirs("This is a top-10 common password."),
    theirs("This is a top-100 common password."),
    theirs("This is a very common password."),
    theirs("This is similar to a commonly used password."),
    theirs("A word by itself is easy to guess."),
    theirs("Names and surnames by themselves are easy to guess."),
    theirs("Common names and surnames are easy to guess."),
)


@cache
def hasher() -> Any:
    """argon2id with the parameters that argon2-cffi recommends (RFC 9106, low memory: 64 MiB)."""
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def of_nobody() -> str:
    """A hash to compare with where there is no account: nobody learns of it by the time that takes."""
    return hashed("nobody's password, at any time")


def hashed(password: str) -> str:
    return str(hasher().hash(password))


def fits(kept: str | None, password: str) -> bool:
    """Whether it is the password of the hash; None is the hash of no account."""
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return (
            bool(hasher().verify(kept or of_nobody(), password if len(password) <= LONGEST else ""))
            and kept is not None
        )
    except (VerificationError, InvalidHashError):
        return False


def demand_strong(password: str, name: str) -> None:
    """Raises BadArguments, with the reason and what would be better."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadArguments(f"A password has from {SHORTEST} to {LONGEST} letters: four words are good.")
    from zxcvbn import zxcvbn

    found = zxcvbn(password[:LOOKED_AT], user_inputs=[name, *name.replace("@", ".").split("."), "rowcast"])
    if found["score"] < STRONG:
        if not (why := found["feedback"]["warning"]):
            raise BadArguments(
                "This password is too easy to guess. Four words that do not belong together are good."
            )
        raise BadArguments(
            f"This password is too easy to guess. {why} Four words that do not belong together are good."
        )
