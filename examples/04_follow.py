"""Follow a job from a program: every item as it ends, over server-sent events, across cuts and restarts.

    rowcast                                    in one terminal; start a job there
    python 04_follow.py 1                      in another: follow job 1
    curl -N http://127.0.0.1:5001/api/jobs/1/events     the same, as it is on the wire

Whoever comes back with the id of the last event gets what happened since, each row in its latest state.
"""

import sys
import time

import httpx
import httpx_sse

job = sys.argv[1]
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:5001"
last = ""

with httpx.Client(base_url=url, timeout=60) as client:
    while True:
        try:
            headers = {"Last-Event-ID": last} if last else {}
            with httpx_sse.connect_sse(client, "GET", f"/api/jobs/{job}/events", headers=headers) as source:
                if source.response.status_code == 204:  # it has ended, and we have seen all of it
                    sys.exit()
                if source.response.is_error:
                    sys.exit(source.response.read().decode())
                for event in source.iter_sse():
                    last = event.id or last
                    if event.event == "item":
                        item = event.json()
                        if item["status"] not in ("queued", "running"):
                            print(
                                item["status"], item["key"], item["error"] or item["result"] or "", flush=True
                            )
                    elif event.event == "done":
                        print("The job is", event.json()["status"])
                        sys.exit()
        except httpx.TransportError as error:
            print(f"{error}; trying again", file=sys.stderr)
        time.sleep(1)
