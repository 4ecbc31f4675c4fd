"""The house: what each room may import, held against every file."""

import ast
import functools
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from trees import FILES, TREES, section

from rowcast.tasks.records import TRANSITIONS

# What a room may import of ours besides itself: folders stand in one line, and nothing runs up.
MAY = {
    "tasks": "",
    "worker": "tasks",
    "tables": "tasks",
    "jobs": "tasks tables",
    "messages": "tasks worker tables",
    "engines": "tasks worker tables messages jobs",
    "extras": "tasks worker",
    "pages": "tasks",
    "components": "tasks pages",
    "feed": "tasks jobs components",
    "commands": "tasks tables feed",
    "web": "tasks tables jobs engines components feed",
    "dashboard": "tasks tables jobs engines components feed web",
    "__main__": "tasks tables engines feed commands web dashboard",
    "__init__": "tasks web dashboard",
}
WEB_AND_SQL = (
    "apsw",
    "apswutils",
    "fastlite",
    "sqlite3",
    "starlette",
    "fasthtml",
    "uvicorn",
    "sse_starlette",
)


def imported_by(path: ast.AST) -> set[str]:
    """The modules of ours that a file imports, wherever in it: at its head, in a function, under a condition."""
    found = set()
    for node in ast.walk(path):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("rowcast.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rowcast":
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return {name.removeprefix("rowcast.") for name in found}


def modules(path) -> set[str]:
    """The files of ours that a file imports."""
    names = imported_by(TREES[path])
    known = {".".join(file.with_suffix("").parts) for file in FILES}
    return {
        known_name for name in names for known_name in (name, name.rpartition(".")[0]) if known_name in known
    }


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_one_way(path):
    room = path.with_suffix("").parts[0]
    if path.name == "dashboard.py":  # its tail alone: `python dashboard.py`
        assert (ROOT / path).read_text().endswith("    from rowcast.__main__ import main\n\n    main()\n")
    may = {room, *MAY[room].split(), *(["__main__"] if room == "dashboard" else [])}
    assert {module.partition(".")[0] for module in modules(path)} <= may


def test_no_file_imports_itself_by_way_of_others():
    graph = {
        ".".join(path.with_suffix("").parts): modules(path) for path in FILES if path.name != "__init__.py"
    }
    graph["dashboard"].discard("__main__")  # its tail, which runs at no import
    done: set[str] = set()
    while free := {module for module, needs in graph.items() if module not in done and needs <= done}:
        done |= free
    assert set(graph) - done == set()


def test_at_the_root_are_the_three_doors_and_the_command_line():
    assert {path.name for path in ROOT.glob("*.py")} == {
        "__init__.py", "__main__.py", "jobs.py", "components.py", "dashboard.py",
    }  # fmt: skip


def test_no_folder_takes_the_place_of_a_module_of_pythons():
    assert {path.parts[0] for path in FILES if len(path.parts) > 1} & sys.stdlib_module_names == set()


@pytest.mark.parametrize("path", [*FILES, "CONTRIBUTING.md"], ids=str)
def test_every_file_that_is_named_is_there(path):
    there = {
        file.name
        for folder in (".", *{file.parent for file in FILES}, "bin", "tests", "static")
        for file in (ROOT / folder).iterdir()
    }
    named = re.findall(r"(?<![\w<*.-])(?:[a-z_]+/)*([a-z_]+\.(?:py|js|css))\b", (ROOT / path).read_text())
    assert [name for name in named if name not in there] == []


NAMES = r"`\w+`(?:(?:, |,? and |,? or )(?:of )?`\w+`)*"


@pytest.mark.parametrize(
    ("names", "path"),
    re.findall(rf"({NAMES}) (?:\(|in )`([\w/.]+\.py)`", section("Where does it go?")),
)
def test_what_a_change_touches_stands_where_it_is_said_to(names, path):
    defined = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    assert set(re.findall(r"\w+", names)) - {"and", "or", "of"} - defined == set()


def test_every_file_that_a_change_touches_is_there():
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|css|toml|pot))`", section("Where does it go?"))
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists() and name != "rowcast.pot"] == []


def named_in(tree: ast.AST) -> set[str]:
    return {
        getattr(node, field)
        for node in ast.walk(tree)
        for field in ("id", "attr", "name")
        if isinstance(getattr(node, field, None), str)
        and not isinstance(getattr(node, "ctx", None), ast.Store)
    }


def test_every_constant_is_used():
    """But for those whose value is made by a call, which may be what is wanted of it."""
    used = {name for tree in TREES.values() for name in named_in(tree)}
    assert [
        (str(path), node.targets[0].id)
        for path in FILES
        for node in TREES[path].body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and path.name != "__init__.py"
        if node.targets[0].id not in used
        and not any(isinstance(part, ast.Call) for part in ast.walk(node.value))
    ] == []


# Constants of one name and one value in several files, which are different things all the same.
COINCIDE = """ASKS_EVERY DAY EVERY HERE KEY_LENGTH LEAST LINES LONG LONGEST LOOKS LOOK_EVERY MANY MOST SHOWN T""".split()


def test_what_is_one_thing_is_said_in_one_file():
    said: dict[tuple[str, str], set[str]] = {}
    for path in FILES:
        for node in TREES[path].body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name.isupper():
                    said.setdefault((name, ast.unparse(node.value)), set()).add(str(path))
    twice = {name: files for (name, _), files in said.items() if len(files) > 1}
    assert sorted(twice) == COINCIDE
    active = re.compile(r"""\(?["']queued["'], ["']running["'], ["']paused["']\)""")
    assert [str(path) for path in FILES if active.search((ROOT / path).read_text())] == ["tasks/records.py"]


def test_every_parameter_is_read():
    """Of functions that are only called: one that is handed on takes what who calls it has, a kept one its keys."""
    called = {
        id(node.func) for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Call)
    }
    handed_on = {
        getattr(node, "id", None) or getattr(node, "attr", None)
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute)) and id(node) not in called
    }
    assert [
        (str(path), node.name, given.arg)
        for path in FILES
        for node in TREES[path].body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.decorator_list
        if node.name not in handed_on
        for given in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if given.arg not in {name for part in node.body for name in named_in(part)} and given.arg[0] != "_"
    ] == []


# What Python has deprecated by 3.14, and the program or its tests might ask for.
DEPRECATED = {
    "ast": "Bytes Ellipsis NameConstant Num Str",
    "asyncio": "AbstractEventLoopPolicy DefaultEventLoopPolicy get_event_loop_policy iscoroutinefunction set_event_loop_policy",
    "codecs": "open",
    "datetime": "utcfromtimestamp utcnow",
    "locale": "getdefaultlocale",
    "pkgutil": "find_loader get_loader",
    "tempfile": "mktemp",
    "typing": "ByteString no_type_check_decorator",
}
GONE = {f"{module}.{name}" for module, names in DEPRECATED.items() for name in names.split()}


def test_no_file_asks_for_what_newer_pythons_warn_of():
    others = [
        path.relative_to(ROOT)
        for room in ("tests", "bench", "examples", "bin")
        for path in (ROOT / room).glob("*.py")
    ]
    asked = set()
    for path in (*FILES, *others):
        for node in ast.walk(TREES[path] if path in TREES else ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Attribute):
                asked.add((ast.unparse(node), str(path)))
            elif isinstance(node, ast.ImportFrom):
                asked |= {(f"{node.module}.{name.name}", str(path)) for name in node.names}
    assert sorted((what, path) for what, path in asked if what.removeprefix("datetime.") in GONE) == []


@pytest.mark.parametrize("path", [*FILES, "CONTRIBUTING.md"], ids=str)
def test_what_is_named_with_its_file_is_there(path):
    """`rowcast.name` and `file.Class`, in what is said to people too."""
    text = (ROOT / path).read_text()
    modules_of = names_of_modules()
    known = (
        modules_of["__init__"] | modules_of.keys() | {folder for file in FILES for folder in file.parts[:-1]}
    )
    assert set(re.findall(r"`rowcast\.(\w+)", text)) - known <= {"pot"}
    classes = re.findall(r"\b([a-z_]+)\.([A-Z]\w+)\b", text)
    assert [(room, name) for room, name in classes if name not in modules_of.get(room, {name})] == []


@functools.cache
def names_of_modules() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in FILES:  # of which two may bear one name
        found.setdefault(file.stem, set()).update(named_at_the_top(file))
    return found


def named_at_the_top(path) -> set[str]:
    """What a module has: what it defines and what it imports."""
    found: set[str] = set()
    for node in TREES[path].body:
        for part in ast.walk(node) if isinstance(node, (ast.If, ast.Try)) else [node]:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(part.name)
            elif isinstance(part, (ast.Import, ast.ImportFrom)):
                found |= {(name.asname or name.name).partition(".")[0] for name in part.names}
            elif isinstance(part, (ast.Assign, ast.AnnAssign)):
                targets = part.targets if isinstance(part, ast.Assign) else [part.target]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_what_stands_in_static_is_in_the_rooms():
    (line,) = re.findall(r"^static/ .*$", section("Rooms"), re.MULTILINE)
    there = [path.name for kind in ("*.js", "*.css") for path in (ROOT / "static").glob(kind)]
    assert [name for name in there if name not in line] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_line_does_one_thing(path):
    nested = []
    many = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.IfExp) and (
            isinstance(node.body, ast.IfExp) or isinstance(node.orelse, ast.IfExp)
        ):
            nested.append(node.lineno)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            targets = [target for target in node.targets if isinstance(target, ast.Tuple)]
            given = {ast.unparse(value) for value in node.value.elts}
            many += [node.lineno for target in targets if {ast.unparse(one) for one in target.elts} != given]
    assert (nested, many) == ([], [])


WIDE = re.compile(r"except BaseException\b[^#\n]*$", re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_who_catches_every_exception_says_why(path):
    assert WIDE.findall((ROOT / path).read_text()) == []


def test_a_queues_worker_imports_neither_sql_nor_web():
    code = f"import sys, rowcast.worker.process, rowcast.tasks.built_in\nprint([m for m in {WEB_AND_SQL} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "program", ["rowcast", "rowcast.dashboard", "rowcast.engines.child", "rowcast.worker.process"]
)
def test_the_codec_of_hosts_is_there_before_any_thread_asks_for_one(program: str):
    """Else two threads that are the first to ask may take it from all: "unknown encoding: idna", until the process ends."""
    code = f"import sys, {program}\nprint('encodings.idna' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "True\n"


# ---- a job's status ------------------------------------------------------------------------------------------------


def test_one_statement_of_the_program_writes_a_jobs_status():
    update = re.compile(r"update\s+jobs\s+set\b(?P<sets>.*?)(?:\bwhere\b|\"\"\")", re.DOTALL | re.IGNORECASE)
    found = [
        str(path)
        for path in FILES
        for statement in update.finditer((ROOT / path).read_text())
        if re.search(r"\bstatus\s*=", statement["sets"])
    ]
    assert found == ["tables/counts.py"]


def test_the_diagram_of_a_jobs_states_is_the_table_of_transitions():
    drawn = re.findall(r"^ +j(\w+) --> j(\w+): (.+)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    table: dict[tuple[str, str], list[str]] = {}
    for name, action in TRANSITIONS.items():
        for status in action.leaves if action.enters else ():
            table.setdefault((status, action.enters), []).append(name)
    assert {(leaves, enters): names.split(", ") for leaves, enters, names in drawn} == table
    assert len(drawn) == len(table)
