"""What one dashboard works with: its settings, its tables, its feed, its engine and its health."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import ClassVar

from rowcast.engines.background import Engine
from rowcast.engines.edits import Edits
from rowcast.feed.watch import Feed
from rowcast.jobs import Jobs
from rowcast.tables.health import Health
from rowcast.tables.ledger import Ledger
from rowcast.tables.outbox import Outbox
from rowcast.tables.schedules import Schedules
from rowcast.tables.slots import Slots
from rowcast.tables.users import Users
from rowcast.tables.webhooks import Webhooks
from rowcast.tasks.settings import Settings


class State:
    """What the routes of one dashboard share."""

    # for BackgroundTask, which sees no request: of the app that answers it, of this process, those that were
    # mounted
    current: ClassVar[ContextVar["State | None"]] = ContextVar("rowcast_state", default=None)
    here: ClassVar["State | None"] = None
    mounted: ClassVar[list["State"]] = []
    making: ClassVar = threading.Lock()

    def __init__(self, settings: Settings):
        self.settings = settings
        self.is_prepared = False  # the database is there, and of today's schema
        self.jobs = Jobs(settings.database, settings.usual)
        self.outbox = Outbox(settings.database)
        self.webhooks = Webhooks(settings.database)
        self.schedules = Schedules(settings.database)
        self.slots = Slots(settings.database)
        self.users = Users(settings.database)
        self.ledger = Ledger(settings.database)
        self.calls = ThreadPoolExecutor(1, "ledger")  # on which workers elsewhere are answered
        self.health = Health(settings.database)
        self.engine = Engine(settings)
        self.edits = Edits(settings.modules)
        self.feed = Feed(self.jobs, lambda: self.trouble)

    @property
    def trouble(self) -> str:
        """What keeps the dashboard or its engine from working now, or from running the code that is there,
        in one sentence; '' for nothing.
        """
        if self.health.stuck:
            path = self.settings.database
            return f"The database {path} does not answer: nobody knows whether what is shown is true."
        return self.health.trouble or self.engine.trouble or self.edits.trouble
