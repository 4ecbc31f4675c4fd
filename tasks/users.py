"""Users as pages show them, and what came of a file of them."""

import msgspec

from rowcast.tasks.languages import mark, tr, trn

REFUSALS = 100  # refused lines of a file whose reasons are kept


class User(msgspec.Struct):
    """A user as the page shows it."""

    email: str
    account_updated: int | None


class Imported(msgspec.Struct):
    """What came of a CSV file: how many are new, how many were there already, and the lines that were
    refused.
    """

    added: int = 0
    known: int = 0
    refusals: int = 0
    refused: list[tuple[int, str]] = []  # the first of them: line number from 1, why
    columns: list[str] = []  # new ones of the table
    letters: str = "UTF-8"  # the encoding
    samples: list[
        str
    ] = []  # some of what was read that is not ASCII, by which people see whether it is right
    dry_run: bool = False  # nothing was written

    def refuse(self, line: int, why: str) -> None:
        """Count a line that is refused; the reasons of the first are kept."""
        self.refusals += 1
        if len(self.refused) < REFUSALS:
            self.refused.append((line, why))

    @property
    def sentence(self) -> str:
        lines = trn("{number:,} line", "{number:,} lines", self.refusals)
        names = ", ".join(self.columns[:20])
        if len(self.columns) > 20:
            names = tr("{names} and {more} more", names=names, more=len(self.columns) - 20)
        if self.dry_run:
            would = mark("{added:,} would be added, {known:,} are there already, {lines} would be refused.")
            gets = trn(
                "The table users would get the new column {names}.",
                "The table users would get the new columns {names}.",
                len(self.columns),
                names=names,
            )
        else:
            would = mark("{added:,} added, {known:,} were there already, {lines} refused.")
            gets = trn(
                "The table users has the new column {names}.",
                "The table users has the new columns {names}.",
                len(self.columns),
                names=names,
            )
        said = [tr(would, added=self.added, known=self.known, lines=lines)]
        said += [gets] if self.columns else []
        if self.letters != "UTF-8":
            read = mark("Read as {letters}: {samples}. If that looks wrong, name the encoding.")
            read = read if self.samples else mark("Read as {letters}.")
            said.append(tr(read, letters=self.letters, samples=", ".join(self.samples)))
        said += [tr("This was a dry run: nothing was written.")] if self.dry_run else []
        return " ".join(said)
