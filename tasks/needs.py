"""Needs as data: what waits for a person, and goes on or comes right by nobody else."""

from typing import NamedTuple

from rowcast.tasks.records import Delivery, Job


class Needs(NamedTuple):
    """Jobs that have paused themselves, or of whose items it is unknown whether they arrived, the newest
    first; messages that were given up; and the last messages, where none of them has arrived."""

    jobs: list[Job]
    lost: list[Delivery]
    failing: list[Delivery]


NOTHING = Needs([], [], [])
