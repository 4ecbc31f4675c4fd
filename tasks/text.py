"""What others wrote, fit to be read: nothing of it steers a terminal, forges a line of a log, or hides.

`printable` is for terminals and logs (`say`, `Readable`), `reveal` for pages, which say how a character is
named. `tidy` takes the marks that nobody sees out of what is to be compared.
"""

import json
import logging
import re
import sys
import traceback
import types
from collections.abc import Callable
from typing import TextIO

# Control characters, and those without a shape: soft hyphens, zero-width and bidi marks, fillers, tags; line
# and paragraph separators; halves of surrogate pairs, which no encoding takes. (Unicode: Cc,
# Default_Ignorable_Code_Point, Zl, Zp, Cs.)
UNSEEN = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Joiners belong to many scripts and to emoji, between two letters; elsewhere they only hide.
ALONE = f"\x00-\x7f{UNSEEN}\u200c\u200d"
ODD = re.compile(f"[{UNSEEN}]|(?<![^{ALONE}])[\u200c\u200d]")
BREAKS = "\t\n\r"  # a page draws them as a space
# What tidy takes away: marks alone. What fills a letter's place stays, and is no letter of an address.
MARKS = re.compile(
    "[\xad\u034f\u061c\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e0fff]"
    f"|(?<![^{ALONE}\ufe00-\ufe0f])[\u200c\u200d]"
)
# The encodings in which files of text come, as people choose them: by how they are spoken of, Python's names.
ENCODINGS = {
    "UTF-8": "utf-8",
    "UTF-16": "utf-16",
    "Windows-1252 (Western)": "cp1252",
    "MacRoman (Western)": "mac-roman",
    "MS-DOS 850 (Western)": "cp850",
    "Windows-1250 (Central European)": "cp1250",
    "Windows-1251 (Cyrillic)": "cp1251",
    "KOI8-R (Cyrillic)": "koi8-r",
    "MS-DOS 866 (Cyrillic)": "cp866",
    "Windows-1253 (Greek)": "cp1253",
    "Windows-1254 (Turkish)": "cp1254",
    "Windows-1255 (Hebrew)": "cp1255",
    "Windows-1256 (Arabic)": "cp1256",
    "Windows-874 (Thai)": "cp874",
    "Shift-JIS (Japanese)": "cp932",
    "EUC-JP (Japanese)": "euc_jis_2004",
    "GB18030, GBK (Chinese)": "gb18030",
    "Big5 (Chinese)": "big5hkscs",
    "EUC-KR (Korean)": "cp949",
}


def printable(text: str) -> str:
    """A text as one line that a terminal only shows: what steers or hides is written as Python writes it."""
    return ODD.sub(lambda odd: odd[0].encode("unicode_escape").decode(), text)


def printable_json(text: str) -> str:
    """JSON on a line that a terminal only shows: what steers or hides is escaped, and read as what it is."""
    return ODD.sub(lambda odd: json.dumps(odd[0])[1:-1], text)


def reveal(text: str, named: Callable[[str], str]) -> str:
    """A text whose odd characters, but for line breaks and tabs, are what `named` makes of their names (as
    U+202E).
    """
    return ODD.sub(lambda odd: odd[0] if odd[0] in BREAKS else named(f"U+{ord(odd[0]):04X}"), text)


def tidy(text: str) -> str:
    """A text without marks that nobody sees, and without space around it."""
    return MARKS.sub("", text).strip()


def say(line: str, to: TextIO | None = None) -> None:
    """Print one line, to stdout where it is not said; it is there even if the process is ended right then."""
    print(printable(line), file=to or sys.stdout, flush=True)


class Readable(logging.Filter):
    """Has a logger's messages and tracebacks in printable letters, whatever handlers they go to."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = printable(message_of(record))
        record.args = None
        if record.exc_info and record.exc_info[1]:
            lines = traceback_of(record.exc_info[1]).split("\n")
            record.exc_text = "\n".join(map(printable, lines))
        return True


def message_of(record: logging.LogRecord) -> str:
    """A record's message; of arguments that do not fit, or have no words, what was to have them."""
    try:
        return record.getMessage()
    except BaseException:  # what is logged has code of its own, which may raise anything
        return record.msg if isinstance(record.msg, str) else f"a {type(record.msg).__name__}"


def traceback_of(error: BaseException, trace: types.TracebackType | None = None) -> str:
    """A traceback as Python writes it, from `trace` on; of an exception that Python cannot put in words (in
    3.11 one whose `__getattr__` raises a KeyError, say) the places and the name of its type.
    """
    try:
        trace = trace or error.__traceback__
        lines = traceback.format_exception(type(error), error, trace)
    except BaseException:  # an exception has code of its own, which may raise anything
        begin = ["Traceback (most recent call last):\n"] if trace else []
        lines = [*begin, *traceback.format_tb(trace), type(error).__name__]
    return "".join(lines).rstrip("\n")
