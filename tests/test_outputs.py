"""What the processes print that a task starts is kept for the item and the try that started them, too."""

import os
import signal
from pathlib import Path

from conftest import Server, until
from test_logs import said

from rowcast.worker.outputs import Output

FLAGS = ("--tasks", "starts")
FILES = {
    "starts.py": """
import asyncio, multiprocessing, os, pathlib, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.pool import Pool, ThreadPool
from rowcast import Secret, task, track

SAY = "echo said {0}; echo error {0} >&2; printf 'no end {0}'"
processes = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
pools = []
threads = ThreadPool(2)

def say(item):
    "In another process."
    print("printed", item)
    os.write(2, f"written {item}\\n".encode())
    subprocess.run(["echo", "grandchild", item])
    print("rest of", item, end="")

@task(concurrency=50)
async def programs(item: str):
    "Each way to start one."
    subprocess.run(SAY.format(f"run {item}"), shell=True, check=True)
    subprocess.run(["sh", "-c", SAY.format(f"read {item}")], stdout=subprocess.PIPE)
    one = await asyncio.create_subprocess_exec("echo", "exec", item)
    await one.wait()
    one = await asyncio.create_subprocess_shell(f"echo shell {item} >&2", stdout=subprocess.PIPE)
    await one.communicate()
    return os.system(f"echo system {item}; exit 3")

@task(concurrency=8)
async def in_pools(item: str):
    "Processes that work for many items."
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(processes, say, f"{item} {n}") for n in range(3)))
    print("back", item)

@task(concurrency=4)
def in_a_pool_of_multiprocessing(item: str):
    if not pools:
        pools.append(multiprocessing.get_context("fork").Pool(2))
    pools[0].map(say, [f"{item} {n}" for n in range(3)])
    pools[0].apply(say, [f"{item} once"])
    threads.map(print, [f"thread {item}"])

@task
def in_a_process(item: str):
    for how in ("fork", "spawn", "forkserver"):
        one = multiprocessing.get_context(how).Process(target=say, args=[f"{how} {item}"])
        one.start()
        one.join()
        assert one.exitcode == 0

@task
def says_much(item: str):
    subprocess.run(["seq", "200000"])

@task
def says_a_secret(item: str, key: Secret[str]):
    subprocess.run(["sh", "-c", f"printf 'half '; echo the key is {key}"])

@task
async def waits_for(item: str):
    one = await asyncio.create_subprocess_shell(f"echo begun; until test -e {item}; do sleep 0.05; done; echo over")
    await one.wait()

@task
def goes_on(item: str):
    "What outlives its worker is left alone."
    subprocess.run(["echo", "alone"], start_new_session=True)
    subprocess.run(["echo", "alone, too"], process_group=0)

@task
def in_order(item: str):
    for n in range(5):
        print("before", n)
        subprocess.run(["echo", "during", str(n)], stdout=sys.stdout)
        print("after", n)

def says_marks(item: str):
    os.write(1, b"\\0rowcast:" + b"9" * 5000 + b"\\n")
    print("after a mark of its own, of", item)

@task
def marks(item: str):
    pool = multiprocessing.get_context("fork").Pool(1)
    with pool:
        pool.apply_async(func=says_marks, args=[item]).get()
    os.write(2, b"")
    return "read to its end"

@task
def forks(item: str):
    program = subprocess.Popen(["sh", "-c", "for n in 1 2 3 4 5; do echo $n; sleep 0.05; done"])
    if not (pid := os.fork()):
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            sys.stdout.write("")
        print("of a fork")
        os._exit(0)
    os.waitpid(pid, 0)
    program.wait()

@task
def leaves_one_that_prints(item: str):
    subprocess.run(["sh", "-c", "sleep 60 & echo $! > pid; echo child"])

def files() -> int:
    return len(os.listdir("/proc/self/fd"))

@task
def many_programs(item: str):
    before = files()
    for _ in range(100):
        subprocess.run(["true"])
        subprocess.run(["true"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            subprocess.run(["there/is/none"])
        except FileNotFoundError:
            pass
    until = time.monotonic() + 60
    while files() > before + 10 and time.monotonic() < until:  # some are opened once, by others
        time.sleep(0.01)
    return files() <= before + 10

@task
def says_a_secret_behind_much(item: str, key: Secret[str]):
    subprocess.run(["sh", "-c", f"head -c 65530 /dev/zero | tr '\\\\0' x; echo {key}; echo {key}; echo over"])

@task
def in_steps(names: list[str]):
    for name in track(names):
        subprocess.run(["echo", "in", name])
"""
}


def lines(server: Server, job: int) -> dict[str, list[tuple[str, str]]]:
    """What each item has said: (level, text), in any order, for two streams have none."""
    return {key: sorted((level, text) for _, level, text in told) for key, told in said(server, job).items()}


def test_programs_that_a_task_starts_say_what_they_say_for_its_item(server: Server):
    keys = [f"item-{n}" for n in range(20)]
    job = server.ended(server.begin("programs", items=keys))
    assert [item["result"] for item in server.items(job["id"])] == [3 << 8] * 20
    found = lines(server, job["id"])
    for key in keys:
        assert found[key] == sorted([
            ("stdout", f"said run {key}"),
            ("stderr", f"error run {key}"),
            ("stdout", f"no end run {key}"),
            ("stderr", f"error read {key}"),
            ("stdout", f"exec {key}"),
            ("stderr", f"shell {key}"),
            ("stdout", f"system {key}"),
        ])  # fmt: skip
    told = (server.directory / "server.log").read_text()
    assert all(f"said run {key}\n" in told and f"shell {key}\n" in told for key in keys)
    assert "said read" not in told  # its own pipe had it


def expected(*names: str) -> list[tuple[str, str]]:
    return [
        (level, f"{what} {name}")
        for name in names
        for level, what in (
            ("stdout", "printed"),
            ("stderr", "written"),
            ("stdout", "grandchild"),
            ("stdout", "rest of"),
        )
    ]


def test_processes_that_work_for_many_items_say_for_each_what_is_its(server: Server):
    keys = [f"item-{n}" for n in range(12)]
    job = server.ended(server.begin("in_pools", items=keys))["id"]
    for key, told in lines(server, job).items():
        assert told == sorted([*expected(*(f"{key} {n}" for n in range(3))), ("stdout", f"back {key}")])
    assert "\0" not in (server.directory / "server.log").read_text()


def test_so_do_those_of_multiprocessing(server: Server):
    keys = [f"item-{n}" for n in range(6)]
    job = server.ended(server.begin("in_a_pool_of_multiprocessing", items=keys))["id"]
    for key, told in lines(server, job).items():
        names = [*(f"{key} {n}" for n in range(3)), f"{key} once"]
        assert told == sorted([*expected(*names), ("stdout", f"thread {key}")])
    job = server.ended(server.begin("in_a_process", items=["one"]))["id"]
    assert lines(server, job) == {"one": sorted(expected("fork one", "spawn one", "forkserver one"))}


def test_what_is_said_in_turn_stands_in_its_order(server: Server):
    job = server.ended(server.begin("in_order", items=["one"]))["id"]
    texts = [f"{when} {n}" for n in range(5) for when in ("before", "during", "after")]
    assert [text for *_, text in said(server, job)["one"]] == texts
    assert "\n".join(texts) in (server.directory / "server.log").read_text()


def test_of_very_many_lines_the_first_and_the_last_are_kept(server: Server):
    job = server.ended(server.begin("says_much", items=["one"]))["id"]
    texts = [text for *_, text in said(server, job)["one"]]
    assert texts[:150] == [f"{n}" for n in range(1, 151)]
    assert texts[-50:] == [f"{n}" for n in range(199_951, 200_001)]
    assert texts[150].startswith("199,800 lines were cut here") and len(texts) == 201


def test_what_they_say_is_there_while_they_run_and_shows_no_secret(server: Server):
    job = server.begin("waits_for", items=["go"])
    until(lambda: lines(server, job).get("go") == [("stdout", "begun")])
    (server.directory / "go").touch()
    server.ended(job)
    assert lines(server, job) == {"go": [("stdout", "begun"), ("stdout", "over")]}
    job = server.ended(server.begin("says_a_secret", items=["one"], key="k-12345-secret"))["id"]
    assert lines(server, job) == {"one": [("stdout", "half the key is •••")]}
    told = (server.directory / "server.log").read_text()
    assert "half the key is •••\n" in told and "k-12345-secret" not in told


def test_what_may_outlive_its_worker_is_left_to_the_terminal_and_a_step_has_its_own(server: Server):
    job = server.ended(server.begin("goes_on", items=["one"]))["id"]
    assert lines(server, job) == {"one": []}
    assert "alone\nalone, too\n" in (server.directory / "server.log").read_text()
    job = server.ended(server.begin("in_steps", names=["a", "b"]))["id"]
    assert lines(server, job) == {"a": [("stdout", "in a")], "b": [("stdout", "in b")]}


def test_what_a_process_prints_in_our_own_marks_holds_nobody_up(server: Server):
    job = server.ended(server.begin("marks", items=["one"]))["id"]
    assert [item["result"] for item in server.items(job)] == ["read to its end"]
    assert ("stdout", "after a mark of its own, of one") in lines(server, job)["one"]


def test_a_bare_fork_takes_nothing_of_what_others_print(server: Server):
    job = server.ended(server.begin("forks", items=["one"]))["id"]
    assert lines(server, job)["one"] == [("stdout", str(n)) for n in range(1, 6)]


def test_a_try_is_over_though_what_it_has_left_may_still_print(server: Server):
    job = server.ended(server.begin("leaves_one_that_prints", items=["one"]))["id"]
    assert lines(server, job) == {"one": [("stdout", "child")]}
    os.kill(int((server.directory / "pid").read_text()), signal.SIGKILL)


def test_no_descriptor_is_left_behind(server: Server):
    job = server.ended(server.begin("many_programs", items=["one"]))["id"]
    assert [item["result"] for item in server.items(job)] == [True]


def test_a_secret_that_stands_where_a_long_line_is_cut_is_not_shown(server: Server):
    job = server.ended(server.begin("says_a_secret_behind_much", items=["one"], key="k-98765-secret"))["id"]
    told = (server.directory / "server.log").read_text()
    assert "x\u2022" in told or "x•••" in told
    assert "over\n" in told and "k-98765" not in told and "65-secret" not in told
    assert [text for *_, text in said(server, job)["one"]][1:] == ["•••", "over"]


def test_what_was_closed_is_read_no_more(tmp_path: Path):
    """Its number may be another file's by then."""
    (tmp_path / "file").write_text("theirs")
    one = Output(1, None, False)
    os.close(one.write_end)
    one.close()
    file = os.open(tmp_path / "file", os.O_RDONLY)
    os.dup2(file, one.read_end)
    assert not one.read()
    assert os.read(one.read_end, 9) == b"theirs"
    for number in {file, one.read_end}:
        os.close(number)
