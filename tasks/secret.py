"""Secret: an argument that nobody is to read but the task itself.

    @task
    async def sync(user: dict, api: httpx.AsyncClient, key: Secret[str]):
        await api.post("/sync", headers={"Authorization": f"Bearer {key.reveal()}"})

As text, in a log, in an error or as JSON it is MASK. What is written of a job's arguments is SEALED, which
the tables do by their key (tables/seals.py). Whoever calls the task puts the values in their places again
(`with_secrets`).
"""

import hmac
import typing
from typing import Any, Generic, TypeVar

from rowcast.tasks.masking import MASK

Of = TypeVar("Of", bound=str)
LEAST = 4  # letters: a shorter one could not be told from any other text, and hidden in it
LONGEST = 20_000  # letters, of a key file, say
SEALED = "secret"  # what `encoding` calls a value that is sealed


class Secret(Generic[Of]):
    """A text that is shown to nobody. `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: Of):
        if not isinstance(text, str):
            raise TypeError("a Secret is made of a text")
        self._text = text

    def reveal(self) -> Of:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        pair = (one.encode(errors="surrogatepass") for one in (self._text, other._text))
        return hmac.compare_digest(*pair)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> "Secret[Of]":
        return self

    def __deepcopy__(self, _: Any) -> "Secret[Of]":
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled: give what needs it `reveal()`")


def is_secret_kind(kind: Any) -> bool:
    """Whether an annotation is Secret[str]."""
    return kind is Secret or (typing.get_origin(kind) is Secret and typing.get_args(kind) == (str,))


def names_secret(kind: Any) -> bool:
    """Whether an annotation has a Secret anywhere in it."""
    return (
        kind is Secret or typing.get_origin(kind) is Secret or any(map(names_secret, typing.get_args(kind)))
    )


def read_secret(value: Any, strict: bool = True) -> Secret[str]:
    """What was given for a secret, as one. Raises ValueError, which never says what it was."""
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str):
        raise ValueError("Expected a text")
    if text == MASK:
        raise ValueError(f"{MASK} is shown in place of the secret: give the secret itself")
    if not LEAST <= len(text) <= LONGEST:
        raise ValueError(f"A secret has from {LEAST} to {LONGEST:,} letters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("A secret is a text that can be written as UTF-8") from None
    return value if isinstance(value, Secret) else Secret(text)


def with_secrets(value: Any, opened: dict[str, str]) -> Any:
    """A job's arguments, as JSON, with a Secret in place of each that is sealed. `opened`: what they are, by
    their seals. Raises ValueError for one that nobody has opened.
    """
    if type(value) is list:
        return [with_secrets(one, opened) for one in value]
    if type(value) is not dict:
        return value
    if (seal := seal_in(value)) is None:
        return {key: with_secrets(one, opened) for key, one in value.items()}
    if seal not in opened:
        raise ValueError("a secret of this job has not been opened")
    return Secret(opened[seal])


def seal_in(value: dict[str, Any]) -> str | None:
    """The seal that an object of JSON stands for; None where it is another."""
    return value["value"] if value.get("$rowcast") == SEALED and len(value) == 2 else None
