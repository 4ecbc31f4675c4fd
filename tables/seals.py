"""Seals: secrets among a job's or a schedule's arguments, which the database has encrypted alone.

The key stands beside the database, in a file of its own that ends with `.secrets-key`: it is in no backup of
it, and who has one of the two has nothing. It is made with the first secret. What is sealed is sealed in the
transaction that writes it, so that a rotation, which holds the same lock, misses nothing. A worker on a queue
has no key: the dashboard opens for it what its slice needs (web/worker_api.py).
"""

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

from rowcast.tables.database import Connection, connection, transaction
from rowcast.tasks.masking import MASK
from rowcast.tasks.records import BadArguments, Job, decode, encode
from rowcast.tasks.secret import SEALED, Secret, seal_in, with_secrets

AT_ONCE = 500  # rows that are sealed anew in one transaction
SIGN = f'"$rowcast":"{SEALED}"'  # stands in arguments that have a seal
EXTRA = "A secret is kept encrypted, which needs the extra `secrets`: pip install 'rowcast[secrets]'."


class NotOpened(Exception):
    """A secret cannot be had; the message says why, and never what it is."""


def key_file(path: str) -> Path:
    return Path(f"{path}.secrets-key")


def fernet() -> Any:
    """The library that seals. Raises BadArguments where it is not installed."""
    try:
        return importlib.import_module("cryptography.fernet")
    except ImportError:
        raise BadArguments(EXTRA) from None


def keys_of(path: str, make: bool = False) -> Any:
    """The keys, the first of which seals. Raises NotOpened where there is none, and none is to be made."""
    file = key_file(path)
    library = fernet()
    if make and not file.exists():
        write_keys(path, [library.Fernet.generate_key().decode()], replace=False)
    try:
        keys = file.read_text("ascii").split()
        return library.MultiFernet([library.Fernet(key) for key in keys])
    except FileNotFoundError:
        raise NotOpened(f"Its secrets cannot be opened: the key {file} is gone.") from None
    except OSError as error:
        raise NotOpened(f"Its secrets cannot be opened: {file} cannot be read ({error.strerror}).") from None
    except ValueError:
        raise NotOpened(f"Its secrets cannot be opened: {file} is no key.") from None


def write_keys(path: str, keys: list[str], replace: bool = True) -> None:
    """Put these keys in place, for this user alone, whole or not at all."""
    file = key_file(path)
    made = file.with_name(f"{file.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        made.unlink()
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
        new.write("".join(f"{key}\n" for key in keys))
        new.flush()
        os.fsync(new.fileno())
    try:
        if replace:
            made.replace(file)
        else:  # another process may be first
            with contextlib.suppress(FileExistsError):
                os.link(made, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            made.unlink()
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# ---- seal, within the transaction that writes --------------------------------------------------------------


def as_sealed(path: str, args: dict[str, Any]) -> str:
    """Arguments as the JSON that is written: no secret is in it. Raises BadArguments."""
    text = encode(args).decode()  # a Secret is MASK in it, as in any other text
    if (MASK not in text and SIGN not in text) or not has_secret(args):
        return text
    is_new = has_secret(args, sealed=False)
    try:
        return encode(sealed(keys_of(path, make=True), args)).decode()
    except (NotOpened, BadArguments) as error:
        if not is_new:  # its job says so
            return text
        raise BadArguments(str(error)) from None
    except OSError as error:
        raise BadArguments(f"The key {key_file(path)} cannot be written: {error.strerror}.") from None


def has_secret(value: Any, sealed: bool = True) -> bool:
    """Whether a secret is in a value; `sealed`: or one that was sealed before."""
    if isinstance(value, dict):
        if seal_in(value) is not None:
            return sealed
        value = list(value.values())
    if isinstance(value, list):
        return any(has_secret(one, sealed) for one in value)
    return isinstance(value, Secret)


def sealed(keys: Any, value: Any) -> Any:
    """A value with each Secret sealed, and what was sealed before by the newest key."""
    if type(value) is list:
        return [sealed(keys, one) for one in value]
    if isinstance(value, Secret):
        return {"$rowcast": SEALED, "value": keys.encrypt(value.reveal().encode()).decode()}
    if type(value) is not dict:
        return value
    if (seal := seal_in(value)) is None:
        return {key: sealed(keys, one) for key, one in value.items()}
    with contextlib.suppress(fernet().InvalidToken):  # the key has been lost: its job will say so
        return {"$rowcast": SEALED, "value": keys.rotate(seal).decode()}
    return value


# ---- open --------------------------------------------------------------------------------------------------


def opened(path: str, job: Job) -> dict[str, str]:
    """What the secrets of a job are, by their seals. Raises NotOpened.

    A rotation may have been at its row since it was read: then it is read again.
    """
    if SIGN not in job.args:
        return {}
    try:
        return _opened(path, job.args)
    except NotOpened:
        row = connection(path).execute("select args from jobs where id = ?", (job.id,)).fetchone()
        if row is None or row[0] == job.args:
            raise
        job.args = row[0]
        return _opened(path, job.args)


def _opened(path: str, text: str) -> dict[str, str]:
    try:
        keys = keys_of(path)
        return {seal: keys.decrypt(seal).decode() for seal in seals_in(decode(text))}
    except BadArguments as error:
        raise NotOpened(str(error)) from None
    except fernet().InvalidToken:
        raise NotOpened(
            f"Its secrets cannot be opened: they were sealed by another key than {key_file(path)}."
        ) from None


def same(path: str, one: str, other: str) -> bool:
    """Whether two jobs' arguments, as they are written, are the same: a secret is sealed otherwise each
    time.
    """
    if SIGN not in one or SIGN not in other:
        return bool(decode(one) == decode(other))
    try:
        opened = _opened(path, one) | _opened(path, other)
    except NotOpened:
        return False
    return bool(with_secrets(decode(one), opened) == with_secrets(decode(other), opened))


def seals_in(value: Any) -> list[str]:
    if type(value) is list:
        return [seal for one in value for seal in seals_in(one)]
    if type(value) is not dict:
        return []
    seal = seal_in(value)
    return [seal] if seal is not None else [found for one in value.values() for found in seals_in(one)]


# ---- rotate ------------------------------------------------------------------------------------------------


def rotate(path: str) -> tuple[int, int]:
    """Seal all secrets by a new key, and forget the old one, also while the database is in use. Says of how
    many rows they were sealed anew, and how many there are whose key was lost before.

    The new key is written beside the old one first, and the old one is let go of last: whatever ends this in
    between, each secret has its key. Raises BadArguments, NotOpened.
    """
    library = fernet()
    conn = connection(path)
    new = library.Fernet.generate_key().decode()
    with transaction(conn):  # nobody seals meanwhile
        old = key_file(path).read_text("ascii").split() if key_file(path).exists() else []
        if old:
            keys_of(path)
        write_keys(path, [new, *old])
    done = lost = 0
    for table in ("jobs", "schedules"):
        last = 0
        while rows := _rows_with_seals(conn, table, last):
            with transaction(conn):
                for row, args in _rows_with_seals(conn, table, last):
                    anew, missing = _anew(path, args)
                    conn.execute(f"update {table} set args = ? where id = ?", (anew, row))
                    done += 1
                    lost += missing
            last = rows[-1][0]
    write_keys(path, [new])
    return done, lost


def _rows_with_seals(conn: Connection, table: str, after: int) -> list[tuple[int, str]]:
    sql = f"select id, args from {table} where id > ? and instr(args, ?) order by id limit {AT_ONCE}"
    return conn.execute(sql, (after, SIGN)).fetchall()


def _anew(path: str, text: str) -> tuple[str, bool]:
    """Arguments sealed by the newest key, and whether one of them stays as it was, for its key is gone."""
    args = decode(text)
    anew = sealed(keys_of(path), args)
    return encode(anew).decode(), bool(set(seals_in(args)) & set(seals_in(anew)))
