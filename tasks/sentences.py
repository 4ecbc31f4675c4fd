"""Sentences that are kept, or told to programs as well: they are English where they are, and said in the
language of who looks where a page shows them.

    raise NotFound(f"There is no job {job}.")                  a refusal; `make texts` finds it by itself
    why = worded(f"The canary is over: {failed:,} failed.")    what is kept
    translated(job.reason)                                     on a page

The catalogue has them with their values as blanks, and notes that they are kept. A sentence is found again by
the English words around its values, which are put into what that is in the other language; what is nobody's
of ours, an error of a task's say, stays as it is.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from string import Formatter

from rowcast.tasks.languages import SPOKEN, Catalogue

LONGEST = 2_000  # letters of a sentence that is looked for
SHORT = 16  # letters: what says less, behind a value, may be anybody's unless it is in a sentence of ours
OF_OURS = ("status", "past")  # values that are words of ours
# values that are numbers of ours, with separators: 1,234, 1,234.5/s, 4.2 s
OF_NUMBERS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:[ /]\w+)?|\d+\.\d+[ /]\w+")
DEEPEST = 3  # sentences in one another
KNOWN = 4  # letters by which the sentences are found that one may be: its first, or its last


class Sentence:
    """A kept sentence: the words around its values, the names of these, and the same in another language."""

    def __init__(self, english: str, said: str):
        self.words, self.names = parts_of(english)
        self.said, self.order = parts_of(said)
        self.longest = max(self.words, key=len)
        self.length = sum(map(len, self.words))

    def values_in(self, text: str) -> list[str] | None:
        """The values with which the sentence is this text; None where it is another.

        It goes from word to word, so that no text takes longer than reading it."""
        first, *middle, last = self.words
        end = len(text) - len(last)
        if not (text.startswith(first) and text.endswith(last)):
            return None
        at = len(first)
        values = []
        for words in middle:
            found = text.find(words, at + 1, end)  # a value has a letter at the least
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(words)
        values.append(text[at:end])
        ours = [value for name, value in zip(self.names, values, strict=True) if name in OF_OURS]
        return values if at < end and all(map(str.isalpha, ours)) else None

    def with_values(self, values: dict[str, str]) -> str:
        parts = [self.said[0]]
        for name, words in zip(self.order, self.said[1:], strict=True):
            parts += [values[name], words]
        return "".join(parts)


class Sentences:
    """All that are kept, in a language."""

    def __init__(
        self, sentences: Iterable[tuple[str, str]], texts: Mapping[str, str], separators: Mapping[int, str]
    ):
        self.texts = texts
        self.separators = separators
        self.whole: dict[str, str] = {}
        self.by_letters: dict[str, list[Sentence]] = {}
        for english, said in sentences:
            one = Sentence(english, said)
            if not one.names:
                self.whole[one.words[0]] = one.said[0]
                continue
            head = one.words[0][:KNOWN]
            tail = one.words[-1][-KNOWN:]
            letters = "…"
            if len(head) == KNOWN:
                letters = f"{head}…"
            elif len(tail) == KNOWN:
                letters = f"…{tail}"
            self.by_letters.setdefault(letters, []).append(one)
        self.said = lru_cache(2_000)(self._said)

    def _said(self, text: str, depth: int = 0) -> str:
        """A text in the language, where it is a sentence of ours, with its full stop or without."""
        if len(text) > LONGEST or depth > DEEPEST:
            return text
        if (said := self._found(text, depth)) is not None:
            return said
        if text.endswith("."):
            said = self._found(text[:-1], depth)
            return text if said is None else f"{said}."
        said = self._found(f"{text}.", depth) if depth else None
        return text if said is None else said.removesuffix(".")

    def _found(self, text: str, depth: int) -> str | None:
        """The same of a text as it is, by the sentence that says most of it; None where there is none."""
        if (whole := self.whole.get(text)) is not None:
            return whole
        best = None
        found = [""]
        for one in self._maybe(text):
            if one.longest not in text or (not depth and not one.words[0] and one.length < SHORT):
                continue
            if (best is None or one.length > best.length) and (values := one.values_in(text)) is not None:
                best = one
                found = values
        if best is None:
            return None
        named = zip(best.names, found, strict=True)
        return best.with_values({name: self._value(name, value, depth) for name, value in named})

    def _value(self, name: str, text: str, depth: int) -> str:
        """A value of a sentence: a word of ours, a sentence in it, or somebody's text, which stays."""
        if name in OF_OURS:
            return self.texts.get(text.capitalize() if name == "status" else text, text)
        if OF_NUMBERS.fullmatch(text):
            return text.translate(self.separators)
        return self._said(text, depth + 1) if " " in text else text

    def _maybe(self, text: str) -> Iterable[Sentence]:
        head = self.by_letters.get(f"{text[:KNOWN]}…", ())
        tail = self.by_letters.get(f"…{text[-KNOWN:]}", ())
        return itertools.chain(head, tail, self.by_letters.get("…", ()))


def parts_of(template: str) -> tuple[list[str], list[str]]:
    """The words around the values of a text, and the names of these."""
    words = [""]
    names = []
    for before, name, _, _ in Formatter().parse(template):
        words[-1] += before
        if name is not None:
            names.append(name)
            words.append("")
    return words, names


def kept_in(catalogue: Catalogue) -> Sentences:
    """The kept sentences of a language, which are made ready once."""
    if catalogue.kept_sentences is None:
        catalogue.kept_sentences = Sentences(catalogue.kept.items(), catalogue.texts, catalogue.separators)
    return catalogue.kept_sentences


def worded(sentence: str) -> str:
    """A sentence that is kept, or told to programs as well; its values may stand in it, as in an f-string."""
    return sentence


def translated(text: str) -> str:
    """What has been kept, in the language of who looks; what is no sentence of ours as it is."""
    spoken = SPOKEN.get()
    return text if spoken is None or " " not in text else kept_in(spoken).said(text)


def theirs(template: str) -> str:
    """A sentence of a library's that stands in ours, with blanks for its values."""
    return template
