"""Pacing: what keeps a job from starting more items now. Called inside the ledger's transactions.

Pace is GCRA over one row per task, so it holds across all jobs and processes; Retry-After holds the whole task back; jobs of
one task share its concurrency; a canary stops after its first items; a stop rule pauses a job that fails too much.
"""

from collections.abc import Sequence

from rowcast.database import Connection, tick
from rowcast.records import Hold


def allowed(conn: Connection, job: int, wanted: int, held: int, now: float) -> tuple[int, float]:
    """How many of `wanted` starts are allowed now, and the seconds to wait where it is none for a known time.

    `held` of the job's running items are the asking worker's own.
    """
    task, queued, running, total, concurrency, pace, canary = conn.execute(
        "select task, queued, running, total, concurrency, pace, canary from jobs where id = ?", (job,)
    ).fetchone()
    wanted = min(wanted, queued)
    others, taken = conn.execute(
        """select count(*), coalesce(sum(running), 0) from jobs
           where finished_at is null and id <> ? and task = ? and status in ('queued', 'running')
             and (running > 0 or queued > 0) and shape = 'items'""",
        (job, task),
    ).fetchone()
    if others:
        share = max(1, concurrency // (others + 1))
        wanted = min(wanted, max(share - running, min(concurrency - taken - running, share)))
    if running > held:
        wanted = min(wanted, concurrency - running)
    if canary:
        wanted = min(wanted, canary - (total - queued))
    if wanted < 1:
        return 0, 0.0
    row = conn.execute("select arrival, hold_until from paces where task = ?", (task,)).fetchone()
    arrival, hold_until = row or (0.0, 0.0)
    if hold_until > now:
        return 0, hold_until - now
    return by_rate(pace, arrival, wanted, now) if pace else (wanted, 0.0)


def by_rate(pace: float, arrival: float, wanted: int, now: float) -> tuple[int, float]:
    """GCRA, the generic cell rate algorithm (ITU-T I.371), with a burst of a tenth of a second's worth, at least one.

    `arrival` is the theoretical arrival time of the next start. Returns how many may start now, and the wait if none.
    """
    spacing, burst = 1 / pace, max(1.0, pace / 10)
    free = (now - max(arrival, now)) / spacing + burst
    if free < 1 - 1e-6:
        return 0, (1 - free) * spacing
    return min(wanted, int(free + 1e-6)), 0.0


def spend(conn: Connection, job: int, starts: int, now: float) -> None:
    """Count starts against the task's pace."""
    task, pace = conn.execute("select task, pace from jobs where id = ?", (job,)).fetchone()
    if pace and starts:
        conn.execute(
            """insert into paces (task, arrival) values (?1, ?2 + ?3)
               on conflict (task) do update set arrival = max(arrival, ?2) + ?3""",
            (task, now, starts / pace),
        )


def hold(conn: Connection, job: int, hold: Hold) -> None:
    """Nothing of the job's task starts before `hold.until` (Retry-After); the later of two holds counts."""
    ((task,),) = conn.execute("select task from jobs where id = ?", (job,)).fetchall()
    conn.execute(
        """insert into paces (task, hold_until, reason) values (?1, ?2, ?3)
           on conflict (task) do update set reason = iif(?2 > hold_until, ?3, reason),
               hold_until = max(hold_until, ?2)""",
        (task, hold.until, hold.reason),
    )
    for (waiting,) in conn.execute("select id from jobs where task = ? and finished_at is null", (task,)).fetchall():
        conn.execute("update jobs set seq = ? where id = ?", (tick(conn), waiting))


def check_rules(conn: Connection, job: int, outcomes: Sequence[str]) -> None:
    """After results, `outcomes` their statuses in order: pause the job where its canary is over or its stop rule is hit."""
    status, total, queued, running, completed, failed, canary, rule, base, streak = conn.execute(
        "select status, total, queued, running, completed, failed, canary, stop_after, stop_base, streak from jobs"
        " where id = ?",
        (job,),
    ).fetchone()
    if rule:
        for outcome in outcomes:
            streak = streak + 1 if outcome == "failed" else 0 if outcome == "completed" else streak
        conn.execute("update jobs set streak = ? where id = ?", (streak, job))
    if status != "running":
        return
    reason = ""
    if rule and queued and breaks(rule, failed - base, total, streak):
        reason = f"Stopped by its rule ({rule_text(rule)}): {failed:,} of {total:,} items have failed."
    elif canary and queued and not running and total - queued >= canary:
        reason = f"The canary is over: {completed:,} completed, {failed:,} failed. Resume to run the other {queued:,}."
    if reason:
        conn.execute("update jobs set status = 'paused', reason = ?, seq = ? where id = ?", (reason, tick(conn), job))


def breaks(rule: str, failed: int, total: int, streak: int) -> bool:
    """Whether a stop rule is hit: "5%" of all items failed, or "20" failures in a row."""
    if rule.endswith("%"):
        return failed > 0 and failed * 100 >= float(rule[:-1]) * total
    return streak >= int(rule)


def rule_text(rule: str) -> str:
    return f"{rule} failed" if rule.endswith("%") else f"{rule} failures in a row"
