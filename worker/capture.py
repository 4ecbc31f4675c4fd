"""The log of a try: what a task logs or prints is kept for the item and the try that said it, and goes to the
terminal as before.

Who has said a line is known by its context, not by its thread: by what is awaited, and by threads and pools
that were started from there (threads.py); of processes by who has started them (outputs.py). Of one try the
first and the last lines are kept, with a note of what was cut between them.
"""

import contextlib
import functools
import io
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from rowcast.tasks import clock
from rowcast.tasks.encoding import to_json
from rowcast.tasks.installed import OURS
from rowcast.tasks.steps import Call, OpenStep, current_call, current_run, current_step
from rowcast.tasks.text import message_of, traceback_of
from rowcast.tasks.work import LogPart
from rowcast.worker.hiding import Hider, current_hider
from rowcast.worker.outputs import hear_processes, live, read_all
from rowcast.worker.threads import carry_context

FIRST_LINES = 150  # of a try
LAST_LINES = 50  # of it; what is between them is cut
FIRST_SIZE = 48_000  # bytes of the first
LAST_SIZE = 16_000  # and of the last
LONGEST = 8_000  # letters of one line
AT_ONCE = 1_000_000  # letters in one report
NOTE = "note"  # the level of what is said here about what was cut
# clients that tell of each request, which is no word of a task's: they do so where somebody asks for it
TALKATIVE = ("httpx", "httpx2", "httpcore", "aiohttp", "asyncio", "urllib3", "hpack", "rowcast")
making = threading.Lock()
busy = threading.local()  # in this thread a line is on its way to the terminal: it has been kept


class RunLog:
    """What the tries of one run have said, and the ledger has not been told; from any thread."""

    def __init__(self, hider: Hider | None = None) -> None:
        self.hider = hider or Hider()
        self.lines: deque[tuple[int, int, float, str, str]] = deque()
        self.part = 0

    def take(self) -> list[LogPart]:
        """What is to be told next, by try."""
        taken: dict[tuple[int, int], list[tuple[float, str, str]]] = {}
        size = 0
        while self.lines and size < AT_ONCE:
            item, attempt, at, level, text = self.lines.popleft()
            taken.setdefault((item, attempt), []).append((at, level, text))
            size += len(text)
        return [self._logged(*whose, lines) for whose, lines in taken.items()]

    def _logged(self, item: int, attempt: int, lines: list[tuple[float, str, str]]) -> LogPart:
        began = lines[0][0]
        self.part = max(self.part + 1, int(1000 * clock.now()))
        text = to_json([(round(at - began, 4), level, said) for at, level, said in lines]).decode()
        return LogPart(item, attempt, self.part, began, text)


class TryLog:
    """What one try says, up to its caps. `item` is a step's position where there is no attempt."""

    def __init__(self, run: RunLog, item: int, attempt: int = 0):
        self.run = run
        self.item = item
        self.attempt = attempt
        self.lock = threading.Lock()
        self.over = False
        self.first = True  # whether what comes is among the first lines
        self.so_far = 0  # of these
        self.size = 0
        self.last: deque[tuple[float, str, str, int]] = deque()
        self.last_size = 0
        self.cut = 0
        self.begun: dict[str, str] = {}  # lines without an end, by where they are printed
        self.number = 0  # by which a pool's process knows it; 0: none does

    def add(self, level: str, text: str, at: float | None = None) -> None:
        """One line, or what is logged as several."""
        if self.over:
            return
        said = kept(self.run.hider(text))
        size = len(said) if said.isascii() else len(said.encode())
        with self.lock:
            self._add(level, said, size, clock.steady() if at is None else at)

    def _add(self, level: str, text: str, size: int, at: float) -> None:
        lines = text.count("\n") + 1
        self.first = self.first and self.so_far + lines <= FIRST_LINES and self.size + size <= FIRST_SIZE
        if self.first:
            self.so_far += lines
            self.size += size
            self.run.lines.append((self.item, self.attempt, at, level, text))
            return
        self.last.append((at, level, text, size))
        self.last_size += size
        # the newest stays, whatever its size: the note of what was cut stands before it
        while len(self.last) > 1 and (len(self.last) > LAST_LINES or self.last_size > LAST_SIZE):
            *_, gone = self.last.popleft()
            self.last_size -= gone
            self.cut += 1

    def write(self, where: str, text: str) -> None:
        """A piece of what is printed: each line of it once it has its end, of a bar the last state."""
        if self.over:
            return
        if "\n" not in text and "\r" not in text:
            self.begun[where] = self.begun.get(where, "")[:LONGEST] + text
            return
        *lines, rest = (self.begun.get(where, "") + text).split("\n")
        self.begun[where] = rest.rpartition("\r")[2][:LONGEST]
        for line in lines:
            self.add(where, line.rstrip("\r").rpartition("\r")[2])

    def add_all(self, level: str, lines: list[str]) -> None:
        """Many lines at once, of which none is looked at that would be cut."""
        beyond = 0 if self.first else max(0, len(lines) - LAST_LINES)
        with self.lock:
            self.cut += beyond
        for line in lines[beyond:]:
            self.add(level, line.rstrip("\r").rpartition("\r")[2])

    def close(self) -> None:
        """The try is over: what is said later is nobody's. A fault of ours here costs lines, and nothing of
        what came of the try.
        """
        try:
            self._close()
        except Exception:
            self.over = True
            with on_its_way():
                logging.getLogger("rowcast").exception("the log of item %s", self.item)

    def _close(self) -> None:
        if live:
            read_all(self, over=True)
        for where, rest in self.begun.items():
            if rest:
                self.add(where, rest)
        with self.lock:
            self.over = True
            if self.cut and self.last:
                at = self.last[0][0]
                note = f"{self.cut:,} lines were cut here: of a try 200 lines and 64 KB are kept"
                self.run.lines.append((self.item, self.attempt, at, NOTE, note))
            for at, level, text, _ in self.last:
                self.run.lines.append((self.item, self.attempt, at, level, text))
            self.last.clear()


def kept(text: str) -> str:
    """A line as a database takes it."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… (cut: it has {len(text):,} letters)"
    return text if text.isascii() else text.encode(errors="replace").decode()


def log_here() -> TryLog | None:
    """The log of the try in whose context this is; None outside of one."""
    call = current_call.get()
    if call is not None:
        return call.log or (log_of(call) if call.run_log is not None else None)
    run: Any = current_run.get()
    return None if run is None else run.log_of(current_step.get())


def log_of_try() -> TryLog | None:
    """The same, of a try that is not over."""
    return log_here() if is_heard() else None


def log_of(holder: Call | OpenStep, *made: Any) -> TryLog:
    """The log of a try, made at its first line."""
    with making:
        if holder.log is None:
            if isinstance(holder, Call):
                made = (holder.run_log, holder.item, holder.attempt)
            holder.log = TryLog(*made)
        log: TryLog = holder.log
        return log


def end_log(call: Call) -> None:
    """The try of this call is over."""
    call.run_log = None
    close_log(call)


def close_log(holder: Call | OpenStep) -> None:
    if holder.log is not None:
        holder.log.close()


# ---- logging -----------------------------------------------------------------------------------------------


def is_heard() -> bool:
    """Whether this is in a try, whose words are kept."""
    call = current_call.get()
    return call.run_log is not None if call is not None else current_run.get() is not None


def left_to_root(logger: logging.Logger) -> bool:
    """Whether nobody has said how much this logger is to tell: then a try keeps it from INFO on."""
    this: logging.Logger | None = logger
    while this is not None:
        if this.name in TALKATIVE:
            return False
        if this.level:
            return this.parent is None
        this = this.parent
    return True


def text_of(record: logging.LogRecord) -> str:
    """A record as its message, with the traceback that it has."""
    text = message_of(record)  # of arguments that do not fit logging says so on the terminal
    if record.exc_info and record.exc_info[1]:
        text += f"\n{trace_of(record.exc_info[1])}"
    return text


def trace_of(error: BaseException) -> str:
    """A traceback from where the task's own code begins; of a long one its end."""
    trace = error.__traceback__
    while trace and trace.tb_next and is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return traceback_of(error, trace)[-LONGEST:]


def is_ours(file: str) -> bool:
    return file.startswith((f"{OURS}/worker/", f"{OURS}/tasks/")) or "/anyio/" in file


def note_error(error: BaseException, log: TryLog | None = None) -> None:
    """Keep the traceback of what a try has raised in its log."""
    if log := log or log_here():
        log.add("ERROR", trace_of(error))


@functools.cache
def capture_logging() -> None:
    """From now on what is logged in a try is kept, too; handlers, and so the terminal, get what they did."""
    call_handlers = logging.Logger.callHandlers
    is_enabled_for = logging.Logger.isEnabledFor

    def enabled_or_kept(logger: logging.Logger, level: int) -> bool:
        return is_enabled_for(logger, level) or (
            level >= logging.INFO
            and is_heard()
            and logger.manager.disable < level
            and not logger.disabled
            and left_to_root(logger)
        )

    def keep_and_call(logger: logging.Logger, record: logging.LogRecord) -> None:
        write_out(record)
        if hider := current_hider.get():
            hide_in(record, hider)
        log = None if is_busy() else log_here()
        if log is None:
            call_handlers(logger, record)
            return
        if live:
            read_all(log)
        log.add(record.levelname, text_of(record))
        if is_enabled_for(logger, record.levelno):
            with on_its_way():
                call_handlers(logger, record)

    for name, in_place in (("callHandlers", keep_and_call), ("isEnabledFor", enabled_or_kept)):
        setattr(logging.Logger, name, in_place)


def write_out(record: logging.LogRecord) -> None:
    """Have a record's handlers get the traceback of an exception that Python cannot put in words: logging
    would raise what that raises, in who has only said it.
    """
    if record.exc_info and (error := record.exc_info[1]) and not record.exc_text:
        try:
            traceback.TracebackException(type(error), error, None)
        except BaseException:  # an exception has code of its own, which may raise anything
            record.exc_text = traceback_of(error, record.exc_info[2])


def hide_in(record: logging.LogRecord, hider: Hider) -> None:
    """Have a record's handlers get no secret: neither in its message nor in its traceback."""
    message = text_of(record)
    if not hider.is_in(message) and hider(message) == message:
        return
    with contextlib.suppress(Exception):
        record.msg = hider(message_of(record))
        record.args = None
    if record.exc_info and record.exc_info[1]:
        record.exc_text = hider(traceback_of(record.exc_info[1]))
        record.exc_info = None


def is_busy() -> bool:
    return getattr(busy, "on", False)


@contextlib.contextmanager
def on_its_way() -> Iterator[None]:
    """While a line that was kept is on its way to the terminal, it is not kept again."""
    busy.on = True
    try:
        yield
    finally:
        busy.on = False


# ---- print -------------------------------------------------------------------------------------------------


class Printed:
    """stdout or stderr, which also keeps what is printed in a try."""

    def __init__(self, stream: Any, where: str):
        self.stream = stream
        self.to_stream = stream.write
        self.is_plain = isinstance(stream, io.TextIOWrapper)  # it goes to no logger
        self.where = where

    def write(self, text: str) -> Any:
        if hider := current_hider.get():
            text = hider(text)
        if (current_call.get() is None and current_run.get() is None) or is_busy():
            return self.to_stream(text)
        if log := log_here():
            if live:
                read_all(log)
            log.write(self.where, text)
        if self.is_plain:
            return self.to_stream(text)
        with on_its_way():
            return self.to_stream(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Others print there, too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __iter__(self) -> Any:
        raise io.UnsupportedOperation("not readable")


def capture() -> None:
    """From now on what tries log and print is kept; also where somebody has put another stream in place."""
    capture_logging()
    carry_context()
    hear_processes(log_of_try)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Printed):
            setattr(sys, name, Printed(stream, name))
