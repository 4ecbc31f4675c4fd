"""A RabbitMQ of the tests' own, where one is installed: as any user, on loopback and free ports, in a directory."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from conftest import free_port, until

# the script itself first: what a package puts into the PATH may become the user rabbitmq, and write where that one does
PLACES = os.pathsep.join(["/usr/lib/rabbitmq/bin", os.environ.get("PATH", ""), "/usr/sbin"])
SERVER = shutil.which("rabbitmq-server", path=PLACES)
EPMD = shutil.which("epmd")
LIMIT = "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"  # one thread, which does not spin when it is idle


class Rabbit:
    """A RabbitMQ server which keeps what it has over a restart, and the port mapper that Erlang cannot be without."""

    def __init__(self, directory: Path):
        assert SERVER and EPMD
        self.port = free_port()
        mapper = str(free_port())
        self.log = directory / "rabbit.log"
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        self.env = ours | {
            "HOME": str(directory),  # for Erlang's cookie
            "ERL_EPMD_PORT": mapper,
            "RABBITMQ_NODENAME": f"rowcast-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(directory / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": LIMIT,
        }
        self.mapper = subprocess.Popen([EPMD, "-port", mapper, "-address", "127.0.0.1"], env=self.env)
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            known = log.tell()
            self.process = subprocess.Popen(
                [str(SERVER)], env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        until(
            lambda: (
                b"Server startup complete" in self.log.read_bytes()[known:] or self.process.poll() is not None
            ),
        )
        assert self.process.poll() is None, self.log.read_text()

    def stop(self) -> None:
        """In good order, as at a restart of the machine."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        self.stop()
        self.mapper.terminate()
        self.mapper.wait()
