"""One word, one thing: the table *Words* in CONTRIBUTING.md, and the names in the program."""

import ast
import functools
import re
from collections.abc import Iterator

import apsw
import pytest
from conftest import ROOT
from test_house import FILES, MAY
from trees import TREES, section

from rowcast.tables.schema import TABLES, USERS

# Names are made of words of the table, of plain English that means here what it means everywhere, ...
ENGLISH = """after allowed as ask asked at away bad base begun changed closing created delivered done due
finished first found gone large last life limit link list local lost made main new next not now
number on open opened order other pruned raw refused restore restored retired returned said sent shown
size started static target tell time too total tried turns twice until updated values whole
within worked""".split()
# ... and of the field's own words, used as the field uses them.
FIELD = """address annotation api args arrival browser celery client code col command component concurrency count
dashboard database doc dramatiq email encoding error event extra failure file form format host id init
json label maintenance mcp mime ms name offset openapi openid otel page path pid policy process pyreqwest python
reason request rowcast schema second sequence server smtp socket sqlite sse state stream
subject table thread track transport version web""".split()


def words_of(name: str) -> list[str]:
    """The words that a name is made of: parts of snake_case, of CamelCase, of a path."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def singulars(word: str) -> set[str]:
    """The word, and what it may be the plural of."""
    return {word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word)}


TABLE = {word for bold in re.findall(r"\*\*([^*]+)\*\*", section("Words")) for word in words_of(bold)}


def schema() -> apsw.Connection:
    conn = apsw.Connection(":memory:")
    conn.execute(f"{TABLES}; {USERS}")
    return conn


def named() -> Iterator[tuple[str, str]]:
    """What bears a name that needs an entry, and the name: files, folders, tables, columns and classes."""
    for path in FILES:
        for part in path.with_suffix("").parts:
            yield str(path), part
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.ClassDef):
                yield f"class {node.name} of {path}", node.name
    for script in (ROOT / "static").glob("*.js"):
        for name in re.findall(r"^ *class (\w+)", script.read_text(), re.MULTILINE):
            yield f"class {name} of {script.name}", name
    conn = schema()
    # the shadow tables of a virtual one are SQLite's
    tables = conn.execute("select name from pragma_table_list where type <> 'shadow' and schema = 'main'")
    for (table,) in [(name,) for (name,) in tables.fetchall() if not name.startswith("sqlite_schema")]:
        yield f"table {table}", table
        for column in conn.execute(f"select name from pragma_table_info('{table}')"):
            yield f"column {table}.{column[0]}", column[0]


@functools.cache
def every_name() -> list[tuple[str, str]]:
    return sorted(set(named()))


def used() -> set[str]:
    """The words of all that has a name in the program, and of the rooms."""
    names = [name for _, name in every_name()] + re.findall(r"^\S+|DOOR", section("Rooms"), re.MULTILINE)
    for path in FILES:
        for node in ast.walk(TREES[path]):
            names += [
                str(getattr(node, field)) for field in ("id", "attr", "name", "arg") if hasattr(node, field)
            ]
    return {singular for name in names for word in words_of(name) for singular in singulars(word)}


def test_every_word_that_names_a_room_a_table_a_column_or_a_class_is_in_the_table():
    known = TABLE | set(ENGLISH) | set(FIELD)
    assert [
        (what, word) for what, name in every_name() for word in words_of(name) if not singulars(word) & known
    ] == []


def test_every_word_of_the_table_is_one_of_the_programs():
    assert sorted(TABLE - used()) == []


def test_no_word_is_said_in_two_rows_of_the_table():
    said: dict[str, set[int]] = {}
    for number, row in enumerate(section("Words").splitlines()):
        for word in re.findall(r"\*\*([^*]+)\*\*", row):
            said.setdefault(word, set()).add(number)
    assert [word for word, rows in said.items() if len(rows) > 1] == []


@pytest.mark.parametrize("words", [ENGLISH, FIELD], ids=["English", "the field's"])
def test_what_needs_no_entry_names_something_and_has_none(words):
    without = {word for _, name in every_name() for word in words_of(name) if not singulars(word) & TABLE}
    assert [word for word in words if not any(word in singulars(name) for name in without)] == []
    assert words == sorted(set(words))


def test_the_rooms_are_those_that_there_are_and_import_what_they_may():
    lines = re.findall(r"^(\w+)(?:/|\.py)  +.*?(?:  +([a-z_, ]+))?$", section("Rooms"), re.MULTILINE)
    assert {room: set((may or "").split(", ")) - {""} for room, may in lines if room in MAY} == {
        room: set(may.split()) for room, may in MAY.items()
    }
    assert {path.with_suffix("").parts[0] for path in FILES} == set(MAY)
