"""Guesses: how often a password may be tried, for an account and from an address.

The rows are in the database, so it holds over processes and restarts. A guess is counted before it is looked
at: many at once are as slow as one after the other. What is refused for coming too early is not counted, so
that nobody is kept out for long by others who hammer at their account.
"""

import ipaddress

from rowcast.tables.database import OnDatabase, transaction
from rowcast.tasks import clock

FREE = {
    "account": 5,
    "address": 20,
}  # failures in a row before it gets slow: many people may share an address
LONGEST = {"account": 60.0, "address": 900.0}  # seconds between two guesses
FORGET = 3_600.0  # seconds after which failures are forgotten


class Guesses(OnDatabase):
    """The guesses of one database file."""

    def begin(self, account: str, address: str) -> float:
        """Count a guess: 0 where it may be made now, else the seconds until one may."""
        now = clock.now()
        with transaction(self.conn) as conn:
            conn.execute("delete from guesses where last_at < ?", (now - FORGET,))
            guessers = guessers_of(account, address)
            rows = conn.execute(
                "select guesser, failures, next_at from guesses where guesser in (?, ?)",
                (guessers["account"], guessers.get("address")),
            ).fetchall()
            found = {guesser.lower(): (failures, next_at) for guesser, failures, next_at in rows}
            wait = max((next_at - now for _, next_at in found.values()), default=0.0)
            if wait > 0:
                return wait
            for kind, guesser in guessers.items():
                failures = found.get(guesser.lower(), (0, 0.0))[0] + 1
                conn.execute(
                    """insert into guesses (guesser, failures, next_at, last_at) values (?1, ?2, ?3, ?4)
                       on conflict (guesser) do update
                       set failures = excluded.failures, next_at = excluded.next_at,
                           last_at = excluded.last_at""",
                    (guesser, failures, now + pause(kind, failures), now),
                )
        return 0.0

    def right(self, account: str, address: str) -> None:
        """The guess was right: the account's failures are forgotten, and of the address this one alone, for
        who knows one password may guess at others."""
        guessers = guessers_of(account, address)
        with transaction(self.conn) as conn:
            conn.execute("delete from guesses where guesser = ?", (guessers["account"],))
            conn.execute(
                "update guesses set failures = max(0, failures - 1), next_at = 0 where guesser = ?",
                (guessers.get("address"),),
            )


def pause(kind: str, failures: int) -> float:
    """Seconds until the next guess: none at first, then twice as long with each failure."""
    over = failures - FREE[kind]
    return 0.0 if over < 0 else min(2.0 ** min(over, 20), LONGEST[kind])


def guessers_of(account: str, address: str) -> dict[str, str]:
    """Whose guesses are counted: the account, and the address, of IPv6 the network that one customer gets. An
    address that nobody knows ('') would be that of all."""
    try:
        found = ipaddress.ip_address(address)
        if found.version == 6:
            address = str(found.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    except ValueError:
        pass  # a socket's name, say
    guessers = {"account": f"account {account[:100]}"}
    if address:
        guessers["address"] = f"address {address[:100]}"
    return guessers
