"""Buckets: how times are counted in a histogram whose buckets double, and how a job's growth gets coarser."""

import math
from collections.abc import Sequence

PER_DOUBLING = 4  # buckets for each doubling of a time: one is a fifth wider than the one before it
SHORTEST = 0.001  # milliseconds: what is shorter is in the same bucket
FINE = 64  # seconds of a job's life with a row of growth each; of the next so many, two have one


def place_of(ms: float) -> float:
    """Where a time lies among the buckets; a bucket is the whole number below it."""
    return PER_DOUBLING * math.log2(max(ms, SHORTEST))


def bucket_of(ms: float) -> int:
    """The bucket that a time belongs to."""
    return math.floor(place_of(ms))


def bounds_of(bucket: int) -> tuple[float, float]:
    """From how many milliseconds to how many a bucket is."""
    return 2.0 ** (bucket / PER_DOUBLING), 2.0 ** ((bucket + 1) / PER_DOUBLING)


def quantile(times: Sequence[tuple[int, int]], part: float) -> float:
    """The milliseconds in which this part of the tries had ended, inside a bucket by its share."""
    wanted = part * sum(tries for _, tries in times)
    seen = 0
    for bucket, tries in times:
        if seen + tries >= wanted and tries:
            low, high = bounds_of(bucket)
            return low + (high - low) * max(0.0, wanted - seen) / tries
        seen += tries
    return 0.0


def rest_of(times: Sequence[tuple[int, int]], number: int, part: float) -> float:
    """The milliseconds in which the last of so many tries that run at some moment has ended, in this part of
    all cases.

    A moment meets a try the more likely the longer that takes, and anywhere in it: most of what runs is long.
    """
    wanted = 1 - part ** (1 / number)  # of those that run: how many may run for longer
    whole = sum(tries * middle_of(bucket) for bucket, tries in times)
    longer = 0  # tries that take longer,
    together = 0.0  # and how long all of them
    for bucket, tries in sorted(times, reverse=True):
        ms = middle_of(bucket)
        if together - ms * longer > wanted * whole:
            break
        longer += tries
        together += tries * ms
    return max(0.0, (together - wanted * whole) / longer) if longer else 0.0


def variation(times: Sequence[tuple[int, int]]) -> float:
    """How much tries differ: their standard deviation, as a part of how long one takes on average."""
    number = sum(tries for _, tries in times)
    whole = sum(tries * middle_of(bucket) for bucket, tries in times)
    squares = sum(tries * middle_of(bucket) ** 2 for bucket, tries in times)
    return math.sqrt(max(0.0, squares * number / whole**2 - 1)) if whole else 0.0


def middle_of(bucket: int) -> float:
    return sum(bounds_of(bucket)) / 2


def width_at(age: float) -> int:
    """For how many seconds one row of growth is when a job is so many seconds old."""
    return 1 << (max(0, int(age)) // FINE).bit_length()
