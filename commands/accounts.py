"""`rowcast account`: make accounts, list and change them. Exit 0 where it was done, 2 where it was refused.

A password comes from the terminal, twice, or from the first line of stdin; never from an argument, which
every program of the machine could read.
"""

import argparse
import getpass
import json
import sys
from collections.abc import Callable

from rowcast.tables.accounts import Accounts
from rowcast.tables.audit import Audit
from rowcast.tables.sessions import Tokens
from rowcast.tasks.accounts import ROLES, SCOPES
from rowcast.tasks.records import BadArguments, NotFound, iso
from rowcast.tasks.settings import BadSetting, Settings, add_flags
from rowcast.tasks.text import say

HERE = "the command line"  # from where, in the audit
DAYS = 90.0  # that a token lives, where nothing else is said
Act = Callable[[Settings, argparse.Namespace], int]


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prepare: Callable[[Settings], None]
) -> None:
    """The command and what belongs to it. `prepare`: makes the database where there is none."""
    acts = commands.add_parser("account", help="who may sign in").add_subparsers(required=True, metavar="ACT")

    def command(name: str, act: Act, about: str, named: bool = True) -> argparse.ArgumentParser:
        made = acts.add_parser(name, help=about)
        if named:
            made.add_argument("name", metavar="NAME")
        add_flags(made, "database")

        def run(settings: Settings, given: argparse.Namespace) -> int:
            prepare(settings)
            try:
                return act(settings, given)
            except (BadArguments, NotFound) as error:
                raise BadSetting(str(error)) from None

        made.set_defaults(act=run)
        return made

    adding = command("add", add, "make an account")
    adding.add_argument(
        "--role",
        required=True,
        choices=list(ROLES),
        help="what it may do: look; start and stop its own jobs; all",
    )
    how = adding.add_mutually_exclusive_group()
    how.add_argument("--password-stdin", action="store_true", help="the password is the first line of stdin")
    how.add_argument(
        "--no-password", action="store_true", help="it signs in elsewhere: at a proxy, or in the app around"
    )
    listing = command("list", show, "all accounts", named=False)
    listing.add_argument("--json", action="store_true", help="print JSON, a line for each")
    command("disable", disable, "sign an account out, and let it in no more")
    command("enable", enable, "let it in again")
    changing = command("role", set_role, "give an account another role")
    changing.add_argument("role", metavar="ROLE", choices=list(ROLES))
    changing = command(
        "password", set_password, "give an account another password, and sign it out everywhere"
    )
    changing.add_argument(
        "--password-stdin", action="store_true", help="the password is the first line of stdin"
    )
    making = command("token", add_token, "make a token for a program, which is printed once")
    making.add_argument("--scope", required=True, choices=list(SCOPES), help="read, or also write")
    making.add_argument(
        "--days", type=float, metavar="N", default=DAYS, help=f"how long it lives (default {DAYS:g})"
    )
    making.add_argument("--for", dest="label", metavar="WHAT", default="a program", help="what uses it")


def add(settings: Settings, given: argparse.Namespace) -> int:
    password = None if given.no_password else typed(given.password_stdin)
    made = Accounts(settings.database).add(given.name, given.role, password)
    note(settings, "add account", f"{made.name}, {made.role}")
    say(f"{made.name} is there, as {made.role}.")
    return 0


def show(settings: Settings, given: argparse.Namespace) -> int:
    for row in Accounts(settings.database).every():
        how = "password" if row.has_password else "elsewhere"
        if row.disabled:
            how = "disabled"
        if given.json:
            one = {"name": row.name, "role": row.role, "how": how, "seen_at": iso(row.seen_at or None)}
            print(json.dumps(one, ensure_ascii=False))
            continue
        seen = f"seen {iso(row.seen_at)}" if row.seen_at else "never seen"
        say(f"{row.name:<30} {row.role:<9} {how:<9} {seen}")
    return 0


def disable(settings: Settings, given: argparse.Namespace) -> int:
    name = Accounts(settings.database).set_disabled(given.name)
    note(settings, "disable account", name)
    say(f"{name} is signed out, and let in no more.")
    return 0


def enable(settings: Settings, given: argparse.Namespace) -> int:
    name = Accounts(settings.database).set_disabled(given.name, False)
    note(settings, "enable account", name)
    say(f"{name} may sign in again.")
    return 0


def set_role(settings: Settings, given: argparse.Namespace) -> int:
    name = Accounts(settings.database).set_role(given.name, given.role)
    note(settings, "change role", f"{name}, {given.role}")
    say(f"{name} is {given.role} now.")
    return 0


def set_password(settings: Settings, given: argparse.Namespace) -> int:
    name = Accounts(settings.database).set_password(given.name, typed(given.password_stdin))
    note(settings, "change password", name)
    say(f"{name} has another password, and is signed out everywhere.")
    return 0


def add_token(settings: Settings, given: argparse.Namespace) -> int:
    account = Accounts(settings.database).account(given.name)
    if not account:
        raise NotFound(f"There is no account {given.name[:100]!r}, or it is disabled.")
    token, _ = Tokens(settings.database).add(account.name, given.label, given.scope, given.days)
    note(settings, "add token", f"{account.name}, {given.scope}, {given.label}")
    say(token)
    return 0


def note(settings: Settings, action: str, detail: str) -> None:
    Audit(settings.database).note(getpass.getuser(), action, HERE, detail=detail)


def typed(from_stdin: bool) -> str:
    """A password. Raises BadArguments."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise BadArguments("There is no terminal to ask for a password: give --password-stdin.")
    first = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != first:
        raise BadArguments("These were two different passwords.")
    return first
