"""`tailrace broker start|stop|status`: the one local broker of this user, embedded or Apache Kafka.

In: which kind, and how many nodes. Out: a `BrokerStatus`. What is remembered lies in the state directory, so start,
stop and status may each come from another process; stopping keeps the data, and a later start finds them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.brokers.kafka.embedded import EmbeddedBroker
from stream_app.brokers.kafka.jars import ToolMissing, locked
from stream_app.brokers.kafka.properties import free_port
from stream_app.brokers.kafka.server_process import ServerProcess
from stream_app.errors import ConfigurationError

# Where Kafka's clients look when told nothing else; another is taken if it is busy.
DEFAULT_PORT = 9092

Kind = Literal["embedded", "kafka"]
State = Literal["absent", "stopped", "running", "degraded", "crashed"]

# A quorum of two is worse than one node: it loses its majority with either.
NODE_COUNTS: Mapping[Kind, tuple[int, ...]] = {"embedded": (1,), "kafka": (1, 3)}


@dataclass(frozen=True)
class BrokerStatus:
    """How the local broker is. `crashed` maps a node that ended by itself to its last words."""

    state: State
    kind: Kind | None = None
    bootstrap: str = ""
    pids: Mapping[int, int] = field(default_factory=dict)
    crashed: Mapping[int, str] = field(default_factory=dict)
    directory: str = ""


@dataclass(frozen=True)
class _Kept:
    """What the state directory says of the broker. `port` is the first node's plain listener, as wanted at first."""

    kind: Kind
    nodes: int
    port: int

    def is_like(self, other: _Kept) -> bool:
        return (self.kind, self.nodes) == (other.kind, other.nodes)

    def home(self, root: Path) -> Path:
        return root / f"{self.kind}-{self.nodes}"


class _Broker(Protocol):
    @property
    def bootstrap(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def processes(self) -> dict[int, ServerProcess]: ...


def state_directory() -> Path:
    """Gives where the broker is kept: `$TAILRACE_BROKER_STATE`, or below `$XDG_STATE_HOME` or `~/.local/state`."""
    chosen = os.environ.get("TAILRACE_BROKER_STATE")
    if chosen:
        return Path(chosen)
    root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "tailrace" / "broker"


def start_broker(
    kind: Kind = "embedded", *, nodes: int = 1, port: int | None = None, directory: Path | None = None
) -> BrokerStatus:
    """Starts the local broker, or those of its nodes that are down, and waits until it answers.

    A broker that was stopped comes back with its data, at its address; `port` counts for a new one only. Raises
    ToolMissing, BrokerUnreachable, or ConfigurationError while one of another kind or size runs.
    """
    if nodes not in NODE_COUNTS[kind]:
        choices = " or ".join(map(str, NODE_COUNTS[kind]))
        raise ConfigurationError(f"a local broker of kind {kind} has {choices} node(s), not {nodes}")
    home = directory or state_directory()
    with locked(home / "lock"):
        before = _read(home)
        wanted = _Kept(kind, nodes, port or DEFAULT_PORT)
        if before is not None and not before.is_like(wanted):
            _refuse_while_running(home, before)
        kept = before if before is not None and before.is_like(wanted) else _new(home, wanted)
        _write(home, kept)
        try:
            _open(home, kept).start()
        except ToolMissing:
            # Nothing was started, so there is nothing that a later start of another kind could disturb.
            _forget(home, before)
            raise
    return broker_status(directory=home)


def stop_broker(*, erase: bool = False, directory: Path | None = None) -> BrokerStatus:
    """Stops the local broker in good order, kills what does not end, and with `erase` removes its data."""
    home = directory or state_directory()
    with locked(home / "lock"):
        kept = _read(home)
        if kept is not None:
            _open(home, kept).stop()
        if erase:
            _erase(home)
    return broker_status(directory=home)


def broker_status(*, directory: Path | None = None) -> BrokerStatus:
    """Says how the local broker is. It reads files and the process table, and asks no broker."""
    home = directory or state_directory()
    kept = _read(home)
    if kept is None:
        return BrokerStatus("absent", directory=str(home))
    broker = _open(home, kept)
    processes = broker.processes()
    pids = {node: process.pid for node, process in processes.items()}
    living = {node: pid for node, pid in pids.items() if pid is not None}
    crashed = {node: process.last_words() for node, process in processes.items() if process.crashed}
    state = _state(len(processes), len(living), len(crashed))
    return BrokerStatus(state, kept.kind, broker.bootstrap, living, crashed, str(home))


def _state(n_nodes: int, n_living: int, n_crashed: int) -> State:
    if n_living == n_nodes:
        return "running"
    if n_living:
        return "degraded"
    return "crashed" if n_crashed else "stopped"


def _open(home: Path, kept: _Kept) -> _Broker:
    if kept.kind == "kafka":
        return KafkaCluster(kept.nodes, directory=kept.home(home), port=kept.port)
    return EmbeddedBroker(kept.home(home), kept.port)


def _new(home: Path, wanted: _Kept) -> _Kept:
    """Gives `wanted` with a free port, or with the one it had when its kind last ran here."""
    try:
        port = int((wanted.home(home) / "port").read_text())
    except FileNotFoundError:
        port = free_port(wanted.port)
    return replace(wanted, port=port)


def _refuse_while_running(home: Path, kept: _Kept) -> None:
    if any(process.pid is not None for process in _open(home, kept).processes().values()):
        raise ConfigurationError(
            f"a local broker of kind {kept.kind} ({kept.nodes} node) is running; stop it by `tailrace broker stop`,"
            " or keep this one elsewhere by TAILRACE_BROKER_STATE"
        )


def _read(home: Path) -> _Kept | None:
    try:
        return _Kept(**json.loads((home / "broker.json").read_text()))
    except FileNotFoundError:
        return None


def _write(home: Path, kept: _Kept) -> None:
    kept.home(home).mkdir(parents=True, exist_ok=True)
    (kept.home(home) / "port").write_text(str(kept.port))
    (home / "broker.json").write_text(json.dumps(asdict(kept)))


def _forget(home: Path, before: _Kept | None) -> None:
    if before is None:
        (home / "broker.json").unlink()
    else:
        _write(home, before)


def _erase(home: Path) -> None:
    for entry in home.iterdir():
        # The lock file is held by us, and by those who wait for us.
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()
