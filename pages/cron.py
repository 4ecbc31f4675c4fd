"""When a cron expression says, in words: by the moments that it means, not as it is written."""

from collections.abc import Collection
from datetime import datetime
from itertools import product

from cronsim import CronSim, CronSimError

from rowcast.tasks.languages import in_each_language, mark, tr, trn

WEEKDAYS = (
    mark("Sunday"), mark("Monday"), mark("Tuesday"), mark("Wednesday"), mark("Thursday"), mark("Friday"),
    mark("Saturday"), mark("Sunday"),
)  # fmt: skip
MONTHS = mark("January February March April May June July August September October November December")
MOST = 6  # times of a day that are told one by one
RUN = 3  # in a row, from which on they are told from the first to the last


@in_each_language(1000)
def cron_text(cron: str) -> str:
    """When a cron expression says, in words; '' for one that has none."""
    try:
        meant = CronSim(cron, datetime(2000, 1, 1))
    except CronSimError:
        return ""
    at_times, time = time_text(sorted(meant.minutes), sorted(meant.hours))
    when = date_text(meant)
    if not when and at_times:
        when = tr("every day")
    return tr("{time} {when}", time=time, when=when) if when else time


def time_text(minutes: list[int], hours: list[int]) -> tuple[bool, str]:
    """At which times of a day, and whether these are told one by one."""
    whole = len(hours) == 24
    step = step_of(minutes, 60)
    if len(minutes) * len(hours) <= MOST:
        times = [f"{hour:02}:{minute:02}" for hour, minute in product(hours, minutes)]
        return True, tr("At {times}", times=", ".join(times))
    if step:
        every = trn("Every minute", "Every {number} minutes", step)
        if whole:
            return False, every
        if is_run(hours):
            first = f"{hours[0]:02}:00"
            last = f"{hours[-1]:02}:59"
            return False, tr("{every} from {first} through {last}", every=every, first=first, last=last)
        return False, tr("{every} in the hours {hours}", every=every, hours=in_runs(hours))
    at = tr("At the start") if minutes == [0] else tr("At minute {minutes}", minutes=in_runs(minutes))
    if whole:
        return False, tr("{at} of every hour", at=at)
    return False, tr("{at} of the hours {hours}", at=at, hours=in_runs(hours))


def date_text(meant: CronSim) -> str:
    """On which days; '' for every day."""
    said = []
    days = ", ".join(days_of(meant.days)) if len(meant.days) < 31 else ""
    named = {day if isinstance(day, tuple) else int(day) % 7 for day in meant.weekdays}
    weekdays = ", ".join(weekdays_of(named)) if len(named) < 7 else ""
    if days and weekdays:
        both = (
            mark("on {days} if it is {weekdays}") if meant.day_and else mark("on {days}, and on {weekdays}")
        )
        said.append(tr(both, days=days, weekdays=weekdays))
    elif days or weekdays:
        said.append(tr("on {days}", days=days or weekdays))
    if len(meant.months) < 12:
        every = [] if said else [tr("every day")]
        months = ", ".join(tr(MONTHS).split()[month - 1] for month in sorted(meant.months))
        said += [*every, tr("in {months}", months=months)]
    return " ".join(said)


def days_of(days: Collection[int]) -> list[str]:
    """Days of a month in words."""
    special = {
        CronSim.LAST: tr("the last day of the month"),
        CronSim.LAST_WEEKDAY: tr("the last working day of the month"),
    }
    numbers = sorted(day for day in days if day > 0)
    said = [tr("day {days} of the month", days=in_runs(numbers))] if numbers else []
    return said + [words for day, words in special.items() if day in days]


def weekdays_of(named: Collection[int | tuple[int, int]]) -> list[str]:
    """Days of a week in words, from Monday on."""
    plain = sorted((day or 7) for day in named if isinstance(day, int))
    said = []
    if is_run(plain):
        first = tr(WEEKDAYS[plain[0]])
        last = tr(WEEKDAYS[plain[-1]])
        said.append(tr("{first} through {last}", first=first, last=last))
    else:
        said += [tr(WEEKDAYS[day]) for day in plain]
    for day, nth in sorted(day for day in named if isinstance(day, tuple)):
        weekday = tr(WEEKDAYS[day])
        if nth == CronSim.LAST:
            said.append(tr("the last {weekday} of the month", weekday=weekday))
        else:
            said.append(tr("{weekday} number {nth} of the month", weekday=weekday, nth=nth))
    return said


def step_of(values: list[int], size: int) -> int:
    """Every how many of `size` they are, from the first on; 0 where they are not."""
    step = values[1] - values[0] if values[1:] else 0
    return step if step and values == list(range(0, size, step)) else 0


def is_run(values: list[int]) -> bool:
    return len(values) >= RUN and values == list(range(values[0], values[-1] + 1))


def in_runs(values: list[int]) -> str:
    """1–5, 10, 20."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) >= RUN else ", ".join(map(str, run)) for run in runs)
