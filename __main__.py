"""The command line: serve, `rowcast users import`, `rowcast tail`.

What goes wrong is one line and exit code 2.
"""

import argparse
import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import apsw
import msgspec
import uvicorn
from uvicorn.supervisors import Multiprocess

from rowcast.commands import accounts, secrets, terminal
from rowcast.dashboard import Dashboard, load_tasks, prepare_database, serving
from rowcast.tables import database
from rowcast.tables.accounts import Accounts
from rowcast.tables.database import DatabaseRefused
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.restore import restore
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks.checks import is_loopback
from rowcast.tasks.edits import tried
from rowcast.tasks.python_path import hidden, see_working_directory
from rowcast.tasks.records import BadArguments
from rowcast.tasks.registry import REGISTRY
from rowcast.tasks.settings import (
    TOLD,
    BadSetting,
    Settings,
    add_flags,
    address,
    as_environment,
    demand_broker,
    read,
)
from rowcast.tasks.text import Readable, say
from rowcast.web.requests import PING
from rowcast.web.wire import Socket, Wire

PIPE_CLOSED = 141  # as a shell has it of a program that was ended by SIGPIPE
LOGGERS = ("uvicorn.error", "asyncio", "python_multipart")  # that may tell of what strangers sent
SHOWN = 100_000  # bytes given back to the disk from which that is told
LISTENER = "ROWCAST_LISTENER"  # in the environment of one that begins anew: its descriptor
EDITED = 1.0  # seconds between two tries of code that cannot be imported
STOP_WITHIN = 3  # seconds that open answers get when the server is told to stop
MESSAGE = 4096  # bytes of what a client says on a WebSocket
UVICORN: dict[str, Any] = {
    "log_level": "warning",
    "access_log": False,
    "timeout_graceful_shutdown": STOP_WITHIN,
    "lifespan": "on",
    "server_header": False,
    "proxy_headers": False,  # those that are listed are believed in web/proxies.py
    "http": Wire,
    "ws": Socket,
    "ws_ping_interval": PING,
    "ws_per_message_deflate": False,  # each client would be packed for by itself
    "ws_max_size": MESSAGE,
}


def parser() -> argparse.ArgumentParser:
    """Every command and flag, for `--help` and for the test that holds the documentation against it."""
    top = argparse.ArgumentParser(
        prog="rowcast", description="A live dashboard for background jobs.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"rowcast {version('rowcast')}")
    add_flags(top)
    top.set_defaults(act=serve)
    commands = top.add_subparsers(metavar="COMMAND", title="commands (none: serve)")

    people = commands.add_parser("users", help="the table of users")
    importing = people.add_subparsers(required=True).add_parser("import", help="add the users of a CSV file")
    importing.add_argument("file", metavar="FILE.csv")
    importing.add_argument(
        "--dry-run", action="store_true", help="say what would come of it, and write nothing"
    )
    importing.add_argument(
        "--encoding",
        metavar="NAME",
        default="",
        help="of the file, as in MacRoman or Shift-JIS; else it is told from it",
    )
    terminal.add_json(importing)
    add_flags(importing, "database")
    importing.set_defaults(act=import_users)

    accounts.add_commands(commands, prepare_database)
    secrets.add_commands(commands, prepare_database)

    pruning = commands.add_parser("prune", help="delete old jobs that have ended, with their items")
    for flag, kind, metavar, about in (
        ("--older-than", float, "DAYS", "those that ended so long ago"),
        ("--keep", int, "NUMBER", "all but the newest so many"),
    ):
        pruning.add_argument(flag, type=kind, metavar=metavar, default=0, help=about)
    terminal.add_json(pruning)
    pruning.set_defaults(act=prune)

    looking = commands.add_parser(
        "doctor", help="look the database over, and say what to do; exit 0 all well, 1 not"
    )
    add_flags(looking, "engine", "database", "host", "port", *TOLD)
    looking.add_argument(
        "--own-keys",
        action="store_true",
        help="this database is a copy: give its items Idempotency-Keys of its own",
    )
    terminal.add_json(looking)
    looking.set_defaults(act=doctor)

    backing = commands.add_parser("backup", help="copy the database to a new file, also while it is in use")
    backing.add_argument("file", metavar="FILE")
    terminal.add_json(backing)
    backing.set_defaults(act=back_up)

    restoring = commands.add_parser(
        "restore", help="put a backup in the database's place, and what is there aside"
    )
    restoring.add_argument("file", metavar="FILE")
    terminal.add_json(restoring)
    restoring.set_defaults(act=put_back)

    following = commands.add_parser(
        "tail", help="follow one job; exit 0 completed, 1 with failures, 2 not reachable or not allowed"
    )
    following.add_argument("job", metavar="JOB", type=int, help="the number of the job")
    following.add_argument(
        "--item", metavar="KEY", default="", help="one item alone, by its key: its tries, and what they say"
    )
    following.add_argument("--json", action="store_true", help="print each event as a line of JSON")
    terminal.add_dashboard(following)
    following.set_defaults(act=follow)

    terminal.add_commands(commands)
    completing = commands.add_parser("completion", help="print what completes this command in a shell")
    completing.add_argument("shell", choices=["bash", "zsh", "fish"], help="bash, zsh or fish")
    completing.set_defaults(act=complete)
    return top


def main(arguments: list[str] | None = None) -> NoReturn:
    given = parser().parse_args(arguments)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(Readable())
    # what SQLite complains of arrives as an exception, and is told in one sentence
    logging.getLogger("apsw").setLevel(logging.CRITICAL)
    try:
        code = given.act(read(given), given)
        sys.stdout.flush()
        sys.exit(code)
    except (BadSetting, DatabaseRefused, ImportError) as error:
        stop(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `rowcast tail 1 | head`: nobody reads any more, which is no failure of ours
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())  # what is left in their buffers has to go somewhere
        sys.exit(PIPE_CLOSED)


def stop(sentence: str) -> NoReturn:
    say(f"rowcast: {' '.join(sentence.split())}", sys.stderr)
    sys.exit(2)


class Server(uvicorn.Server):
    """uvicorn, whose streams are told at once when it is to stop."""

    def __init__(self, config: uvicorn.Config, dashboard: Dashboard):
        super().__init__(config)
        self.dashboard = dashboard
        self.reloads = False

    def reload(self) -> None:
        """End as at a stop, from any thread: whoever runs this begins anew."""
        self.reloads = True
        self.dashboard.engine.hang_up()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)  # which is not to be missed, whatever comes of the rest
        self.dashboard.feed.close()
        self.dashboard.engine.hang_up()


class Processes(Multiprocess):
    """uvicorn's several processes, of which a terminal that closes makes an end, as SIGTERM does."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]):
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
        super().__init__(config, sockets)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_hup(self) -> None:
        self.handle_term()


def serve(settings: Settings, given: argparse.Namespace) -> int:
    """Serve until a signal says stop. Raises BadSetting for a port that cannot be had."""
    see_working_directory()
    demand_broker(settings)
    if settings.workers > 1 and hidden() and not sys.flags.safe_path:
        # the processes that multiprocessing starts would look in the working directory before all else
        os.execv(sys.executable, [sys.executable, "-P", *sys.orig_argv[1:]])
    try:
        load_tasks(settings)
    except ImportError as error:
        if LISTENER not in os.environ:
            raise
        await_edit(settings, error)
    prepare_database(settings)
    demand_accounts(settings)
    allow_descriptors(settings.streams)
    listener = kept_listener() or listen(settings)
    settings.port = listener.getsockname()[1]
    os.environ.update(as_environment(settings))
    print(f"Rowcast {version('rowcast')} on {address(settings)}",
          f"  {settings.database}, {Users(settings.database).count():,} users",
          f"  posting to {settings.api_url or 'the built-in demo API (--api-url URL for a real one)'}",
          "  Ctrl-C ends it", sep="\n", flush=True)  # fmt: skip
    if settings.workers > 1:
        config = uvicorn.Config(
            "rowcast.dashboard:application", factory=True, workers=settings.workers, **uvicorn_of(settings)
        )
        Processes(config, [listener]).run()
        return 0
    dashboard = serving()
    server = Server(uvicorn.Config(dashboard.asgi, **uvicorn_of(settings)), dashboard)
    kept = listener.dup()  # uvicorn closes its own; until the next is up, who comes waits at this one
    if settings.reload:
        dashboard.edits.take_up = server.reload
    # uvicorn raises the signal again after it has shut down; being asked to end is no failure
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        server.run(sockets=[listener])
        if server.reloads:
            begin_anew(kept)
    kept.close()
    return 0 if server.started else 1


def demand_accounts(settings: Settings) -> None:
    """Others than this machine are let in where there are accounts, or a proxy knows who asks. Raises
    BadSetting."""
    if not is_loopback(settings.host) and not Accounts(settings.database).any():
        where = "" if settings.database == Settings.database else f"--database {settings.database} "
        raise BadSetting(
            f"--host {settings.host} lets others in, and there are no accounts: make one with"
            f" `rowcast {where}account add NAME --role admin`."
        )


def uvicorn_of(settings: Settings) -> dict[str, Any]:
    """How uvicorn is run; it leaves a log alone that is JSON."""
    return UVICORN | ({"log_config": None} if settings.log_format == "json" else {})


def begin_anew(listener: socket.socket) -> NoReturn:
    """Be this command again, in this process, with the new code and the listener that there is."""
    listener.set_inheritable(True)
    os.environ[LISTENER] = str(listener.fileno())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def kept_listener() -> socket.socket | None:
    """The listener of what this process was before it began anew."""
    number = os.environ.pop(LISTENER, "")
    if not number:
        return None
    listener = socket.socket(fileno=int(number))
    listener.set_inheritable(False)
    return listener


def await_edit(settings: Settings, error: ImportError) -> NoReturn:
    """The code was edited again after it had been tried, and is broken: wait until it is put right."""
    say(f"rowcast: {' '.join(str(error).split())}", sys.stderr)
    why = str(error)
    while why:
        time.sleep(EDITED)
        why = tried(settings.modules)
    listener = kept_listener()
    assert listener
    begin_anew(listener)


def allow_descriptors(streams: int) -> None:
    """Each open stream is a descriptor; the system's usual limit, which this process may raise, is fewer than
    --streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = streams + 1024  # files, the database, and those who only ask
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, -1) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)  # from here on nobody else can have the port
    except OSError as error:
        listener.close()
        raise BadSetting(
            f"Port {settings.port} on {settings.host} cannot be had ({error.strerror});"
            " give another with --port."
        ) from None
    return listener


def import_users(settings: Settings, given: argparse.Namespace) -> int:
    """`rowcast users import FILE.csv`: exit 0 when every line was good, 1 when some were refused."""
    if given.dry_run:
        existing(settings)
    try:
        with Path(given.file).open("rb") as file, tempfile.TemporaryFile() as copy:
            if not file.seekable():  # a pipe is copied first: the file is read twice
                shutil.copyfileobj(file, copy)
            prepare(settings.database)  # with nobody in it: the thousand of the first start are for trying
            whole = file if file.seekable() else copy
            done = Users(settings.database).import_csv(whole, given.dry_run, encoding=given.encoding)
    except OSError as error:
        stop(f"{given.file} cannot be read: {error.strerror}.")
    except (BadArguments, apsw.Error) as error:
        stop(str(error))
    if given.json:
        refused = [{"line": line, "why": why} for line, why in done.refused]
        terminal.print_json(msgspec.to_builtins(done) | {"refused": refused})
        return 1 if done.refusals else 0
    for line, why in done.refused:
        say(f"line {line}: {why}", sys.stderr)
    if done.refusals > len(done.refused):
        say(f"and {done.refusals - len(done.refused):,} more", sys.stderr)
    say(done.sentence)
    return 1 if done.refusals else 0


def prune(settings: Settings, given: argparse.Namespace) -> int:
    """`rowcast prune`: by age, by number, or both."""
    keep = Keep(given.older_than, given.keep)
    if keep.days <= 0 and keep.jobs <= 0:
        stop("Say which jobs to delete: --older-than DAYS, --keep NUMBER, or both.")
    existing(settings)
    prepare_database(settings)
    before = size_of(settings.database)
    try:
        deleted = Maintenance(settings.database).prune(keep)
    except apsw.FullError:
        stop("The disk is full, and to delete takes some room too: make a few megabytes, and prune again.")
    given_back = max(0, before - size_of(settings.database))
    if given.json:
        terminal.print_json({"deleted": deleted, "given_back": given_back})
        return 0
    say(f"{deleted:,} jobs deleted.")
    if given_back >= SHOWN:
        say(f"{given_back / 1e6:,.1f} MB given back to the disk.")
    return 0


def size_of(path: str) -> int:
    """The bytes that a database takes, with its log."""
    files = (Path(path), Path(f"{path}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def doctor(settings: Settings, given: argparse.Namespace) -> int:
    """`rowcast doctor`: one line a finding, and what to do where it is not well. Changes nothing, but for
    --own-keys.

    With the name of a queue as --engine it says too what would not survive the move there.
    """
    existing(settings)
    try:
        if given.own_keys:
            Maintenance(settings.database).own_keys()
        findings = Maintenance(settings.database).check()
        if settings.engine != "background":
            from rowcast.engines import preflight

            see_working_directory()
            load_tasks(settings)
            findings += preflight.check(settings, list(REGISTRY.values()))
    except apsw.Error as error:
        stop(f"{settings.database} is not a Rowcast database that can be read: {error}.")
    for found in findings:
        if given.json:
            terminal.print_json(msgspec.to_builtins(found))
            continue
        say(f"{'ok ' if found.well else 'BAD'}  {found.what}: {found.seen}")
        if not found.well:
            say(f"     {found.todo}")
    return 0 if all(found.well for found in findings) else 1


def back_up(settings: Settings, given: argparse.Namespace) -> int:
    """`rowcast backup FILE`: never over a file that is there."""
    existing(settings)
    try:
        size = database.back_up(settings.database, given.file)
    except (OSError, apsw.Error) as error:
        stop(f"The backup could not be made: {error}.".replace("..", "."))
    if given.json:
        terminal.print_json({"database": settings.database, "file": given.file, "size": size})
    else:
        say(f"{settings.database} copied to {given.file}, {size / 1e6:,.1f} MB.")
    return 0


def put_back(settings: Settings, given: argparse.Namespace) -> int:
    """`rowcast restore FILE`: while nothing uses the database."""
    done = restore(settings.database, given.file)
    if given.json:
        told = {
            "database": settings.database,
            "file": given.file,
            "size": done.size,
            "kept": done.kept or None,
        }
        terminal.print_json(told)
        return 0
    print(f"{settings.database} is now what {given.file} is, {done.size / 1e6:,.1f} MB.")
    if done.kept:
        print(f"What was there is {done.kept}.")
    return 0


def follow(settings: Settings, given: argparse.Namespace) -> int:
    """`rowcast tail JOB`, or one item of it."""
    from rowcast.feed.tail import follow_job, tail  # httpx, without which a server starts sooner
    from rowcast.feed.tail_item import follow_item

    url = terminal.place_of(settings, given)
    if given.item:
        return tail(follow_item(url, given.job, given.item, given.json))
    return tail(follow_job(url, given.job, given.json))


def complete(settings: Settings, given: argparse.Namespace) -> int:
    """`rowcast completion SHELL`."""
    import shtab

    print(shtab.complete(parser(), given.shell))
    return 0


def existing(settings: Settings) -> None:
    if not Path(settings.database).exists():
        stop(f"There is no database {settings.database}; say where it is with --database.")


if __name__ == "__main__":
    main()
