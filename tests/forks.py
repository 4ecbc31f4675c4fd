"""Servers and their workers as forks of one process that has imported the program: an import takes more than a second
of CPU, and some two hundred servers are started.

What is forked runs in a process of its own, with the arguments, directory, environment, files and process group that it
was given, and nothing of it has run before. A server's worker is its child, as it is for a user. Tests of how it is started
or reloaded start Python as a user does.

As a program (`python forks.py SOCKET`) this is the process that is forked. It reads what to start, one JSON object a
message, and answers with the number of the process, or with the code of one that has ended.
"""

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

MOST = 1 << 17  # bytes of a message: an environment
ABOVE = 500  # number of a file that is to be put somewhere
CLONE = {"x86_64": 56, "aarch64": 220}  # numbers of clone(2)
CLONE_PARENT = 0x8000  # what is made is a child of the caller's parent
SET_NAME = 15  # of prctl(2)
NAME = "nursery"  # what /proc calls a process that forks


def must_start_python(env: Mapping[str, str]) -> bool:
    """Whether something there is for Python's own start."""
    path = env.get("PYTHONPATH", "").split(os.pathsep)
    return any(Path(entry, "sitecustomize.py").exists() for entry in path) or any(
        name.startswith(("PYTHON", "LD_", "TZ")) and name != "PYTHONPATH" and value != os.environ.get(name)
        for name, value in env.items()
    )


class Nursery:
    """One end of the socket to a process that forks, which ends when nobody has this end any more."""

    def __init__(self, control: socket.socket, process: subprocess.Popen[bytes] | None = None):
        self.control = control
        self.process = process
        self.lock = threading.Lock()

    def ask(self, what: dict[str, Any], *files: int) -> int | None:
        with self.lock:
            socket.send_fds(self.control, [json.dumps(what).encode()], files)
            answer: int | None = json.loads(self.control.recv(MOST))
        return answer

    def close(self) -> None:
        self.control.close()
        if self.process:
            self.process.wait(120)


def nursery() -> Nursery:
    """Of a new process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        return Nursery(ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]))


class Forked:
    """What subprocess.Popen is for `python -c CODE ARGUMENTS`, as far as it is used.

    `imports` are modules that the nursery imports first, if it has not. A server's `workers` are forked as well. What is
    `own` is a child of the process that asks, as such a worker is.
    """

    def __init__(
        self,
        nursery: Nursery,
        code: str,
        arguments: Sequence[str],
        *,
        env: dict[str, str],
        cwd: Path | None = None,
        stdin: IO[bytes] | int | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | int | None = None,
        pass_fds: Sequence[int] = (),
        process_group: int | None = None,
        start_new_session: bool = False,
        imports: Sequence[str] = (),
        workers: bool = False,
        own: bool = False,
    ):
        self.nursery = nursery
        self.own = own
        self.args = ["python", "-c", code, *arguments]
        self.lock = threading.Lock()
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        files = {number: number for number in (0, 1, 2, *pass_fds)}
        if stdin == subprocess.PIPE:
            files[0], ours = os.pipe()
            self.stdin = os.fdopen(ours, "wb")
        elif stdin and not isinstance(stdin, int):
            files[0] = stdin.fileno()
        if stdout:
            files[1] = stdout.fileno()
        if stderr == subprocess.PIPE:
            ours, files[2] = os.pipe()
            self.stderr = os.fdopen(ours, "rb")
        elif stderr and not isinstance(stderr, int):
            files[2] = stderr.fileno()
        what = {
            "code": code,
            "arguments": arguments,
            "directory": str(cwd or Path.cwd()),
            "env": env,
            "group": process_group,
            "session": start_new_session,
            "imports": imports,
            "files": list(files),
            "workers": workers,
            "sibling": own,
        }
        pid = nursery.ask(what, *files.values())
        assert pid
        self.pid = pid
        for pipe, number in ((self.stdin, 0), (self.stderr, 2)):
            if pipe:
                os.close(files[number])

    def poll(self) -> int | None:
        with self.lock:
            if self.returncode is None:
                self.returncode = ended(self.pid) if self.own else self.nursery.ask({"ended": self.pid})
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            ended = os.pidfd_open(self.pid)  # it is there at least until its parent is asked for its code
            try:
                select.select([ended], [], [], timeout)
            finally:
                os.close(ended)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(15)

    def kill(self) -> None:
        self.send_signal(9)


def ended(pid: int) -> int | None:
    """The code of a child that has ended."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def be_called(name: str) -> None:
    ctypes.CDLL(None).prctl(SET_NAME, name.encode(), 0, 0, 0)


def is_nursery(pid: int) -> bool:
    """Whether it only forks, and so is nobody's worker."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == NAME
    return False


def fork_sibling() -> int:
    """os.fork(2), but that the new process is a child of this one's parent."""
    number = CLONE[os.uname().machine]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = ctypes.CDLL(None).syscall(number, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    (ctypes.pythonapi.PyOS_AfterFork_Parent if pid else ctypes.pythonapi.PyOS_AfterFork_Child)()
    assert pid >= 0
    return pid


def become(what: dict[str, Any], files: Sequence[int]) -> None:
    """Be the process that was asked for, but for what it runs."""
    be_called("python")
    if what["session"]:
        os.setsid()
    if what["group"] is not None:
        os.setpgid(0, what["group"])
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, ABOVE) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(high, what["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(what["directory"])
    os.environ.clear()
    os.environ.update(what["env"])
    path = what["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [what["directory"], *(str(Path(entry).absolute()) for entry in path if entry)]
    sys.argv[:] = ["-c", *what["arguments"]]


def attend(control: socket.socket) -> dict[str, Any]:
    """Fork what is asked for, until nobody can ask any more; what each process that was forked is to run."""
    while True:
        message, files, _, _ = socket.recv_fds(control, MOST, 16)
        if not message:
            os._exit(0)
        what: dict[str, Any] = json.loads(message)
        if "ended" in what:
            answer = ended(what["ended"])
        else:
            for module in what["imports"]:
                importlib.import_module(module)
            answer = fork_sibling() if what["sibling"] else os.fork()
            if not answer:
                control.close()
                become(what, files)
                return what
            for file in files:
                os.close(file)
        with contextlib.suppress(OSError):
            control.send(json.dumps(answer).encode())


def with_workers() -> None:
    """Let the server that this process is to be fork its workers, from a process that is forked from it now."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        be_called(NAME)
        run(attend(theirs))
        os._exit(0)
    theirs.close()
    own = Nursery(ours)
    start_workers_in(lambda: own, own=True)


def start_workers_in(nursery: Callable[[], Nursery], own: bool) -> None:
    """Have the workers that this process starts forked there."""
    from rowcast.engines import background

    def start(command: Sequence[str], **options: Any) -> Forked | subprocess.Popen[bytes]:
        if must_start_python(options["env"]):
            return subprocess.Popen(command, **options)
        return Forked(nursery(), command[3], command[4:], own=own, **options)

    vars(background)["subprocess"] = SimpleNamespace(
        Popen=start, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )


def run(what: dict[str, Any]) -> None:
    if what["workers"]:
        with_workers()
    exec(what["code"], {"__name__": "__main__"})


if __name__ == "__main__":
    import gc

    import anyio._backends._asyncio
    import anyio.streams.memory
    import anyio.streams.tls
    import starlette.routing
    import uvicorn.lifespan.on
    import uvicorn.loops.auto
    import uvicorn.loops.uvloop
    import uvicorn.protocols.http.httptools_impl
    import uvicorn.protocols.websockets.auto
    import uvloop

    from rowcast import __main__, dashboard
    from rowcast.engines import child
    from rowcast.tasks import template
    from rowcast.web.routes import ROUTES

    __all__ = ["__main__", "anyio", "child", "dashboard", "template", "uvicorn", "uvloop"]
    for path, *_ in ROUTES:
        starlette.routing.compile_path(path)  # its pattern is kept
    assert threading.active_count() == 1, "threads are not forked"
    gc.freeze()
    run(attend(socket.socket(fileno=int(sys.argv[1]))))
