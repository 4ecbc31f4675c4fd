"""Templates: a text with blanks, into which the values of a row are put.

`{name}` is the value of the column `name`; `{name|there}` is "there" where the row has none; `{name:url}` is
written for an address on the web. Nothing else is read: no attribute, no call, no condition, so whoever may
write a template may do no more than that. A brace that begins no blank, of a style sheet say, stays.
"""

import html
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from rowcast.tasks.records import BadArguments

# a column's name, perhaps `:url`, perhaps what stands there where the row has no value
BLANK = re.compile(r"\{([^\W\d][\w -]{0,99})(:url)?(?:\|([^{}\r\n]{0,200}))?\}")
NAMED = 20  # columns that are named to who has written of another


def filled(template: str, row: Mapping[str, Any], write: Callable[[str], str] = str) -> str:
    """A template with a row's values, each as `write` writes it. Raises BadArguments for a blank of no
    column."""
    values = {name.casefold(): value for name, value in row.items()}

    def value_of(blank: re.Match[str]) -> str:
        name, url, other = blank.groups()
        value = values.get(name.casefold())
        if value is None or value == "":
            if other is None and name.casefold() not in values:
                raise BadArguments(f"There is no column {name!r} for {blank[0]}; there are {columns(row)}.")
            value = other or ""
        text = str(value)
        return write(quote(text, safe="") if url else text)

    return BLANK.sub(value_of, template)


def filled_html(template: str, row: Mapping[str, Any]) -> str:
    """The same of HTML, where a value is text and no tag. Raises BadArguments."""
    return filled(template, row, html.escape)


def columns(row: Mapping[str, Any]) -> str:
    names = list(row)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
