"""`rowcast secrets rotate`: seal what the database has of secrets by a new key, and forget the old one."""

import argparse
from collections.abc import Callable

from rowcast.tables import seals
from rowcast.tasks.records import BadArguments
from rowcast.tasks.settings import BadSetting, Settings, add_flags
from rowcast.tasks.text import say


def add_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prepare: Callable[[Settings], None]
) -> None:
    """The command and what belongs to it. `prepare`: makes the database where there is none."""
    acts = commands.add_parser("secrets", help="the key of what is kept encrypted").add_subparsers(
        required=True, metavar="ACT"
    )
    rotating = acts.add_parser("rotate", help="make a new key, and encrypt by it; also while it is in use")
    add_flags(rotating, "database")

    def rotate(settings: Settings, _: argparse.Namespace) -> int:
        prepare(settings)
        try:
            done, lost = seals.rotate(settings.database)
        except (BadArguments, seals.NotOpened) as error:
            raise BadSetting(str(error)) from None
        except OSError as error:
            raise BadSetting(
                f"The key {seals.key_file(settings.database)} cannot be written: {error.strerror}."
            ) from None
        file = seals.key_file(settings.database)
        say(f"A new key is in {file}; {done:,} jobs and schedules are sealed by it.")
        if lost:
            say(f"Of {lost:,} of them the key was lost before: what has not ended fails, and says so.")
        return 0

    rotating.set_defaults(act=rotate)
