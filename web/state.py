"""What one dashboard works with: its settings, its tables, its feed, its engine and its health."""

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from functools import cached_property
from typing import Any, ClassVar

import apsw
from starlette.requests import HTTPConnection

from rowcast.engines.background import Engine
from rowcast.feed.watch import Feed
from rowcast.jobs import Jobs
from rowcast.tables import schema
from rowcast.tables.accounts import Accounts
from rowcast.tables.audit import Audit
from rowcast.tables.bookmarks import Bookmarks
from rowcast.tables.browsers import Browsers
from rowcast.tables.bulk import Bulk
from rowcast.tables.database import DatabaseRefused
from rowcast.tables.guesses import Guesses
from rowcast.tables.halts import Halts
from rowcast.tables.health import Health
from rowcast.tables.ledger import Ledger
from rowcast.tables.mailbox import Mailbox
from rowcast.tables.metrics import Metrics
from rowcast.tables.outbox import Outbox
from rowcast.tables.schedules import Schedules
from rowcast.tables.sessions import Sessions, Tokens
from rowcast.tables.shares import Shares
from rowcast.tables.slots import Slots
from rowcast.tables.users import Users
from rowcast.tables.webhooks import Webhooks
from rowcast.tables.writer import Writer
from rowcast.tasks.edits import Edits
from rowcast.tasks.registry import REGISTRY, Task, is_built_in
from rowcast.tasks.sentences import worded
from rowcast.tasks.settings import Settings

HALTS_EVERY = 0.5  # seconds between two looks at what is stopped


class State:
    """What the routes of one dashboard share."""

    # for BackgroundTask, which sees no request: of the app that answers it, of this process, those that were
    # mounted
    current: ClassVar[ContextVar["State | None"]] = ContextVar("rowcast_state", default=None)
    here: ClassVar["State | None"] = None
    mounted: ClassVar[list["State"]] = []
    # and the request to that app, by which its owner knows who asks
    asking: ClassVar[ContextVar[HTTPConnection | None]] = ContextVar("rowcast_asking", default=None)
    making: ClassVar = threading.Lock()

    def __init__(self, settings: Settings):
        self.settings = settings
        self.is_prepared = False  # the database is there, and of today's schema
        self.jobs = Jobs(settings.database, settings.usual)
        self.writer = Writer(settings.database)
        self.bulk = Bulk(settings.database)
        self.bookmarks = Bookmarks(settings.database)
        self.metrics = Metrics(settings.database)
        self.outbox = Outbox(settings.database)
        self.webhooks = Webhooks(settings.database)
        self.browsers = Browsers(settings.database)
        self.schedules = Schedules(settings.database, settings.usual)
        self.halts = Halts(settings.database)
        self.halted = ("", -math.inf)  # what is stopped, in a sentence a line, and when that was read
        self.slots = Slots(settings.database)
        self.users = Users(settings.database)
        self.mailbox = Mailbox(settings.database)
        self.accounts = Accounts(settings.database)
        self.sessions = Sessions(settings.database)
        self.tokens = Tokens(settings.database)
        self.guesses = Guesses(settings.database)
        self.shares = Shares(settings.database)
        self.audit = Audit(settings.database)
        self.provider: Any = None  # where one signs in by OpenID, once it is wanted
        # of a request to the app around us, the name of who asks; None where no app says so
        self.base = ""  # the path where it is mounted
        self.owner: Callable[[Any], Any] | None = None
        self.ledger = Ledger(settings.database, settings.keep_tries)
        self.calls: Counter[str] = Counter()  # of workers elsewhere, that were answered here, by name
        self.health = Health(settings.database)
        self.engine = Engine(settings)
        self.edits = Edits(settings.modules)
        self.feed = Feed(self.jobs, lambda: self.banner)

    @cached_property
    def secret(self) -> str:
        """The key that links are signed with."""
        return self.settings.secret_key or self.jobs.secret()

    def prepare(self) -> None:
        """Create or migrate the database, with its first users where there was no such table.

        Raises DatabaseRefused.
        """
        if schema.prepare(self.settings.database):
            self.users.seed()
        self.users.as_source()
        self.is_prepared = True

    @property
    def tasks(self) -> list[Task]:
        """The tasks that can be started here: the built-in ones may be hidden."""
        hidden = self.settings.built_in == "none"
        return [task for task in list(REGISTRY.values()) if not (hidden and is_built_in(task))]

    @property
    def trouble(self) -> str:
        """What keeps the dashboard, its engine or a worker from working now, or from running the code that is
        there, in one sentence; '' for nothing.
        """
        if self.health.stuck:
            path = self.settings.database
            return worded(f"The database {path} does not answer: nobody knows whether what is shown is true.")
        return self.health.trouble or self.engine.trouble or self.health.workers or self.edits.trouble

    @property
    def banner(self) -> str:
        """What stands above every page: the trouble, and what is stopped, a line each."""
        return "\n".join(filter(None, [self.trouble, self.stopped]))

    @property
    def stopped(self) -> str:
        """What is stopped, as of less than a second ago: every request asks, and every look of the feed."""
        said, read_at = self.halted
        if self.is_prepared and time.monotonic() > read_at + HALTS_EVERY:
            with contextlib.suppress(apsw.Error, DatabaseRefused, OSError):
                said = "\n".join(halt.sentence for halt in self.halts.every())
            self.halted = (said, time.monotonic())
        return said

    def note_halts(self) -> None:
        """They have changed."""
        self.halted = (self.halted[0], -math.inf)


def at(req: HTTPConnection) -> State:
    """The state of the dashboard that the request is for."""
    state: State = req.scope["app"].state.dashboard
    return state
