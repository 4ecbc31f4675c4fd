"""A job's results as files: CSV for spreadsheets, a line of JSON each for programs. They are written as they
are read, some hundred lines at a time."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rowcast.tasks import answers
from rowcast.tasks.records import OWNER, Item, Job, encode
from rowcast.web.requests import at

# What a spreadsheet takes for the begin of a formula (OWASP, "CSV injection"): such a cell gets an
# apostrophe.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
COLUMNS = ("position", "key", "status", "attempt", "code", "error", "result", "ms", "updated_at")
LINES = 500  # in one piece of the answer


def results_csv(req: Request) -> Response:
    job = at(req).jobs.job(req.path_params["job"], OWNER)
    return download(job, "csv", "text/csv; charset=utf-8", csv_lines(at(req).jobs.every_item(job.id)))


def results_ndjson(req: Request) -> Response:
    job = at(req).jobs.job(req.path_params["job"], OWNER)
    lines = (encode(answers.of(item)) + b"\n" for item in at(req).jobs.every_item(job.id))
    return download(job, "ndjson", "application/x-ndjson", lines)


def download(job: Job, ending: str, kind: str, lines: Iterator[bytes]) -> Response:
    name = f"job-{job.id}-results{'' if job.ended else '-not-complete'}.{ending}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    pieces = iter(lambda: b"".join(islice(lines, LINES)), b"")
    return StreamingResponse(pieces, media_type=kind, headers=headers)


def csv_lines(items: Iterator[Item]) -> Iterator[bytes]:
    """A line of CSV for the columns, and one for each item."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for item in items:
        row = answers.of(item)
        row.result = item.result
        writer.writerow([harmless(getattr(row, name)) for name in COLUMNS])
        yield taken(buffer)
    yield taken(buffer)


def taken(buffer: io.StringIO) -> bytes:
    """What is in the buffer, which is empty then."""
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()


def harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
