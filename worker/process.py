"""A slice: what one message of a queue does. It works on one job for some seconds, reports, and says whether
to come again.

Every process of an engine's worker is a `Process`: one event loop on a thread of its own, which outlives a
slice, so that connections are kept; and a heartbeat on another, so that a task which holds up the loop does
not look dead. An engine calls `start` when a process is up, `work` for each message, `stop` when the worker
is told to end, and `leave` at a process's end.
"""

import asyncio
import contextlib
import logging
import mmap
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from typing import Any

import httpx

from rowcast.tasks.edits import Edits, note
from rowcast.tasks.log_format import set_log_format
from rowcast.tasks.mail import Posted
from rowcast.tasks.python_path import see_working_directory, warn_of_hidden
from rowcast.tasks.records import Job
from rowcast.tasks.registry import import_modules, load_or_say
from rowcast.tasks.sentences import worded
from rowcast.tasks.settings import Settings, api_of
from rowcast.tasks.text import printable
from rowcast.tasks.trouble import Trouble
from rowcast.tasks.work import LEASE, SLICE_SECONDS, Beat, Claimed, Result
from rowcast.worker import tracing
from rowcast.worker.attempt import as_said
from rowcast.worker.clients import Clients
from rowcast.worker.context import Context
from rowcast.worker.hiding import Hider
from rowcast.worker.isolated import run_alone
from rowcast.worker.loops import run_to_end
from rowcast.worker.remote import (
    Away,
    NotNow,
    Refused,
    RemoteLedger,
    open_client,
    open_ledger_client,
    say,
    watch,
)
from rowcast.worker.rounds import Rounds
from rowcast.worker.runner import run
from rowcast.worker.stall import Stall, StallWatch
from rowcast.worker.started import end_descendants
from rowcast.worker.threads import carry_context

log = logging.getLogger("rowcast")
GIVE_UP = (
    2.0  # seconds beyond its grace after which a worker that is told to end waits no longer for the dashboard
)
GOODBYE = 2.0  # seconds that the dashboard gets to hear that a worker leaves
HEARD = 0.5  # seconds until what was said last has passed through the engine's own log
PASS = 0.03  # seconds that a message is kept before it is passed on
PASSES = 30
REMEMBERED = 1000
AGAIN = 0.25  # seconds between two looks for slices whose jobs are to be heard of
BUSY = 0.3  # seconds until a slice comes again whose job is worked on here already
Send = Callable[[int, int, str], None]


class WorkerEnd:
    """That a worker is told to end, which all see that are forked from it. It has no lock: it is set in the
    handler of a signal, which may come again in the midst of that, and who is killed leaves nothing locked.
    """

    def __init__(self) -> None:
        self.byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self.byte[0] = 1

    def is_set(self) -> bool:
        return self.byte[0] == 1


STOPPING = WorkerEnd()


class Process:
    """One process of an engine's worker.

    `main` is the process to end where the dashboard will not have this worker.
    """

    def __init__(self, engine: str, settings: Settings, main: int):
        self.engine = engine
        self.settings = settings
        self.main = main
        self.pid = os.getpid()
        self.name = f"{platform.node()}-{self.pid}-{secrets.token_hex(3)}"
        self.done = 0
        self.slices: dict[int, RemoteLedger] = {}  # the slice that works on a job here
        self.stopping = asyncio.Event()
        self.passed: Counter[str] = Counter()  # how often a message was passed on, by its token
        self.refused = False
        self.leaving = False
        self.beating = threading.Lock()
        self.known = threading.Event()
        self.loop = new_loop()
        self.client = open_ledger_client(settings.dashboard_url, settings.worker_token)
        self.rounds = Rounds(self.client, self.slices)
        self.beats = open_client(settings.dashboard_url, settings.worker_token)
        self.clients = Clients(lambda: api_of(settings, settings.dashboard_url), self._keep_mail)
        self.edits = Edits(settings.modules)
        self.edits.remedy = "restart this worker"
        self.edits.start()
        threading.Thread(target=run_to_end, args=(self.loop,), name="rowcast", daemon=True).start()
        self.stall = Stall(self.loop)
        threading.Thread(target=self._stay_alive, name="heartbeat", daemon=True).start()
        self.watching = asyncio.run_coroutine_threadsafe(self._watch(), self.loop)

    def work(self, job: int, slot: int, token: str, send: Send) -> None:
        """Work on a job for one slice; `send` is how it sends itself again."""
        while not (self.known.wait(0.2) or self.refused or STOPPING.is_set()):
            pass  # what nobody knows to live would be taken back from it
        if job in self.slices and self._pass_on(job, slot, token, send):
            return
        asyncio.run_coroutine_threadsafe(
            self._guarded(self._slice(job, slot, token, send)), self.loop
        ).result()

    def _pass_on(self, job: int, slot: int, token: str, send: Send) -> bool:
        """A slice of a job that is worked on here already is for another process: back into the queue, unless
        it comes again and again, as it does where there is no other."""
        if len(self.passed) > REMEMBERED:
            self.passed.clear()
        self.passed[token] += 1
        if self.passed[token] > PASSES:
            return False
        time.sleep(PASS)
        try:
            send(job, slot, token)
        except Exception as error:  # each engine and broker has its own
            log.warning("The broker cannot be reached (%s); the dashboard will send the next slice.", error)
        return True

    async def _watch(self) -> None:
        """Once the worker is told to end, what is in flight gets a short grace, and is put back."""
        StallWatch(self._note_stall)
        while not STOPPING.is_set():
            await asyncio.sleep(0.2)
        self.stopping.set()
        await asyncio.sleep(self.settings.grace + GIVE_UP)
        for ledger in self.slices.values():
            ledger.patient = False  # the dashboard may be away for long, and takes back what we hold

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Refused as error:
            self.decline(error)
        except Away:
            log.warning("The dashboard is away: it will take back what this worker had in flight.")

    async def _slice(self, job: int, slot: int, token: str, send: Send) -> None:
        if self.stopping.is_set() or self.refused:
            return
        ledger = RemoteLedger(self.client, job, slot, token, self.rounds)
        given = await ledger.begin(self.name)
        if given.job is None:
            return
        self.settings.api_url = given.api_url
        if job in self.slices:
            ledger.wait = BUSY
        else:
            self.slices[job] = ledger
            try:
                await self._run(given.job, ledger, given.opened)
            finally:
                self.done += ledger.done
                del self.slices[job]
        if await ledger.end(self.name) and not self.stopping.is_set():
            await self._send_again(ledger, send)

    async def _run(self, job: Job, ledger: RemoteLedger, opened: dict[str, str]) -> None:
        task = await asyncio.to_thread(load_or_say, job.entry, job.task)
        if isinstance(task, str):
            await ledger.cannot(
                self.name, worded(f"The worker {self.name} cannot import {job.entry}: {task}")
            )
            return
        context = Context(self.name, ledger, self.clients.open, self._run_alone, self.settings.grace)
        context.until = time.monotonic() + SLICE_SECONDS
        context.stopping = self.stopping
        try:
            await run(job, task, context, opened)
        except (Refused, Away, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # what a task has raised or returned may raise anything itself
            log.exception("job %s", job.id)
            why = Hider(opened.values())(f"{type(error).__name__}: {as_said(error)}")
            await ledger.cannot(self.name, worded(f"The worker {self.name} cannot run it: {why}"))

    async def _send_again(self, ledger: RemoteLedger, send: Send) -> None:
        try:
            await asyncio.to_thread(send, ledger.job, ledger.slot, ledger.token)
        except Exception as error:  # each engine and broker has its own
            log.warning("The broker cannot be reached (%s); the dashboard will send the next slice.", error)
            ledger.wait = BUSY
            await ledger.end(self.name)

    async def _keep_mail(self, posted: Posted) -> None:
        await RemoteLedger(self.client).mail(self.name, posted)

    async def _run_alone(self, job: Job, item: Claimed, opened: dict[str, str]) -> Result:
        api_url = api_of(self.settings, self.settings.dashboard_url)
        return await run_alone(job, item, api_url, self._keep_mail, opened)

    def decline(self, error: Refused) -> None:
        """The dashboard will not have this worker: say why, once, and end it."""
        if not self.refused:
            self.refused = True
            log.error("%s", error)
            print(f"rowcast: {printable(str(error))}", file=sys.stderr, flush=True)
            time.sleep(HEARD)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.main, signal.SIGTERM)

    def _stay_alive(self) -> None:
        """Say again and again that this process lives, until the dashboard will not have it."""
        trouble = Trouble("The heartbeat")
        while not (self.refused or self.leaving):
            try:
                self._beat(LEASE / 2)
                self.known.set()
                trouble.over()
            except Refused as error:
                self.decline(error)
            except (NotNow, httpx.TransportError, ValueError):
                pass  # the dashboard is away, of which the slices tell
            except Exception as error:
                trouble.meet(error)
            self._listen(time.monotonic() + LEASE / 4)

    def _listen(self, until: float) -> None:
        """Until then hear what is new of the jobs that are worked on here: of a pause, of a cancel."""
        while (left := until - time.monotonic()) > 0 and not (self.refused or self.leaving):
            ledgers = [ledger for ledger in list(self.slices.values()) if ledger.token]
            try:
                if ledgers:
                    watch(self.beats, self.name, ledgers, left)
                    continue
            except (Refused, NotNow, httpx.TransportError, ValueError):
                pass  # of which the next beat tells
            time.sleep(min(left, AGAIN))

    def _note_stall(self, job: int, seconds: float, where: str) -> None:
        with contextlib.suppress(Refused, NotNow, httpx.TransportError, ValueError):  # it is in the log
            self._beat(LEASE / 2, stalls=[(job, seconds, where)])

    def _beat(
        self, timeout: float, alive: bool = True, stalls: Sequence[tuple[int, float, str]] = ()
    ) -> None:
        with self.beating:
            if alive and self.leaving:
                return
            done = self.done + sum(ledger.done for ledger in list(self.slices.values()))
            slices = [(ledger.job, ledger.slot, ledger.token) for ledger in list(self.slices.values())]
            self.beats.timeout = httpx.Timeout(timeout)
            say(
                self.beats,
                Beat(
                    worker=self.name,
                    host=platform.node(),
                    pid=self.pid,
                    engine=self.engine,
                    version=version("rowcast"),
                    done=done,
                    alive=alive,
                    slices=slices,
                    trouble=(self.stall.look() or self.edits.trouble) if alive else "",
                    stalls=list(stalls),
                ),
            )

    def leave(self) -> None:
        """Say that this process ends, so that nobody waits for its lease."""
        self.leaving = True
        with contextlib.suppress(Refused, NotNow, httpx.TransportError, ValueError):
            self._beat(GOODBYE, alive=False)


def new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop

        return uvloop.new_event_loop()
    except ImportError:
        return asyncio.new_event_loop()


_process: Process | None = None
_making = threading.Lock()


def start(engine: str, settings: Settings, main: int) -> Process:
    """This process's `Process`, made at the first call, which is after any fork."""
    global _process
    with _making:
        if _process is None or _process.pid != os.getpid():
            set_log_format(settings.log_format)
            see_working_directory()
            note(settings.modules)
            carry_context()  # before anybody has `from asyncio import shield`
            for error in import_modules(settings.modules):
                log.error("%s", error)
            warn_of_hidden()
            logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for every item
            tracing.switch_on(settings.otel)
            _process = Process(engine, settings, main)
    return _process


def stop(**_: Any) -> None:
    """The worker is told to end."""
    STOPPING.set()


def leave(**_: Any) -> None:
    """This process ends, and what its tasks have started with it."""
    if _process is not None and _process.pid == os.getpid():
        _process.leave()
        tracing.end()
        end_descendants()
