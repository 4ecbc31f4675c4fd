"""The outbox: what is told of a job, written in the transaction that ends or pauses it, a row a receiver.

So no message is lost, whatever dies between the end and the sending: the row stays until it was delivered,
or given up, and bears the same id on every try. `note` is called by counts.py; messages/sender.py claims what
is due, and says what came of it. A sender is alone: what another had under way when it died is due again.
`rowcast.outbox` rises with what comes in, and with what has arrived or is given up, so nobody looks for it in
vain.
"""

import math
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import NamedTuple

from rowcast.tables.database import Connection, OnDatabase, tick, transaction
from rowcast.tables.shares import owned_by
from rowcast.tasks import answers, clock
from rowcast.tasks.accounts import Who
from rowcast.tasks.notify import Receiver, as_text, of_text
from rowcast.tasks.records import Delivery, Job, NotAllowed, NotFound, encode, iso

ENDS = ("completed", "failed")  # what a run can turn from one to the other by
LEAST_PAUSE = 3600.0  # seconds between two messages that the machine's trouble has paused a job
LARGE = 16_000  # bytes of arguments that no message bears: receivers take some 20 KB (Standard Webhooks)
OF_A_JOB = 500  # the newest messages of a job, which are shown; the others are on the page of all
LAST = 3  # messages in a row that did not arrive, before a page says so
TRIED = 20  # messages of late among which those are told of that were given up
LATELY = 7 * 86_400.0  # seconds in which what did not arrive is told of
ANSWER = 300  # letters of an error that are kept

COLUMNS = ", ".join("receiver" if name == "to" else name for name in Delivery.__struct_fields__)
# Over which few are sent at once: a receiver, or all mailboxes, whose mails go to one server.
LANE = "iif(channel = 'email', channel, receiver)"
DELIVERY = f"select {COLUMNS} from deliveries"
# Each lane that waits, and when its first is due: from lane to lane over the index, however many wait in one.
LANES = f"""with recursive lanes (lane) as (
        select * from (select {LANE} from deliveries where status = 'queued' order by {LANE} limit 1)
        union all
        select (select {LANE} from deliveries where status = 'queued' and {LANE} > lanes.lane
                order by {LANE} limit 1)
        from lanes where lane is not null
    )
    select lane, (select due_at from deliveries where status = 'queued' and {LANE} = lanes.lane
                  order by due_at limit 1)
    from lanes where lane is not null"""
FIRST_OF = f"""select id from deliveries where status = 'queued' and {LANE} = ? and due_at <= ?
    order by due_at limit ?"""
OTHERS = f"""update deliveries set due_at = ?1 where status = 'queued' and {LANE} = ?2 and due_at < ?1
    and channel = ?3 and receiver = ?4"""


# ---- inside the transaction that ends or pauses a job ------------------------------------------------------


def note_all(conn: Connection, jobs: Sequence[int], least_pause: float = 0.0) -> None:
    """Write what is told of jobs that have just ended or been paused, to each who wants to know; a dry run
    tells nobody.

    With `least_pause`, nothing where that was told so many seconds ago or less.
    """
    rows = conn.execute(
        """select jobs.id, status, jobs.owner, jobs.task, notify, language, failed + unknown, green
           from json_each(?) cross join jobs on jobs.id = value
           left join outcomes on outcomes.owner = jobs.owner and outcomes.task = jobs.task
           where not dry_run order by key""",
        (encode(list(jobs)).decode(),),
    ).fetchall()
    were = {(owner, task): green for _, _, owner, task, *_, green in rows}
    greens = dict(were)
    for job, event, owner, task, notify, language, amiss, _ in rows:
        turned = False
        if event in ENDS:
            before = greens[owner, task]
            green = int(event == "completed" and not amiss)
            greens[owner, task] = green
            turned = before is not None and before != green
        _tell(conn, job, event, turned, (owner, task, notify, language), least_pause)
    if changed := [(*run, green) for run, green in greens.items() if green != were[run]]:
        conn.executemany(
            """insert into outcomes (owner, task, green) values (?, ?, ?)
               on conflict (owner, task) do update set green = excluded.green""",
            changed,
        )


def _tell(
    conn: Connection, job: int, event: str, turned: bool, of: tuple[str, str, str, str], least_pause: float
) -> None:
    """Write what is told of one job; `turned`: whether the last run of its task ended otherwise."""
    owner, task, notify, language = of
    now = clock.now()
    wanted = [(one, asked) for one in of_text(notify) if (asked := one.asked(event, turned))]
    if not wanted or (least_pause and _was_told(conn, job, event, now - least_pause)):
        return
    bodies = {asked: body_of(conn, job, asked, now) for asked in {asked for _, asked in wanted}}
    conn.executemany(
        """insert into deliveries (id, job, task, owner, channel, receiver, trusted, event, body,
               language, due_at, asked_at, created_at)
           values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?11)""",
        [
            (
                new_id(),
                job,
                task,
                owner,
                one.channel,
                one.to,
                int(one.trusted),
                asked,
                bodies[asked],
                language,
                now,
            )
            for one, asked in wanted
        ],
    )
    _ring(conn)


def moves_of(conn: Connection) -> int:
    """How often something has come into the outbox, or left it."""
    return int(conn.execute("select outbox from rowcast").fetchone()[0])


def _ring(conn: Connection) -> None:
    """Something has come into the outbox, or has left it."""
    conn.execute("update rowcast set outbox = outbox + 1")


def new_id() -> str:
    """What a receiver knows a message by."""
    return f"msg_{secrets.token_hex(12)}"


def _was_told(conn: Connection, job: int, event: str, since: float) -> bool:
    sql = "select 1 from deliveries where job = ? and event = ? and created_at > ? limit 1"
    return bool(conn.execute(sql, (job, event, since)).fetchone())


def body_of(conn: Connection, job: int, event: str, now: float) -> str:
    """What is told, as Standard Webhooks has it: the event, when, and the job as it is at this moment."""
    cursor = conn.execute("select * from jobs where id = ?", (job,))
    names = [column[0] for column in cursor.getdescription()]
    row = dict(zip(names, cursor.fetchone(), strict=True))
    found = {name: row[name] for name in Job.__struct_fields__ if name in row}
    told = answers.of(Job(**found, recent=0))
    if len(row["args"]) > LARGE:
        told.args = None
    return encode({"type": f"job.{event}", "timestamp": iso(now), "data": told}).decode()


# ---- the sender's --------------------------------------------------------------------------------------


class Came(NamedTuple):
    """What came of a try: the message's status now; where it is `queued`, it is due again then, and the other
    messages for its receiver not before `others_at`. Both are by `clock.steady`.
    """

    delivery: Delivery
    status: str
    code: int | None
    error: str | None = None
    due_at: float = 0.0
    others_at: float = 0.0


class Free(NamedTuple):
    """How much may be taken: `left` in all, over a lane `few` at once, where so many are under way; over one
    that is `silent` one at once, and of all those no more than half of what is left.
    """

    left: int
    few: int
    under_way: Mapping[str, int] = {}
    silent: Collection[str] = ()

    def over(self, lane: str) -> int:
        """How many may be taken over a lane."""
        return (1 if lane in self.silent else self.few) - self.under_way.get(lane, 0)


class Outbox(OnDatabase):
    """The deliveries of one database file."""

    def take_back(self) -> int:
        """What a sender before this one had under way is due again; returns how many."""
        with transaction(self.conn) as conn:
            conn.execute(
                "update deliveries set status = 'queued', due_at = ? where status = 'sending'", (clock.now(),)
            )
            return int(conn.changes())

    def moves(self) -> int:
        """A number that rises when something comes into the outbox, or has arrived or is given up."""
        return moves_of(self.conn)

    def turn(self, came: Sequence[Came], free: Free) -> tuple[list[Delivery], float]:
        """Write what came of tries and take what is due, in one transaction, where there is any; and when to
        look again, as long as no try ends and nothing comes in: when the next is due that has room.
        """
        lanes = self._lanes()
        now = clock.now()
        taken: list[Delivery] = []
        if came or self._picked(lanes, free, now):
            with transaction(self.conn) as conn:
                for one in came:
                    _note_try(conn, one)
                picked = self._picked(self._lanes(), free, clock.now())
                taken = _take(conn, picked) if picked else []
                tick(conn)
                lanes = self._lanes()  # a fault after the commit would leave what is taken to nobody
                now = clock.now()
        flying = Counter(free.under_way) + Counter(one.lane for one in taken)
        still = free._replace(under_way=flying)
        return taken, min((at for lane, at in lanes if at > now and still.over(lane) > 0), default=math.inf)

    def _lanes(self) -> list[tuple[str, float]]:
        return self.conn.execute(LANES).fetchall()

    def _picked(self, lanes: Sequence[tuple[str, float]], free: Free, now: float) -> list[str]:
        """The ids of what is to be taken: the first of each lane, the longest due first, then the seconds."""
        due = sorted((due_at, lane) for lane, due_at in lanes if due_at <= now and free.over(lane) > 0)
        silent = [lane for _, lane in due if lane in free.silent][: free.left // 2]
        well = [lane for _, lane in due if lane not in free.silent][: free.left]
        rows = (
            self.conn.execute(FIRST_OF, (lane, now, free.over(lane))).fetchall()
            for lane in [*well, *silent][: free.left]
        )
        ranks = chain.from_iterable(zip_longest(*rows))
        return [row[0] for row in islice(filter(None, ranks), free.left)]

    # ---- what is asked -------------------------------------------------------------------------------------

    def of_job(self, job: int) -> list[Delivery]:
        """What was told of a job, the newest first. Whose it is was asked before."""
        return of_job(self.conn, job)

    def lately(self, who: Who, limit: int, status: str | None = None) -> list[Delivery]:
        """What was told of the jobs that one sees, the newest first; of one status, or of all."""
        where, values = owned_by(who)
        index = "deliveries_by_age" if values else "deliveries_by_time"
        of_status = "1"
        if status == "failed":  # of which there are few
            index = "deliveries_failed"
            of_status = "status = 'failed'"
        elif status:
            of_status = "status = ?"
            values = [*values, status]
        rows = self.conn.execute(
            f"""{DELIVERY} indexed by {index} where {where} and {of_status}
                order by created_at desc, id limit ?""",
            (*values, limit),
        )
        return [Delivery(*row) for row in rows]

    def counts(self, who: Who) -> dict[str, int]:
        """How many one sees of each status, of those of late."""
        where, values = owned_by(who)
        rows = self.conn.execute(
            f"select status, count(*) from deliveries where {where} and created_at > ? group by status",
            (*values, clock.now() - LATELY),
        )
        return dict(rows.fetchall())

    def failing(self, who: Who) -> list[Delivery]:
        """The last messages that one sees, where none has arrived and one at least was given up, else []."""
        return none_arrived(tried(self.conn, who))

    def receivers(self, job: int) -> list[Receiver]:
        """Who is told of a job. Whose it is was asked before."""
        found = self.conn.execute("select notify from jobs where id = ?", (job,)).fetchone()
        return of_text(found[0]) if found else []

    # ---- what a person may do ------------------------------------------------------------------------------

    def tell(self, job: int, receivers: Iterable[Receiver]) -> None:
        """From now on these are told of a job that has not ended. Raises NotAllowed."""
        with transaction(self.conn) as conn:
            conn.execute(
                "update jobs set notify = ?, seq = ? where id = ? and finished_at is null",
                (as_text(receivers), tick(conn), job),
            )
            if not conn.changes():
                raise NotAllowed(f"Job {job} has ended: who is told of it cannot be changed.")

    def send_again(self, job: int, delivery: str) -> Delivery:
        """Send a message of a job now, under its id, also one that was delivered or given up.

        Raises NotFound, NotAllowed.
        """
        with transaction(self.conn) as conn:
            found = _find(conn, job, delivery)
            if found.status == "sending":
                raise NotAllowed(f"The message {delivery} is being sent just now.")
            now = clock.now()
            conn.execute(
                "update deliveries set status = 'queued', due_at = ?1, asked_at = ?1 where id = ?2",
                (now, delivery),
            )
            _ring(conn)
            tick(conn)
            return _find(conn, job, delivery)


def _note_try(conn: Connection, came: Came) -> None:
    """Write what came of a try, unless it is not this sender's any more."""
    one = came.delivery
    error = came.error
    conn.execute(
        """update deliveries set status = ?1, code = ?2, error = ?3, due_at = coalesce(?4, due_at),
               delivered_at = iif(?1 = 'delivered', ?5, delivered_at)
           where id = ?6 and status = 'sending' and attempts = ?7""",
        (
            came.status,
            came.code,
            error and error[:ANSWER],
            clock.moment(came.due_at) or None,
            clock.now(),
            one.id,
            one.attempts,
        ),
    )
    if came.status != "queued":
        _ring(conn)
    if came.others_at:
        conn.execute(OTHERS, (clock.moment(came.others_at), one.lane, one.channel, one.to))


def _take(conn: Connection, picked: Sequence[str]) -> list[Delivery]:
    """These are under way from now on."""
    ids = encode(picked).decode()
    conn.execute(
        """update deliveries set status = 'sending', attempts = attempts + 1, tried_at = ?
           where status = 'queued' and id in (select value from json_each(?))""",
        (clock.now(), ids),
    )
    where = "where status = 'sending' and id in (select value from json_each(?))"
    return [Delivery(*row) for row in conn.execute(f"{DELIVERY} {where}", (ids,))]


def of_job(conn: Connection, job: int) -> list[Delivery]:
    rows = conn.execute(f"{DELIVERY} where job = ? order by created_at desc, id limit ?", (job, OF_A_JOB))
    return [Delivery(*row) for row in rows]


def _find(conn: Connection, job: int, delivery: str) -> Delivery:
    row = conn.execute(f"{DELIVERY} where job = ? and id = ?", (job, delivery)).fetchone()
    if not row:
        raise NotFound(f"Job {job} has no message {delivery[:40]}.")
    return Delivery(*row)


def tried(conn: Connection, who: Who) -> list[Delivery]:
    """The last messages that one sees of which it is known whether a try has arrived, the newest first."""
    where, values = owned_by(who)
    rows = conn.execute(
        f"""{DELIVERY} where {where} and tried_at > ? and (error is not null or status = 'delivered')
            order by tried_at desc limit ?""",
        (*values, clock.now() - LATELY, TRIED),
    )
    return [Delivery(*row) for row in rows]


def none_arrived(last: list[Delivery]) -> list[Delivery]:
    """The last few, where none has arrived and one at least was given up, else []."""
    few = last[:LAST]
    statuses = {one.status for one in few}
    return few if "failed" in statuses and "delivered" not in statuses else []
