"""When a job ends: a range of seconds, or why nobody can say.

How long an item takes is read off the job's own growth, cut into pieces of as many items each: the newest
count most, a trend that is more than noise is followed a part of the way, and how much the pieces differ
makes the range wide. What is known to come is in it: a hold, retries that wait, a pace, other jobs of the
task that end before, and the last items, which nothing runs beside.
"""

import math
from collections.abc import Sequence
from statistics import median

from rowcast.tasks.held import Outlook
from rowcast.tasks.languages import tr
from rowcast.tasks.records import Job

Range = tuple[float, float]
PIECES = 10  # that the growth is cut into, of a job of which as many items have ended
FADES = 0.8  # what a piece counts beside the next newer one
FOLLOWED = 0.9  # of a trend that is sure
SURE = 3.0  # a trend's t-value, squared, at which half of it is followed
FASTER = 0.92  # times the time of late: so little a trend may make of it,
SLOWER = 2.0  # and so much
ODD = 3.0  # times the middle piece: one that took longer was held up, and counts no more than that
TAKEN = 0.9  # of its places
NEARER = 0.1  # the same, right after it was tuned
ROUNDS = 8  # of all its places, after which its growth says enough again
NEAR = 0.35  # two times are as good as the same that differ by less, as a logarithm
BELIEVED = 0.7  # of the time of late
LEAST = 0.15  # half of the range, as a part of its middle
MOST = 0.6
SPREAD = 2.6  # standard deviations to each side
UNEVEN = 1.2  # standard deviations of its tries that count at least: a part of it shows less than there are
SOON = 1.0  # seconds to each side at least


def eta_range(job: Job, outlook: Outlook, now: float) -> tuple[Range | None, str]:
    """In how many seconds the job ends, from and to, or None and why that cannot be said."""
    if why := unsaid(job, outlook):
        return None, why
    left = job.queued + job.running
    took, spread = item_time(job, outlook, now, left)
    if not took:
        return None, tr("Nothing of it has ended yet.")
    took, spread = as_it_goes(job, outlook, took, spread)
    seconds = beside_others(left, took, outlook)
    hold = max(0.0, outlook.hold_until - now)
    if not hold:  # a part of what the next item takes is over
        last = outlook.growth[-1][0]
        quiet = max(0.0, now - last - paused_in(job, last, now))
        seconds -= min(quiet, took * min(job.places, left), seconds)
    ended = sum(items for _, items in outlook.growth)
    spread = max(spread, UNEVEN * outlook.varies * math.sqrt(1 / max(1, ended) + 1 / max(1, left)))
    wide = min(max(LEAST, SPREAD * spread), MOST)
    least = hold
    if job.pace:  # the first may start at once
        least += max(0, job.queued - 1) / job.pace
    if outlook.latest > now:
        least = max(least, outlook.latest - now)
    more, unsure = last_items(job, outlook, left)
    half = math.hypot(seconds * wide, unsure)
    low = max(seconds + more - half, seconds * (1 - wide) + 0.6 * outlook.tail)
    high = max(seconds + more + half, seconds * (1 + wide) + 1.2 * outlook.tail)
    low = max(hold + low - SOON, least)
    high = max(hold + high + SOON, hold + (least - hold) * (1 + LEAST) + SOON)
    return (round(max(0.0, low), 1), round(high, 1)), ""


def unsaid(job: Job, outlook: Outlook) -> str:
    """Why nobody can say when the job ends; '' where it can be tried."""
    if job.status == "paused":
        return tr("It is paused.")
    if outlook.halt:
        return tr("Its task is stopped.")
    if job.status != "running":
        return tr("It has not begun.")
    if job.shape == "body":
        return "" if job.done and job.total > job.done else tr("Only its task knows how much is left.")
    if not job.filled:
        return tr("Its items are still being written.")
    if job.swept:
        return tr("Items are being put back.")
    if job.canary:
        return tr("It waits for you after its first items.")
    if not outlook.workers:
        return tr("No worker is alive.")
    return ""


def item_time(job: Job, outlook: Outlook, now: float, left: int) -> Range:
    """The seconds from one item's end to the next's, as they will be, and by what part that may be wrong."""
    points = curve(job, outlook, now)
    if len(points) < 2:
        return 0.0, 0.0
    ended = points[-1][0]
    pieces = cut(points, min(PIECES, int(ended)))
    times = [seconds / items for items, seconds in pieces]
    usual = median(times)
    times = [min(time, ODD * usual) for time in times] if usual else times
    weights = [FADES**age for age in range(len(times) - 1, -1, -1)]
    level = mean(times, weights)
    if len(times) < 3:
        return level, 0.5 / math.sqrt(len(times))
    places = [n + 0.5 for n in range(len(times))]
    center = mean(places, weights)
    slope, noise = line_through(places, times, weights)
    ahead = (
        len(times) + left / (ended / len(times)) / 2 - center
    )  # pieces from there to the middle of the rest
    late = mean(times[-3:], weights[-3:])
    expected = min(max(level + FOLLOWED * slope * ahead, FASTER * late), SLOWER * late)
    number = sum(weights) ** 2 / sum(w * w for w in weights)
    future = max(1.0, left / (ended / len(times)))
    unsure = noise * math.sqrt(1 / number + 1 / future) / level if level else 0.0
    return expected, math.hypot(unsure, 0.4 * abs(expected - level) / level if level else 0.0)


def as_it_goes(job: Job, outlook: Outlook, took: float, spread: float) -> Range:
    """The same, where it goes otherwise than its growth can know: another job of the task has ended, or
    begun. With all its places taken, items end as often as their number and length say (Little's law)."""
    places = job.places
    of_late = outlook.ms / 1000 * outlook.tries / max(1, min(job.running, places))
    if not of_late or (job.running < TAKEN * places and not outlook.rivals):
        return took, spread
    away = math.log(of_late / took)
    tuned = just_tuned(job, outlook)
    if abs(away) < (NEARER if tuned else NEAR):
        return took, spread
    return took * math.exp(away * (1.0 if tuned else BELIEVED)), math.hypot(spread, 0.1)


def just_tuned(job: Job, outlook: Outlook) -> bool:
    """Whether too little has ended since it was tuned to say how fast it is now."""
    if not job.tuned_at:
        return False
    ended = sum(items for _, items in rows_since(outlook.growth, job.tuned_at)[1:])
    return ended < max(PIECES, ROUNDS * (job.places))


def rows_since(rows: Sequence[tuple[float, int]], moment: float) -> Sequence[tuple[float, int]]:
    """The rows of a growth from the one on in which the moment lies."""
    return rows[next((n for n, (end, _) in enumerate(rows) if end >= moment), len(rows)) :]


def curve(job: Job, outlook: Outlook, now: float) -> list[Range]:
    """(items that had ended, seconds since it began) over the job's last run, since it was tuned; without
    its last pause.
    """
    began = job.began or now
    points = [(0.0, 0.0)]
    rows = outlook.growth
    if job.tuned_at and not just_tuned(job, outlook):
        (began, _), *rows = rows_since(rows, job.tuned_at)
    ended = 0
    for end, items in rows:
        ended += items
        seconds = min(end, now) - began - paused_in(job, began, min(end, now))
        points.append((float(ended), max(seconds, points[-1][1] + 1e-3)))
    return points


def paused_in(job: Job, since: float, until: float) -> float:
    """How many of these seconds the job was paused, the last time: that says nothing of how fast it goes."""
    if job.paused_at is None or job.resumed_at is None:
        return 0.0
    return max(0.0, min(until, job.resumed_at) - max(since, job.paused_at))


def cut(points: Sequence[Range], number: int) -> list[Range]:
    """The curve in pieces of as many items each: (items, seconds) of each, the oldest first."""
    size = points[-1][0] / number
    pieces = []
    before = 0.0
    at = 0
    for n in range(1, number + 1):
        while points[at + 1][0] < n * size - 1e-9:
            at += 1
        items, seconds = points[at]
        more, later = points[at + 1]
        then = seconds + (later - seconds) * (n * size - items) / (more - items)
        pieces.append((size, then - before))
        before = then
    return pieces


def mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def line_through(places: Sequence[float], times: Sequence[float], weights: Sequence[float]) -> Range:
    """The slope of the line through the times, as far as it is more than noise, and what they differ from it.

    Weighted least squares; the slope is shrunk by its t-value: none of one that is noise is followed.
    """
    x = mean(places, weights)
    y = mean(times, weights)
    across = sum(w * (p - x) ** 2 for p, w in zip(places, weights, strict=True))
    slope = sum(w * (p - x) * (t - y) for p, t, w in zip(places, times, weights, strict=True)) / across
    rests = [(t - y - slope * (p - x)) ** 2 for p, t in zip(places, times, strict=True)]
    noise = math.sqrt(mean(rests, weights) * len(times) / max(1, len(times) - 2))
    t2 = slope**2 * across / noise**2 if noise else math.inf
    sure = 1.0 if math.isinf(t2) else t2 / (t2 + SURE)
    return slope * sure, noise


def beside_others(left: int, took: float, outlook: Outlook) -> float:
    """Seconds for so many items, where the places of other jobs of the task are had when these have ended."""
    speed = 1 / took
    seconds = 0.0
    ends = sorted((rival.left / rival.rate, rival.rate) for rival in outlook.rivals if rival.rate > 0)
    rest = float(left)
    if outlook.room < 1 and not outlook.pace:
        for end, their_speed in ends:
            if rest <= speed * (end - seconds):
                break
            rest -= speed * max(0.0, end - seconds)
            seconds = max(seconds, end)
            speed += their_speed
    return seconds + rest / speed


def last_items(job: Job, outlook: Outlook, left: int) -> Range:
    """Seconds that the last items take longer than the others, when nothing runs beside them, and by how many
    that may be wrong.
    """
    if min(job.places, left) < 2:
        longer = max(0.0, (outlook.slow_ms - outlook.ms) / 2000)
        return longer, longer
    half, most = outlook.rest_ms
    return max(0.0, half - outlook.ms) / 1000, (most - half) / 1000
