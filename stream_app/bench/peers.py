"""The peers that `tailrace bench` measures itself against, each a process of its own that reads the same topic.

In: a peer's name, a topic and how many records it holds. Out: records per second, from the first record to the last.
What the peers need is installed once into an environment in the cache, and never into ours.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from stream_app.brokers.kafka.jars import (
    STREAMS_POM,
    ToolMissing,
    cache_directory,
    class_path,
    fetch_jars,
    java_program,
    locked,
)
from stream_app.errors import TailraceError

_SCRIPTS = Path(__file__).parent / "peer_programs"
_STREAMS_SOURCE = _SCRIPTS / "KafkaStreamsPeer.java"
# Only the peers need these two. What they share with us has our versions: a ratio compares code, not releases.
_THEIR_OWN = ("quixstreams==3.28.1", "krcf==0.4.0")
_SHARED = ("aiokafka", "numpy", "orjson", "pyarrow")
# The slowest measured takes 15 s for 500,000 records; a busy machine is several times slower.
_RUN_TIMEOUT_S = 300.0
_HEAP = "-Xmx512m"

# From bootstrap, topic and count to a command line.
_COMMANDS: dict[str, Callable[[str, str, int], list[str]]] = {
    "quix": lambda bootstrap, topic, count: _python("quix_consumer.py", bootstrap, topic, str(count)),
    "kafka_streams": lambda bootstrap, topic, count: _streams(bootstrap, topic, count),
    "aiokafka": lambda bootstrap, topic, count: _loop("json", bootstrap, topic, count),
    "aiokafka_chunks": lambda bootstrap, topic, count: _loop("chunks", bootstrap, topic, count),
    "aiokafka_arrow": lambda bootstrap, topic, count: _loop("arrow", bootstrap, topic, count),
    "forest": lambda bootstrap, topic, count: _python("random_cut_forest.py", str(count), "19", "60"),
    "forest_frames": lambda bootstrap, topic, count: _python("random_cut_forest.py", str(count), "38", "1"),
    "forest_learning": lambda bootstrap, topic, count: _python("random_cut_forest.py", str(count), "38", "1", "learn"),
    "forest_shingles": lambda bootstrap, topic, count: _python("random_cut_forest.py", str(count), "38", "8"),
    "forest_shingles_learning": lambda bootstrap, topic, count: _python(
        "random_cut_forest.py", str(count), "38", "8", "learn"
    ),
}
PEERS = tuple(_COMMANDS)


class PeerFailed(TailraceError):
    """What to do: the message holds the peer's last words; a peer that can't run has no ratio."""


def run_peer(name: str, bootstrap: str, topic: str, count: int) -> float:
    """Runs a peer over the first `count` records of the topic; gives its records per second.

    Forests read no topic: they score `count` windows. Raises ToolMissing if its environment can't be made, and
    PeerFailed if it ends badly or not in time.
    """
    command = _COMMANDS[name](bootstrap, topic, count)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired as expired:
        raise PeerFailed(f"{name} did not read {count} records of {topic!r} in {_RUN_TIMEOUT_S:.0f} s") from expired
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise PeerFailed(f"{name} ended with status {done.returncode}: {_last_line(done.stderr)}")
    measured = json.loads(lines[-1])
    return float(measured["records"]) / float(measured["seconds"])


def prepare_peers() -> None:
    """Installs and compiles what the peers need, so that no measurement waits for it. Raises ToolMissing."""
    _peer_python()
    _streams_classes()


def _python(script: str, *arguments: str) -> list[str]:
    # Isolated: neither our packages nor the caller's PYTHONPATH may reach the peer.
    return [str(_peer_python()), "-I", str(_SCRIPTS / script), *arguments]


def _loop(form: str, bootstrap: str, topic: str, count: int) -> list[str]:
    return _python("aiokafka_loop.py", form, bootstrap, topic, str(count))


def _streams(bootstrap: str, topic: str, count: int) -> list[str]:
    classes = f"{_streams_classes()}{os.pathsep}{class_path(fetch_jars(STREAMS_POM))}"
    return [str(java_program()), _HEAP, "-cp", classes, _STREAMS_SOURCE.stem, bootstrap, topic, str(count)]


def _peer_python() -> Path:
    """Gives the interpreter of the peers' environment, which is made if it is missing or another was asked for."""
    wanted = [*_THEIR_OWN, *(f"{name}=={importlib.metadata.version(name)}" for name in _SHARED)]
    home = cache_directory() / f"peers-{_digest(sys.version.encode(), *(name.encode() for name in wanted))}"
    python = home / "bin" / "python"
    with locked(home.with_suffix(".lock")):
        # An environment can't be moved when it is finished, so a mark says that it is.
        if not (home / "ready").exists():
            shutil.rmtree(home, ignore_errors=True)
            for command in _install_commands(home, python, wanted):
                _run_tool(command)
            (home / "ready").touch()
    return python


def _install_commands(home: Path, python: Path, wanted: list[str]) -> list[list[str]]:
    uv = shutil.which("uv")
    if uv is not None:
        make = [uv, "venv", "-q", "--python", sys.executable, str(home)]
        return [make, [uv, "pip", "install", "-q", "--python", str(python), *wanted]]
    make = [sys.executable, "-m", "venv", str(home)]
    return [make, [str(python), "-m", "pip", "install", "-q", *wanted]]


def _streams_classes() -> Path:
    """Gives the directory of the compiled Kafka Streams peer."""
    home = cache_directory() / f"streams-peer-{_digest(_STREAMS_SOURCE.read_bytes())}"
    with locked(home.with_suffix(".lock")):
        if not (home / f"{_STREAMS_SOURCE.stem}.class").exists():
            jars = class_path(fetch_jars(STREAMS_POM))
            _run_tool([str(java_program("javac")), "-cp", jars, "-d", str(home), str(_STREAMS_SOURCE)])
    return home


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _run_tool(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolMissing(f"the benchmark's peers can't be prepared: {command[0]}: {_last_line(done.stderr)}")


def _last_line(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
