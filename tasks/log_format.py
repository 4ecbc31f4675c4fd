"""The program's own log: lines for people, as Python writes them, or JSON for what gathers logs. Then each
line says which job, item and attempt it is about.
"""

import logging
import sys
from typing import Any

from rowcast.tasks.encoding import to_json
from rowcast.tasks.records import iso
from rowcast.tasks.steps import current_call, job_here
from rowcast.tasks.text import message_of, printable_json, traceback_of

SERVERS = ("uvicorn", "uvicorn.error", "uvicorn.access")  # they have handlers of their own


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        call = current_call.get()
        line: dict[str, Any] = {
            "at": iso(record.created),
            "level": record.levelname,
            "logger": record.name,
            "text": message_of(record),
            "job": job_here(),
            "item": call.item if call else None,
            "attempt": call.attempt if call else None,
        }
        if record.exc_info and record.exc_info[1]:
            line["traceback"] = traceback_of(record.exc_info[1]) + "\n"
        return printable_json(to_json({name: clean(value) for name, value in line.items()}).decode())


def clean(value: Any) -> Any:
    """A text as JSON takes it."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def set_log_format(name: str) -> None:
    """From now on this process logs so; `text` leaves it as it is."""
    if name != "json":
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.getLogger().handlers[:] = [handler]
    for server in SERVERS:
        logger = logging.getLogger(server)
        logger.handlers.clear()
        logger.propagate = True
