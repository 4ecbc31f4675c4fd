"""Settings: every flag of `rowcast`, each also an environment variable ROWCAST_<NAME>.

The fields of Settings are read by the command line, by the environment, by `--help` and by the test that
holds the documentation against them. A wrong value is one sentence, raised as BadSetting.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from rowcast.tasks.checks import (
    a_broker,
    a_contact,
    a_crowd,
    a_file,
    a_format,
    a_grace,
    a_header,
    a_host,
    a_language,
    a_limit,
    a_mail_server,
    a_notify,
    a_port,
    a_secret,
    a_sender,
    a_token,
    a_while,
    all_or_none,
    an_address,
    an_engine,
    is_loopback,
    some_hosts,
    some_proxies,
    some_secrets,
    split,
    with_otel,
)
from rowcast.tasks.notify import Notify, Usual
from rowcast.tasks.notify import read as read_notify

# what a worker elsewhere is told
TOLD = (
    "broker_url",
    "dashboard_url",
    "worker_token",
    "tasks",
    "grace",
    "smtp_url",
    "mail_from",
    "log_format",
    "otel",
)


class BadSetting(Exception):
    """A setting has a value that cannot be used; the message is one sentence."""


# What is wrong with a value, as the rest of a sentence that begins with its flag; '' for nothing.
Check = Callable[[Any], str]


def setting(
    default: Any, help: str, metavar: str = "VALUE", type: Any = str, check: Check = lambda value: ""
) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar, "type": type, "check": check})


SWITCHED = {"1": True, "true": True, "yes": True, "on": True, "": False, "0": False, "false": False}
SWITCHED |= {"no": False, "off": False}


def switch(text: str) -> bool:
    """Raises ValueError for what is neither yes nor no."""
    if text.strip().lower() not in SWITCHED:
        raise ValueError
    return SWITCHED[text.strip().lower()]


@dataclass
class Settings:
    """How this dashboard runs. Made by `read` from flags and environment, or by hand for `mount`.

    Raises BadSetting.
    """

    host: str = setting(
        "127.0.0.1",
        "address to listen on; any but loopback needs accounts (`rowcast account add`)",
        "ADDRESS",
        check=a_host,
    )
    port: int = setting(5001, "port to listen on", "PORT", int, a_port)
    database: str = setting(
        "data/rowcast.db", "the SQLite file that holds jobs, items and users", "FILE", check=a_file
    )
    api_url: str = setting(
        "", "the API that tasks post to; without it the built-in demo API", "URL", check=an_address
    )
    tasks: str = setting("", "your own tasks: modules to import, separated by commas", "MODULE[,MODULE]")
    built_in: str = setting(
        "all", "the tasks that come with Rowcast: all of them, or none", "all|none", check=all_or_none
    )
    language: str = setting(
        "",
        "the language of the pages; without it what each browser asks for, of those that there are",
        "CODE",
        check=a_language,
    )
    reload: bool = setting(
        False, "take up the code of --tasks whenever it is edited; for who writes tasks", "1", switch
    )
    engine: str = setting(
        "background", "where jobs run: background, celery or dramatiq", "NAME", check=an_engine
    )
    broker_url: str = setting(
        "",
        "the queue's broker: redis://, rediss:// (also Valkey), amqp:// or amqps://",
        "URL",
        check=a_broker,
    )
    dashboard_url: str = setting(
        "",
        "where workers elsewhere reach this dashboard; without it --host and --port",
        "URL",
        check=an_address,
    )
    worker_token: str = setting(
        "",
        "what workers elsewhere show to be let in; better given by the environment",
        "TOKEN",
        check=a_token,
    )
    public_url: str = setting(
        "",
        "the address people use to reach this dashboard, with its path, when a proxy stands before it",
        "URL",
        check=an_address,
    )
    proxies: str = setting(
        "",
        "the proxies that are believed where a request comes from: addresses or networks",
        "ADDRESS[,ADDRESS]",
        check=some_proxies,
    )
    user_header: str = setting(
        "", "the header in which --proxies say who has signed in there", "NAME", check=a_header
    )
    openid_url: str = setting(
        "", "an OpenID provider at which one may sign in: its issuer's address", "URL", check=an_address
    )
    openid_client: str = setting("", "as which client the provider knows this dashboard", "ID")
    openid_secret: str = setting("", "the secret of that client; better given by the environment", "SECRET")
    secret_key: str = setting(
        "",
        "what links are signed with; without it the key in the database; better given by the environment",
        "KEY",
        check=a_secret,
    )
    smtp_url: str = setting(
        "",
        "the server that sends mails, smtp://[user:password@]host:port or smtps://, without it the mailbox;"
        " better given by the environment",
        "URL",
        check=a_mail_server,
    )
    mail_from: str = setting(
        "", "whom mails come from, like Ann <ann@example.com>", "ADDRESS", check=a_sender
    )

    grace: float = setting(
        2.0, "seconds that what is in flight gets to end when Rowcast is stopped", "SECONDS", float, a_grace
    )
    keep_days: float = setting(
        0.0, "delete jobs that ended more than so many days ago; 0 keeps all", "DAYS", float, a_limit
    )
    keep_background_days: float = setting(
        14.0, "days that ended background tasks are kept, 0 without limit", "DAYS", float, a_limit
    )
    keep_jobs: int = setting(
        0, "delete all but the newest so many ended jobs; 0 keeps all", "NUMBER", int, a_limit
    )
    keep_tries: int = setting(
        0, "keep of an item only the newest so many tries; 0 keeps all", "NUMBER", int, a_limit
    )

    log_format: str = setting(
        "text", "the program's own log: text, or json with job, item and attempt", "NAME", check=a_format
    )
    notify: str = setting("", "whom to tell of jobs that name nobody, as JSON", "JSON", check=a_notify)
    notify_for: float = setting(
        86_400.0, "seconds in which a message that does not arrive is tried again", "SECONDS", float, a_while
    )
    notify_hosts: str = setting(
        "",
        "hosts, addresses and networks that are not public and may be told all the same",
        "HOST[,HOST]",
        check=some_hosts,
    )
    push: str = setting(
        "",
        "tell browsers by Web Push too: whom their makers may write to, mailto: or https://",
        "CONTACT",
        check=a_contact,
    )
    webhook_url: str = setting("", "a webhook that is told of every job", "URL", check=an_address)
    webhook_secret: str = setting(
        "",
        "what messages to --webhook-url are signed with; better given by the environment",
        "SECRET",
        check=some_secrets,
    )

    otel: bool = setting(
        False,
        "spans of jobs, tries and requests, to where OTEL_ variables say",
        "1",
        switch,
        with_otel,
    )
    workers: int = setting(1, "processes that serve; one of them has the engine", "NUMBER", int, a_crowd)
    streams: int = setting(
        4096, "streams open at once in one process; over it pages poll", "NUMBER", int, a_limit
    )
    streams_per_viewer: int = setting(512, "streams open at once for one address", "NUMBER", int, a_limit)

    def __post_init__(self) -> None:
        for f in fields(self):
            if wrong := f.metadata["check"](getattr(self, f.name)):
                raise BadSetting(f"{flag(f.name)} {wrong}")
        if self.smtp_url and not self.mail_from:
            raise BadSetting("--smtp-url needs --mail-from too: whom the mails come from.")
        if self.reload and self.workers > 1:
            raise BadSetting("--reload is for one process that serves: leave --workers out.")
        if bool(self.openid_url) != bool(self.openid_client):
            raise BadSetting("--openid-url and --openid-client go together.")
        if self.user_header and not self.proxies:
            raise BadSetting("--user-header needs --proxies too: of nobody else is it believed.")
        if bool(self.webhook_url) != bool(self.webhook_secret):
            raise BadSetting("--webhook-url and --webhook-secret go together: what is sent there is signed.")

    @property
    def usual(self) -> Usual:
        """Whom these settings tell of jobs."""
        every = (Notify("webhook", self.webhook_url),) if self.webhook_url else ()
        return Usual(read_notify(self.notify), every)

    @property
    def modules(self) -> list[str]:
        return split(self.tasks)

    @property
    def base(self) -> str:
        """The path of --public-url, below which people reach this dashboard; '' for none."""
        return urlsplit(self.public_url).path.rstrip("/")

    @property
    def elsewhere(self) -> str:
        """What lets others than this machine ask, as it was given; '' where nothing does."""
        if not is_loopback(self.host):
            return f"--host {self.host}"
        name = urlsplit(self.public_url).hostname or ""
        return f"--public-url {self.public_url}" if name and not is_loopback(name) else ""


def add_flags(parser: argparse.ArgumentParser, *only: str) -> None:
    """Every setting, or `only` some, as a flag; what is not given is looked up in the environment, else has
    its default."""
    for f in fields(Settings):
        if only and f.name not in only:
            continue
        switched = f.metadata["type"] is switch
        shown = f" (default {f.default})" if f.default != "" and not switched else ""
        how = {"action": "store_const", "const": "1"} if switched else {"metavar": f.metadata["metavar"]}
        parser.add_argument(
            flag(f.name),
            # a command's own flag that is not given must not hide the one before it
            default=argparse.SUPPRESS,
            help=f"{f.metadata['help']}{shown}; environment: {variable(f.name)}",
            **how,
        )


def read(given: argparse.Namespace, *only: str) -> Settings:
    """Settings, or `only` some, from parsed flags and the environment. Raises BadSetting."""
    values: dict[str, Any] = {}
    for f in fields(Settings):
        if only and f.name not in only:
            continue
        raw = getattr(given, f.name, None)
        where = flag(f.name)
        if raw is None:
            where = variable(f.name)
            raw = os.environ.get(where)
        if raw is None:
            continue
        try:
            values[f.name] = f.metadata["type"](raw)
        except ValueError:
            wanted = "is 1 or 0" if f.metadata["type"] is switch else "takes a number"
            raise BadSetting(f"{where} {wanted}, not {raw[:40]!r}.") from None
    return Settings(**values)


def from_environment() -> Settings:
    """Settings from the environment alone. Raises BadSetting."""
    return read(argparse.Namespace())


def worker_environment() -> Settings:
    """The settings of a worker elsewhere, from the environment; what it cannot do without is said, and it
    ends (exit 2)."""
    try:
        settings = read(argparse.Namespace(), *TOLD)
        for name in ("broker_url", "worker_token"):
            if not getattr(settings, name):
                raise BadSetting(f"{variable(name)} is not set: a worker cannot do without it.")
    except BadSetting as error:
        print(f"rowcast: {error}", file=sys.stderr)
        sys.exit(2)
    settings.dashboard_url = address_for_workers(settings)
    return settings


def demand_broker(settings: Settings) -> None:
    """A dashboard whose engine is a queue needs a broker and a token. Raises BadSetting."""
    for name in ("broker_url", "worker_token"):
        if settings.engine != "background" and not getattr(settings, name):
            raise BadSetting(f"--engine {settings.engine} needs {flag(name)} (or {variable(name)}) too.")


def address_for_workers(settings: Settings) -> str:
    """Where workers reach the dashboard, without a slash at its end."""
    return settings.dashboard_url.rstrip("/") or address(settings)


ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # who listens at all addresses is reached on this machine at


def address(settings: Settings) -> str:
    """Where this machine reaches the dashboard."""
    host = ANY.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.port}"


def api_of(settings: Settings, here: str) -> str:
    """Where tasks post: the API of the settings, or the demo API of the dashboard at the address `here`."""
    return settings.api_url or f"{here}/demo"


def as_environment(settings: Settings) -> dict[str, str]:
    """Settings as the environment variables that another process of ours reads them from."""
    return {variable(f.name): str(getattr(settings, f.name)) for f in fields(Settings)}


# What the sender of messages is told, in the environment of the process in which it is.
MESSAGES = (
    "host", "port", "public_url", "smtp_url", "mail_from", "notify", "notify_for", "notify_hosts",
    "push", "webhook_url", "webhook_secret",
)  # fmt: skip


WORKER = "ROWCAST_WORKER"  # in the environment of a worker and of what its tasks start: its name
DATABASE = "ROWCAST_DATABASE"


def for_messages(settings: Settings) -> dict[str, str]:
    """What the sender of messages is told, as environment variables."""
    return {variable(name): str(getattr(settings, name)) for name in MESSAGES}


def for_workers(settings: Settings) -> dict[str, str]:
    """What a worker elsewhere is told, as environment variables."""
    told = {name: getattr(settings, name) for name in TOLD} | {"dashboard_url": address_for_workers(settings)}
    return {variable(name): str(value) for name, value in told.items()}


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    return f"ROWCAST_{name.upper()}"
