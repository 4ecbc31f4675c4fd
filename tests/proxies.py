"""The proxies that the documentation has lines for, run with those lines; only addresses are others."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

WRAPPED = {
    "nginx": """
{user} daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log; worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
    scgi_temp_path {dir}/s;
    server {{ listen 127.0.0.1:{port}; {lines} }}
}}
""",
    "caddy": """
{{
    admin off
    default_bind 127.0.0.1
    grace_period 1s
}}
{lines}
""",
}


def run_proxy(kind: str, lines: str, port: int, upstream: int, directory: Path) -> subprocess.Popen[bytes]:
    """An nginx or a Caddy on that port with these lines, before a dashboard; the test is skipped where there is none."""
    program = shutil.which(kind, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if not program:
        pytest.skip(f"no {kind} on this machine")
    for documented, here in {
        "127.0.0.1:5001": f"127.0.0.1:{upstream}",
        "jobs.example.com": f"http://127.0.0.1:{port}",  # a public name would ask for a certificate
    }.items():
        lines = lines.replace(documented, here)
    config = directory / f"{kind}.conf"
    user = "" if os.geteuid() else "user root;"
    config.write_text(WRAPPED[kind].format(user=user, dir=directory, port=port, lines=lines))
    command = {
        "nginx": [program, "-c", str(config), "-p", str(directory)],
        "caddy": [program, "run", "--adapter", "caddyfile", "--config", str(config)],
    }[kind]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"HOME": str(directory)})
