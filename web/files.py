"""A job's results as files, of all its items or of a view's: CSV for spreadsheets, a line of JSON each for
programs. They are written as they are read, some hundred lines at a time."""

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rowcast.tasks import answers
from rowcast.tasks.records import Item, Job, encode
from rowcast.web.requests import at, owner_of, results_view

BOM = b"\xef\xbb\xbf"  # by which Excel knows that it reads UTF-8
SIGNS = "=+\\-@＝＋－＠"
# What a spreadsheet may take for a formula (OWASP, "CSV injection"): a cell that begins with a sign; and, as
# Excel splits at semicolons in half of the world and then heeds no quotes, one behind a separator or a line.
FORMULA = re.compile(f"^(?=[\t\r\n{SIGNS}])|(?<=[;|\t\r\n])(?=[{SIGNS}])")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # of JSON
COLUMNS = ("position", "key", "status", "attempt", "code", "error", "result", "ms", "updated_at")
LINES = 500  # in one piece of the answer


def results_csv(req: Request) -> Response:
    job, items = wanted(req)
    return download(job, "csv", "text/csv; charset=utf-8", csv_lines(items))


def results_ndjson(req: Request) -> Response:
    job, items = wanted(req)
    return download(
        job, "ndjson", "application/x-ndjson", (encode(answers.of(item)) + b"\n" for item in items)
    )


def wanted(req: Request) -> tuple[Job, Iterator[Item]]:
    job = at(req).jobs.job(req.path_params["job"], owner_of(req))
    return job, at(req).jobs.every_item(job.id, results_view(req))


def download(job: Job, ending: str, kind: str, lines: Iterator[bytes]) -> Response:
    name = f"job-{job.id}-results{'' if job.ended else '-not-complete'}.{ending}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    pieces = iter(lambda: b"".join(islice(lines, LINES)), b"")
    return StreamingResponse(pieces, media_type=kind, headers=headers)


def csv_lines(items: Iterator[Item]) -> Iterator[bytes]:
    """A line of CSV for the columns, and one for each item, which a spreadsheet opens as it is meant:
    letters, numbers, and no formula.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    yield BOM
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
    """A cell with an apostrophe before whatever might start a formula; a number is none."""
    if not isinstance(cell, str) or NUMBER.fullmatch(cell):
        return cell
    return FORMULA.sub("'", cell)
