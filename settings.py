"""Settings: every flag of `rowcast`, each also an environment variable ROWCAST_<NAME>.

One table, SETTINGS, is read by the command line, by the environment, by `--help` and by the test that holds the
documentation against it. A wrong value is one sentence, raised as BadSetting.
"""

import argparse
import ipaddress
import os
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit


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
    api_url: str = setting("", "where update_users posts; without it the built-in demo API", "URL")
    tasks: str = setting("", "your own tasks: modules to import, separated by commas", "MODULE[,MODULE]")
    engine: str = setting("background", "where jobs run: background", "NAME")
    public_url: str = setting("", "the address people use to reach this dashboard, when a proxy stands before it", "URL")

    def __post_init__(self) -> None:
        _check(self)

    @property
    def modules(self) -> list[str]:
        return [name.strip() for name in self.tasks.split(",") if name.strip()]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Every setting as a flag; what is not given is looked up in the environment, then takes its default."""
    for f in fields(Settings):
        shown = f" (default {f.default})" if f.default != "" else ""
        parser.add_argument(
            f"--{f.name.replace('_', '-')}",
            metavar=f.metadata["metavar"],
            help=f"{f.metadata['help']}{shown}; environment: {variable(f.name)}",
        )


def read(given: argparse.Namespace) -> Settings:
    """Settings from parsed flags and the environment. Raises BadSetting."""
    values: dict[str, Any] = {}
    for f in fields(Settings):
        raw = getattr(given, f.name, None)
        where = f"--{f.name.replace('_', '-')}"
        if raw is None:
            raw, where = os.environ.get(variable(f.name)), variable(f.name)
        if raw is None:
            continue
        try:
            values[f.name] = f.metadata["type"](raw)
        except ValueError:
            raise BadSetting(f"{where} takes a whole number, not {raw!r}.") from None
    return Settings(**values)


def from_environment() -> Settings:
    """Settings from the environment alone. Raises BadSetting."""
    return read(argparse.Namespace())


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
    for name in ("api_url", "public_url"):
        value = getattr(s, name)
        if value and not (urlsplit(value).scheme in ("http", "https") and urlsplit(value).hostname):
            raise BadSetting(f"--{name.replace('_', '-')} is an http:// or https:// address, not {value!r}.")
    if s.engine != "background":
        raise BadSetting(f"--engine is background, not {s.engine!r}.")
    if not s.database:
        raise BadSetting("--database needs the name of a file.")


def is_loopback(host: str) -> bool:
    """Whether an address or host name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
