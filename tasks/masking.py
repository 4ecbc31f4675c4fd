"""Masking: what is shown or kept of values and texts, without what opens something.

A secret is known by its name: of a field, of a parameter in an address, of a header. What has no name that
says so is shown as it is.
"""

import re
from typing import Any

MASK = "•••"
LOOKED_AT = 4_000  # letters of a text in which secrets are looked for; the rest is cut by who asks
NAMES = (
    r"pass(?:word|wd|phrase|code)|pwd|secret|token|authori[sz]ation|credential|cookie|signature|cvv|cvc|otp"
    r"|(?:api|private|access|auth|signing|encryption)[-_ ]?key"
)
NAME = re.compile(rf"(?:{NAMES})", re.IGNORECASE)
# what has such a name and is none: how many tokens a model may use
COUNTED = re.compile(
    r"(?:max|min|num|total|prompt|completion)_?tokens|tokens?_?(?:count|limit|used)", re.IGNORECASE
)
# what follows the name of a secret up to its value; bounded, for the text is anybody's
NAMED = rf"(?:{NAMES})[\w-]{{0,40}}"
HEADERS = "set-cookie|cookie|(?:proxy-)?authorization|x-api-key|x-auth-token"
IN_TEXTS = (
    (re.compile(r"(://)[^/\s:@\"'<>]{1,200}(?::[^/\s@\"'<>]{0,400})?@"), rf"\1{MASK}@"),
    (re.compile(rf"\b({HEADERS})(\s{{0,2}}:\s{{0,2}})[^\r\n\"']{{1,4000}}", re.IGNORECASE), rf"\1\2{MASK}"),
    (re.compile(r"\b(Bearer|Basic|Digest)\s+[\w.~+/=-]{6,4000}", re.IGNORECASE), rf"\1 {MASK}"),
    (
        re.compile(rf"({NAMED}\\?[\"']\s{{0,4}}:\s{{0,4}}\\?\")[^\"\\]{{1,4000}}", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    (re.compile(rf"({NAMED}\s{{0,2}}=\s{{0,2}})[^&\s\"'<>;,)]{{1,4000}}", re.IGNORECASE), rf"\1{MASK}"),
)
# most texts have none of these in them, and so no secret that can be known
SIGNS = (
    "://", "pass", "pwd", "secret", "token", "authori", "credential", "cookie", "signature", "cvv", "cvc",
    "otp", "key", "bearer", "basic", "digest",
)  # fmt: skip


def is_secret(name: str) -> bool:
    """Whether a field of this name holds what opens something."""
    name = name[:200]
    return bool(NAME.search(name)) and not COUNTED.search(name)


def masked(value: Any) -> Any:
    """A value of JSON in which each secret is MASK."""
    if isinstance(value, list):
        return [masked(one) for one in value]
    if isinstance(value, dict):
        return {key: MASK if opens(str(key), one) else masked(one) for key, one in value.items()}
    return masked_text(value) if isinstance(value, str) and "://" in value else value


def opens(name: str, value: Any) -> bool:
    """Whether a field is a secret that is there."""
    return value not in (None, "", [], {}) and not isinstance(value, bool) and is_secret(name)


def masked_text(text: str) -> str:
    """A text, of its first letters, in which what addresses, headers and fields say of secrets is MASK."""
    said = text[:LOOKED_AT]
    lower = said.lower()
    if not any(sign in lower for sign in SIGNS):
        return said
    for pattern, instead in IN_TEXTS:
        said = pattern.sub(instead, said)
    return said


def unmasked(value: Any, original: Any) -> Any:
    """A value that was shown masked and may have been edited, with the secrets that were left alone."""
    if value == MASK:
        return original
    if isinstance(value, dict) and isinstance(original, dict):
        return {key: unmasked(one, original.get(key, one)) for key, one in value.items()}
    if isinstance(value, list) and isinstance(original, list) and len(value) == len(original):
        return [unmasked(one, before) for one, before in zip(value, original, strict=True)]
    return value
