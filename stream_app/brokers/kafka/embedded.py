"""The embedded broker: noida-db, one small binary from pip that speaks Kafka's protocol.

In: a directory and a port. Out: a bootstrap address that answers. It is a single young server for a first look and
never for production; the tests of delivery, faults and replay run on Apache Kafka.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from pathlib import Path

from stream_app.brokers.kafka.jars import ToolMissing
from stream_app.brokers.kafka.properties import LOOPBACK
from stream_app.brokers.kafka.server_process import ServerProcess
from stream_app.errors import BrokerUnreachable
from stream_app.live.topics import partition_counts

# It answers within 0.1 s of its start; a machine that needs a hundred times longer has another trouble.
START_TIMEOUT_S = 10.0
_POLL_S = 0.05


class EmbeddedBroker:
    """One noida-db server that keeps its data and log in `directory`."""

    def __init__(self, directory: Path, port: int) -> None:
        self.bootstrap = f"{LOOPBACK}:{port}"
        home = directory.absolute()
        options = ["start", "--data-dir", str(home / "data"), "--only", "kafka", "--kafka-port", str(port)]
        self.process = ServerProcess(home, lambda: [str(_program()), *options])

    def start(self) -> None:
        """Starts it and waits until it answers. Raises BrokerUnreachable with its last words if it does not."""
        self.process.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self.process.crashed or time.monotonic() > deadline:
                raise BrokerUnreachable(f"the embedded broker does not start: {self.process.last_words()}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Ends it; what it holds is saved."""
        self.process.stop()

    def processes(self) -> dict[int, ServerProcess]:
        """Gives its one process, numbered 1, for those who ask how it is."""
        return {1: self.process}

    def _answers(self) -> bool:
        try:
            # A bare connection first: aiokafka logs an error for each address that refuses it.
            socket.create_connection((LOOPBACK, int(self.bootstrap.rpartition(":")[2])), timeout=1).close()
            partition_counts(self.bootstrap, ())
        except (BrokerUnreachable, OSError):
            return False
        return True


def _program() -> Path:
    found = importlib.util.find_spec("noida_db")
    if found is None or found.origin is None:
        raise ToolMissing(
            "the embedded broker is not installed. Install it by `pip install 'tailrace[demo]'`,"
            " or start Apache Kafka by `tailrace broker start --kafka`."
        )
    program = Path(found.origin).with_name("noida-db")
    if not os.access(program, os.X_OK):
        # pip drops the executable bit of package data; noida-db's own launcher sets it the same way.
        program.chmod(0o755)
    return program
