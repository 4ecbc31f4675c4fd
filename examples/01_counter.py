# The code stands as in FastHTML's documentation.
# ruff: noqa: F401, F403, F405, I001
# fmt: off
"""FastHTML's first example of a background task, with one import changed and one line more: each run is a job.

    python 01_counter.py
    http://localhost:5001/        the page answers at once, and the terminal counts
    http://localhost:5001/jobs/   the dashboard, with a job for each visit

The run is in a process of its own: it does not slow the page down, and what goes wrong in it is shown there.
"""

from fasthtml.common import *
from rowcast import BackgroundTask, mount
from time import time, sleep

app, rt = fast_app()
mount(app, "/jobs")

def counter(loops:int):
    """Slowly print integers to the terminal"""
    for i in range(loops):
        print(i)
        sleep(i)

@rt
def index():
    task = BackgroundTask(counter, loops=5)
    cts = Titled('Simple Background Task Example')
    return FtResponse(cts, background=task)

serve()
