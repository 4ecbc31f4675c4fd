"""A job and an item as they are read: the columns of a record, and the terms of what is asked for."""

from typing import Any

from rowcast.tables.shares import Seen
from rowcast.tasks.records import RATE_WINDOW, RETRYING, Item, Job

COUNTED = {  # what of a Job is no column of `jobs`
    "recent": f"""(select coalesce(sum(t.items), 0) from throughput t where t.job = jobs.id
        and t.second >= unixepoch() - {RATE_WINDOW} and jobs.finished_at is null)""",
    "swept": "exists (select 1 from sweeps where job = jobs.id)",
    # while that is there
    "again_job": "(select old.id from jobs old where old.id = jobs.again_job and old.owner <> '')",
}
MADE = ("window", "held_by", "eta_range", "eta_why")  # what no statement reads
READ = [name for name in Job.__struct_fields__ if name not in MADE]
JOB = f"select {', '.join(COUNTED.get(name, f'jobs.{name}') for name in READ)} from jobs"
ITEM_COLUMNS = ", ".join(Item.__struct_fields__)
ITEM = f"select {ITEM_COLUMNS} from items"
# the items that wait, by the index that has their moments
TO_CLAIM = "items indexed by items_to_claim where status = 'queued' and"


def all_of(terms: dict[str, Any], seen: Seen | None = None) -> tuple[str, list[Any]]:
    """SQL terms that must hold, each with the value of its `?`, as one condition; those without a value are
    left out. Before them those of whose jobs are seen.
    """
    given = {term: value for term, value in terms.items() if value is not None}
    term, values = seen or ("", [])
    return " and ".join([*filter(None, [term]), *given]), [*values, *given.values()]


def items_of(job: int, status: str | None, fingerprint: str | None) -> dict[str, Any]:
    """The terms for a job's items of a status, or of an error group, whose own index is the better one."""
    if status == RETRYING:
        return {"job = ?": job, "run_at > ?": 0, "attempt > ?": 0, "fingerprint = ?": fingerprint}
    plus = "" if fingerprint is None else "+"
    return {"job = ?": job, "fingerprint = ?": fingerprint, f"{plus}status = ?": status}
