"""What the tests share, as fixtures: servers and the API behind them, queues, and a real Chromium."""

import contextlib
import functools
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import forks
import httpx
import hypothesis
import pytest
from argon2 import PasswordHasher
from servers import (
    OPTIONS,
    PATIENCE,
    ROOT,
    SHORT,
    Api,
    Server,
    free_port,
    nursery,
    python,
    rowcast,
    told_while_it_runs,
    until,
    within,
)

from rowcast.dashboard import Dashboard
from rowcast.tasks import passwords

__all__ = [
    "OPTIONS",
    "PATIENCE",
    "ROOT",
    "SHORT",
    "Api",
    "Server",
    "free_port",
    "nursery",
    "python",
    "rowcast",
    "told_while_it_runs",
    "until",
    "within",
]
pytest.register_assert_rewrite("fleet")
gc.disable()  # until all is collected
CHROMIUM = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --process-per-site"
).split()
# What a page is opened with, where a test says nothing else: what spins is drawn anew sixty times a second, which costs.
PAGE = {"viewport": {"width": 1240, "height": 900}, "reduced_motion": "reduce"}

# Some three hundred processes are started: what they import is compiled once, even if the machine says no.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Nothing here speaks TLS, and to read all that a machine trusts takes each process and each client 40 ms:
# one certificate will do.
OUTSIDE = dict(os.environ)  # for what does ask another machine
TRUSTED = Path(tempfile.gettempdir()) / f"rowcast-tests-{os.getuid()}.pem"
if not TRUSTED.exists():
    written = TRUSTED.with_suffix(f".{os.getpid()}")
    written.write_text("".join(certifi.contents().partition("-----END CERTIFICATE-----\n")[:2]))
    written.replace(TRUSTED)
os.environ["SSL_CERT_FILE"] = str(TRUSTED)

# A shell's background job ignores Ctrl-C, and so would the programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, and no bound to how long one takes: whether a commit is green depends on nothing else than
# the commit. HYPOTHESIS_PROFILE=search looks for new ones.
CALM = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("same", derandomize=True, database=None, **CALM)
hypothesis.settings.register_profile("search", **CALM)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Who asks for one of these starts a browser, a queue, a server or workers, or builds.
LONG = {
    "chromium", "broker", "fleet", "place", "serve", "server", "run", "big", "wheel", "pair", "site", "patient_site",
}  # fmt: skip


# The files that take longest, in about that order; those that need a browser are begun by three processes.
LONGEST = """test_trouble test_sign_in test_durability test_page_offline test_model test_reload test_engine_outages test_engines
test_live test_toast test_websocket test_any_request test_clock test_tasks test_browser_everyone test_stop test_setup_account test_guard test_mcp
test_examples test_pacing test_retries test_runner test_engine_faults test_user_csv test_outbox test_browser_rows test_browser_calm
test_access test_push test_beside test_accounts test_steps test_progress test_commands test_house test_package test_logs test_ledger
test_size test_hostile test_browser_actions test_tries_on_queues test_background_task test_deploy test_webhooks test_heeds_nothing
test_soak test_users test_bulk_email test_docs_examples test_item_page test_search test_text_of_strangers test_eta test_green_is_true
test_own_file test_shell test_namesakes test_failures""".split()


def pytest_configure(config: pytest.Config) -> None:
    if sys.platform != "linux" or os.uname().machine not in forks.CLONE:
        raise pytest.UsageError(
            f"The tests need Linux, on {' or '.join(forks.CLONE)}: see CONTRIBUTING.md, Tests."
        )
    config.addinivalue_line(
        "markers", "quick: needs no browser, no queue, no server of its own (by its fixtures) and no kill"
    )
    config.addinivalue_line("markers", "kills: ends processes of the program's, or lets its tasks end them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is quick; begin with what takes longest, so that at the end no process goes on alone for long."""
    for item in items:
        if not LONG.intersection(getattr(item, "fixturenames", ())) and not item.get_closest_marker("kills"):
            item.add_marker("quick")
    items.sort(key=lambda item: LONGEST.index(name) if (name := item.path.stem) in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: nobody need look for garbage in it, as it grows or later."""
    gc.freeze()
    gc.enable()


@functools.cache
def needs_browser(file: Path) -> bool:
    """Whether tests of that file ask for a browser, by what it says."""
    return bool(re.search(r"[(, ](visit|open_page|own_context|granted|chromium)[,):]", file.read_text()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests, or those of it on one engine, are for one process, in the order of the files; but who has a browser
    goes on with files that need one, and who has none with others, as long as there are any."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFileAndEngine(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0] + "".join(
                re.findall(r"\[((?:celery|dramatiq)(?: amqp)?)\b", nodeid)
            )

        def _assign_work_unit(self, node: Any) -> None:
            had = [needs_browser(file_of(scope)) for scope in self.assigned_work.get(node, ())]
            alike = (scope for scope in self.workqueue if not had or needs_browser(file_of(scope)) == had[-1])
            self.workqueue.move_to_end(next(alike, next(iter(self.workqueue))), last=False)
            super()._assign_work_unit(node)

    def file_of(scope: str) -> Path:
        return config.rootpath / re.sub(r"\.py.*", ".py", scope)

    config.option.loadscopereorder = False
    return ByFileAndEngine(config, log)


BEGUN: list[
    Dashboard
] = []  # apps of the test's own process whose lifespan nobody runs: they would go on to its end


def begin_and_note(app: Dashboard, begin: Callable[[Dashboard], None] = Dashboard._start_late) -> None:
    if not app.engine.is_watched:
        BEGUN.append(app)
    begin(app)


@pytest.fixture(scope="session", autouse=True)
def noted() -> None:
    """Know which apps begin in this process, and fork their workers as servers' are."""
    vars_of: Any = Dashboard
    vars_of._start_late = begin_and_note
    forks.start_workers_in(nursery, own=False)


@functools.cache
def cheap_hasher() -> PasswordHasher:
    """It takes a thousandth of the real one's third of a second, for whoever hashes and for whoever looks later."""
    return PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


@pytest.fixture(scope="session", autouse=True)
def real_hasher() -> Any:
    """What is there instead is cheap: the passwords that tests give to accounts are no secrets."""
    real = passwords.hasher
    vars(passwords)["hasher"] = cheap_hasher
    return real


def end_begun(directory: Path | None = None) -> None:
    """End them: all, or those that have their database in that directory."""
    for app in BEGUN[:]:
        if directory is None or Path(app.settings.database).absolute().is_relative_to(directory):
            BEGUN.remove(app)
            app.health.stop()
            app.edits.stop()
            app.engine.stop()


@pytest.fixture(scope="module", autouse=True)
def none_goes_on_behind_a_module() -> Iterator[None]:
    yield
    end_begun()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    if directory := getattr(item, "funcargs", {}).get("tmp_path"):
        end_begun(directory)


@pytest.fixture(scope="session")
def api_process() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, str(ROOT / "tests" / "api_server.py"), str(port)])
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/log").is_success
        return False

    until(up)
    yield url
    process.kill()  # it may still be about to answer somebody who has gone
    process.wait(PATIENCE)


@pytest.fixture
def api(api_process: str) -> Iterator[Api]:
    """The API, with an empty log and no latency, which answers everything."""
    with httpx.Client(base_url=api_process, timeout=PATIENCE, limits=SHORT) as client:
        client.post("/clear").raise_for_status()
        yield Api(client)
        client.post("/clear").raise_for_status()  # what it still holds would hold up the end of a server


@pytest.fixture
def serve(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Start servers in the test's own directory; each is stopped at the end."""
    servers: list[Server] = []
    failed_before = request.session.testsfailed

    def make(*flags: str, **options: Any) -> Server:
        servers.append(Server(tmp_path, *flags, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
        server.client.close()
        if request.session.testsfailed > failed_before:
            print(server.log.read_text())


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, api_process: str
) -> Iterator[Server]:
    """One server for all tests of a module, which may name its FLAGS, and FILES to stand where it starts."""
    directory = tmp_path_factory.mktemp("shared")
    for name, text in getattr(request.module, "FILES", {}).items():
        (directory / name).write_text(text)
    failed_before = request.session.testsfailed
    server = Server(directory, "--api-url", api_process, *getattr(request.module, "FLAGS", ()))
    yield server
    server.stop()
    server.client.close()
    if request.session.testsfailed > failed_before:
        print(server.log.read_text())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Any]:
    """A broker of the test's own."""
    from fleet import Broker

    made = Broker(tmp_path / "broker.log")
    yield made
    made.stop()


@pytest.fixture(scope="module", params=["celery", "dramatiq"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, api_process: str
) -> Iterator[Any]:
    """A dashboard, a broker and two worker processes of each queue engine, for all tests of a module."""
    from fleet import Broker, Fleet, queue_flags

    directory = tmp_path_factory.mktemp("fleet")
    failed_before = request.session.testsfailed
    flags = ["--api-url", api_process, "--tasks", getattr(request.module, "TASKS", "contract_tasks")]
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(directory / "dashboard_only")])}
    for name, text in getattr(request.module, "FILES", {}).items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    with contextlib.ExitStack() as ends:
        broker = Broker(directory / "broker.log")
        ends.callback(broker.stop)
        server = Server(directory, *flags, *queue_flags(request.param, broker.url), env=env)
        ends.callback(server.client.close)
        ends.callback(server.stop)
        made = Fleet(request.param, server, broker)
        ends.callback(lambda: made.workers.kill())
        yield made
    if request.session.testsfailed > failed_before:
        for log in directory.glob("*.log"):
            print(log.name, log.read_text(), sep="\n")


@pytest.fixture
def clear_fleet(fleet: Any) -> Iterator[None]:
    """Whatever became of one test, the next finds no job and workers that are awake."""
    yield
    fleet.workers.signal(signal.SIGCONT)
    for job in fleet.server.client.get("/api/jobs").json()["jobs"]:
        if not job["finished_at"]:
            fleet.act(job["id"], "cancel")


@pytest.fixture
def server(shared: Server, api: Api) -> Iterator[Server]:
    """The module's server for one test: it is up and has its thousand users; what still runs at the end is cancelled."""
    if shared.process.poll() is not None:
        shared.start()
    if shared.first_users:
        shared.users(*shared.first_users)
    yield shared
    if shared.process.poll() is None:
        shared.cancel_all()


def found_chromium(*which: str) -> str:
    command = [str(ROOT / "bin" / "find-chromium"), sys.executable, *which]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Chromiums:
    """Real ones, of files that come one after the other; they end before a test of a file that needs none: while
    Playwright lives, no other test can run an event loop."""

    def __init__(self) -> None:
        self.ends = contextlib.ExitStack()
        self.playwright: Any = None
        self.opened: dict[tuple[str, ...], Any] = {}  # by what is asked of them

    def get(self, *which: str) -> Any:
        from playwright.sync_api import sync_playwright

        if self.playwright is None:
            self.playwright = self.ends.enter_context(sync_playwright())
        if which not in self.opened or not self.opened[which].is_connected():
            self.opened[which] = self.playwright.chromium.launch(
                executable_path=found_chromium(*which), args=CHROMIUM, timeout=1000 * PATIENCE
            )
            self.ends.callback(self.opened[which].close)
        return self.opened[which]

    def end(self) -> None:
        self.playwright = None
        self.opened.clear()
        self.ends.close()


chromiums = Chromiums()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if not needs_browser(item.path):
        chromiums.end()


def pytest_sessionfinish() -> None:
    chromiums.end()


@pytest.fixture(scope="module")
def chromium() -> Any:
    return chromiums.get()


@pytest.fixture(scope="module")
def whole_chromium() -> Any:
    """One that also has what is around its pages, as notifications."""
    return chromiums.get("--whole")


@pytest.fixture
def granted(whole_chromium: Any, server: Server) -> Iterator[Any]:
    """A browser context whose user says yes to notifications."""
    context = whole_chromium.new_context(**PAGE)
    context.grant_permissions(["notifications"], origin=server.url)
    yield context
    context.close()


@pytest.fixture(scope="module")
def profile(chromium: Any, api_process: str) -> Iterator[Any]:
    """The browser context of all tests that ask for none of their own. One page of it stays open: the others are
    of its process, which a page alone would need half a second of a core to start."""
    made = chromium.new_context(**PAGE)
    made.set_default_timeout(1000 * PATIENCE)
    made.new_page().goto(f"{api_process}/peak")
    yield made
    made.close()


class Pages:
    """Opens pages; all are closed at the end of a test."""

    def __init__(self, chromium: Any, profile: Any):
        self.chromium = chromium
        self.profile = profile
        self.opened: list[Any] = []
        self.contexts: list[Any] = []
        self.errors: list[str] = []

    def own_context(self, **options: Any) -> Any:
        """A context for this test alone: its clock, its routes and what it stores are no other's."""
        self.contexts.append(self.chromium.new_context(**(PAGE | options)))
        self.contexts[-1].set_default_timeout(1000 * PATIENCE)
        return self.contexts[-1]

    def open(self, url: str, context: Any = None, **options: Any) -> Any:
        """A page in that context, or in one with these options, or in the profile."""
        if context is None:
            context = self.own_context(**options) if options else self.profile
        page = context.new_page()
        self.opened.append(page)
        page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.errors.append(e.stack or str(e)))
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(url)
        return page

    def close(self) -> None:
        for page in self.opened:
            if not page.is_closed():
                page.close()
        for context in self.contexts:
            context.close()


@pytest.fixture
def visit(chromium: Any, profile: Any) -> Iterator[Callable[..., Any]]:
    """Open pages in which the browser may have something to complain of."""
    pages = Pages(chromium, profile)
    yield pages.open
    pages.close()


@pytest.fixture
def own_context(chromium: Any, profile: Any) -> Iterator[Callable[..., Any]]:
    """Make browser contexts for this test alone: their clock, their routes and what they store are no other's."""
    pages = Pages(chromium, profile)
    yield pages.own_context
    pages.close()


@pytest.fixture
def open_page(chromium: Any, profile: Any) -> Iterator[Callable[..., Any]]:
    """Open pages; at the end no page may have logged an error."""
    pages = Pages(chromium, profile)
    yield pages.open
    pages.close()
    assert not pages.errors, pages.errors
