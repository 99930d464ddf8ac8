"""Apache Kafka on this machine: one node or three, KRaft, loopback only.

In: how many nodes, and a directory. Out: a bootstrap address that answers. What is remembered lies in the directory
(`cluster.json`, and per node its settings, data, log and pid), so any process can go on with it.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from aiokafka.helpers import create_ssl_context

from stream_app.brokers.kafka.certificates import CertificateFiles, write_certificates
from stream_app.brokers.kafka.jars import check_java_version, class_path, fetch_jars, java_program
from stream_app.brokers.kafka.properties import (
    LOOPBACK,
    SCRAM,
    ClusterShape,
    NodePorts,
    ScramUser,
    format_command,
    free_port,
    run_command,
    write_node_files,
)
from stream_app.brokers.kafka.server_process import ServerProcess
from stream_app.errors import BrokerUnreachable
from stream_app.live.topics import ask_cluster

# Measured on two idle cores: one node answers in 6 s, three in 25 s. A machine full of tests is several times slower.
START_TIMEOUT_S = 180.0
_POLL_S = 0.25
# After the first node has left, two of three at best remain and the quorum is breaking up anyway.
_LATER_GRACE_S = 5.0


class KafkaCluster:
    """A local Apache Kafka; as a context manager it is started on entry, stopped on exit.

    `directory` keeps the cluster for a later process; without one a temporary directory is used and removed on exit.
    `port` is wanted for the first node's plain listener and taken if free. `secure` adds a SASL_SSL listener for
    `user`, with a certificate authority of its own. `overrides` are broker settings that win over ours.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        directory: Path | None = None,
        port: int | None = None,
        secure: bool = False,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="tailrace-kafka-")) if directory is None else directory.absolute()
        self._shape = _read_shape(self.directory) or _new_shape(self.directory, nodes, port, secure)
        self._shape = dataclasses.replace(self._shape, overrides=dict(overrides or self._shape.overrides))
        self._nodes: dict[int, ServerProcess] = {}

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes' numbers, from 1."""
        return tuple(ports.node for ports in self._shape.nodes)

    @property
    def bootstrap(self) -> str:
        """The plain listeners, as a bootstrap address."""
        return ",".join(f"{LOOPBACK}:{ports.plain}" for ports in self._shape.nodes)

    @property
    def secure_bootstrap(self) -> str:
        """The SASL_SSL listeners, as a bootstrap address; empty if there are none."""
        return ",".join(f"{LOOPBACK}:{ports.secure}" for ports in self._shape.nodes if ports.secure is not None)

    @property
    def user(self) -> ScramUser:
        """The account of the SASL_SSL listener."""
        return self._shape.user

    @property
    def certificates(self) -> CertificateFiles:
        """The PEM files of the SASL_SSL listener."""
        assert self._shape.certificates is not None, "the cluster was made without secure=True"
        return self._shape.certificates

    def security(self, password: str | None = None) -> dict[str, Any]:
        """Gives aiokafka's settings for the SASL_SSL listener; `password` replaces the right one."""
        return {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": SCRAM,
            "sasl_plain_username": self.user.name,
            "sasl_plain_password": self.user.password if password is None else password,
            "ssl_context": create_ssl_context(cafile=str(self.certificates.authority)),
        }

    def start(self, node: int | None = None, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Starts all nodes, or one, and waits until they answer.

        Raises ToolMissing without Java or Maven, and BrokerUnreachable with the node's last words if one ends or does
        not answer within `timeout_s` seconds.
        """
        self._prepare()
        started = self.nodes if node is None else (node,)
        for number in started:
            self._process(number).start()
        deadline = time.monotonic() + timeout_s
        for number in started:
            self._wait_until_ready(number, started, deadline)

    def stop(self, node: int | None = None) -> None:
        """Ends all nodes, or one, letting them close their logs; what does not end in time is killed."""
        # A controller quorum can't hand over while all its members leave at once, and each would wait for the others:
        # with every node going, only the first gets long to shut down in order.
        stopping = self.nodes if node is None else (node,)
        for order, number in enumerate(stopping):
            self._process(number).stop(*(() if order == 0 else (_LATER_GRACE_S,)))

    def kill(self, node: int) -> None:
        """Ends one node at once, as a power cut would."""
        self._process(node).kill()

    def pause(self, node: int) -> None:
        """Stops a node's clock; its connections stay open and nothing answers."""
        self._process(node).pause()

    def resume(self, node: int) -> None:
        """Lets a paused node go on."""
        self._process(node).resume()

    def processes(self) -> dict[int, ServerProcess]:
        """Gives the nodes' processes by number, for those who ask how they are."""
        return {number: self._process(number) for number in self.nodes}

    def __enter__(self) -> KafkaCluster:
        try:
            self.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._temporary:
            # The data go with the directory, so an orderly end would save nothing.
            for process in self.processes().values():
                process.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            self.stop()

    def _process(self, node: int) -> ServerProcess:
        if node not in self._nodes:
            home = self._home(node)
            self._nodes[node] = ServerProcess(
                home, lambda: run_command(java_program(), class_path(fetch_jars()), home, len(self.nodes))
            )
        return self._nodes[node]

    def _home(self, node: int) -> Path:
        return self.directory / f"node-{node}"

    def _prepare(self) -> None:
        """Writes the nodes' files and formats what is not formatted yet."""
        check_java_version()
        classes = class_path(fetch_jars())
        _write_shape(self.directory, self._shape)
        formatting = []
        for ports in self._shape.nodes:
            home = self._home(ports.node)
            write_node_files(home, self._shape, ports)
            if not (home / "data" / "meta.properties").exists():
                formatting.append(_open_tool(format_command(java_program(), classes, home, self._shape)))
        failed = [said for tool in formatting for said, _ in [tool.communicate()] if tool.returncode]
        if failed:
            raise BrokerUnreachable(f"Kafka's storage tool failed: {failed[0].strip().splitlines()[-1]}")

    def _wait_until_ready(self, node: int, together: tuple[int, ...], deadline: float) -> None:
        ports = next(ports for ports in self._shape.nodes if ports.node == node)
        while not _answers(f"{LOOPBACK}:{ports.plain}", together):
            process = self._process(node)
            if process.crashed or time.monotonic() > deadline:
                what = "ended at once" if process.crashed else "does not answer"
                raise BrokerUnreachable(f"Kafka node {node} {what}: {process.last_words()} (whole log: {process.log})")
            time.sleep(_POLL_S)


def _open_tool(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _answers(address: str, nodes: tuple[int, ...]) -> bool:
    """Whether the broker at `address` answers and knows of all of `nodes`."""
    host, port = address.split(":")
    try:
        # A bare connection first: aiokafka logs an error for each address that refuses it.
        socket.create_connection((host, int(port)), timeout=1).close()
        cluster = ask_cluster(address, lambda admin: admin.describe_cluster(), request_timeout_ms=3000)
    except (BrokerUnreachable, OSError):
        return False
    return {broker["node_id"] for broker in cluster["brokers"]} >= set(nodes)


def _new_shape(directory: Path, nodes: int, port: int | None, secure: bool) -> ClusterShape:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    taken: set[int] = set()
    ports = tuple(_node_ports(number, port if number == 1 else None, secure, taken) for number in range(1, nodes + 1))
    certificates = write_certificates(directory / "certificates") if secure else None
    return ClusterShape(cluster_id, ports, certificates)


def _node_ports(node: int, wanted: int | None, secure: bool, taken: set[int]) -> NodePorts:
    def another(wanted: int | None = None) -> int:
        port = free_port(wanted)
        while port in taken:
            port = free_port()
        taken.add(port)
        return port

    return NodePorts(node, another(wanted), another(), another() if secure else None)


def _write_shape(directory: Path, shape: ClusterShape) -> None:
    (directory / "cluster.json").write_text(json.dumps(dataclasses.asdict(shape), default=str))


def _read_shape(directory: Path) -> ClusterShape | None:
    try:
        kept = json.loads((directory / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    certificates = kept["certificates"]
    return ClusterShape(
        cluster_id=kept["cluster_id"],
        nodes=tuple(NodePorts(**ports) for ports in kept["nodes"]),
        certificates=CertificateFiles(**{k: Path(v) for k, v in certificates.items()}) if certificates else None,
        user=ScramUser(**kept["user"]),
        overrides=kept["overrides"],
    )
