"""Many viewers of one stream in one light process: `python -m bench.crowd PORT PATH VIEWERS SECONDS [DATABASE]`.

`{n}` in PATH is the viewer's number, `{job}` one more. Each viewer is a bare protocol that tells the chunks of its answer apart, one for a
frame, and notes when the last byte of each came, so that the client is not what is measured. The first of them also reads
what its frames say. A frame's delay is from when its making began to its last byte: by the newest time that the frame names,
or by DATABASE.frames, which `bench.tasks` writes in the serving process. With a DATABASE there is a second delay, from when
the frame's newest change could be read there, which a thread here watches.
It prints JSON: frames and bytes received per second, the delays' p50 and p99 in milliseconds, and how many were open.
"""

import asyncio
import bisect
import json
import re
import sys
import threading
import time
import zlib
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

import apsw
import uvloop

LEAST = 200  # bytes: a shorter chunk is a comment
TAIL = 48  # bytes at a chunk's end, which tell its frame from others
AT_ONCE = 50  # viewers that connect at the same time
WARM_UP = 3.0  # seconds before what comes is counted
IDENT = re.compile(rb"id: (\d+)")
MOMENT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Crowd:
    """What all viewers note together."""

    def __init__(self, database: str) -> None:
        self.clock = Clock(database) if database else None
        self.receipts: list[tuple[bytes, float]] = []  # a frame's tail, and when it had come
        self.made: dict[bytes, float] = {}  # a frame's tail -> when it was begun to be made
        self.idents: dict[bytes, int] = {}  # a frame's tail -> the number of its newest change
        self.bytes = self.open = 0


class Clock(threading.Thread):
    """Watches the counter of the database: when had it come to a number?"""

    def __init__(self, path: str):
        super().__init__(daemon=True)
        self.path = path
        self.seqs: list[int] = []
        self.times: list[float] = []
        self.start()

    def run(self) -> None:
        conn = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READONLY)
        while True:
            (seq,) = conn.execute("select seq from rowcast").fetchone()
            if not self.seqs or seq != self.seqs[-1]:
                self.times.append(time.time())
                self.seqs.append(seq)
            time.sleep(0.002)

    def when(self, seq: int) -> float | None:
        at = bisect.bisect_left(self.seqs, seq)
        return self.times[at] if 0 < at < len(self.times) else None


class Viewer(asyncio.Protocol):
    """One viewer. Its chunks are counted as they end; `reads` says that it also looks into them."""

    def __init__(self, crowd: Crowd, request: bytes, reads: bool):
        self.crowd = crowd
        self.request = request
        self.reads = reads
        self.headed = False
        self.rest = b""
        self.before = b""
        self.left = 0
        self.size = 0
        self.chunk: list[bytes] = []
        self.inflate: Any = None

    def connection_made(self, transport: Any) -> None:
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.crowd.bytes += len(data)
        data = self.rest + data if self.rest else data
        self.rest = b""
        at = 0
        if not self.headed and not (at := self._read_head(data)):
            return
        while at < len(data):
            if not self.left:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self.rest = data[at:]
                    break
                self.size = self.left = int(data[at:end], 16) + 2  # with the line's end behind it
                at = end + 2
            upto = min(len(data), at + self.left)
            if self.reads:
                self.chunk.append(data[at:upto])
            self.left = self.left - (upto - at)
            at = upto
            if not self.left:
                self._ended(data[max(0, at - TAIL) : at] if at >= TAIL else (self.before + data[:at])[-TAIL:])
        self.before = data[-TAIL:]

    def _read_head(self, data: bytes) -> int:
        """Where the answer's body begins; 0 as long as its head is not whole."""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self.rest = data
            return 0
        head = data[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            sys.exit(data.decode())
        self.headed = True
        self.crowd.open = self.crowd.open + 1
        self.inflate = zlib.decompressobj() if b"content-encoding: deflate" in head else None
        return end

    def _ended(self, tail: bytes) -> None:
        if self.size > LEAST:
            self.crowd.receipts.append((tail, time.time()))
        if self.reads:
            said = b"".join(self.chunk)[:-2]
            self.chunk.clear()
            said = self.inflate.decompress(said) if self.inflate else said
            if self.crowd.clock and (idents := IDENT.findall(said)):
                self.crowd.idents[tail] = int(idents[-1])
            elif moments := MOMENT.findall(said):
                self.crowd.made[tail] = datetime.fromisoformat(max(moments).decode()).timestamp()

    def connection_lost(self, error: Exception | None) -> None:
        self.crowd.open -= self.headed


def begun(database: str) -> dict[int, float]:
    """When each frame was begun to be made, by the number of its newest change; the first that had it."""
    found: dict[int, float] = {}
    for line in Path(f"{database}.frames").read_text().splitlines():
        seq, at = line.split()
        found.setdefault(int(seq), float(at))
    return found


def cuts(crowd: Crowd, since: dict[bytes, float]) -> list[float]:
    """The p50 and p99 of the milliseconds from then to the last bytes."""
    delays = [(at - since[tail]) * 1000 for tail, at in crowd.receipts if tail in since] or [0.0, 0.0]
    found = quantiles(delays, n=100, method="inclusive")
    return [found[49], found[98], len(delays) / max(1, len(crowd.receipts))]


async def watch(port: int, path: str, viewers: int, seconds: float, database: str) -> dict[str, Any]:
    crowd = Crowd(database)
    loop = asyncio.get_running_loop()
    for first in range(0, viewers, AT_ONCE):
        numbers = range(first, min(viewers, first + AT_ONCE))
        asked = [
            f"GET {path.replace('{n}', str(n)).replace('{job}', str(n + 1))} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept-Encoding: deflate\r\n\r\n"
            for n in numbers
        ]
        makers = [
            lambda ask=ask, n=n: Viewer(crowd, ask.encode(), n == 0)
            for n, ask in zip(numbers, asked, strict=True)
        ]
        await asyncio.gather(*[loop.create_connection(make, "127.0.0.1", port) for make in makers])
    await asyncio.sleep(WARM_UP)
    crowd.receipts.clear()
    crowd.bytes = 0
    started = time.time()
    await asyncio.sleep(seconds)
    taken = time.time() - started
    found = {"frames": len(crowd.receipts) / taken, "bytes": crowd.bytes / taken, "open": crowd.open}
    if crowd.clock:
        times = begun(database)
        crowd.made = {tail: times[seq] for tail, seq in crowd.idents.items() if seq in times}
        committed = {
            tail: at for tail, seq in crowd.idents.items() if (at := crowd.clock.when(seq)) is not None
        }
        found |= dict(
            zip(("p50 committed", "p99 committed", "known committed"), cuts(crowd, committed), strict=True)
        )
    return found | dict(zip(("p50", "p99", "known"), cuts(crowd, crowd.made), strict=True))


if __name__ == "__main__":
    given = sys.argv[1:]
    print(
        json.dumps(
            uvloop.run(watch(int(given[0]), given[1], int(given[2]), float(given[3]), "".join(given[4:])))
        )
    )
