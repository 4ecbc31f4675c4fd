"""Rowcast against its measure: `python -m bench [--quick] [NAME ...]` prints a table of ratios, both sides from one run.

    api.py        the API that is posted to: a process that answers faster than any client asks
    bare.py       the other side: a loop of runners with the same client, nothing recorded
    processes.py  starts and ends the processes of a bench, the dashboard as a user starts it, and reads its streams
    tasks.py      what the dashboard runs
    speed.py page.py filling.py engines.py   the benches; each yields rows of the table

A figure alone says little on a shared machine, so the two sides take turns, seconds apart, and a row holds the median of
the ratios of such pairs. Everything is on loopback, in directories that are gone afterwards.
"""
