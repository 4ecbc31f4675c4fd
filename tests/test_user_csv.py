"""CSV files as programs write them, and as nobody should: what is read of them, and how far is looked for it."""

import asyncio
import codecs
import contextlib
import csv
import gzip
import io
import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rowcast.dashboard import create
from rowcast.tables import database, user_csv
from rowcast.tables.schema import prepare
from rowcast.tables.user_csv import LONGEST, SPAN, UNCLOSED, Row, address_of, reading
from rowcast.tables.users import GoneAway, Users
from rowcast.tasks.records import BadArguments
from rowcast.tasks.settings import Settings
from rowcast.tasks.text import ENCODINGS
from rowcast.tasks.users import REFUSALS, Imported


def read(content: bytes | str) -> list[Row]:
    """All rows of a file."""
    with reading(io.BytesIO(content.encode() if isinstance(content, str) else content)) as found:
        return list(found)


def people(content: bytes | str) -> dict[str, dict[str, str]]:
    """The users of a file that has no bad line, with their other columns."""
    found = read(content)
    assert [row for row in found if row.refused] == []
    return {row.email: row.more for row in found}


# ---- as programs write them ----------------------------------------------------------------------------------

ADA = "ada@example.com"
BEN = "ben@example.com"
TWO = {ADA: {"Name": "Müller, Jo"}, BEN: {"Name": "Größ"}}
WRITTEN = {
    "Excel, comma": 'Name,E-Mail\r\n"Müller, Jo",ada@example.com\r\nGröß,ben@example.com\r\n',
    "Excel, semicolon": "Name;E-Mail-Adresse\r\nMüller, Jo;ada@example.com\r\nGröß;ben@example.com\r\n",
    "Excel, sep=": "sep=;\r\nName;E-Mail\r\nMüller, Jo;ada@example.com\r\nGröß;ben@example.com\r\n",
    "LibreOffice, sep=": '"sep=|"\nName|Mail\nMüller, Jo|ada@example.com\nGröß|ben@example.com\n',
    "Excel, Unicode text": "Name\tE-mail address\r\nMüller, Jo\tada@example.com\r\nGröß\tben@example.com",
    "titles": "Kundenliste; Stand 1. Mai, intern\r\nvon E-Mail-Team\r\n\r\nName;Kontakt\r\nMüller, Jo;ada@example.com\r\n"
    "Größ;ben@example.com\r\n",
    "nothing said": "Name;Kontakt\nMüller, Jo;ada@example.com\nGröß;ben@example.com\n",
    "padded": " Name ; E-Mail \n Müller, Jo ; ada@example.com \n Größ ; ben@example.com\n",
    "empty lines": "\n;\nName;mail\n\nMüller, Jo;ada@example.com\n;\nGröß;ben@example.com\n\n",
    "ragged": "Name;E-Mail\nMüller, Jo;ada@example.com;;\nGröß;ben@example.com;\n",
}
WRITTEN_IN = ("utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-be")


@pytest.mark.parametrize("encoding", WRITTEN_IN)
@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_files_are_read_as_programs_write_them(text: str, encoding: str):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    assert people((mark + text).encode(encoding)) == TWO


ELSEWHERE = {  # who lives there, in how their programs write it
    "cp1252": "Günther Krüger, François Lefèvre, José Muñoz",
    "mac-roman": "Günther Krüger, François Lefèvre, José Muñoz",
    "cp1250": "Łukasz Wójcik, Jiří Dvořák, Małgorzata Żak",
    "cp1251": "Иванов Иван, Пётр Смирнов, Анна Кузнецова",
    "koi8-r": "Иванов Иван, Пётр Смирнов, Анна Кузнецова",
    "cp1253": "Γιώργος Παπαδόπουλος, Ελένη, Νίκος",
    "cp1255": "משה כהן, שרה לוי, דוד",
    "cp932": "田中太郎, 佐藤花子, 山本さくら",
    "euc_jp": "田中太郎, 佐藤花子, 山本さくら",
    "gbk": "王伟, 李娜, 北京市朝阳区",
    "big5": "陳怡君, 林志明, 台北市信義區",
    "cp949": "김민수, 이지은, 서울특별시 강남구",
}


def names_in(content: bytes, encoding: str = "") -> tuple[str, list[str]]:
    """The encoding that a file was read in, and the first names in it."""
    with reading(io.BytesIO(content), encoding) as found:
        return found.encoding, [row.more.get("Name", row.refused) for row in itertools.islice(found, 9)]


@pytest.mark.parametrize("encoding", ELSEWHERE)
def test_what_is_not_utf_8_is_read_as_what_it_looks_like(encoding: str):
    names = ELSEWHERE[encoding].split(", ")
    lines = [f"{name};user{n}@example.com" for n, name in enumerate(names)]
    content = "\r\n".join(["Name;E-Mail", *lines]).encode(encoding)
    assert names_in(content)[1] == names
    assert names_in(content + b"\r\nJo;user9@example.com" * 200_000)[1][:3] == names  # of a large file too


@pytest.mark.parametrize("name", [*ENCODINGS, "latin1", "Shift_JIS", "macroman", "GBK", "utf8", "EUC-KR"])
def test_the_encoding_may_be_named(name: str):
    codec = ENCODINGS.get(name, name)
    there = next(
        (who for code, who in ELSEWHERE.items() if codecs.lookup(code) == codecs.lookup(codec)), "Jo"
    )
    content = f"Name,E-Mail\r\n{there.partition(',')[0]},ada@example.com\r\n".encode(codec)
    assert names_in(content, name)[1] == [there.partition(",")[0]]


@pytest.mark.parametrize("name", ["nonsense", "rot13", "base64", "a\0b", "x" * 100_000])
def test_an_encoding_that_there_is_not_is_refused(name: str):
    with pytest.raises(
        BadArguments, match=r"No encoding is called .*; there are UTF-8, UTF-16, Windows-1252, "
    ):
        names_in(b"ada@example.com", name)


@pytest.mark.parametrize(
    "piece", [b"\xff\n", b"\x81", b"a\xe4", bytes(range(128, 256)), "日本\n".encode("cp932")]
)
def test_the_look_for_an_encoding_does_not_grow_with_the_file(piece: bytes):
    with patch("rowcast.tables.user_csv.looks_like", wraps=user_csv.looks_like) as asked:
        for size in (100_000, 2_000_000):
            user_csv.encoding_of(io.BytesIO(piece * (size // len(piece))))
    assert len(asked.call_args_list) == 2
    assert all(len(call.args[0]) <= user_csv.HARD + user_csv.HARD_LINE for call in asked.call_args_list)


def test_a_dry_run_shows_how_the_letters_were_read_and_takes_another_encoding(path: str):
    content = "Name;E-Mail\nGrö;ada@example.com\n".encode("mac-roman")
    done = Users(path).import_csv(io.BytesIO(content), dry_run=True)
    assert "Read as Windows-1252: Grš. If that looks wrong, name the encoding." in done.sentence
    done = Users(path).import_csv(io.BytesIO(content), dry_run=True, encoding="MacRoman (Western)")
    assert "Read as MacRoman: Grö." in done.sentence


def test_a_comma_in_the_header_of_a_semicolon_file_is_a_letter():
    assert people("Name, Vorname;E-Mail\nMüller, Jo;ada@example.com\n") == {
        ADA: {"Name, Vorname": "Müller, Jo"}
    }


def test_blanks_behind_a_separator_are_no_part_of_a_cell():
    assert people('"email", "name", "city"\n"ada@example.com", "Lovelace, Ada", "London"\n') == {
        "ada@example.com": {"name": "Lovelace, Ada", "city": "London"}
    }


def test_stripe_google_and_outlook_call_the_column_otherwise():
    stripe = "id,Description,Seller Message,Customer Email,Card Name\nch_1,first,paid,ada@example.com,Ada\n"
    assert people(stripe)[ADA]["id"] == "ch_1"
    google = (
        "First Name,E-mail 1 - Label,E-mail 1 - Value,E-mail 2 - Value,Phone 1 - Value\n"
        "Ada,* Work,ada@example.com,second@example.com,+49 1\nBen,,ben@example.com,,\n"
    )
    assert people(google)[ADA] == {
        "First Name": "Ada",
        "E-mail 1 - Label": "* Work",
        "E-mail 2 - Value": "second@example.com",
        "Phone 1 - Value": "+49 1",
    }
    outlook = (
        '"First Name","E-mail Address","E-mail Type","E-mail Display Name","Notes"\r\n'
        '"Ada","ada@example.com","SMTP","Ada (ada@example.com)","two\r\nlines; ""and"" quotes"\r\n'
    )
    assert people(outlook)[ADA]["Notes"] == 'two\r\nlines; "and" quotes'


def test_what_the_header_names_counts_more_than_what_a_column_has():
    text = "Referrer,email\nfriend@example.com,ada@example.com\nother@example.com,nobody\n"
    assert [(row.email, row.refused[:8]) for row in read(text)] == [(ADA, ""), ("", "'nobody'")]
    # unless it has nothing
    assert list(people("email,Contact\n,ada@example.com\n,ben@example.com\n")) == [ADA, BEN]


def test_without_a_header_columns_are_numbered():
    assert people("Ada,ada@example.com,5\nBen,ben@example.com,\n") == {
        ADA: {"column_1": "Ada", "column_3": "5"},
        BEN: {"column_1": "Ben"},
    }


def test_columns_that_are_called_alike_are_told_apart():
    text = "email,Name,name,Email,,account_updated\nada@example.com,1,2,3,4,5\n"
    assert people(text) == {ADA: {"Name": "1", "name 2": "2", "Email 2": "3", "column_5": "4"}}


def test_a_name_of_a_column_has_no_marks_and_no_controls():
    assert people("email,\u202ea\u200bb\x00\nc\nada@example.com,1\n".replace("\nc", " c")) == {
        ADA: {"ab c": "1"}
    }


@pytest.mark.parametrize("content", [b"PK\x03\x04...", b"\xd0\xcf\x11\xe0\xa1"])
def test_a_workbook_is_refused(content: bytes):
    with pytest.raises(BadArguments, match="The file is a workbook, not CSV: save it as CSV first"):
        read(content)


def test_too_many_columns_are_refused():
    with pytest.raises(BadArguments, match="The file has 5,001 columns; 200 at most can be kept"):
        read("email" + ",x" * 5_000 + "\nada@example.com\n")


def test_one_damaged_line_does_not_change_the_others():
    content = (
        "email,name\nada@example.com,Jürgen\nben@example.com,Größ\n".encode() + b"cy@example.com,J\xfcrg\n"
    )
    assert [(row.line, row.email, row.refused) for row in read(content)] == [
        (2, ADA, ""),
        (3, BEN, ""),
        (4, "", "it has bytes that are not UTF-8"),
    ]


@pytest.mark.parametrize("word", ["éa", "é", "ñ", "Ölé", "ß", "äé", "ß" * 9, "äöüßéñ"])
def test_a_letter_or_two_of_windows_are_taken_for_no_others(word: str):
    assert people(f"A,E-Mail,Note\n,a0@a.de,{word}\n".encode("cp1252")) == {"a0@a.de": {"Note": word}}


# What any program could write, in any way that Python's own writer knows.
CELLS = st.text("abcäöüßéñ XY09.,;|\t\"'-=\n", max_size=12).map(str.strip)
ADDRESSES = st.from_regex(r"[a-z]{1,8}[.+]?[a-z0-9]{1,5}@[a-z]{1,8}\.(de|com)", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, ADDRESSES, CELLS), min_size=1, max_size=8, unique_by=lambda row: row[1]),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
    header=st.sampled_from(
        [("Vor, Nach", "E-Mail", "No;te"), ("A", "Customer Email", "B"), ("Der|eine", "Kontakt", "x")]
    ),
    above=st.sampled_from(["", "Liste vom 1. Mai, intern\n", "Liste\n\n"]),
)
def test_what_a_program_writes_is_read_as_it_was_meant(
    rows: list[tuple[str, str, str]],
    separator: str,
    end: str,
    quoting: Any,
    encoding: str,
    header: tuple[str, str, str],
    above: str,
):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([header, *rows])
    found = people((above + buffer.getvalue()).encode(encoding))
    first, _, last = header
    assert found == {
        email: {name: cell for name, cell in ((first, one), (last, other)) if cell}
        for one, email, other in rows
    }


@pytest.mark.parametrize("row", [(",", ","), (";ä,", ""), ("", ","), ("é9;Y,", ""), (";", "")])
def test_a_tab_separates_whatever_else_stands_in_the_cells(row: tuple[str, str]):
    first, last = row
    found = people(f"Vor, Nach\tE-Mail\tNo;te\n{first}\t{ADA}\t{last}\n".encode())
    assert found == {ADA: {name: cell for name, cell in (("Vor, Nach", first), ("No;te", last)) if cell}}


# ---- addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("\u200bada@example.com\ufeff", ADA),
        ("a\u00adda@exam\u200bple.com", ADA),
        ("\u202eada@example.com\u202c", ADA),
        ("\u00a0 ada@example.com\u3000", ADA),
        ("ada\ufe0f@example.com", ADA),
        ("Ada@EXAMPLE.Com", "Ada@example.com"),
        ("ju\u0308rgen@exa\u0308mple.com", "jürgen@exämple.com"),
        ("jürgen@EXÄMPLE.com", "jürgen@exämple.com"),
        ("jürgen@xn--exmple-cua.com", "jürgen@exämple.com"),
        ("ada@\uff45xample.com", ADA),
    ],
)
def test_an_address_is_kept_without_what_nobody_sees(written: str, kept: str):
    assert address_of(written)[0] == kept


@pytest.mark.parametrize(
    "written",
    [
        "mailto:ada@example.com",
        "MailTo:ada@Example.com",
        "Ada L <ada@example.com>",
        '"L, Ada" <mailto:ada@example.com>',
        "<ada@example.com>",
        "ada@example.com.",
    ],
)
def test_an_address_is_found_behind_a_name_and_in_a_link(written: str):
    assert address_of(written) == ("ada@example.com", "ada@example.com")
    quoted = '"{}"'.format(written.replace('"', '""'))
    with reading(io.BytesIO(f"Notes,To\nnone,{quoted}\n".encode())) as file:
        assert [row.email for row in file] == ["ada@example.com"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_needs_no_mark(encoding: str):
    with reading(io.BytesIO("E-Mail;Name\r\nada@example.com;Ädä\r\n".encode(encoding))) as file:
        assert [(row.email, row.more) for row in file] == [("ada@example.com", {"Name": "Ädä"})]
        assert file.encoding == "UTF-16"


def test_of_addresses_in_one_line_none_is_lost_without_a_word():
    one_line = b"ada@example.com, bob@example.com, cid@example.com"
    for text in (one_line, one_line.replace(b",", b";")):
        with (
            pytest.raises(BadArguments, match="several addresses in its only line"),
            reading(io.BytesIO(text)),
        ):
            pass
    with reading(io.BytesIO(b"ada@example.com,bob@example.com\ncid@example.com,dan@example.com")) as file:
        assert [row.email for row in file] == ["ada@example.com", "cid@example.com"]


def test_a_packed_file_is_told_apart():
    with (
        pytest.raises(BadArguments, match="The file is packed"),
        reading(io.BytesIO(gzip.compress(b"a@b.c"))),
    ):
        pass


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("a\u3164b@example.com", "'a\u3164b@example.com' has a character that nobody sees (U+3164)"),
        ("a\x1b[31m@example.com", "'a\\x1b[31m@example.com' is not an e-mail address"),
        ("a\x9bb@example.com", "'a\\x9bb@example.com' has a character that nobody sees (U+009B)"),
        ("a b@example.com", "'a b@example.com' is not an e-mail address"),
        ("EMAIL:a@example.com", "'EMAIL:a@example.com' is not an e-mail address"),
        ("a@example.com (old)", "'a@example.com (old)' is not an e-mail address"),
        ("a@.", "'a@.' is not an e-mail address"),
        ("a\ufffdb@example.com", "'a\ufffdb@example.com' is not an e-mail address"),
        ("a@xn--.com", "'xn--.com' is not the name of a domain"),
        ("a@-ä.com", "'-ä.com' is not the name of a domain"),
        ("\u202e", "no address"),
        ("a" * 300 + "@example.com", "an address has at most 254 characters"),
    ],
)
def test_what_cannot_be_an_address_is_refused_with_the_reason(written: str, why: str):
    with pytest.raises(ValueError) as error:
        address_of(written)
    assert str(error.value).startswith(why)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"\w{1,5}@\w{1,9}\.\w{2,3}", fullmatch=True))
@example("a@xn--a.b")
def test_an_address_that_is_kept_stays_as_it_is(written: str):
    try:
        kept, person = address_of(written)
    except ValueError:
        assume(False)
    assert address_of(kept) == (kept, person)
    assert kept.isprintable()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A database with an empty table of users."""
    path = str(tmp_path / "users.db")
    prepare(path)
    yield path
    database.close_databases()


def imported(path: str, text: str) -> Imported:
    return Users(path).import_csv(io.BytesIO(text.encode()))


def test_one_person_comes_once(path: str):
    again = ["Ada@Example.com", "jürgen@xn--exmple-cua.com", "JÜRGEN@exämple.com"]
    done = imported(path, "\n".join([ADA, "jürgen@exämple.com", *again]))
    assert (done.added, done.refused) == (2, [
        (3, "Ada@example.com is on line 1 already"),
        (4, "jürgen@exämple.com is on line 2 already"),
        (5, "JÜRGEN@exämple.com is on line 2 already"),
    ])  # fmt: skip
    assert imported(path, "\n".join(again[:2])).sentence.startswith("0 added, 2 were there already, 0 lines")
    add = "insert into users (email) values ('Zoë@EXÄMPLE.com'), ('no address')"
    database.connection(path).execute(add)
    assert imported(path, "zoë@exämple.com").known == 1


# ---- budgets -------------------------------------------------------------------------------------------------


class Counting(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        self.taken += len(block)
        return block

    read1 = read


def steps(content: bytes) -> int:
    """How many bytes of a file, and letters of its lines, are looked at until all its rows are known."""
    letters = 0
    plain = csv.reader

    def counting(lines: Iterator[str], **how: Any) -> Any:
        def counted() -> Iterator[str]:
            nonlocal letters
            for line in lines:
                letters += len(line)
                yield line

        return plain(counted(), **how)

    file = Counting(content)
    with patch.object(user_csv.csv, "reader", counting), reading(file) as found:
        for row in found:
            assert bool(row.email) != bool(row.refused)
    return file.taken + letters


SEPARATELY = (
    len(user_csv.SEPARATORS) + 1
)  # times that the beginning of a file is read: once for each separator
BUDGET = SEPARATELY * UNCLOSED * (LONGEST + LONGEST)  # letters that records may look at which are not closed


@pytest.mark.parametrize(
    "line",
    ['a","\n', 'a","' + "x" * 700 + "\n", '"\n', 'x@y.de,"\n', '"""\n', ',"",","\n', 'x@y.de;"', '"' * 99],
    ids=["reopening", "reopening, long", "one", "behind an address", "three", "mixed", "one line", "quotes"],
)
def test_quotes_that_are_not_closed_are_looked_at_a_limited_number_of_times(line: str):
    content = (line * (600_000 // len(line))).encode()
    assert steps(content) < 4 * len(content) + BUDGET


@settings(max_examples=200, deadline=None)
@given(
    pattern=st.text('a@.,;|\t"\n\r =\ufeffü', min_size=1, max_size=8),
    times=st.integers(1, 4_000),
    tail=st.text('a@.,;"\n', max_size=4),
)
def test_no_file_is_looked_at_more_often_than_its_length_says(pattern: str, times: int, tail: str):
    content = (pattern * times + tail).encode()
    most = (SEPARATELY + 3) * len(content) + SEPARATELY * UNCLOSED * SPAN * len(pattern.encode()) * 8
    with contextlib.suppress(BadArguments):  # for too many columns, by then
        assert steps(content) < most


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_stumble(content: bytes):
    try:
        for row in read(content):
            assert bool(row.email) != bool(row.refused)
    except BadArguments as error:
        assert any(word in str(error) for word in ("workbook", "columns", "packed", "several addresses"))


def test_a_record_that_spans_too_much_is_refused_with_its_line_and_the_next_are_read():
    long = "x" * (LONGEST + 9)
    text = (
        f'email,note\nada@example.com,"{"n" * 99}\n'
        + "note\n" * SPAN
        + f'"\nben@example.com,\ncy@example.com,{long}\ndi@example.com\n'
    )
    found = read(text)
    assert [row.email for row in found if row.email] == [BEN, "di@example.com"]
    assert (found[0].line, found[0].refused) == (2, "not readable as CSV: a quote is not closed")
    refusals = {row.line: row.refused for row in found}
    assert refusals[SPAN + 5] == f"not readable as CSV: a line has at most {LONGEST:,} letters"
    assert found[-1].line == SPAN + 6


def peak(path: str, content: bytes) -> tuple[int, int]:
    """The most memory that an import has at once, of Python's and of SQLite's, in bytes."""
    file = io.BytesIO(content)
    apsw.memory_high_water(True)
    before = apsw.memory_used()
    tracemalloc.start()
    try:
        Users(path).import_csv(file)
        return tracemalloc.get_traced_memory()[1], apsw.memory_high_water() - before
    finally:
        tracemalloc.stop()


PAGES_KEPT = 2_000 * 4_300  # bytes of a file that SQLite keeps in memory at most: its cache_size


@pytest.mark.parametrize(
    "line", ["x\n", "user{}@example.com\n", "user{}@example.com,{}\n"], ids=["bad", "good", "columns"]
)
def test_the_memory_of_an_import_does_not_grow_with_the_file(path: str, line: str):
    def lines(number: int) -> bytes:
        return "".join(line.format(n, n) for n in range(number)).encode()

    small = peak(path, lines(6_000))
    large = peak(path, lines(12_000))
    assert large[0] < small[0] + 200_000
    assert large[1] < small[1] + PAGES_KEPT


def test_of_many_bad_lines_the_first_are_told_and_all_are_counted(path: str):
    done = imported(path, "email\n" + "x\n" * 5_000)
    assert done.refusals == 5_000 and [line for line, _ in done.refused] == list(range(2, REFUSALS + 2))
    assert done.sentence == "0 added, 0 were there already, 5,000 lines refused."


# ---- a sender who has gone -----------------------------------------------------------------------------------


def test_an_import_stops_where_it_is_when_its_sender_has_gone(path: str):
    asked: list[int] = []

    def gone() -> bool:
        asked.append(1)
        return len(asked) > 3

    content = "".join(f"user{n}@example.com\n" for n in range(50_000)).encode()
    file = Counting(content)
    with pytest.raises(GoneAway):
        Users(path).import_csv(file, gone=gone)
    assert Users(path).count() == 0 and file.taken < 1.5 * len(content)


def test_the_page_notices_that_the_sender_has_gone(path: str):
    made = create(Settings(database=path))
    lines = "".join(f"user{n}@example.com\n" for n in range(30_000))
    body = (
        '--x\r\nContent-Disposition: form-data; name="file"; filename="people.csv"\r\n\r\n'
        + lines
        + "\r\n--x--\r\n"
    ).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/users",
        "raw_path": b"/users",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=x")],
    }
    sent: list[Any] = []

    async def ask(*messages: dict[str, Any]) -> None:
        waiting = list(messages)

        async def receive() -> dict[str, Any]:
            if not waiting:
                await asyncio.Event().wait()  # for ever
            return waiting.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await made.asgi(dict(scope), receive, send)

    whole = {"type": "http.request", "body": body, "more_body": False}
    asyncio.run(ask(whole, {"type": "http.disconnect"}))
    assert Users(path).count() == 0
    asyncio.run(ask(whole))
    assert Users(path).count() == 30_000
