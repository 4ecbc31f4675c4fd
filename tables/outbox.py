"""The outbox: what is told of a job, written in the transaction that ends or pauses it, a row a receiver.

So no message is lost, whatever dies between the end and the sending: the row stays until it was delivered,
or given up, and bears the same id on every try. `note` is called by counts.py; messages/sender.py claims what
is due, and says what came of it. A sender is alone: what another had under way when it died is due again.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

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
LOOKED_AT = 500  # deliveries that are due, of which some are claimed
LAST = 3  # messages in a row that did not arrive, before a page says so
TRIED = 20  # messages of late among which those are told of that were given up
LATELY = 7 * 86_400.0  # seconds in which what did not arrive is told of
ANSWER = 300  # letters of an error that are kept

COLUMNS = ", ".join("receiver" if name == "to" else name for name in Delivery.__struct_fields__)
# Over which few are sent at once: a receiver, or all mailboxes, whose mails go to one server.
LANE = "iif(channel = 'email', channel, receiver)"
DELIVERY = f"select {COLUMNS} from deliveries"


# ---- inside the transaction that ends or pauses a job ------------------------------------------------------


def note(conn: Connection, job: int, least_pause: float = 0.0) -> None:
    """Write what is told of a job that has just ended or been paused, to each who wants to know; a dry run
    tells nobody.

    With `least_pause`, nothing where that was told so many seconds ago or less.
    """
    event, owner, task, notify, is_dry, amiss = conn.execute(
        "select status, owner, task, notify, dry_run, failed + unknown from jobs where id = ?", (job,)
    ).fetchone()
    if is_dry:
        return
    turned = False
    if event in ENDS:
        turned = has_turned(conn, owner, task, event == "completed" and not amiss)
    now = clock.now()
    wanted = [(one, asked) for one in of_text(notify) if (asked := one.asked(event, turned))]
    if not wanted or (least_pause and _was_told(conn, job, event, now - least_pause)):
        return
    bodies = {asked: body_of(conn, job, asked, now) for asked in {asked for _, asked in wanted}}
    conn.executemany(
        """insert into deliveries (id, job, task, owner, channel, receiver, trusted, event, body,
               due_at, asked_at, created_at)
           values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, ?10)""",
        [
            (new_id(), job, task, owner, one.channel, one.to, int(one.trusted), asked, bodies[asked], now)
            for one, asked in wanted
        ],
    )


def new_id() -> str:
    """What a receiver knows a message by."""
    return f"msg_{secrets.token_hex(12)}"


def has_turned(conn: Connection, owner: str, task: str, green: bool) -> bool:
    """Note how a run of the task has ended, and say whether its last one ended otherwise."""
    found = conn.execute("select green from outcomes where owner = ? and task = ?", (owner, task)).fetchone()
    conn.execute(
        """insert into outcomes (owner, task, green) values (?, ?, ?)
           on conflict (owner, task) do update set green = excluded.green""",
        (owner, task, int(green)),
    )
    return found is not None and bool(found[0]) != green


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


class Outbox(OnDatabase):
    """The deliveries of one database file."""

    def take_back(self) -> int:
        """What a sender before this one had under way is due again; returns how many."""
        with transaction(self.conn) as conn:
            conn.execute(
                "update deliveries set status = 'queued', due_at = ? where status = 'sending'", (clock.now(),)
            )
            return int(conn.changes())

    def is_due(self, full: Collection[str] = ()) -> bool:
        """Whether something is to be sent, over lanes that are not `full`."""
        return bool(self._due(full, 1))

    def claim(self, room: int, few: int, under_way: Mapping[str, int]) -> list[Delivery]:
        """Take what is due, `room` at most, and over each lane `few` at once; `under_way` says how many are.

        A lane that is full holds up no other.
        """
        full = [lane for lane, number in under_way.items() if number >= few]
        flying = Counter(under_way)
        picked: list[str] = []
        for delivery, lane in self._due(full, LOOKED_AT):
            if len(picked) < room and flying[lane] < few:
                flying[lane] += 1
                picked.append(delivery)
        if not picked:
            return []
        ids = encode(picked).decode()
        with transaction(self.conn) as conn:
            conn.execute(
                """update deliveries set status = 'sending', attempts = attempts + 1, tried_at = ?
                   where status = 'queued' and id in (select value from json_each(?))""",
                (clock.now(), ids),
            )
            tick(conn)
            where = "where status = 'sending' and id in (select value from json_each(?))"
            return [Delivery(*row) for row in conn.execute(f"{DELIVERY} {where}", (ids,))]

    def _due(self, full: Collection[str], limit: int) -> list[tuple[str, str]]:
        """What is due, as (id, lane), the longest first."""
        rows = self.conn.execute(
            f"""select id, {LANE} from deliveries where status = 'queued' and due_at <= ?
                    and {LANE} not in (select value from json_each(?))
                order by due_at limit ?""",
            (clock.now(), encode(list(full)).decode(), limit),
        )
        return list(rows)

    def deliver(self, delivery: Delivery, code: int | None) -> None:
        """It has arrived."""
        self._tried(delivery, "delivered", code, None, delivery.due_at)

    def give_up(self, delivery: Delivery, code: int | None, error: str) -> None:
        """It did not arrive, and is not tried again by itself."""
        self._tried(delivery, "failed", code, error, delivery.due_at)

    def put_off(
        self, delivery: Delivery, code: int | None, error: str, due_at: float, others_at: float = 0.0
    ) -> None:
        """It did not arrive, and is tried again then; other messages for this receiver not before
        `others_at`.
        """
        self._tried(delivery, "queued", code, error, due_at, others_at)

    def _tried(
        self,
        delivery: Delivery,
        status: str,
        code: int | None,
        error: str | None,
        due_at: float,
        others_at: float = 0.0,
    ) -> None:
        """Write what came of a try, unless it is not this sender's any more."""
        with transaction(self.conn) as conn:
            conn.execute(
                """update deliveries set status = ?1, code = ?2, error = ?3, due_at = ?4,
                       delivered_at = iif(?1 = 'delivered', ?5, delivered_at)
                   where id = ?6 and status = 'sending' and attempts = ?7""",
                (status, code, error and error[:ANSWER], due_at, clock.now(), delivery.id, delivery.attempts),
            )
            if others_at:
                conn.execute(
                    """update deliveries set due_at = ?1 where status = 'queued' and due_at < ?1
                           and channel = ?2 and receiver = ?3""",
                    (others_at, delivery.channel, delivery.to),
                )
            tick(conn)

    # ---- what is asked -------------------------------------------------------------------------------------

    def of_job(self, job: int) -> list[Delivery]:
        """What was told of a job, the newest first. Whose it is was asked before."""
        return of_job(self.conn, job)

    def lately(self, who: Who, limit: int, status: str | None = None) -> list[Delivery]:
        """What was told of the jobs that one sees, the newest first; of one status, or of all."""
        where, values = owned_by(who)
        rows = self.conn.execute(
            f"""{DELIVERY} where {where} and coalesce(status = ?, 1)
                order by created_at desc, id limit ?""",
            (*values, status, limit),
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
            tick(conn)
            return _find(conn, job, delivery)


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
