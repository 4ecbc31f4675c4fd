"""Given to a dashboard by `--tasks`: its worker keeps no tries and nothing of what they say, for the bench of what that costs."""

from rowcast.tables import tries
from rowcast.worker import attempt, runner

vars(tries)["is_own"] = lambda result: True
vars(attempt)["excerpt_of"] = lambda *about: None
vars(runner)["capture"] = lambda: None
