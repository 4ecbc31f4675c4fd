"""Needs: what waits for a person, and goes on or comes right by nobody else.

A job that has paused itself, one of whose items nobody knows whether they have arrived, and messages that
were given up. Each is found by an index that has such rows alone.
"""

from rowcast.tables import outbox
from rowcast.tables.database import Connection
from rowcast.tables.rows import JOB
from rowcast.tables.search import OWN
from rowcast.tables.shares import seen_parts
from rowcast.tasks.accounts import Who
from rowcast.tasks.needs import Needs
from rowcast.tasks.records import Job

MOST = 20  # jobs of each kind, the newest


def needs_of(conn: Connection, who: Who) -> Needs:
    """What waits for a person, of what one sees, the newest first."""
    found: dict[int, Job] = {}
    for term, values in seen_parts(conn, who):
        index = "jobs_by_owner_unknown" if term == OWN else "jobs_unknown"
        by = "not indexed" if "json_each" in term else "indexed by"  # those that are shared, by their ids
        for source, condition in (
            ("jobs_active", "jobs.finished_at is null and jobs.status = 'paused' and jobs.reason <> ''"),
            (index, "jobs.unknown > 0"),
        ):
            asked = f"{JOB} {by} {'' if by == 'not indexed' else source} where {term} and {condition}"
            rows = conn.execute(f"{asked} order by jobs.id desc limit {MOST}", values)
            found |= {job.id: job for job in (Job(*row) for row in rows)}
    jobs = sorted(found.values(), key=lambda job: -job.id)
    tried = outbox.tried(conn, who)
    lost = [one for one in tried if one.status == "failed"]
    return Needs(jobs, lost, outbox.none_arrived(tried))
