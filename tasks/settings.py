"""Settings: every flag of `rowcast`, each also an environment variable ROWCAST_<NAME>.

One table, SETTINGS, is read by the command line, by the environment, by `--help` and by the test that holds the
documentation against it. A wrong value is one sentence, raised as BadSetting.
"""

import argparse
import ipaddress
import os
import sys
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

ENGINES = ("background", "celery", "dramatiq")
BROKERS = ("redis", "rediss", "amqp", "amqps")
WORKERS = ("broker_url", "dashboard_url", "worker_token", "tasks")  # what a worker elsewhere is told


class BadSetting(Exception):
    """A setting has a value that cannot be used; the message is one sentence."""


def setting(default: Any, help: str, metavar: str = "VALUE", type: Any = str) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar, "type": type})


@dataclass
class Settings:
    """How this dashboard runs. Made by `read` from flags and environment, or by hand for `mount`."""

    host: str = setting("127.0.0.1", "address to listen on; only loopback until there are accounts", "ADDRESS")
    port: int = setting(5001, "port to listen on", "PORT", int)
    database: str = setting("data/rowcast.db", "the SQLite file that holds jobs, items and users", "FILE")
    api_url: str = setting("", "the API that tasks post to; without it the built-in demo API", "URL")
    tasks: str = setting("", "your own tasks: modules to import, separated by commas", "MODULE[,MODULE]")
    engine: str = setting("background", "where jobs run: background, celery or dramatiq", "NAME")
    broker_url: str = setting("", "the queue's broker: redis://, rediss:// (also Valkey), amqp:// or amqps://", "URL")
    dashboard_url: str = setting("", "where workers elsewhere reach this dashboard; without it --host and --port", "URL")
    worker_token: str = setting("", "what workers elsewhere show to be let in; better given by the environment", "TOKEN")
    public_url: str = setting("", "the address people use to reach this dashboard, when a proxy stands before it", "URL")

    keep_days: float = setting(0.0, "delete jobs that ended more than so many days ago; 0 keeps all", "DAYS", float)
    keep_jobs: int = setting(0, "delete all but the newest so many ended jobs; 0 keeps all", "NUMBER", int)

    workers: int = setting(1, "processes that serve; one of them has the engine", "NUMBER", int)
    streams: int = setting(4096, "streams open at once in one process; over it pages poll", "NUMBER", int)
    streams_per_viewer: int = setting(512, "streams open at once for one address", "NUMBER", int)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def modules(self) -> list[str]:
        return [name.strip() for name in self.tasks.split(",") if name.strip()]


def add_flags(parser: argparse.ArgumentParser, *only: str) -> None:
    """Every setting, or `only` some, as a flag; what is not given is looked up in the environment, else has its default."""
    for f in fields(Settings):
        if only and f.name not in only:
            continue
        shown = f" (default {f.default})" if f.default != "" else ""
        parser.add_argument(
            f"--{f.name.replace('_', '-')}",
            metavar=f.metadata["metavar"],
            default=argparse.SUPPRESS,  # a command's own flag that is not given must not hide the one before it
            help=f"{f.metadata['help']}{shown}; environment: {variable(f.name)}",
        )


def read(given: argparse.Namespace, *only: str) -> Settings:
    """Settings, or `only` some, from parsed flags and the environment. Raises BadSetting."""
    values: dict[str, Any] = {}
    for f in fields(Settings):
        if only and f.name not in only:
            continue
        raw = getattr(given, f.name, None)
        where = f"--{f.name.replace('_', '-')}"
        if raw is None:
            raw, where = os.environ.get(variable(f.name)), variable(f.name)
        if raw is None:
            continue
        try:
            values[f.name] = f.metadata["type"](raw)
        except ValueError:
            raise BadSetting(f"{where} takes a number, not {raw!r}.") from None
    return Settings(**values)


def from_environment() -> Settings:
    """Settings from the environment alone. Raises BadSetting."""
    return read(argparse.Namespace())


def worker_environment() -> Settings:
    """The settings of a worker elsewhere, from the environment; what it cannot do without is said, and it ends (exit 2)."""
    try:
        settings = read(argparse.Namespace(), *WORKERS)
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
            raise BadSetting(f"--engine {settings.engine} needs --{name.replace('_', '-')} (or {variable(name)}) too.")


def address_for_workers(settings: Settings) -> str:
    """Where workers reach the dashboard, without a slash at its end."""
    return settings.dashboard_url.rstrip("/") or address(settings)


def address(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def as_environment(settings: Settings) -> dict[str, str]:
    """Settings as the environment variables that another process of ours reads them from."""
    return {variable(f.name): str(getattr(settings, f.name)) for f in fields(Settings)}


def for_workers(settings: Settings) -> dict[str, str]:
    """What a worker elsewhere is told, as environment variables."""
    told = {name: getattr(settings, name) for name in WORKERS} | {"dashboard_url": address_for_workers(settings)}
    return {variable(name): value for name, value in told.items()}


def variable(name: str) -> str:
    return f"ROWCAST_{name.upper()}"


def _check(s: Settings) -> None:
    if not 0 <= s.port <= 65535:
        raise BadSetting(f"--port is a number from 0 to 65535, not {s.port}.")
    if not is_loopback(s.host):
        raise BadSetting(
            f"--host {s.host} is not a loopback address; Rowcast has no accounts yet, so it only listens on this machine"
            " (127.0.0.1, ::1 or localhost)."
        )
    for name in ("api_url", "public_url", "dashboard_url"):
        value = getattr(s, name)
        if value and not (urlsplit(value).scheme in ("http", "https") and urlsplit(value).hostname):
            raise BadSetting(f"--{name.replace('_', '-')} is an http:// or https:// address, not {value!r}.")
    if s.engine not in ENGINES:
        raise BadSetting(f"--engine is one of {', '.join(ENGINES)}, not {s.engine!r}.")
    if s.broker_url and not (urlsplit(s.broker_url).scheme in BROKERS and urlsplit(s.broker_url).hostname):
        scheme = urlsplit(s.broker_url).scheme or s.broker_url
        raise BadSetting(f"--broker-url is an address like redis://host:6379/0 or amqp://host, not {scheme!r}.")
    if not (s.worker_token.isascii() and s.worker_token.isprintable() and " " not in s.worker_token):
        raise BadSetting("--worker-token is of plain letters, digits and signs, without spaces.")
    for name in ("keep_days", "keep_jobs"):
        if not 0 <= getattr(s, name) < 1e9:
            raise BadSetting(f"--{name.replace('_', '-')} is a number from 0, not {getattr(s, name)}.")
    if not s.database or s.database.startswith((":", "file:")):
        raise BadSetting(f"--database is the name of a file, not {s.database!r}.")


def is_loopback(host: str) -> bool:
    """Whether an address or host name means this machine alone."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return False
