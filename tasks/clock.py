"""The clock by which Rowcast waits, which goes on evenly whatever is done to the machine's.

Its moments are unix seconds. A machine's clock is set by people, by NTP, by what wakes a virtual machine:
what was to wait a minute would wait an hour, and who has just said that it lives would be dead. So `now` is
what the machine's clock said once, and the time since. All who have a database open agree on one clock,
which is kept there; when the machine's was set, it is set too, with all that waits (tables/clock.py).
Schedules, and a job that people let start at a time, go by the machine's clock.

What a worker and a ledger tell each other is by `steady`, which nobody sets, and becomes a moment of this
clock in the transaction that writes it: between the two it may be set.
"""

import time
from pathlib import Path

# It goes on while a machine sleeps, where there is such a clock: what waited is due when it wakes (time(7)).
STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
FAR = 2.0  # seconds by which the machine's clock may be off this one: below that nobody has set it


def boot() -> str:
    """Which start of this machine it is, as only then STEADY says the same to all; '' where nobody knows."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def steady() -> float:
    """Seconds since the machine was started."""
    return time.clock_gettime(STEADY)


BOOT = boot()
_start = time.time() - steady()  # the moment at which `steady` was 0


def now() -> float:
    """The moment, in unix seconds."""
    return _start + steady()


def moment(told: float) -> float:
    """A moment of `steady` by this clock, as the transaction asks that writes it; 0 is none, and stays so."""
    return _start + told if told else 0.0


def told(moment: float) -> float:
    """The other way round; one that was over before the machine was started is none."""
    return max(0.0, moment - _start)


def start() -> float:
    """The moment at which `steady` was 0, by this clock."""
    return _start


def follow(start: float) -> None:
    """Go by another's clock."""
    global _start
    _start = start


def measured() -> float:
    """The same by the machine's clock."""
    return time.time() - steady()
