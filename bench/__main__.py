"""The command `python -m bench`: run the benches that are named, or all, and print their table. It always exits with 0."""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from bench import report
from bench.archive import archive
from bench.auto import auto
from bench.dom import dom
from bench.engines import engines
from bench.eta import eta
from bench.filling import filling
from bench.many import many
from bench.memory import memory
from bench.messages import messages
from bench.page import page
from bench.retry import retry
from bench.size import size
from bench.soak import soak
from bench.speed import fast_lane, update_users
from bench.starts import starts
from bench.table import Row, lines
from bench.tries import tries
from bench.viewers import viewers
from bench.workers import workers

BENCHES: dict[str, Callable[[bool], Iterator[Row]]] = {
    "update_users": update_users,
    "fast_lane": fast_lane,
    "page": page,
    "filling": filling,
    "starts": starts,
    "messages": messages,
    "retry": retry,
    "many": many,
    "memory": memory,
    "archive": archive,
    "tries": tries,
    "eta": eta,
    "auto": auto,
    "size": size,
    "viewers": viewers,
    "dom": dom,
    "soak": soak,
    "workers": workers,
    "engines": engines,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure Rowcast against its targets."
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, for a first impression")
    parser.add_argument(
        "benches", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all if none is given"
    )
    parser.add_argument(
        "--write",
        metavar="FOLDER",
        help="also write what was found to figures.md there, with plots; the rest of it stays",
    )
    given = parser.parse_args()
    # fastlite, which some benches import, has each new connection count what is in a file: where there was one job, the
    # dashboard beside it would plan its statements for one
    apsw.connection_hooks.clear()
    if unknown := set(given.benches) - set(BENCHES):
        parser.error(f"there is no bench {sorted(unknown)[0]!r}; there are {', '.join(BENCHES)}")
    started = time.monotonic()
    rows = []
    for name in given.benches or BENCHES:
        found = []
        for row in BENCHES[name](given.quick):
            print(row.name, row.cells[4], row.cells[1], row.cells[2], file=sys.stderr, flush=True)
            found.append(row)
        rows += found
        report.keep(name, found, given.quick)
    if given.write:
        report.write(Path(given.write), given.benches or BENCHES)
    print("\n".join(lines(rows)))
    print(f"{platform.platform()}, Python {platform.python_version()}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
