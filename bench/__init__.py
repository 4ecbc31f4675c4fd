"""Rowcast against its measure: `python -m bench [--quick] [NAME ...]` prints a table of ratios, both sides
from one run.

    api.py        the API that is posted to: a process that answers faster than any client asks
    bare.py       the other side: a loop of runners with the same client, nothing recorded
    peer.py       the other side of the streams: sse-starlette sending ready bytes
    crowd.py      very many viewers in one light process
    processes.py  starts and ends the processes of a bench, the dashboard as a user starts it, and reads its streams
    tasks.py      what the dashboard runs
    eta.py        twelve kinds of job on a clock of their own: is the end in the range that the page says?
    speed.py page.py filling.py retry.py size.py viewers.py dom.py soak.py workers.py engines.py   each bench yields rows of the table
    table.py plot.py report.py    the table, its plots, and docs/figures.md by `--write docs`

A figure alone says little on a shared machine, so the two sides take turns, seconds apart, and a row holds
the median of the ratios of such pairs. Everything is on loopback, in directories that are gone afterwards.
"""

import os

os.environ["NO_PROXY"] = "127.0.0.1,localhost"  # whatever proxy this machine has, it is not measured
