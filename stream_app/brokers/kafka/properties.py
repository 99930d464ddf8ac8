"""What one node of a local Kafka is told: `server.properties`, the log settings, the commands to format and to run.

In: a node's ports and the cluster's shape. Out: text and command lines. Nothing is started here.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stream_app.brokers.kafka.certificates import CertificateFiles

LOOPBACK = "127.0.0.1"
SCRAM = "SCRAM-SHA-512"

# Below the range the kernel hands to outgoing connections: a killed node must find its port free when it comes back.
_PORTS = range(20_000, 32_000)
_PORT_TRIES = 200

# Measured: one node lives in 512 MB, three in 400 MB each, with room for the tests' load.
_HEAP_SINGLE = "-Xmx512m"
_HEAP_OF_THREE = "-Xmx400m"

_LOG4J = """\
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
"""


@dataclass(frozen=True)
class ScramUser:
    """The one account of the SASL_SSL listener."""

    name: str = "tailrace"
    password: str = field(default="local-only", repr=False)


@dataclass(frozen=True)
class NodePorts:
    """Ports of one node, all on the loopback; `secure` is None without a SASL_SSL listener."""

    node: int
    plain: int
    controller: int
    secure: int | None = None


@dataclass(frozen=True)
class ClusterShape:
    """What all nodes must agree on. `overrides` win over every other broker setting."""

    cluster_id: str
    nodes: tuple[NodePorts, ...]
    certificates: CertificateFiles | None = None
    user: ScramUser = ScramUser()
    overrides: Mapping[str, str] = field(default_factory=dict)


def free_port(wanted: int | None = None) -> int:
    """Gives `wanted` if it is free on the loopback, or any free port. Raises OSError if there is none."""
    candidates = ([wanted] if wanted else []) + random.SystemRandom().sample(_PORTS, _PORT_TRIES)
    for port in candidates:
        with socket.socket() as probe:
            # A port whose last connections are still fading away is free for a server, as Kafka itself sees it.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among {len(candidates)} tried on {LOOPBACK}")


def write_node_files(directory: Path, shape: ClusterShape, ports: NodePorts) -> None:
    """Writes `server.properties` and `log4j2.properties` of one node into its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = {**_identity(directory, shape, ports), **_sizes(len(shape.nodes)), **_security(shape), **shape.overrides}
    text = "".join(f"{name}={value}\n" for name, value in settings.items())
    (directory / "server.properties").write_text(text)
    (directory / "log4j2.properties").write_text(_LOG4J)


def run_command(java: Path, classes: str, directory: Path, n_nodes: int) -> list[str]:
    """Gives the command line that runs the node in `directory`."""
    heap = _HEAP_SINGLE if n_nodes == 1 else _HEAP_OF_THREE
    # Three collectors with threads of their own would fight for two cores.
    options = [heap, "-XX:+UseG1GC" if n_nodes == 1 else "-XX:+UseSerialGC"]
    return [*_java(java, classes, directory, options), "kafka.Kafka", str(directory / "server.properties")]


def format_command(java: Path, classes: str, directory: Path, shape: ClusterShape) -> list[str]:
    """Gives the command line that formats the node's storage; on formatted storage it does nothing."""
    # The tool lives for two seconds: compiling its code well would take longer than running it.
    command = _java(java, classes, directory, ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
    command += ["kafka.tools.StorageTool", "format", "--ignore-formatted"]
    command += [f"--cluster-id={shape.cluster_id}"]  # an id may begin with a dash
    command += ["-c", str(directory / "server.properties")]
    if shape.certificates is not None:
        command += ["--add-scram", f"{SCRAM}=[name={shape.user.name},password={shape.user.password}]"]
    return command


def _java(java: Path, classes: str, directory: Path, options: list[str]) -> list[str]:
    log4j = f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}"
    return [str(java), *options, log4j, "-Djava.net.preferIPv4Stack=true", "-cp", classes]


def _identity(directory: Path, shape: ClusterShape, ports: NodePorts) -> dict[str, str]:
    open_to_clients = f"PLAINTEXT://{LOOPBACK}:{ports.plain}"
    if ports.secure is not None:
        open_to_clients += f",SASL_SSL://{LOOPBACK}:{ports.secure}"
    return {
        "process.roles": "broker,controller",
        "node.id": str(ports.node),
        "controller.quorum.voters": ",".join(f"{p.node}@{LOOPBACK}:{p.controller}" for p in shape.nodes),
        "controller.listener.names": "CONTROLLER",
        "listeners": f"{open_to_clients},CONTROLLER://{LOOPBACK}:{ports.controller}",
        "advertised.listeners": open_to_clients,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(directory / "data"),
    }


def _sizes(n_nodes: int) -> dict[str, str]:
    copies = str(min(n_nodes, 3))
    in_sync = str(max(1, min(n_nodes, 3) - 1))
    return {
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        # Fifty each by default, which three small nodes take seconds to elect leaders for.
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.num.partitions": "4",
        # A first member waits three seconds for others by default; here it would wait alone.
        "group.initial.rebalance.delay.ms": "0",
        # Tests notice a dead member after a second or two instead of six.
        "group.min.session.timeout.ms": "1000",
        # Records that carry the times of an old file would be deleted within minutes as past their retention.
        "log.retention.ms": "-1",
        # The default of 128 MB would be a third of the heap.
        "log.cleaner.dedupe.buffer.size": "16777216",
        "num.io.threads": "4",
    }


def _security(shape: ClusterShape) -> dict[str, str]:
    if shape.certificates is None:
        return {}
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return {
        "sasl.enabled.mechanisms": SCRAM,
        f"listener.name.sasl_ssl.{SCRAM.lower()}.sasl.jaas.config": login,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(shape.certificates.broker),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(shape.certificates.authority),
    }
