"""The CSV of users as programs write it: which letters, which separator, which column, then row by row.

What is looked for makes it easy: the right separator leaves the most addresses whole in one column. So
titles above the header, `sep=;` and commas in a semicolon's header cost nothing. (csv.Sniffer fails on the
first, CleverCSV on the last.) What is not UTF-8 chardet is asked for, among the encodings that people may
choose; charset-normalizer takes the ü of Windows-1252 for cp1250, and the Rust port chardetng knows no Mac.
Reading is linear: a record has a budget, and so has how often it may be used up. No SQL.
"""

import codecs
import contextlib
import csv
import io
import itertools
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import chardet
import idna
import msgspec

from rowcast.tasks.records import BadArguments
from rowcast.tasks.sentences import worded
from rowcast.tasks.text import ENCODINGS, ODD, tidy

SAMPLE = 65_536  # letters by which separator, header and column are told,
SAMPLE_LINES = 1_000  # in so many lines
SAMPLE_RECORDS = 200  # of so many records
LONGEST = 65_536  # letters of a line, and of a record that spans several
SPAN = (
    100  # lines that a record may span: a note in a cell, not half a file behind a quote that is not closed
)
UNCLOSED = 100  # records that were not closed, after which a record is one line
COLUMNS = 200  # of one file; Outlook writes 92
NAME_LENGTH = 100  # letters of a column's name
ADDRESS_LENGTH = 254  # RFC 5321
BLOCK = 1 << 20  # bytes read at once
SEPARATORS = ",;\t|"
RATHER = frozenset("|\t")  # they stand between two cells: no address has them
SEP_LINE = re.compile(r'"?sep=([^"\s]|\t)"?', re.IGNORECASE)  # Excel's own first line
ADDRESS = re.compile(r"[^@\s\x00-\x1f,;:<>()\[\]\\\"\ufffd]+@[^@\s\x00-\x1f,;:<>()\[\]\\\"\ufffd]+")
WITH_NAME = re.compile(r"[^<>]*<([^<>]*)>")  # Ann Lee <ann@example.com>
MAILTO = "mailto:"  # of a link in a cell
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .ods and .numbers are zip files; .xls is older
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # by gzip, bzip2, xz
BEGINNING = 400  # bytes by which UTF-16 is told that has no mark: half of them are 0
HARD = 16_384  # bytes of lines with letters that are not UTF-8, by which their encoding is told
HARD_LINE = 4_096  # bytes of one of them
# Of the encodings those that are told from each other by few letters; the others people have to name.
GUESSED = [name for name in ENCODINGS.values() if name not in ("utf-8", "utf-16", "cp850", "cp866")]
SAMPLES = 3  # cells that show how the letters were read
SAMPLE_LENGTH = 40  # letters of one
SIGNS = 7  # different letters that are not ASCII, for another alphabet: a few look like any
MACS = re.compile(rb"[\x80-\x9f]")  # most of a Mac's letters; Windows has its own from C0 on, and signs here
NOT_ASCII = re.compile(rb"[\x80-\xff]")
# What others call them that are parts of ours, or that the web reads as ours.
ALIASES = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-15": "cp1252",
    "iso8859-9": "cp1254",
    "utf-8-sig": "utf-8",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "euc_jp": "euc_jis_2004",
}
UNREADABLE = re.compile("[\udc80-\udcff]")  # a byte that the encoding has not, as surrogateescape keeps it
# How a header calls the addresses, by its letters and digits alone; and what else is a hint.
PLAINLY = {"email", "mail", "emailaddress", "mailaddress", "emailadresse", "mailadresse", "email1value"}
HINT = re.compile("mail|courriel|correo|epost|メール|邮箱|郵件|이메일|почта")
STAMP = "account_updated"  # Rowcast's own; nobody's file says when an account was updated here


class Row(msgspec.Struct):
    """One record: a user, or why it is none."""

    line: int  # where it begins, from 1
    email: str = ""
    person: str = ""  # the same, however the address is written
    more: dict[str, str] = {}
    refused: str = ""


class Layout(msgspec.Struct):
    """How a file is to be read."""

    separator: str = ","
    header: int = 0  # the line it is on; 0: there is none
    column: int = 0  # of the addresses
    names: list[str] = []  # of the columns; "" for one that is not kept


@contextlib.contextmanager
def reading(file: BinaryIO, encoding: str = "") -> Iterator["CsvFile"]:
    """The users of a file, which has to be able to seek, and stays open; `encoding` is one of ENCODINGS, or
    is told from the file. Raises BadArguments for no CSV, and no encoding.
    """
    found = encoding_of(file, codec_of(encoding) if encoding else "")
    how = "replace" if found.startswith("utf-16") else "surrogateescape"
    text = io.TextIOWrapper(file, found, how, newline="")
    try:
        yield CsvFile(text)
    finally:
        text.detach()


class CsvFile:
    """The rows of one file, in its order, titles and header left out."""

    def __init__(self, text: io.TextIOWrapper):
        self.encoding = spoken(text.encoding)
        self.samples: list[str] = []
        self.lines = lines_of(text)
        self.sample: list[str] = []
        size = 0
        while size < SAMPLE and len(self.sample) < SAMPLE_LINES and (line := next(self.lines, "")):
            self.sample.append(line)
            size += len(line)
        self.layout = understood(self.sample)

    def __iter__(self) -> Iterator[Row]:
        layout = self.layout
        first = max(layout.header, 1 if separator_said(self.sample) else 0)
        lines = itertools.chain(self.sample, self.lines)
        for line, cells, why in Records(lines, layout.separator, layout.column):
            if line > first:
                yield Row(line, refused=why) if why else self._row(line, cells)

    def _row(self, line: int, cells: list[str]) -> Row:
        column = self.layout.column
        cell = cells[column] if column < len(cells) else ""
        try:
            if any(not cell.isascii() and UNREADABLE.search(cell) for cell in cells):
                raise ValueError(worded(f"it has bytes that are not {self.encoding}"))
            email, person = address_of(cell)
        except ValueError as error:
            return Row(line, refused=str(error))
        named = zip(self.layout.names, cells, strict=False)
        more = {name: text for name, cell in named if name and (text := cell.strip())}
        for text in (email, *more.values()) if len(self.samples) < SAMPLES else ():
            if not text.isascii() and text[:SAMPLE_LENGTH] not in self.samples:
                self.samples = [*self.samples, text[:SAMPLE_LENGTH]][:SAMPLES]
        return Row(line, email, person, more)


# ---- letters and lines -------------------------------------------------------------------------------------


def encoding_of(file: BinaryIO, named: str = "") -> str:
    """What a byte order mark says, then what people have said; else UTF-8, or where more letters cannot be
    UTF-8 than can, what these look like.

    Raises BadArguments for a workbook.
    """
    file.seek(0)
    beginning = file.read(BEGINNING)
    file.seek(0)
    if beginning.startswith(WORKBOOKS):
        raise BadArguments("The file is a workbook, not CSV: save it as CSV first.")
    if beginning.startswith(PACKED):
        raise BadArguments("The file is packed: unpack it first.")
    for order, encoding in BOMS:
        if beginning.startswith(order):
            return encoding
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        half = beginning[first::2]
        if half.count(0) > len(half) / 2:
            return encoding
    if named:
        return "utf-16-le" if named == "utf-16" else named  # Windows' own, which has no mark here
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    bad = 0
    others = 0
    hard = b""
    while block := file.read(BLOCK):
        text = decode(block)
        if not text.isascii():
            bad += text.count("\ufffd")
            others += len(text) - len(text.encode("ascii", "ignore"))
            if bad and len(hard) < HARD:
                hard += hard_lines(block, HARD - len(hard))
    file.seek(0)
    return looks_like(hard) if bad > others - bad else "utf-8"


def hard_lines(block: bytes, room: int) -> bytes:
    """Whole lines of a file that are not ASCII, or if none is short enough some of it."""
    found = []
    at = 0
    while room > 0 and (letter := NOT_ASCII.search(block, at)):
        begin = block.rfind(b"\n", at, letter.start()) + 1 or at
        end = block.find(b"\n", letter.start())
        end = len(block) if end < 0 else end
        if end - begin <= HARD_LINE:
            found.append(block[begin:end])
            room -= end - begin + 1
        at = end + 1
    return b"\n".join(found) or block[:HARD_LINE]


def looks_like(hard: bytes) -> str:
    """The encoding of bytes that are not UTF-8: where nothing is likelier the web's (WHATWG, Encoding)."""
    many = len({*NOT_ASCII.findall(hard)}) >= SIGNS
    if not many and not MACS.search(hard):
        return "cp1252"
    found = chardet.detect(hard, max_bytes=2 * HARD, include_encodings=GUESSED)["encoding"] or "cp1252"
    if not many and not found.lower().startswith("mac"):
        found = "cp1252"
    return ALIASES.get(plain_name(found), found)


def codec_of(encoding: str) -> str:
    """Python's name of an encoding that somebody has named. Raises BadArguments."""
    spoken_of = {name.split(" (")[0].casefold(): codec for name, codec in ENCODINGS.items()}
    if encoding in ENCODINGS or encoding.casefold() in spoken_of:
        return ENCODINGS.get(encoding) or spoken_of[encoding.casefold()]
    with contextlib.suppress(LookupError, ValueError):
        name = codecs.lookup(ALIASES.get(plain_name(encoding), encoding)).name
        for codec in ENCODINGS.values():
            if plain_name(codec) == name:
                return codec
    some = ", ".join(name.split(" (")[0].split(",")[0] for name in ENCODINGS)
    raise BadArguments(f"No encoding is called {encoding[:40]!r}; there are {some}.")


def plain_name(encoding: str) -> str:
    return codecs.lookup(encoding).name


def spoken(encoding: str) -> str:
    """How people speak of one of Python's encodings."""
    named = {plain_name(codec): name.split(" (")[0] for name, codec in ENCODINGS.items()}
    return named.get(plain_name(encoding), "UTF-8" if encoding == "utf-8-sig" else "UTF-16")


def lines_of(text: io.TextIOWrapper) -> Iterator[str]:
    """Each line with its end; of one that is too long, its beginning, which is too long too."""
    while line := text.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and not line.endswith(("\n", "\r")):
            line = text.readline(LONGEST + 1) or "\n"


class Records:
    """The records of lines: where each begins, its cells, and why it has none. Empty ones are left out.

    One that cannot be read costs its first line alone: with the next one begins another. So does one where
    `column` has a line break, for no address has: its quote was closed by somebody else's.
    """

    def __init__(self, lines: Iterable[str], separator: str, column: int | None = None):
        self.lines = iter(lines)
        self.separator = separator
        self.column = column
        self.returned = deque[str]()
        self.line = 0  # the one that was taken last
        self.unclosed = 0

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        for first in iter(self._take, ""):
            line = self.line
            taken = [first]
            try:
                if len(first) > LONGEST:
                    raise csv.Error(f"a line has at most {LONGEST:,} letters")
                if '"' in first:
                    records = csv.reader(
                        self._record(taken), strict=True, delimiter=self.separator, skipinitialspace=True
                    )
                    cells = next(records)
                else:
                    cells = first.rstrip("\r\n").split(self.separator)
                if self.column is not None and any(
                    c in "\r\n" for c in "".join(cells[self.column : self.column + 1])
                ):
                    raise csv.Error("a quote is not closed")
            except csv.Error as error:
                self._return(taken[1:])
                yield (
                    line,
                    [],
                    f"not readable as CSV: {error}".replace(
                        "unexpected end of data", "a quote is not closed"
                    ),
                )
            else:
                if any(map(str.strip, cells)):
                    yield line, cells, ""

    def _take(self) -> str:
        line = self.returned.popleft() if self.returned else next(self.lines, "")
        self.line += bool(line)
        return line

    def _record(self, taken: list[str]) -> Iterator[str]:
        """The lines that a record may have; they are `taken` as they are asked for."""
        yield taken[0]
        size = len(taken[0])
        span = SPAN if self.unclosed < UNCLOSED else 1
        while len(taken) < span and size <= LONGEST and (line := self._take()):
            taken.append(line)
            size += len(line)
            yield line

    def _return(self, lines: list[str]) -> None:
        self.unclosed += bool(lines)
        self.line -= len(lines)
        self.returned.extendleft(reversed(lines))


# ---- separator, header, columns ----------------------------------------------------------------------------


def understood(sample: list[str]) -> Layout:
    """How the file is to be read that begins with these lines. Raises BadArguments for too many columns."""
    said = separator_said(sample)
    tried = []
    for separator in said or SEPARATORS:
        records = ((line, cells) for line, cells, why in Records(sample, separator) if not why)
        read = list(itertools.islice(records, 1 if said else 0, SAMPLE_RECORDS))
        found = Counter(n for _, cells in read for n, cell in enumerate(cells) if looks_like_one(cell))
        widths = Counter(len(cells) for _, cells in read if len(cells) > 1)
        worth = max(found.values(), default=0), max(widths.values(), default=0)
        tried.append((worth, separator, read, found))
    _, separator, read, found = max(tried, key=lambda one: one[0])  # of equals the first
    if not read:
        return Layout(separator)
    people = [n for n, (_, cells) in enumerate(read) if any(map(looks_like_one, cells))]
    header = header_of(read[: people[0]] if people else read, len(read[people[0]][1]) if people else 0)
    if len(read) == 1 and len([cell for cell in read[0][1] if looks_like_one(cell)]) > 1:
        raise BadArguments("The file has several addresses in its only line: give each a line of its own.")
    line, cells = header or (0, [])
    width = len(cells) or Counter(len(cells) for _, cells in read).most_common(1)[0][0]
    if width > COLUMNS:
        raise BadArguments(f"The file has {width:,} columns; {COLUMNS} at most can be kept.")
    column = address_column(cells, [cells for _, cells in read], found, width)
    return Layout(separator, line, column, names_of(cells, width, column))


def looks_like_one(cell: str) -> bool:
    """Whether a cell is an address; none has what rather separates two cells."""
    return "@" in cell and not RATHER.intersection(cell) and bool(ADDRESS.fullmatch(bare(cell)))


def bare(cell: str) -> str:
    """The address in a cell, without what nobody sees, a name before it, or what makes a link of it."""
    text = tidy(cell)
    if named := WITH_NAME.fullmatch(text):
        text = named[1].strip()
    return text[len(MAILTO) :] if text[: len(MAILTO)].lower() == MAILTO else text


def separator_said(sample: list[str]) -> str:
    """The separator that Excel's own first line names; '' where there is no such line."""
    said = SEP_LINE.fullmatch(sample[0].strip(" \r\n")) if sample else None
    return said[1] if said else ""


def header_of(above: list[tuple[int, list[str]]], width: int) -> tuple[int, list[str]] | None:
    """Which record above the first address is the header: one that names addresses, else the fullest.

    Unless it names them plainly it has as many cells as that one, its `width`, and stands below an empty line
    if there is one: what else stands above are titles.
    """
    as_wide = [record for record in above if len(record[1]) == width] or above
    gaps = [n for n, (before, after) in enumerate(itertools.pairwise(above)) if after[0] > before[0] + 1]
    below = [record for record in as_wide if gaps and record[0] > above[gaps[-1]][0]] or as_wide
    for wanted, among in ((2, above), (1, as_wide)):
        for record in among:
            if any(names_addresses(cell) == wanted for cell in record[1]):
                return record
    return max(below, key=lambda record: sum(map(bool, map(str.strip, record[1]))), default=None)


def names_addresses(cell: str) -> int:
    """Whether a header's cell names the addresses: 2 plainly, 1 perhaps, 0 not."""
    text = unicodedata.normalize("NFKC", tidy(cell[:NAME_LENGTH])).casefold()
    letters = "".join(c for c in text if c.isalnum())
    return 2 if letters in PLAINLY else int(bool(HINT.search(letters)))


def address_column(header: list[str], read: list[list[str]], found: Counter[int], width: int) -> int:
    """Where the addresses are: what the header names counts if the column has some, then how many it has."""
    called = [names_addresses(cell) for cell in header] + [0] * width
    filled = Counter(n for cells in read[1:] for n, cell in enumerate(cells) if cell.strip())

    def worth(n: int) -> tuple[int, int, int]:
        believed = found[n] or (called[n] == 2 and filled[n])
        return called[n] if believed else 0, found[n], -n

    best = max(range(width), key=worth)
    return best if any(worth(best)[:2]) else max(range(width), key=lambda n: (called[n], -n))


def names_of(header: list[str], width: int, column: int) -> list[str]:
    """The columns' names, no two alike; of one without a name its number, and none for what is not kept."""
    names: list[str] = []
    used = {"email", STAMP}
    for n in range(width):
        cell = header[n][: 2 * NAME_LENGTH] if n < len(header) else ""
        name = " ".join(ODD.sub(" ", tidy(cell)).split())[:NAME_LENGTH] or f"column_{n + 1}"
        if n == column or name.casefold() == STAMP:
            names.append("")
            continue
        again = (f"{name} {number}" for number in itertools.count(2))
        names.append(next(each for each in itertools.chain([name], again) if each.casefold() not in used))
        used.add(names[-1].casefold())
    return names


# ---- addresses ---------------------------------------------------------------------------------------------


def address_of(cell: str) -> tuple[str, str]:
    """An address as it is kept, without what nobody sees, its domain in lower case; and whose it is.

    Raises ValueError with the reason.
    """
    if len(cell) > 4 * ADDRESS_LENGTH:  # look no further: to compose letters takes longer than to count them
        raise ValueError(worded(f"an address has at most {ADDRESS_LENGTH} characters (RFC 5321)"))
    email = unicodedata.normalize("NFC", bare(cell))
    if not email:
        raise ValueError(worded("no address"))
    if len(email) > ADDRESS_LENGTH:
        raise ValueError(worded(f"an address has at most {ADDRESS_LENGTH} characters (RFC 5321)"))
    if not ADDRESS.fullmatch(email):
        raise ValueError(worded(f"{email[:60]!r} is not an e-mail address"))
    if odd := ODD.search(email):
        raise ValueError(worded(f"{email[:60]!r} has a character that nobody sees (U+{ord(odd[0]):04X})"))
    local, _, domain = email.partition("@")
    domain = domain.lower().removesuffix(".")  # of the root of all names (RFC 1034, 3.1)
    if not domain.strip("."):
        raise ValueError(worded(f"{email[:60]!r} is not an e-mail address"))
    if not domain.isascii() or "xn--" in domain:
        try:
            domain = idna.decode(domain, uts46=True)
        except (idna.IDNAError, UnicodeError) as error:
            raise ValueError(worded(f"{domain[:60]!r} is not the name of a domain: {error}")) from None
    email = f"{local}@{domain}"
    return email, email.casefold()
