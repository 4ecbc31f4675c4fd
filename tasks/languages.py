"""Languages: every text of the pages stands in one catalogue, of which a language has a file, `locale/de.po`.

    tr("Start a job")                                     in the language of who asks
    tr("{done:,} of {total:,} done", done=3, total=7)
    trn("{number:,} job", "{number:,} jobs", number)      by its own plural forms
    mark("Queued")                                        noted for the catalogue, and `tr` where it is shown

The texts in the code are the English ones, and the keys. A file is read as it is, by the few lines that are
`read`: whoever adds one, or mends it, needs no tool and no build. `make texts` gathers what there is to say.
"""

import ast
import gettext
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache, wraps
from pathlib import Path
from string import Formatter
from typing import Any

log = logging.getLogger("rowcast")
ENGLISH = "en"
FOLDER = Path(__file__).parent.parent / "locale"
ENTRY = re.compile(r"(#:|#,|#\.|msgid_plural|msgid|msgstr(?:\[(\d)\])?) ?(.*)")
NUMBERS_TRIED = 1_000  # for which a rule of plural forms must say a form
TAKES = re.compile(r"\s*([A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*|\*)\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*)?")


@dataclass
class Catalogue:
    """What is said in a language, by what is said in English."""

    language: str
    texts: dict[str, str] = field(default_factory=dict)
    many: dict[str, list[str]] = field(default_factory=dict)  # its plural forms, by the English singular
    form: Callable[[int], int] = lambda number: int(number != 1)  # which of them a number takes
    scripts: dict[str, str] = field(default_factory=dict)  # those of the texts that scripts say
    kept: dict[str, str] = field(default_factory=dict)  # those that are kept (sentences.py)
    kept_sentences: Any = None  # the same, made ready for that

    @cached_property
    def separators(self) -> dict[int, str]:
        """What stands in its numbers for a comma, and for a point."""
        like = re.fullmatch(r"1([^\d<>&\"]?)000([^\d<>&\"])5", self.texts.get(NUMBER, NUMBER))
        return {ord(","): like[1], ord("."): like[2]} if like else {}


class _Format(Formatter):
    """Texts with their values, of which the numbers are written as in a language."""

    def format_field(self, value: Any, spec: str) -> Any:
        text = super().format_field(value, spec)
        return written(text) if spec and isinstance(value, int | float) else text


SPOKEN: ContextVar[Catalogue | None] = ContextVar("spoken", default=None)  # None: English, as it is here
FORMAT = _Format()


def tr(text: str, /, **values: Any) -> str:
    """A text in the language of who asks, with its values."""
    spoken = SPOKEN.get()
    if spoken is None:
        return text.format(**values) if values else text
    text = spoken.texts.get(text, text)
    return FORMAT.format(text, **values) if values else text


def trn(one: str, many: str, number: int, /, **values: Any) -> str:
    """A text that has a number in it, in the form which that takes."""
    spoken = SPOKEN.get()
    text = one if number == 1 else many
    if spoken is not None and (forms := spoken.many.get(one)):
        text = forms[min(spoken.form(number), len(forms) - 1)]
    return FORMAT.format(text, number=number, **values)


def written(number: str) -> str:
    """A number with its unit, with the separators of the language of who asks: 1,234.5 ms is 1.234,5 ms."""
    spoken = SPOKEN.get()
    return number if spoken is None else number.translate(spoken.separators)


def mark(text: str) -> str:
    """A text that is looked up later."""
    return text


NUMBER = mark("1,000.5")  # how this is written in a language says how all numbers are


class Words(dict[str, str]):
    """Marked texts by names; whoever asks gets them in their language."""

    def __getitem__(self, name: str) -> str:
        text = dict.__getitem__(self, name)  # as `tr`, for each row of a table
        spoken = SPOKEN.get()
        return text if spoken is None else spoken.texts.get(text, text)

    def get(self, name: str, default: Any = None) -> Any:
        found = super().get(name)
        return default if found is None else tr(found)

    def copy(self) -> dict[str, str]:
        return dict(self.items())

    def items(self) -> Any:
        return {name: self[name] for name in self}.items()


def language() -> str:
    """The language of who asks."""
    spoken = SPOKEN.get()
    return ENGLISH if spoken is None else spoken.language


def in_each_language(size: int) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """A drawing that is kept, for each language by itself."""

    def kept(draw: Callable[..., str]) -> Callable[..., str]:
        known = lru_cache(size)(lambda language, *args: draw(*args))

        @wraps(draw)
        def drawn(*args: Any) -> str:
            return known(language(), *args)

        return drawn

    return kept


def speak(accepted: str, fixed: str = "") -> Token[Catalogue | None]:
    """From now on, in this request, in the first language that there is of those that somebody takes
    (Accept-Language); or in one that is `fixed`."""
    return SPOKEN.set(catalogue(fixed or chosen(accepted)))


@contextmanager
def spoken(name: str) -> Iterator[None]:
    """What is said in here is said in this language; where there is none of that name, in English."""
    before = SPOKEN.set(catalogue(name))
    try:
        yield
    finally:
        SPOKEN.reset(before)


@lru_cache(1000)
def chosen(accepted: str) -> str:
    """Of the languages that a browser takes, the best one that there is a file of; else English."""
    found = [TAKES.fullmatch(part) for part in accepted[:500].split(",")]
    wanted = sorted((one for one in found if one), key=lambda one: -float(one[2] or 1))
    for one in wanted:
        name = one[1].lower()
        for known in (name, name.partition("-")[0]):
            if known in there() and float(one[2] or 1) > 0:
                return known
    return ENGLISH


@cache
def there() -> Mapping[str, Path | None]:
    """The languages that there are, with their files."""
    return {ENGLISH: None} | {
        path.stem.lower().replace("_", "-"): path for path in sorted(FOLDER.glob("*.po"))
    }


@cache
def catalogue(name: str) -> Catalogue | None:
    """What is said in a language; None for English."""
    path = there().get(name)
    return read(name, path.read_text(encoding="utf-8")) if path else None


def read(name: str, text: str) -> Catalogue:
    """The catalogue in a .po file. What is fuzzy, cannot be read, or has other values than the English, is
    left out: its place is English then."""
    made = Catalogue(name)
    for entry in re.split(r"\n\s*\n", text):
        try:
            add(made, *parts_of(entry))
        except (SyntaxError, ValueError) as error:
            log.warning("%s.po: %s is left out: %s", name, entry[:80], error)
    return made


def parts_of(entry: str) -> tuple[dict[str, str], str]:
    """An entry of a file: what it says by keywords, and the notes of programs. Raises SyntaxError."""
    said: dict[str, str] = {}
    notes = part = ""
    for line in entry.splitlines():
        if line.startswith('"') and part:
            said[part] += ast.literal_eval(line)
        elif found := ENTRY.match(line):
            if line.startswith("#"):
                notes += line
            else:
                part = found[1]
                said[part] = ast.literal_eval(found[3])
    return said, notes


def add(made: Catalogue, said: dict[str, str], notes: str) -> None:
    """One entry of a file, by its keywords."""
    text = said.get("msgid")
    if text == "":
        rule = re.search(r"plural=([^;]+);", said.get("msgstr", ""))
        made.form = plural_form(rule[1].strip()) if rule else made.form
    if not text or "fuzzy" in notes:
        return
    forms = [said[name] for name in sorted(said) if name.startswith("msgstr")]
    if not all(forms):
        return
    wanted = values_in(text) | values_in(said.get("msgid_plural", ""))
    if any(not values_in(form) <= wanted for form in forms):
        log.warning("%s.po: %r has other values than the English text: it is left out", made.language, text)
    elif "msgid_plural" in said:
        made.many[text] = forms
    else:
        made.texts[text] = forms[0]
        if "static/" in notes:
            made.scripts[text] = forms[0]
        if re.search(r"#\. .*\bkept\b", notes):
            made.kept[text] = forms[0]


def values_in(text: str) -> set[tuple[str, str | None, str | None]]:
    """The values that a text has, each with how it is to be written: no other than those of the English text
    can be put in."""
    return {(name, spec, how) for _, name, spec, how in Formatter().parse(text) if name is not None}


def plural_form(rule: str) -> Callable[[int], int]:
    """Which form a number takes by a file's rule. Raises ValueError where that fails of some number."""
    form = gettext.c2py(rule)
    try:
        if min(map(form, range(NUMBERS_TRIED))) >= 0:
            return form
    except (ArithmeticError, RecursionError) as error:
        raise ValueError(f"{rule!r}: {error}") from error
    raise ValueError(f"{rule!r} gives less than 0")
