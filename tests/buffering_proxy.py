"""A proxy that buffers: it passes an answer on only when it has all of it. `python buffering_proxy.py PORT UPSTREAM`.

With HOLD=1 in the environment it does so to streams; without, it does not touch them.
"""

import asyncio
import os
import sys

HOLD = os.environ.get("HOLD") == "1"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upstream = int(sys.argv[2])
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [
            line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"host:"))
        ]
        length = next((int(h.split(b":")[1]) for h in lines if h.lower().startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
        there, out = await asyncio.open_connection("127.0.0.1", upstream)
        lines[1:1] = [b"Host: 127.0.0.1:%d" % upstream, b"Connection: close"]
        out.write(b"\r\n".join(lines) + body)
        if HOLD:
            writer.write(await there.read())
        else:
            while chunk := await there.read(65536):
                writer.write(chunk)
                await writer.drain()
        await writer.drain()
        out.close()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
