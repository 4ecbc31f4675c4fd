"""The schema: the tables, how a file becomes Rowcast's, and which files it refuses."""

import contextlib
import secrets
from pathlib import Path

import apsw

from rowcast.tables.clock import set_clock
from rowcast.tables.database import (
    BUSY_MS,
    Connection,
    DatabaseRefused,
    back_up,
    connection,
    create,
    demand_own_log,
    has_left_log,
    reason_of,
    transaction,
)
from rowcast.tables.own_file import is_held_by_others
from rowcast.tables.search import SEARCH

# The tables as they are today. Times are unix seconds, unless a comment says otherwise; JSON is text.
TABLES = """
create table rowcast (                      -- one row: it marks the file as ours
    schema integer not null,                -- which of these descriptions the file has: SCHEMA
    seq integer not null,                   -- the counter: the number of the newest change
    pruned_seq integer not null default 0,  -- the counter as jobs were last deleted, or seen by others
    last_job integer not null default 0,    -- the largest id of a deleted job: no id is given twice
    outbox integer not null default 0,      -- rises when something comes into the outbox or leaves it
    clock real,                             -- what its moments are counted from: see tasks/clock.py
    boot text,                              -- the start of the machine by which that holds
    clock_changed real not null default 0,  -- seconds by which it was set, all together: see search.py
    made_as text,                           -- the file whose Idempotency-Keys it gives: device and inode
    secret text not null default (lower(hex(randomblob(32)))) -- what links are signed with
);
insert into rowcast (schema, seq) values (1, 0);

create table jobs (                         -- a row is one run of a task
    id integer primary key,                 -- rises with each job, and is never given twice
    seq integer not null,                   -- the counter at its newest change, or its items'
    news integer not null default 0,        -- the counter when it ended last, or began to wait for a person
    task text not null,                     -- the task's name
    entry text not null,                    -- 'module:function', what a worker imports
    shape text not null,                    -- 'items' (called once per item) or 'body' (called once)
    args text not null default '{}',        -- JSON: what the job was started with
    owner text not null,                    -- whose job it is; '': it is being deleted
    engine text not null,                   -- where it runs: background, celery, dramatiq
    status text not null default 'queued',  -- queued running paused completed failed cancelled
    reason text not null default '',        -- why it is paused or has failed
    cause text not null default '',         -- what has paused it: paused stop_rule canary disk; '': nothing
    total integer not null default 0,       -- items that have been written
    queued integer not null default 0,      -- of them, those that wait
    running integer not null default 0,     -- of them, those that a worker has
    completed integer not null default 0,   -- of them, those that are done
    failed integer not null default 0,      -- of them, those that will not be tried again by themselves
    cancelled integer not null default 0,   -- of them, those that are not to be done
    unknown integer not null default 0,     -- of them, those that may or may not have arrived
    filled integer not null default 0,      -- 1: all its items have been written
    idempotent integer not null default 1,  -- 0: an item may not be repeated by itself
    stamp text,                             -- the column of users that a completed item stamps; null: none
    concurrency integer,                    -- items in flight at once
    least integer,                          -- the fewest, where a run finds how many; null: it does not
    found text,                             -- JSON: how many that are, and what its API does; null: nothing
    priority integer not null default 0,    -- -10 to 10: who comes first, of an owner's jobs
    pace real,                              -- starts per second at most; null: no limit
    stop_after text,                        -- the stop rule: '5%' of all, or '20' failures in a row
    stop_base integer not null default 0,   -- failures before the last resume: no more for the rule
    streak integer not null default 0,      -- failures in a row, of late
    tuned_at real,                          -- when its pace, or who shares it, changed last; null: never
    paused_at real,                         -- when it was paused last; null: never
    resumed_at real,                        -- when it went on after a pause last; null: never
    stalled real not null default 0,        -- seconds, the most, that it held up its worker's other jobs
    stalled_in text not null default '',    -- where in its code it did
    canary integer,                         -- pause after so many items; null: there is none, or it is over
    dry_run integer not null default 0,     -- so many items show what would be sent; 0: a real run
    run_at real not null default 0,         -- not before
    unique_key text,                        -- a second job of its owner with this key is not made
    unique_until real,                      -- until when the key is its own; null: for ever
    after_job integer,                      -- the job at whose end it starts; null: it waits for none
    condition text not null default '',     -- if that has ended so: green completed failed ended
    again_item integer,                     -- the item that it runs once more, with other values; null: none
    again_job integer,                      -- whose that is, or the job that it runs once more; null: none
    background integer not null default 0,  -- 1: of a BackgroundTask, and deleted some days after its end
    tags text not null default '[]',        -- JSON: the words it was given, by which it is found
    notify text,                            -- JSON: who is told of it, and of what; null: nobody
    language text not null default '',      -- of whoever started it, where a page did: these are told in it
    schedule integer,                       -- the schedule that has started it; null: a person or a program
    worker text,                            -- who holds a body, or writes the items of a job that has not all
    crashes integer not null default 0,     -- of its worker, while its items were written or its body ran
    created_at real not null,               -- when it was submitted
    started_at real,                        -- when it first ran; null: not yet
    cards integer not null default 0,       -- how often the links to its card were taken back
    begun_at real,                          -- when it was retried after its end; null: never
    worked real not null default 0,         -- seconds that the runs before took
    finished_at real                        -- when all its items had ended; null: not yet
);
create index jobs_by_seq on jobs (seq);
create index jobs_by_owner on jobs (owner, id);
create index jobs_by_task on jobs (task, id);
create index jobs_active on jobs (id) where finished_at is null;
-- what a list of jobs is asked for, each with the ids in order: see search.py
create index jobs_by_status on jobs (status, id) where status in ('completed', 'failed', 'cancelled');
create index jobs_by_task_and_status on jobs (task, status, id)
    where status in ('completed', 'failed', 'cancelled');
create index jobs_by_owner_and_status on jobs (owner, status, id)
    where status in ('completed', 'failed', 'cancelled');
create index jobs_by_owner_and_task on jobs (owner, task, id);
create index jobs_by_owner_task_and_status on jobs (owner, task, status, id)
    where status in ('completed', 'failed', 'cancelled');
create index jobs_failing on jobs (id) where failed > 0;
create index jobs_by_owner_failing on jobs (owner, id) where failed > 0;
create index jobs_by_task_failing on jobs (task, id) where failed > 0;
create index jobs_by_owner_and_task_failing on jobs (owner, task, id) where failed > 0;
create index jobs_by_failures on jobs (failed) where failed > 0;
create index jobs_unknown on jobs (id) where unknown > 0;
create index jobs_by_owner_unknown on jobs (owner, id) where unknown > 0;
create index jobs_by_time on jobs (created_at);
create index jobs_by_end on jobs (finished_at) where finished_at is not null;
create index jobs_of_background on jobs (finished_at) where background;
-- the list of those that have ended, the last to end first
create index jobs_over on jobs (news) where finished_at is not null;
create index jobs_by_owner_over on jobs (owner, news) where finished_at is not null;
create index jobs_by_task_over on jobs (task, news) where finished_at is not null;
create index jobs_by_owner_and_task_over on jobs (owner, task, news) where finished_at is not null;
create index jobs_now on jobs (owner, task, status, failed > 0) where finished_at is null;
create index jobs_now_of_task on jobs (task, status, id) where finished_at is null;
create index jobs_by_first on jobs (after_job) where after_job is not null;
create index jobs_by_schedule on jobs (schedule, id) where schedule is not null;
create unique index jobs_unique on jobs (owner, unique_key) where unique_key is not null;

create table items (                        -- a row is one unit of a job: a user, a mail, a step
    id integer primary key autoincrement,   -- rises with each item, from a random number on: own_keys
    job integer not null,                   -- its job's id
    position integer not null,              -- its place in the job, from 0, without a gap
    seq integer not null,                   -- the counter at its newest change
    key text not null,                      -- how it is called on the page
    payload text,                           -- JSON of what the task gets; null: the key itself
    status text not null default 'queued',  -- queued running completed failed cancelled unknown
    attempt integer not null default 0,     -- tries used, ever; it also fences late results
    spent integer not null default 0,       -- tries used before the last retry by hand
    crashes integer not null default 0,     -- tries during which the worker died
    once integer not null default 0,        -- 1: a step that runs, and may not be repeated from here on
    code integer,                           -- the last answer's HTTP status; null: there was none
    error text,                             -- what went wrong last, one line
    result text,                            -- JSON of what the task returned; null: nothing
    ms real,                                -- milliseconds that the last try took
    run_at real not null default 0,         -- not before; 0: at once
    worker text,                            -- who has it while it runs; of one that has completed, who had it
    fingerprint text,                       -- the error group of one that has failed
    updated_at real not null                -- when it changed last
);
create unique index items_by_position on items (job, position);
create index items_by_status on items (job, status, position);
-- by seq, one index for the items that have been tried and one for the others: each item is in one of them
create index items_recent on items (job, seq) where attempt > 0;
create index items_fresh on items (job, seq) where attempt = 0;
create index items_to_claim on items (job, run_at, position) where status = 'queued';
create index items_in_flight on items (worker, job) where status = 'running';
create index items_by_group on items (job, fingerprint, position) where fingerprint is not null;

create table sweeps (                       -- a row is what is still to be done to many items of a job
    id integer primary key,                 -- rises: those of a job are done one after the other
    job integer not null,                   -- its id
    leaves text not null,                   -- the status of the items that are meant
    enters text not null,                   -- the one they get: queued (a retry), completed (a settle)
    fingerprint text,                       -- only those of this error group; null: all
    seq integer not null,                   -- the counter when it was asked for: later changes are left alone
    position integer not null default -1,   -- items up to here have been looked at; -1: it has not begun
    total integer not null default 0,       -- how many items were meant, with those of the sweep before
    done integer not null default 0         -- of them, those that have been looked at
);
create index sweeps_by_job on sweeps (job, id);

create table bulks (                        -- a row is an act on all jobs that a filter has
    id integer primary key,                 -- rises with each
    account text not null,                  -- who has asked for it
    role text not null,                     -- its role then: an account has the one of now
    action text not null,                   -- pause resume cancel retry delete
    filter text not null,                   -- JSON: which jobs
    found integer not null,                 -- how many the filter had
    total integer not null,                 -- of them, those that it was to change
    done integer not null,                  -- of them, those that are changed
    last integer not null,                  -- the job that it has come to: the newest are first
    created_at real not null,               -- when it was asked for
    finished_at real                        -- when it was over; null: it is not
);
create index bulks_to_do on bulks (id) where finished_at is null;

create table keys (                         -- a row is the keys of many items, for the search
    job integer not null,                   -- their job's id
    first integer not null,                 -- the position of the first of them
    lines text not null                     -- lower case, one key a line
);
create index keys_by_job on keys (job, first);

create table error_groups (                 -- a row is the failures of a job that are alike
    job integer not null,                   -- their job's id
    fingerprint text not null,              -- code and message without what differs from item to item
    code integer,                           -- the HTTP status; null: no answer came
    message text not null,                  -- the error, without what differs
    sample text not null,                   -- the first of the errors, as it was
    items integer not null,                 -- how many have failed so, and have not been retried
    first_at real not null,                 -- when the first of them failed
    last_at real not null,                  -- when the last of them failed
    primary key (job, fingerprint)
) without rowid;

create table tries (                        -- a row is one call of the task for an item: tables/tries.py
    job integer not null,                   -- its job's id
    item integer not null,                  -- its item's
    attempt integer not null,               -- the item's attempt that it was
    status text not null,                   -- completed failed cancelled unknown
    code integer,                           -- the HTTP status of its last answer; null: there was none
    error text,                             -- what went wrong, one line
    excerpt text,                           -- JSON: what is kept of an answer that said no
    started_at real not null,               -- when it began
    ms real,                                -- milliseconds that it took; null: its end was not seen
    worker text,                            -- who ran it
    primary key (job, item, attempt)
) without rowid;

create table item_log (                     -- a row is some lines that a try has logged or printed
    job integer not null,                   -- its job's id
    item integer not null,                  -- its item's
    attempt integer not null,               -- the item's attempt
    part integer not null,                  -- rises with what was said
    at real not null,                       -- when the first of the lines was said
    lines text not null                     -- JSON: [[seconds since then, level, text], ...]
);
create unique index item_log_by_try on item_log (job, item, attempt, part);

create table throughput (                   -- a row is one second of a job, for plot and rate
    job integer not null,                   -- its id
    second integer not null,                -- which
    items integer not null,                 -- how many ended in it
    tries integer not null default 0,       -- how many tries ended in it
    ms real not null default 0,             -- milliseconds that these took together
    primary key (job, second)
) without rowid;

create table growth (                       -- a row is seconds in which items of a job ended, or failed alike
    job integer not null,                   -- its id
    fingerprint text not null,              -- the error group of those that failed; '': all that ended
    second integer not null,                -- the first of them: the older the job, the more they are
    items integer not null,                 -- how many it was
    primary key (job, fingerprint, second)
) without rowid;

create table tallies (                      -- a row is how many tries took so long, or were an item's n-th
    job integer not null,                   -- its id
    measure text not null,                  -- ms or try: what is counted by
    bucket integer not null,                -- which n; of milliseconds the bucket, see measures.py
    tries integer not null,                 -- how many it was
    primary key (job, measure, bucket)
) without rowid;

create table latencies (                    -- a row is how many tries of a task took so long, ever
    task text not null,                     -- the task's name
    bucket integer not null,                -- of milliseconds, see tasks/buckets.py
    tries integer not null,                 -- how many it was
    ms real not null,                       -- milliseconds that these took together
    primary key (task, bucket)
) without rowid;

create table paces (                        -- a row is a line in which starts wait
    task text primary key,                  -- the task's name, or 'name at 5/s'
    arrival real not null default 0,        -- GCRA's theoretical arrival time of the next start
    hold_until real not null default 0,     -- Retry-After: nothing of this task before then
    reason text not null default ''         -- what asked for that
) without rowid;

create table holds (                        -- a row is a time in which nothing of a task was to start
    task text not null,                     -- its name
    started_at real not null,               -- when its API asked for a pause
    until real not null,                    -- when that was over, or will be
    primary key (task, started_at)
) without rowid;

create table halts (                        -- a row is a task of which nothing new starts
    task text primary key,                  -- its name; '': all tasks
    account text not null,                  -- who has stopped it
    reason text not null,                   -- why, in their words
    at real not null                        -- when
) without rowid;

create table workers (                      -- a row is a process that runs items
    id text primary key,                    -- its name: host, process and some random letters
    host text not null,                     -- the machine's name
    pid integer not null,                   -- the process's number there
    engine text not null,                   -- background, celery, dramatiq
    version text not null,                  -- Rowcast's, there
    started_at real not null,               -- when it was first heard of
    lease real not null,                    -- it is believed to live until then; a heartbeat moves it on
    done integer not null default 0,        -- items it has ended
    leftovers integer not null default 0,   -- calls that go on in it though their tries are over
    trouble text not null default ''        -- what holds it up, or that its code was edited, in a sentence
) without rowid;

create table slots (                        -- a row is a slice of a job that a queue's workers are to work on
    job integer not null,                   -- its id
    slot integer not null,                  -- which of the job's slices, from 0
    token text not null,                    -- a message with another one is left over; '': at rest
    due_at real not null,                   -- when it is sent again, unless it is heard of before
    tries integer not null default 0,       -- messages sent since it was last heard of
    bound integer not null default 0,       -- items of its slice that may be in flight at most
    number integer not null default 0,      -- of its slice's newest report; one that comes after it is old
    found text,                             -- JSON: what its slices have found its API to bear; null: nothing
    primary key (job, slot)
) without rowid;
create index slots_waiting on slots (job) where token <> '' and tries > 0;

create table deliveries (                   -- a row is a message to one receiver about a job
    id text primary key,                    -- what the receiver knows it by: the same on every try
    job integer not null,                   -- its job's id
    task text not null,                     -- that one's task
    owner text not null,                    -- whose job it is
    channel text not null,                  -- webhook, email, apprise
    receiver text not null,                 -- the address
    trusted integer not null,               -- 1: its address is of a setting or of a task's code
    event text not null,                    -- completed failed cancelled paused turned
    body text not null,                     -- JSON: what is told, as it was when it happened
    language text not null default '',      -- of whoever started the job; '': nobody knows
    status text not null default 'queued',  -- queued sending delivered failed
    attempts integer not null default 0,    -- tries, ever; it also fences what is said of an earlier one
    code integer,                           -- of the last answer; null: there was none
    error text,                             -- why the last try failed; null: it did not
    created_at real not null,               -- when it happened
    asked_at real not null,                 -- since when it is tried: then, or when it was sent again
    due_at real not null,                   -- not before
    tried_at real,                          -- when the last try began; null: there was none
    delivered_at real                       -- when it last arrived; null: it has not
);
create index deliveries_by_job on deliveries (job, created_at);
create index deliveries_by_try on deliveries (owner, tried_at);
create index deliveries_tried on deliveries (tried_at);
create index deliveries_by_age on deliveries (owner, created_at);
create index deliveries_by_time on deliveries (created_at);
create index deliveries_to_send on deliveries (iif(channel = 'email', channel, receiver), due_at)
    where status = 'queued';
create index deliveries_under_way on deliveries (id) where status = 'sending';
create index deliveries_failed on deliveries (id) where status = 'failed';

create table outcomes (                     -- a row is how the last run of a task has ended
    owner text not null,                    -- whose run it was
    task text not null,                     -- the task's name
    green integer not null,                 -- 1: all of its items completed; 0: some did not
    primary key (owner, task)
) without rowid;

create table webhooks (                     -- a row is the secret that messages to a webhook are signed with
    id integer primary key,                 -- rises with each
    owner text not null,                    -- whose messages they are; local: of settings or code
    receiver text not null,                 -- its address
    secret text not null,                   -- whsec_ and base64
    retired text,                           -- the secret before, which signs them too; null: none
    retired_at real not null default 0,     -- until then
    shown_at real,                          -- when the secret was shown; null: nobody knows it
    created_at real not null                -- when it was first used, or made
);
create unique index webhooks_by_receiver on webhooks (owner, receiver);

create table browsers (                     -- a row is a browser that is told by Web Push
    name text primary key,                  -- what a job's receivers call it: browser- and random letters
    owner text not null,                    -- who has said yes there
    address text not null,                  -- where its maker's push service takes messages for it
    key text not null,                      -- the browser's own (p256dh), with which they are sealed
    secret text not null,                   -- and what it shares with us (auth)
    created_at real not null                -- when it said yes last
) without rowid;
create unique index browsers_by_address on browsers (owner, address);

create table mails (                        -- a row is a mail in the built-in mailbox
    id integer primary key autoincrement,   -- rises with each mail
    message_id text not null,               -- its Message-ID: another try of the same is no other mail
    owner text not null,                    -- whose mailbox it is in: the job's owner
    job integer,                            -- the job that has sent it; null: none
    receiver text not null,                 -- the address that it is for
    subject text not null,                  -- its subject
    size integer not null,                  -- bytes of it
    created_at real not null,               -- when it came
    raw blob not null                       -- the mail as it would go over the wire
);
create unique index mails_by_message_id on mails (message_id);
create index mails_by_job on mails (job) where job is not null;

create table schedules (                    -- a row starts a task by the clock
    id integer primary key,                 -- rises with each schedule
    name text not null,                     -- how people call it; '': by its task
    task text not null,                     -- the task's name
    entry text not null,                    -- 'module:function'
    args text not null,                     -- JSON: what its jobs are started with
    options text not null,                  -- JSON: how they are run, where that differs from the task
    owner text not null,                    -- whose jobs they are
    cron text not null,                     -- five fields
    zone text not null,                     -- the time zone in which they are read
    paused integer not null default 0,      -- 1: it starts nothing
    next_at real not null,                  -- when it starts next
    last_job integer,                       -- the job that it started last; null: none yet
    trouble text not null default '',       -- why it did not start at its last moment; '': it did
    missed_at real,                         -- which that was; null: it has missed none since its last start
    created_at real not null                -- when it was made
);

create table accounts (                     -- a row is who may sign in
    name text primary key collate nocase,   -- as it owns jobs: jobs.owner
    role text not null,                     -- viewer, operator, admin
    password text,                          -- its argon2id hash; null: signs in elsewhere
    disabled integer not null default 0,    -- 1: it may not sign in, and its tokens open nothing
    created_at real not null                -- when it was made
) without rowid;

create table sessions (                     -- a row is a browser that is signed in
    id integer primary key,                 -- how it is called on the account's page
    token text not null unique,             -- the SHA-256 of what its cookie says
    account text not null collate nocase,   -- whose it is
    device text not null,                   -- the browser and the system that it says it is
    address text not null,                  -- from where it was seen last
    created_at real not null,               -- when it signed in
    seen_at real not null,                  -- when it asked for something last, to the minute
    idle real not null,                     -- seconds without a request after which it ends
    ends_at real not null                   -- when it ends in any case
);
create index sessions_by_account on sessions (account);

create table tokens (                       -- a row is a program that may ask for an account
    id integer primary key,                 -- how it is called on the account's page
    token text not null unique,             -- the SHA-256 of what the program shows
    account text not null collate nocase,   -- for whom it asks
    label text not null,                    -- what uses it
    prefix text not null,                   -- its first letters, by which people know it
    scope text not null,                    -- read, write
    created_at real not null,               -- when it was made
    ends_at real,                           -- when it ends; null: never by itself
    seen_at real,                           -- when it was shown last, to the minute; null: never
    address text                            -- from where that was
);
create index tokens_by_account on tokens (account);

create table bookmarks (                    -- a row is a filter of jobs that somebody has kept
    id integer primary key,                 -- rises with each
    account text not null collate nocase,   -- whose it is
    name text not null,                     -- how they call it
    filter text not null,                   -- JSON: which jobs
    created_at real not null                -- when it was kept
);
create unique index bookmarks_by_name on bookmarks (account, name);

create table guesses (                      -- a row is who has guessed a password wrong of late
    guesser text primary key collate nocase, -- 'account ann', or 'address 192.0.2.7'
    failures integer not null,              -- in a row
    next_at real not null,                  -- no guess before then
    last_at real not null                   -- when the last one was
) without rowid;

create table shares (                       -- a row lets an account, or a role, look at a job of another's
    job integer not null,                   -- its id
    kind text not null,                     -- account, role
    name text not null collate nocase,      -- which
    primary key (job, kind, name)
) without rowid;
create index shares_by_name on shares (kind, name);

create table audit (                        -- a row is what somebody did; it is only added to
    id integer primary key autoincrement,   -- rises
    at real not null,                       -- when
    account text not null,                  -- who; '' for nobody who is known
    action text not null,                   -- what
    job integer,                            -- of which job; null: of none
    detail text not null,                   -- of what else
    address text not null                   -- from where
);
create trigger audit_is_kept before delete on audit begin
    select raise(abort, 'the audit is only added to');
end;
create trigger audit_is_true before update on audit begin
    select raise(abort, 'the audit is only added to');
end;
"""
TABLES += SEARCH
# What brings a file of an earlier schema to today's, the first from 1 to 2. What was released is only added
# to.
MIGRATIONS: list[str] = []
SCHEMA = 1 + len(MIGRATIONS)
KEYS = 4_000_000_000_000  # numbers from which the first item's is taken: JavaScript knows 9e15
OUR_TABLES = {
    "jobs", "latencies", "words", "terms", "totals", "items", "tries", "item_log", "sweeps", "throughput",
    "paces", "workers", "schedules", "keys", "slots",
    "error_groups", "deliveries", "outcomes", "webhooks", "browsers",
    "accounts", "sessions", "tokens", "guesses", "shares", "audit",
    "growth", "tallies", "mails", "holds", "halts", "bulks", "bookmarks",
}  # fmt: skip
FITTING = 64_000_000  # bytes of a database that is looked through at a start beside a log: half a second
USERS = "create table users (email text primary key, account_updated integer)"


def prepare(path: str) -> bool:
    """Create or migrate the schema in `path`. Returns True where there was no `users` table and an empty one
    was made.

    Raises DatabaseRefused for a file that is no database, is another program's, is newer than this Rowcast,
    or cannot be written.
    """
    look_first(path)
    _demand_fit(path)
    create(path)
    try:
        _back_up_older(path)
        conn = connection(path)
        conn.execute("pragma temp_store = default")  # an index over millions of items is sorted in files
        try:
            is_new = _migrate(conn, path)
        finally:
            conn.execute("pragma temp_store = memory")
        _forget_statistics(conn)
        if conn.execute("select made_as from rowcast").fetchone()[0] is None:
            with transaction(conn):
                own_keys(conn, path)
        set_clock(path)
        return is_new
    except apsw.Error as error:
        raise DatabaseRefused(f"Cannot use the database {path}: {reason_of(error, path)}.") from error


def _forget_statistics(conn: Connection) -> None:
    """What somebody has had SQLite count of the tables (`analyze`) is true for that day: where there were few
    items it would from then on look through all of them for each result. Our statements do without.
    """
    rows = conn.execute("select name from sqlite_schema where name like 'sqlite_stat%'").fetchall()
    with transaction(conn) if rows else contextlib.nullcontext():
        for (name,) in rows:
            conn.execute(f"drop table {name}")


def own_keys(conn: Connection, path: str) -> None:
    """From now on the database's items have Idempotency-Keys that no other database gives, to the same API.

    A key is `<job>-<item>`, and items are numbered from a random number of some forty bits on: that two
    databases meet in the same million is as likely as one in a million, and their jobs have the same number
    then, too.
    """
    (newest,) = conn.execute("select max(coalesce(max(id), 0), 0) from items").fetchone()
    first = newest + secrets.randbelow(KEYS) + 1
    conn.execute("delete from sqlite_sequence where name = 'items'")
    conn.execute("insert into sqlite_sequence (name, seq) values ('items', ?)", (first,))
    conn.execute("update rowcast set made_as = ?", (made_as(path),))


def made_as(path: str) -> str:
    """Which file a path is, as it is kept in it: a copy is another one, a file that was renamed is not."""
    found = Path(path).stat()
    return f"{found.st_dev}:{found.st_ino}"


def look_first(path: str) -> None:
    """Refuse another program's file before anything, even the journal's mode, is changed in it."""
    if not Path(path).is_file() or not Path(path).stat().st_size:
        return
    if is_held_by_others(path):
        raise DatabaseRefused(
            f"The database {path} is open in this process already, by other means than Rowcast's, and two"
            " SQLites in one process would damage it: give Rowcast a file of its own (--database)."
        )
    demand_own_log(path)
    try:
        conn = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error:
        return
    try:
        conn.set_busy_timeout(BUSY_MS)
        tables = _tables(conn)
        if "rowcast" not in tables:
            _refuse_foreign(conn, path, tables)
    except apsw.Error:
        pass  # opening it in earnest says what is wrong
    finally:
        conn.close()


def _demand_fit(path: str) -> None:
    """Raises DatabaseRefused where a database and the log that was left beside it make no whole: somebody has
    copied one of the two there. Whoever only reads mixes nothing.
    """
    if not has_left_log(path) or Path(path).stat().st_size > FITTING:
        return
    conn = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        conn.set_busy_timeout(BUSY_MS)
        whole = conn.execute("pragma integrity_check(1)").fetchall() == [("ok",)]
    except apsw.CorruptError:
        whole = False
    except apsw.Error:
        return  # opening it in earnest says what is wrong
    finally:
        conn.close()
    if not whole:
        raise DatabaseRefused(
            f"The database {path} and its log {path}-wal do not fit together, or are damaged:"
            " `rowcast restore` a backup."
        )


def _tables(conn: Connection) -> set[str]:
    names = {
        name for (name,) in conn.execute("select name from sqlite_schema where type in ('table', 'view')")
    }
    return {name for name in names if not name.startswith("sqlite_")}


def _back_up_older(path: str) -> None:
    """Before a schema is migrated, the database is copied beside itself."""
    conn = connection(path)
    if conn.execute("select 1 from sqlite_schema where name = 'rowcast'").fetchone():
        (schema,) = conn.execute("select schema from rowcast").fetchone()
        target = f"{path}.schema-{schema}"
        if schema < SCHEMA:
            # it may be there by another process that starts, or by a start that was broken off
            with contextlib.suppress(FileExistsError):
                back_up(path, target)


def _migrate(conn: Connection, path: str) -> bool:
    with transaction(conn):
        tables = _tables(conn)
        if "rowcast" not in tables:
            _refuse_foreign(conn, path, tables)
            conn.execute(TABLES)
            conn.execute("update rowcast set schema = ?", (SCHEMA,))
        (schema,) = conn.execute("select schema from rowcast").fetchone()
        if schema > SCHEMA:
            raise DatabaseRefused(
                f"The database {path} was written by a newer Rowcast (schema {schema}, this one knows"
                f" {SCHEMA}); install that version again, or give another --database."
            )
        for script in MIGRATIONS[schema - 1 :]:
            conn.execute(script)
        if schema < SCHEMA:  # else nothing is written: the disk may be full
            conn.execute("update rowcast set schema = ?", (SCHEMA,))
        if "users" not in tables:
            conn.execute(USERS)
        return "users" not in tables


def _refuse_foreign(conn: Connection, path: str, tables: set[str]) -> None:
    """A file that Rowcast has never seen must be empty, or have a usable table `users` and nothing else."""
    if taken := sorted(tables & OUR_TABLES):
        raise DatabaseRefused(
            f"The database {path} belongs to another program: it has a table `{taken[0]}` that is not"
            " Rowcast's."
        )
    if tables and "users" not in tables:
        raise DatabaseRefused(
            f"The database {path} belongs to another program: it has tables ({', '.join(sorted(tables)[:3])})"
            " and no `users` among them."
        )
    if beside := sorted(tables - {"users"}):
        raise DatabaseRefused(
            f"The database {path} is another program's as well: it has a table `{beside[0]}`, and Rowcast"
            " keeps a file of its own. Give it one (--database), and its tasks the users of this one:"
            f" @task(items=rowcast.rows({path!r}, 'users'))."
        )
    if "users" in tables and "email" not in {row[1] for row in conn.execute("pragma table_info(users)")}:
        raise DatabaseRefused(f"The `users` table in {path} has no column `email`, which Rowcast reads.")
