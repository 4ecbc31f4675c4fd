"""Groups: which failures are alike. What differs from item to item in an error does not tell them apart."""

import re
from functools import lru_cache

from rowcast.tasks.text import ODD

LOOKED_AT = 2000  # letters of an error by which it is told from others


def fingerprint(code: int | None, error: str | None) -> str:
    """The group a failure belongs to: its code and its message with
    numbers, addresses and quoted texts taken out.
    """
    return f"{code or ''} {message_of(error)}".strip()


# What differs from item to item in an error, in the order in which it is taken out: a list of such things,
# too, is one. No expression begins twice within a word, so each takes time in proportion to the text.
DIFFERS = [
    re.compile(expression, re.IGNORECASE)
    for expression in (
        r"\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>]+",  # a URL
        # a quoted text, also one that was cut, and bytes
        r"(?:(?<!\w)|(?<=\b[bru])|(?<=\b[br][br]))([\"'`])(?:\\.|(?!\1)[^\\])*(?:\1(?!\w)|$)",
        r"[»›][^»›«‹\s][^»›«‹]*[«‹]",  # before the next takes its end for a beginning
        r"[“‘«„‹‚「『][^”’»“›‘」』]*(?:[”’»“›‘」』]|$)",
        r"(?<!\S)[^\s@]+@\S+",  # an address
        r"(?<![\w/\\.])(?:~|\.{1,2}|[a-z]:)?[/\\][^\s,;:)\]]+",  # a path
        r"(?<![\w/\\.-])[\w.-]+(?:[/\\][\w.-]+)+\.\w+",
        r"(?<![\w.-])[\w-]+\.[\w.-]*:\d+\b",  # host and port
        r"\b(?:[0-9a-f]{0,4}:){2,7}[0-9a-f.]*",  # IPv6, and a time of the day
        r"\b0x[0-9a-f]+\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
        r"\b(?=[a-f]*\d)[0-9a-f]{5,}\b",  # a hex id
        r"(?<![\w-])(?=[\w-]*\d[\w-]*\d)[\w-]{16,}(?![\w-])",  # another id
        r"(?:(?<!\S)[-+])?\d[\d,.]*(?:e[-+]?\d+)?(?<![,.])",  # a number
        r"…(?:[\s,;]+…)+",
    )
]
# Failures of a job are kept apart in so many groups; more, as they come where each error has a text of its
# own, say nothing to anybody, and are one group: OTHERS.
MOST_GROUPS = 200
OTHERS = "(others)"
KINDS = 4  # groups that a picture tells apart, each by a colour of its own; the others share one


@lru_cache(maxsize=1024)  # most failures of a job say the same
def message_of(error: str | None) -> str:
    """An error without what differs from item to item, for showing a group: of its first LOOKED_AT
    letters.
    """
    text = (error or "")[:LOOKED_AT].strip().partition("\n")[0] or "failed"
    text = ODD.sub("…", text)  # it goes through forms and addresses, where such letters would be lost
    for differs in DIFFERS:
        text = differs.sub("…", text)
    return text[:200]
