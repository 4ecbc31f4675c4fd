"""The results of steps as they are recorded: one that an earlier run of the job has completed gives the same
value again.
"""

from typing import Any

from rowcast.tasks.encoding import as_json, from_json, tagged, to_json
from rowcast.tasks.records import decode
from rowcast.tasks.work import RESULT_LENGTH, Step

AWAITED = "awaited"  # the tag of a step's result that came from what was awaited


def kept(key: str, result: Any, awaited: bool) -> str:
    """A step's result as it is recorded. Raises TypeError for one that could not be given back at another
    try.
    """
    try:
        value = as_json(result)
    except TypeError as error:
        raise TypeError(
            f"The result of the step {key!r} cannot be recorded: {error}; return what is needed of it."
        ) from None
    text = to_json(tagged(AWAITED, value) if awaited else value).decode()
    if len(text) > RESULT_LENGTH:
        raise TypeError(
            f"The result of the step {key!r} cannot be recorded: it has {len(text):,} letters, and"
            f" {RESULT_LENGTH:,} are kept; return less."
        )
    return text


def recorded(row: Step) -> tuple[bool, Any]:
    """Whether a step's result came from what was awaited, and the result."""
    value = None if row.result is None else decode(row.result)
    if isinstance(value, dict) and value.get("$rowcast") == AWAITED:
        return True, from_json(value["value"])
    return False, from_json(value)
