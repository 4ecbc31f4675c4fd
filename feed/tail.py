"""`rowcast tail JOB`: one job followed in a terminal over its stream, with a bar; it reconnects by
Last-Event-ID.
"""

import asyncio
import signal
import sys
from typing import Any

import httpx
import httpx_sse
import msgspec


def tail(url: str, job: int) -> int:
    """Follow one job over its stream, with a bar; it reconnects by Last-Event-ID."""
    try:
        return asyncio.run(_tail(url.rstrip("/"), job))
    except KeyboardInterrupt:
        return 130


async def _tail(url: str, job: int) -> int:
    from tqdm import tqdm

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    last, tries, bar = "", 0, None
    latest: dict[str, Any] = {}
    async with httpx.AsyncClient(timeout=httpx.Timeout(10, read=60)) as client:
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            try:
                async with httpx_sse.aconnect_sse(
                    client, "GET", f"{url}/api/jobs/{job}/events", headers=headers
                ) as source:
                    if source.response.status_code == 204:
                        return exit_code(latest)
                    if source.response.is_error:
                        text = await source.response.aread()
                        print(f"rowcast: {error_of(text, source.response.status_code)}", file=sys.stderr)
                        return 2
                    tries = 0
                    async for event in source.aiter_sse():
                        last = event.id or last
                        if event.event == "job":
                            latest = msgspec.json.decode(event.data)
                            bar = bar or tqdm(
                                total=latest["total"], unit="item", desc=f"{latest['task']} #{job}"
                            )
                            bar.total = latest["total"]
                            bar.update(ended(latest) - bar.n)
                            bar.set_postfix_str(f"{latest['status']}, {latest['failed']:,} failed")
                        elif event.event == "item" and not sys.stderr.isatty():
                            tell(msgspec.json.decode(event.data))
                        elif event.event == "done":
                            if bar:
                                bar.close()
                            return exit_code(latest)
            except (httpx.TransportError, httpx.InvalidURL, httpx_sse.SSEError) as error:
                tries += 1
                if tries > 5 or not latest:
                    why = error or type(error).__name__
                    print(f"rowcast: {url} cannot be reached ({why}): give --port or --url.", file=sys.stderr)
                    return 2
            await asyncio.sleep(min(0.2 * 2**tries, 5))


def tell(item: dict[str, Any]) -> None:
    """One line for an item that has ended, where nobody looks at a bar."""
    if item["status"] not in ("queued", "running"):
        told = f"{item['code'] or ''} {item['error'] or ''}".strip()
        print(f"{item['status']:<10} {item['key']}  {told}".rstrip(), flush=True)


def ended(job: dict[str, Any]) -> int:
    return int(job["completed"] + job["failed"] + job["cancelled"] + job["unknown"])


def exit_code(job: dict[str, Any]) -> int:
    clean = job.get("status") == "completed" and not job["failed"] and not job["unknown"]
    return 0 if clean else 1


def error_of(body: bytes, status: int) -> str:
    try:
        return str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the server answered {status}."
